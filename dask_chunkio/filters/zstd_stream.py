"""The start of a frame of Zstandard, without what is behind it.

From ``zstd.h``: a frame is decoded block by block, as its bytes are given.  With a stable output buffer, which is as
large as the whole frame, each block is written to its place at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from dask_chunkio.filters.thread_contexts import ThreadContexts
from dask_chunkio.geometry.grid import Array

__all__ = ["zstd_start"]

_STABLE_OUTPUT, _SESSION = 1001, 1
# Bytes of a block, at most.
_BLOCK = 128 << 10


class _Buffer(ctypes.Structure):
    """``ZSTD_inBuffer`` and ``ZSTD_outBuffer``."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t))


def zstd_start(library: ctypes.CDLL) -> Callable[[Array, Array, int], bool] | None:
    """Return the function that decodes the start of a frame; None if a library has no such functions.

    Parameters
    ----------
    library : ctypes.CDLL
        A library with the functions of Zstandard.

    Returns
    -------
    callable or None
        Takes the frame, the memory for all that it declares, and how many bytes are needed.  It returns whether it
        could decode these.  The memory behind them may hold anything.
    """
    try:
        functions = [library[f"ZSTD_{name}"] for name in ("createDCtx", "freeDCtx", "DCtx_setParameter", "DCtx_reset")]
        stream, is_error = library["ZSTD_decompressStream"], library["ZSTD_isError"]
    except AttributeError:
        return None
    create, free, set_parameter, reset = functions
    address, size, number, buffer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.POINTER(_Buffer)
    create.restype, create.argtypes, free.restype, free.argtypes = address, (), size, (address,)
    set_parameter.restype, set_parameter.argtypes = size, (address, number, number)
    reset.restype, reset.argtypes = size, (address, number)
    stream.restype, stream.argtypes = size, (address, buffer, buffer)
    is_error.restype, is_error.argtypes = ctypes.c_uint, (size,)
    if (context := create()) is None:
        return None
    is_missing = is_error(set_parameter(context, _STABLE_OUTPUT, 1))
    free(context)
    if is_missing:  # before 1.4.5
        return None

    def make() -> int | None:
        if (made := create()) is not None:
            set_parameter(made, _STABLE_OUTPUT, 1)
        return int(made) if made else None

    contexts = ThreadContexts(make, free)

    def decompress(source: Array, target: Array, needed: int) -> bool:
        context = contexts.address
        reset(context, _SESSION)
        given = _Buffer(source.ctypes.data, 0, 0)
        made = _Buffer(target.ctypes.data, len(target), 0)
        # About as many bytes as are needed at first, then a few blocks at a time.
        step = len(source) * needed // max(1, len(target)) + _BLOCK // 2
        while made.position < needed and given.size < len(source):
            given.size = min(len(source), given.size + step)
            if is_error(stream(context, made, given)):
                contexts.drop()
                return False
            step = _BLOCK
        return bool(made.position >= needed)

    return decompress
