"""Decoded chunks that are kept for the next read: a loop over the rows of an array reads each chunk many times."""

from __future__ import annotations

import threading
from collections import OrderedDict

from dask_chunkio.geometry.grid import Array
from dask_chunkio.reading.file_state import FileState

__all__ = ["ChunkCache"]

# As many bytes as HDF5 2.0 keeps of a dataset.
_NBYTES = 8 << 20


class ChunkCache:
    """The chunks of a dataset that were read last; several threads may use it.

    Parameters
    ----------
    nbytes : int
        How many bytes are kept.  A larger chunk is not.
    """

    def __init__(self, nbytes: int = _NBYTES) -> None:
        self._room = nbytes
        self._most = nbytes
        self._lock = threading.Lock()
        self._state: FileState | None = None
        self._chunks: OrderedDict[int, Array] = OrderedDict()
        # The numbers of chunks of which parts were read.
        self._noted: OrderedDict[int, None] = OrderedDict()

    def was_read(self, state: FileState, number: int, nbytes: int) -> bool:
        """Return whether a chunk is kept, or a part of it was read a short while ago; note that one is read now.

        Reads all over an array come back to a chunk when it would no longer be kept: of these, the last reads are noted
        of as many chunks as have room.
        """
        with self._lock:
            self._adopt(state)
            if number in self._chunks or number in self._noted:
                return True
            self._noted[number] = None
            while len(self._noted) > self._most // nbytes:
                self._noted.popitem(last=False)
            return False

    def find(self, state: FileState, number: int) -> Array | None:
        """Return a chunk of a file in a state, if it is kept."""
        with self._lock:
            if state != self._state or number not in self._chunks:
                return None
            self._chunks.move_to_end(number)
            return self._chunks[number]

    def keep(self, state: FileState, number: int, chunk: Array) -> None:
        """Keep a chunk, which nobody changes any more, in the place of those that were not read for longest."""
        with self._lock:
            self._adopt(state)
            if chunk.nbytes > self._most or number in self._chunks:
                return
            while chunk.nbytes > self._room:
                _, oldest = self._chunks.popitem(last=False)
                self._room += oldest.nbytes
            self._chunks[number] = chunk
            self._room -= chunk.nbytes

    def _adopt(self, state: FileState) -> None:
        if state != self._state:
            self._state, self._room = state, self._most
            self._chunks.clear()
            self._noted.clear()
