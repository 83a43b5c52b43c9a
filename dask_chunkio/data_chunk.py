"""The items that an iterator yields: values, and their position in the array."""

from __future__ import annotations

import copy
import operator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dask_chunkio.errors import ArgumentTypeError
from dask_chunkio.geometry.grid import Shape

__all__ = ["DataChunk"]


class DataChunk:
    """A part of an array, and its position in the array.

    A DataChunk passes on the attributes of its data, so that code that reads an array can
    read a DataChunk.

    Parameters
    ----------
    data : numpy.ndarray, optional
        The values.
    selection : tuple of slice, slice or int, optional
        The position of the values in the array.

    Raises
    ------
    ArgumentTypeError
        If `data` is not a numpy array.

    Examples
    --------
    >>> chunk = DataChunk(np.zeros((2, 3), "int16"), (slice(4, 6), slice(0, 3)))
    >>> len(chunk), chunk.dtype, chunk.shape, chunk.get_min_bounds()
    (2, dtype('int16'), (2, 3), (6, 3))
    """

    def __init__(self, data: npt.NDArray[Any] | None = None, selection: Any = None) -> None:
        if data is not None and not isinstance(data, np.ndarray):
            raise ArgumentTypeError(
                f"data is of type {type(data).__name__}; a DataChunk holds a numpy.ndarray; use numpy.asarray"
            )
        self.data: Any = data
        self.selection = selection

    def __len__(self) -> int:
        return 0 if self.data is None else len(self.data)

    def __repr__(self) -> str:
        return f"DataChunk(data={self.data!r}, selection={self.selection!r})"

    def __getattr__(self, name: str) -> Any:
        # `copy` and `pickle` ask a new object for attributes before it has any: a search
        # for `data` through `self.data` would then never end.
        if name in ("data", "selection"):
            raise AttributeError(name)
        return getattr(self.data, name)

    # `copy` and `pickle` look up these three on the instance too, where `__getattr__` would find those of the data.
    def __copy__(self) -> Self:
        return type(self)(self.data, self.selection)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(copy.deepcopy(self.data, memo), copy.deepcopy(self.selection, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data, self.selection)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the values."""
        dtype: np.dtype[Any] = self.data.dtype
        return dtype

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """Return a new DataChunk at the same selection, with the data cast to `dtype`."""
        return type(self)(self.data.astype(dtype), self.selection)

    def get_min_bounds(self) -> Shape:
        """Return the smallest shape of a dataset that holds the selection.

        Raises
        ------
        ArgumentTypeError
            If the selection is not an int, a slice, or a tuple of them.
        """
        axes = self.selection if isinstance(self.selection, tuple) else (self.selection,)
        return tuple(self._min_bound(axis) for axis in axes)

    def _min_bound(self, axis: Any) -> int:
        if isinstance(axis, slice):
            return axis.stop or 0
        try:
            return operator.index(axis) + 1
        except TypeError:
            raise ArgumentTypeError(
                f"selection {self.selection!r} has no bounds; use an int, a slice, or a tuple of ints and slices"
            ) from None
