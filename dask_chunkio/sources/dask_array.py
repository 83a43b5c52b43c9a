"""Dask arrays as sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError
from dask_chunkio.geometry.grid import Array, Selection, Shape
from dask_chunkio.sources.base import Reader, ReadMode, Shapes

__all__ = ["Block", "DaskArraySource", "lazy_array"]


def lazy_array(value: Any) -> Any | None:
    """Return `value` if it is a dask array, the dask array in an xarray object, or None."""
    if not _is_lazy(value):
        return None
    if hasattr(value, "rechunk") and hasattr(value, "__dask_keys__"):
        return value
    inner = getattr(value, "data", None)
    return inner if _is_lazy(inner) and hasattr(inner, "rechunk") else None


def _is_lazy(value: Any) -> bool:
    graph = getattr(type(value), "__dask_graph__", None)
    return graph is not None and graph(value) is not None


class DaskArraySource:
    """Adapter for a dask array, whose own tasks compute the buffers.

    Parameters
    ----------
    array : dask.array.Array
        The array to write.

    Raises
    ------
    ArgumentError
        If its shape is not known.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        if any(np.isnan(length) for length in array.shape):
            raise ArgumentError(
                f"the dask array has the unknown shape {array.shape}; call its compute_chunk_sizes() first"
            )
        self._shape = tuple(int(length) for length in array.shape)

    @property
    def shape(self) -> Shape:
        """Its shape, in elements."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        found: np.dtype[Any] = np.dtype(self.array.dtype)
        return found

    @property
    def shapes(self) -> Shapes:
        """The shape of the largest of its blocks."""
        return Shapes(block=tuple(max(1, *map(int, blocks)) for blocks in self.array.chunks))

    @property
    def read_mode(self) -> ReadMode:
        """Always concurrent: dask decides when it computes which block."""
        return "concurrent"

    def part(self, selection: Selection) -> Reader | None:  # noqa: ARG002
        """Return None: tasks of the array compute the blocks, instead of a reader."""
        return None

    def read(self, selection: Selection) -> Array:
        """Compute a selection; only for samples of `plan`, because a write uses the tasks of the array."""
        return np.asarray(self.array[selection].compute())


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a dask array, computed when it is read.

    Parameters
    ----------
    task : callable
        The task of the block, which is called with the values that it needs.
    values : mapping
        These values, by their keys.
    """

    task: Any
    values: Mapping[Any, Any]

    def read(self, selection: Selection) -> Any:  # noqa: ARG002
        """Compute the block; `selection` is that of the block."""
        return self.task(self.values)
