"""Reading of blocks of a stored array by the threads of this process."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import Array, Selection
from dask_chunkio.reading.chunk_cache import ChunkCache
from dask_chunkio.reading.indexing import Wanted, runs
from dask_chunkio.reading.stored_array import StoredArray
from dask_chunkio.reading.thread_team import ThreadTeam, call_each

__all__ = ["BlockReader", "processors"]


@dataclass(slots=True)
class _Own:
    """What a reader has in one process."""

    pid: int
    cache: ChunkCache = field(default_factory=ChunkCache)
    team: ThreadTeam | None = None


class BlockReader:
    """Reads blocks of a dataset; the threads begin with the first block of several chunks.

    Parameters
    ----------
    stored : StoredArray
        The dataset.
    threads : int, optional
        Number of threads that decode the chunks of one block; by default as many as this process has processors.
    """

    def __init__(self, stored: StoredArray, threads: int | None = None) -> None:
        self._stored, self._threads = stored, threads
        self._own: _Own | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_own": None}

    def read(self, selection: Selection) -> Array:
        """Return the elements of a selection: for each axis a slice inside the array, without a step."""
        return self._stored.read(selection, self._team_for(selection), self._of_this_process().cache)

    def read_wanted(self, wanted: Wanted) -> Array:
        """Return the elements that are wanted along each axis."""
        chunk_shape = self._stored.grid.chunk_shape
        along = [list(runs(one, length)) for one, length in zip(wanted, chunk_shape, strict=True)]
        boxes = list(itertools.product(*along))
        if len(boxes) == 1:
            (box,) = boxes
            return _taken(self.read(tuple(piece for piece, _ in box)), [inside for _, inside in box])
        shape = tuple(sum(_length(piece, inside) for piece, inside in one) for one in along)
        found = np.empty(shape, self._stored.dtype)
        starts = [list(itertools.accumulate((_length(*one) for one in axis), initial=0)) for axis in along]

        def fill(number: int) -> None:
            box = boxes[number]
            cells = np.unravel_index(number, tuple(map(len, along)))
            target = tuple(slice(at[cell], at[cell + 1]) for at, cell in zip(starts, cells, strict=True))
            part = self._stored.read(tuple(piece for piece, _ in box), cache=self._of_this_process().cache)
            found[target] = _taken(part, [inside for _, inside in box])

        call_each(self._team_of(len(boxes)), fill, range(len(boxes)))
        return found

    def _team_for(self, selection: Selection) -> ThreadTeam | None:
        chunks = math.prod(
            -(-axis.stop // length) - axis.start // length
            for axis, length in zip(selection, self._stored.grid.chunk_shape, strict=True)
        )
        return self._team_of(chunks)

    def _team_of(self, tasks: int) -> ThreadTeam | None:
        threads = self._threads or processors()
        if threads == 1 or tasks < 2 or not self._stored.is_direct:
            return None
        own = self._of_this_process()
        if own.team is None:
            own.team = ThreadTeam(threads, "dask_chunkio-read")
        return own.team

    def _of_this_process(self) -> _Own:
        # A forked process has none of the threads of its parent, and a lock that one of them held is never released.
        if self._own is None or self._own.pid != os.getpid():
            self._own = _Own(os.getpid())
        return self._own


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _length(piece: slice, inside: slice | Array) -> int:
    return piece.stop - piece.start if isinstance(inside, slice) else len(inside)


def _taken(part: Array, inside: list[slice | Array]) -> Array:
    """Return what is wanted along each axis of a part."""
    for axis, one in enumerate(inside):
        if not isinstance(one, slice) and len(one) < part.shape[axis]:
            part = part.take(one, axis)
    return part
