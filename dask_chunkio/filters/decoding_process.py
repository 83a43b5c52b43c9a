"""The process that decodes chunks by HDF5 for `dask_chunkio.filters.isolated_decoder`.

A worker that a payload crashes, or that met a damaged one, is replaced (`dask_chunkio.forked_worker`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from dask_chunkio.errors import FilterError, IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.decoding_messages import ANSWER, CRASHED, DAMAGED, DECODED, MISSING, REQUEST, read_into
from dask_chunkio.filters.hdf5_decoder import Hdf5Decoder
from dask_chunkio.filters.plugin import add_plugin_paths
from dask_chunkio.forked_worker import INPUT_ENDED, ForkedWorker, bound_memory, bound_time, restore_signals
from dask_chunkio.geometry.grid import Array

__all__ = ["main"]

# The least processor time in seconds for a chunk, and the bytes that the slowest filter decodes in a second.
_SECONDS, _NBYTES_A_SECOND = 5, 1 << 20
# The least memory for a chunk, and how many times its size a filter may take.
_MEMORY, _TIMES = 64 << 20, 24
_NUMBER = struct.Struct("<Q")


def main() -> None:
    """Answer requests until standard input ends."""
    restore_signals()
    add_plugin_paths(json.loads(sys.argv[1]))
    _Worker().run()


class _Worker(ForkedWorker):
    """Decodes payloads; for which request is in the memory that it shares with its parent."""

    def __init__(self) -> None:
        super().__init__(_NUMBER.size)

    def serve(self) -> int:
        """Answer requests until a payload is damaged, or the input ends; return a code for the end."""
        while True:
            self.waits()
            head = bytearray(REQUEST.size)
            if not read_into(self.source, memoryview(head)[:1]):
                return INPUT_ENDED
            self.reads()
            is_whole = read_into(self.source, memoryview(head)[1:])
            number, words, length = REQUEST.unpack(head)
            request, data = bytearray(words), bytearray(length)
            if not (is_whole and read_into(self.source, request) and read_into(self.source, data)):
                return INPUT_ENDED
            _NUMBER.pack_into(self.memory, 0, number)
            self.works()
            if not self._answered(json.loads(request), data):
                return 0

    def answer_crash(self, code: int) -> None:
        """Say that the request at work was a crash."""
        self._answer(CRASHED, str(code))

    def _answered(self, request: dict[str, Any], data: bytearray) -> bool:
        """Answer a request; return whether the chunk was decoded."""
        try:
            chunk = _decoded(request, data)
        except FilterError as error:
            self._answer(MISSING, str(error))
        except IntegrityError as error:
            self._answer(DAMAGED, str(error))
        except MemoryError:
            self._answer(DAMAGED, "its payload takes more memory to decode than any that is valid")
        else:
            self._answer(DECODED, "", chunk)
            return True
        return False

    def _answer(self, kind: int, words: str, chunk: Array | None = None) -> None:
        """Answer the request that is at work."""
        told = words.encode("utf-8", "replace")
        head = ANSWER.pack(_NUMBER.unpack(self.memory)[0], kind, len(told))
        self.write(memoryview(head + told), *([] if chunk is None else [chunk.data]))


def _decoded(request: dict[str, Any], data: bytearray) -> Array:
    filters = tuple(Filter(code, flags, tuple(options), name) for code, flags, options, name in request["filters"])
    decoder = _decoder(filters, request["nbytes"])
    with _bounded(request["nbytes"] + len(data)):
        return decoder.decode(Payload(memoryview(data), request["mask"]))


@functools.lru_cache(16)
def _decoder(filters: tuple[Filter, ...], nbytes: int) -> Hdf5Decoder:
    # Filters see bytes: neither shape nor dtype of the dataset.
    return Hdf5Decoder(ChunkFormat((nbytes,), np.dtype(np.uint8), filters))


@contextlib.contextmanager
def _bounded(nbytes: int) -> Iterator[None]:
    """Bound time and memory of a chunk: nothing else stops a filter."""
    bound_time(_SECONDS + nbytes / _NBYTES_A_SECOND)
    bound_memory(_MEMORY + _TIMES * nbytes)
    yield
    # The worker waits for its next chunk as long as it takes.
    bound_time(0)
