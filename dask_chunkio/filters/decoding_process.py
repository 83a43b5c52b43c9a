"""The process that decodes chunks by HDF5 for `dask_chunkio.filters.isolated_decoder`.

It forks a worker, which reads requests from standard input and writes answers.  A worker that a payload crashes, or
that met a damaged one, is replaced, in milliseconds: what a filter wrote beyond its end must not show in other chunks.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dask_chunkio.child_process import reserve_output
from dask_chunkio.errors import FilterError, IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.decoding_messages import ANSWER, CRASHED, DAMAGED, DECODED, MISSING, REQUEST, read_into
from dask_chunkio.filters.hdf5_decoder import Hdf5Decoder
from dask_chunkio.filters.plugin import add_plugin_paths
from dask_chunkio.geometry.grid import Array

if sys.platform != "win32":
    import resource

__all__ = ["main"]

# The least processor time in seconds for a chunk, and the bytes that the slowest filter decodes in a second.
_SECONDS, _NBYTES_A_SECOND = 5, 1 << 20
# How many times as long it may take on a busy machine: a filter that waits takes no processor time.
_PATIENCE = 10
# The least memory for a chunk, and how many times its size a filter may take.
_MEMORY, _TIMES = 64 << 20, 24
# What a worker does; where it ends while it reads or writes, the rest of a message cannot be told from the next one.
_WAITS, _READS, _DECODES, _WRITES = range(4)
_INPUT_ENDED = 3


def main() -> None:
    """Answer requests until standard input ends."""
    add_plugin_paths(json.loads(sys.argv[1]))
    worker = _Worker(io.FileIO(0), _reserved_output())
    if not hasattr(os, "fork"):
        while worker.serve() != _INPUT_ENDED:
            pass
        return
    while True:
        code = _ended(worker)
        if worker.state == _DECODES:  # whatever the code is: a library may call exit(0)
            worker.answer(CRASHED, str(code))
        elif code == _INPUT_ENDED or worker.state != _WAITS:
            return


def _ended(worker: _Worker) -> int:
    """Have a worker serve in a forked process, and return how that ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = worker.serve()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class _Worker:
    """Serves requests; what it does, and for which request, is in memory that it shares with its parent."""

    _shared = struct.Struct("<QQ")

    def __init__(self, source: io.FileIO, target: io.FileIO) -> None:
        self._source, self._target = source, target
        self._memory = mmap.mmap(-1, self._shared.size)

    @property
    def state(self) -> int:
        """What it does, or did as it ended."""
        return int(self._shared.unpack_from(self._memory)[0])

    def _does(self, state: int, number: int) -> None:
        self._shared.pack_into(self._memory, 0, state, number)

    def serve(self) -> int:
        """Answer requests until a payload is damaged, or the input ends; return a code for the end."""
        while True:
            self._does(_WAITS, 0)
            head = bytearray(REQUEST.size)
            if not read_into(self._source, memoryview(head)[:1]):
                return _INPUT_ENDED
            self._does(_READS, 0)
            is_whole = read_into(self._source, memoryview(head)[1:])
            number, words, length = REQUEST.unpack(head)
            request, data = bytearray(words), bytearray(length)
            if not (is_whole and read_into(self._source, request) and read_into(self._source, data)):
                return _INPUT_ENDED
            self._does(_DECODES, number)
            if not self._answered(json.loads(request), data):
                return 0

    def _answered(self, request: dict[str, Any], data: bytearray) -> bool:
        """Answer a request; return whether the chunk was decoded."""
        try:
            chunk = _decoded(request, data)
        except FilterError as error:
            self.answer(MISSING, str(error))
        except IntegrityError as error:
            self.answer(DAMAGED, str(error))
        except MemoryError:
            self.answer(DAMAGED, "its payload takes more memory to decode than any that is valid")
        else:
            self.answer(DECODED, "", chunk)
            return True
        return False

    def answer(self, kind: int, words: str, chunk: Array | None = None) -> None:
        """Write the answer to the request that is at work."""
        number = self._shared.unpack_from(self._memory)[1]
        self._does(_WRITES, number)
        told = words.encode("utf-8", "replace")
        self._write(memoryview(ANSWER.pack(number, kind, len(told)) + told))
        if chunk is not None:
            self._write(chunk.data)
        self._does(_WAITS, 0)

    def _write(self, rest: memoryview) -> None:
        while rest:
            rest = rest[self._target.write(rest) or 0 :]


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
    if sys.platform == "win32":
        yield
        return
    seconds = _SECONDS + nbytes / _NBYTES_A_SECOND
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE * seconds)
    _bound_memory(nbytes)
    yield
    # The worker waits for its next chunk as long as it takes.
    signal.setitimer(signal.ITIMER_REAL, 0)


def _bound_memory(nbytes: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # macOS does not tell, and does not bound
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        end = used + _MEMORY + _TIMES * nbytes
        end = end if most == resource.RLIM_INFINITY else min(end, most)
        resource.setrlimit(resource.RLIMIT_AS, (end, most))


def _reserved_output() -> io.FileIO:
    """Reserve standard output for answers, and write no core files of crashes."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    return io.FileIO(reserve_output(), "w")
