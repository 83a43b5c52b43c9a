"""Pipelines that run outside HDF5: our own shuffle, deflate and fletcher32, and the functions of plugins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from dask_chunkio.errors import FilterError
from dask_chunkio.filters.chunk_format import ChunkFormat, Data, Filter, Payload
from dask_chunkio.filters.deflate import DEFLATE, deflate, engine_for
from dask_chunkio.filters.fletcher32 import FLETCHER32, append_fletcher32
from dask_chunkio.filters.plugin import find_plugin, require_filter
from dask_chunkio.filters.shuffle import SHUFFLE, shuffle
from dask_chunkio.geometry.grid import Array

__all__ = ["DirectEncoder", "Step", "direct_steps"]

_MAX_LEVEL = 9


@dataclass(frozen=True, slots=True)
class Step:
    """One filter of a pipeline, with the function that runs it.

    Parameters
    ----------
    filter : Filter
        The filter as HDF5 records it.
    engine : str
        The name that `plan` shows.
    run : callable
        Applies the filter to bytes; returns None if the filter fails, or does not make the data smaller.
    is_parallel : bool
        Whether several threads may run it at once.
    """

    filter: Filter
    engine: str
    run: Callable[[Filter, Data], Data | None]
    is_parallel: bool = True


class DirectEncoder:
    """An encoder that runs a pipeline without HDF5 and without the GIL.

    The payload of an empty pipeline is the memory of the chunk itself, not a copy.

    Parameters
    ----------
    form : ChunkFormat
        How chunks are stored.

    Raises
    ------
    FilterError
        If only HDF5 can run one of the filters, or one is missing in this process.

    Examples
    --------
    >>> chunk = np.arange(8, dtype="i2")
    >>> payload = DirectEncoder(ChunkFormat((8,), chunk.dtype, ())).encode(chunk)
    >>> payload.nbytes, payload.mask
    (16, 0)
    """

    def __init__(self, form: ChunkFormat) -> None:
        steps = direct_steps(form.filters)
        if steps is None:
            names = ", ".join(step.name for step in form.filters)
            raise FilterError(f"one of the filters {names} can only be run by HDF5; use Hdf5Encoder")
        self._steps = steps

    @property
    def name(self) -> str:
        """The engines in the order in which they run."""
        return " > ".join(step.engine for step in self._steps) or "copying"

    @property
    def is_parallel(self) -> bool:
        """Whether several threads of a process encode chunks at once."""
        return all(step.is_parallel for step in self._steps)

    def encode(self, chunk: Array) -> Payload:
        """Encode one chunk."""
        data: Data = chunk.reshape(-1).view(np.uint8).data
        mask = 0
        for position, step in enumerate(self._steps):
            made = step.run(step.filter, data)
            if made is not None:
                data = made
            elif step.filter.is_optional:
                mask |= 1 << position
            else:
                raise FilterError(
                    f"{step.filter} failed on a chunk of {chunk.shape} elements of {chunk.dtype}, and the dataset does "
                    f"not allow chunks without it; choose other options for the filter, or another compression"
                )
        return Payload(data, mask)


def direct_steps(filters: Iterable[Filter]) -> tuple[Step, ...] | None:
    """Return the steps of a pipeline; None if only HDF5 can run one of its filters.

    Parameters
    ----------
    filters : iterable of Filter
        The pipeline.

    Raises
    ------
    FilterError
        If a filter is missing on this machine.
    """
    steps: list[Step] = []
    for one in filters:
        step = _own_step(one, steps[-1].filter if steps else None) or _plugin_step(one)
        if step is None:
            return None
        steps.append(step)
    return tuple(steps)


def _own_step(one: Filter, before: Filter | None) -> Step | None:
    if one.code == DEFLATE:
        planes = before.options[0] if before is not None and _shuffles(before) else 1
        engine = f"deflate({one.options[0]}) by {engine_for(one.options[0], planes)}" if _level(one) else one.name
        return Step(one, engine, functools.partial(_deflate, planes))
    if one.code == SHUFFLE:
        return Step(one, one.name, _shuffle)
    return Step(one, one.name, _fletcher32) if one.code == FLETCHER32 else None


def _plugin_step(one: Filter) -> Step | None:
    require_filter(one.code)
    plugin = find_plugin(one.code)
    return None if plugin is None else Step(one, plugin.name(one), plugin.encode, plugin.is_parallel(one))


def _shuffle(one: Filter, data: Data) -> Data | None:
    return shuffle(data, one.options[0]) if _shuffles(one) else None


def _shuffles(one: Filter) -> bool:
    # HDF5 sets the options of only the first of two shuffles; the second one has none, and fails.
    return one.code == SHUFFLE and len(one.options) == 1 and one.options[0] > 0


def _level(one: Filter) -> bool:
    return len(one.options) == 1 and one.options[0] <= _MAX_LEVEL


def _deflate(planes: int, one: Filter, data: Data) -> Data | None:
    return deflate(data, one.options[0], planes) if _level(one) else None


def _fletcher32(_: Filter, data: Data) -> Data:
    return append_fletcher32(data)
