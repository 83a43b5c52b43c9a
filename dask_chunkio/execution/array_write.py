"""Writes of dask arrays that are not computed yet: dask optimizes them together with other collections."""

from __future__ import annotations

from dask.array.core import Array
from dask.delayed import Delayed

from dask_chunkio.execution.fusion import FusingOptimizer

__all__ = ["DelayedWrite", "FusedWrite"]


class DelayedWrite(Delayed):
    """A write that can be computed together with other collections, and is optimized together with their arrays."""

    __slots__ = ()
    __dask_optimize__ = vars(Array)["__dask_optimize__"]


class FusedWrite(DelayedWrite):
    """A write whose blocks are committed by the tasks that compute them, if possible."""

    __slots__ = ()

    @property
    def __dask_optimize__(self) -> FusingOptimizer:
        return FusingOptimizer(Array.__dask_optimize__)
