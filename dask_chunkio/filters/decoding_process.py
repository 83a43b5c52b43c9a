"""The process that decodes chunks by HDF5 for `dask_chunkio.filters.isolated_decoder`.

It reads requests from standard input, each a line of JSON and a payload, and writes a line of JSON and the chunk.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from dask_chunkio.errors import FilterError, IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.hdf5_decoder import Hdf5Decoder
from dask_chunkio.geometry.grid import Array

if sys.platform != "win32":
    import resource

__all__ = ["main"]

# The least processor time in seconds for a chunk, and the bytes that the slowest filter decodes in a second.
_SECONDS, _NBYTES_A_SECOND = 10, 1 << 20
# The least memory for a chunk, and how many times its size a filter may take.
_MEMORY, _TIMES = 64 << 20, 24


def main() -> None:
    """Answer requests until standard input ends."""
    for path in json.loads(sys.argv[1]):
        h5py.h5pl.append(path.encode("utf-8", "surrogateescape"))
    source, target = sys.stdin.buffer, _reserved_output()
    while line := source.readline():
        request = json.loads(line)
        data = source.read(request["length"])
        if len(data) != request["length"]:
            return
        _answer(request, data, target)


def _answer(request: dict[str, Any], data: bytes, target: BinaryIO) -> None:
    chunk = None
    try:
        chunk = _decoded(request, data)
        what, words = "decoded", ""
    except FilterError as error:
        what, words = "missing", str(error)
    except IntegrityError as error:
        what, words = "damaged", str(error)
    except MemoryError:
        what, words = "damaged", "its payload takes more memory to decode than any that is valid"
    target.write(json.dumps([what, words]).encode() + b"\n")
    if chunk is not None:
        target.write(chunk.data)
    target.flush()


def _decoded(request: dict[str, Any], data: bytes) -> Array:
    filters = tuple(Filter(code, flags, tuple(options), name) for code, flags, options, name in request["filters"])
    decoder = _decoder(filters, request["nbytes"])
    _bound(request["nbytes"] + len(data))
    return decoder.decode(Payload(data, request["mask"]))


@functools.lru_cache(16)
def _decoder(filters: tuple[Filter, ...], nbytes: int) -> Hdf5Decoder:
    # Filters see bytes: neither shape nor dtype of the dataset.
    return Hdf5Decoder(ChunkFormat((nbytes,), np.dtype(np.uint8), filters))


def _bound(nbytes: int) -> None:
    """Bound the processor time and the memory of a chunk: nothing else stops a filter."""
    if sys.platform == "win32":
        return
    signal.setitimer(signal.ITIMER_PROF, _SECONDS + nbytes / _NBYTES_A_SECOND)
    with contextlib.suppress(OSError, ValueError):  # macOS does not tell, and does not bound
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        end = used + _MEMORY + _TIMES * nbytes
        end = end if most == resource.RLIM_INFINITY else min(end, most)
        resource.setrlimit(resource.RLIMIT_AS, (end, most))


def _reserved_output() -> BinaryIO:
    """Reserve standard output for answers, because plugins print; and write no core files of crashes."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "wb")
