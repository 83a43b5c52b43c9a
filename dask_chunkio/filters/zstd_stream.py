"""The start of a frame of Zstandard, without what is behind it.

From ``zstd.h``: a frame is decoded block by block, as its bytes are given.  With a stable output buffer, which is as
large as the whole frame, each block is written to its place at once.
"""

from __future__ import annotations

import ctypes

from dask_chunkio.filters.thread_contexts import ThreadContexts
from dask_chunkio.geometry.grid import Array

__all__ = ["ZstdStart"]

# A parameter, and what is reset.
_STABLE_OUTPUT, _SESSION = 1001, 1
# Bytes of a block, at most.
_BLOCK = 128 << 10


class _Buffer(ctypes.Structure):
    """``ZSTD_inBuffer`` and ``ZSTD_outBuffer``."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t))


class ZstdStart:
    """The functions of the Zstandard library that decode the start of a frame.

    Parameters
    ----------
    library : ctypes.CDLL
        The library of the plugin.

    Raises
    ------
    AttributeError
        If the library hides its functions, or has no stable output buffers (before 1.4.5).
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        address, size, number, buffer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.POINTER(_Buffer)
        names = ("createDCtx", "freeDCtx", "DCtx_setParameter", "DCtx_reset", "decompressStream", "isError")
        self._create, free, self._set, self._reset, self._stream, self._is_error = (library[f"ZSTD_{n}"] for n in names)
        self._create.restype, self._create.argtypes = address, ()
        free.restype, free.argtypes = size, (address,)
        self._set.restype, self._set.argtypes = size, (address, number, number)
        self._reset.restype, self._reset.argtypes = size, (address, number)
        self._stream.restype, self._stream.argtypes = size, (address, buffer, buffer)
        self._is_error.restype, self._is_error.argtypes = ctypes.c_uint, (size,)
        self._contexts = ThreadContexts(self._made, free)
        if self._is_error(self._set(self._contexts.address, _STABLE_OUTPUT, 1)):
            raise AttributeError("this library has no stable output buffers")

    def _made(self) -> int | None:
        context: int | None = self._create()
        if context is not None:
            self._set(context, _STABLE_OUTPUT, 1)
        return context

    def decode(self, source: Array, target: Array, needed: int) -> bool:
        """Decode the first bytes of a frame; return whether that could be done.

        Parameters
        ----------
        source : numpy.ndarray
            The bytes of the frame.
        target : numpy.ndarray
            Memory for all bytes that the frame declares.  Those behind the needed ones may have any value afterwards.
        needed : int
            How many bytes are needed.
        """
        context = self._contexts.address
        self._reset(context, _SESSION)
        given = _Buffer(source.ctypes.data, 0, 0)
        made = _Buffer(target.ctypes.data, len(target), 0)
        # About as many bytes as are needed at first, then a block at a time.
        step = len(source) * needed // max(1, len(target)) + _BLOCK // 2
        while made.position < needed and given.size < len(source):
            given.size = min(len(source), given.size + step)
            if self._is_error(self._stream(context, made, given)):
                self._contexts.drop()
                return False
            step = _BLOCK
        return bool(made.position >= needed)
