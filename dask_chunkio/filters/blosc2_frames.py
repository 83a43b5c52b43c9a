"""Frames of Blosc2, as its plugin stores them: a header, one chunk, the offset of that chunk, and a trailer.

The library's own reader of frames may start a Python process to look for a codec that it does not know, and opens
files that a chunk names.  Here the header is read field by field (``README_CFRAME_FORMAT.rst`` of c-blosc2), and the
library gets a chunk with a codec and filters of its own only.  What is valid and has other parts is left to HDF5.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.chunk_format import Data
from dask_chunkio.filters.scratch import empty
from dask_chunkio.filters.thread_contexts import ThreadContexts
from dask_chunkio.geometry.grid import Array

__all__ = ["Blosc2", "NotPlainError"]

_MAGIC = b"\x9e\xa8b2frame\0"
# Lengths of the header, of the frame, of its data, of the chunk and of an element; the length of a chunk's data.
_HEADER = struct.Struct(">10sxIxQ5xxQxQxi5xxI")
_METALAYERS = 87
# Length of the data, of a block, of the chunk; filters; flags.  (``README_CHUNK_FORMAT.rst``)
_CHUNK = struct.Struct("<2xBx3I6sB7xBB")
_EXTENDED, _LAZY_OR_INSTRUMENTED_OR_DICTIONARY = 0b101, 0b1000_1001
_CODECS = frozenset({0, 1, 3, 4})  # blosclz, lz4, zlib, zstd
_FILTERS = frozenset({0, 1, 2, 4})  # none, shuffle, bitshuffle, truncated precision
_ZEROS = 1
_OFFSET = 8
_MOST_DIMENSIONS, _MOST_PADDED = 8, 4
_SMALL = 64 << 10
# What the chunks of a dataset have in common, and longer texts of a header that are not remembered.
_REMEMBERED, _MOST_REMEMBERED = 64, 512


class NotPlainError(Exception):
    """A payload that may be valid, and that only the plugin can decode."""


class _Parameters(ctypes.Structure):
    """``blosc2_dparams``, whose first field is the number of threads, and which is shorter than this."""

    _fields_ = (("nthreads", ctypes.c_int), ("rest", ctypes.c_char * 252))


class Blosc2:
    """The functions of the Blosc2 library that decode a chunk.

    Parameters
    ----------
    library : ctypes.CDLL
        The library of the plugin.

    Raises
    ------
    AttributeError
        If the library hides its functions.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        number, address = ctypes.c_int, ctypes.c_void_p
        defaults, init = library["blosc2_get_blosc2_dparams_defaults"], library["blosc2_init"]
        create, free, self._skip = (library[f"blosc2_{name}"] for name in ("create_dctx", "free_ctx", "set_maskout"))
        self._decompress = library["blosc2_decompress_ctx"]
        self._decompress.restype = number
        self._decompress.argtypes = [address, address, ctypes.c_int32, address, ctypes.c_int32]
        create.restype, create.argtypes = address, [_Parameters]
        free.restype, free.argtypes = None, [address]
        self._skip.restype, self._skip.argtypes = number, [address, address, number]
        defaults.restype, init.restype = _Parameters, None
        init()
        parameters = defaults()
        parameters.nthreads = 1
        self._contexts = ThreadContexts(lambda: create(parameters), free)
        self._remembered_offset = functools.lru_cache(_REMEMBERED)(self._offset)

    def decode(self, data: Data, most: int, needed: slice | None = None) -> Data:
        """Return what the only chunk of a frame holds.

        Parameters
        ----------
        data : bytes-like
            The frame.
        most : int
            The number of bytes that it may hold.
        needed : slice, optional
            The bytes that are needed of the result; the others may be anything.

        Raises
        ------
        IntegrityError
            If it is damaged, or holds more.
        NotPlainError
            If the frame has parts that only the plugin knows.
        """
        header, length, nbytes, stored, itemsize, chunk = self._header(data)
        if chunk < nbytes or itemsize < 1:
            raise NotPlainError
        fields = bytes(memoryview(data)[_METALAYERS:header])
        shape, blocks = (_remembered_shapes if len(fields) <= _MOST_REMEMBERED else _shapes)(fields)
        if (math.prod(shape) * itemsize if shape else nbytes) > most:
            raise IntegrityError(f"its blosc2 payload declares {nbytes} bytes, and its chunk has at most {most}")
        if nbytes > _MOST_PADDED * most + _SMALL:
            raise NotPlainError
        source = np.frombuffer(data, np.uint8)[:length]
        offset = self._offset_in(source[header + stored :])
        needed = needed if shape[1:] == blocks[1:] else None
        found = self._found(source[header : header + stored], offset, nbytes, needed)
        return found.data if not shape else _unblocked(found, itemsize, shape, blocks).data

    def _header(self, data: Data) -> tuple[int, int, int, int, int, int]:
        if len(data) < _METALAYERS:
            raise IntegrityError(f"its blosc2 payload has {len(data)} bytes, fewer than the header of a frame")
        magic, header, length, nbytes, stored, itemsize, chunk = _HEADER.unpack_from(data)
        if magic != _MAGIC or not _METALAYERS <= header <= length <= len(data) or stored > length - header:
            raise IntegrityError("its blosc2 payload is no frame, or a damaged one")
        return header, length, nbytes, stored, itemsize, chunk

    def _offset_in(self, source: Array) -> int:
        """Return the offset of the chunk, which is a chunk of its own; that of most frames is the same."""
        if len(source) >= _CHUNK.size and (stored := _CHUNK.unpack_from(source.data)[3]) <= _MOST_REMEMBERED:
            return self._remembered_offset(bytes(source[:stored]))
        return self._offset(source)

    def _offset(self, source: Array | bytes) -> int:
        return int(self._chunk(np.frombuffer(source, np.uint8), _OFFSET).view("<i8")[0])

    def _found(self, source: Array, offset: int, nbytes: int, needed: slice | None) -> Array:
        if offset < 0:
            if offset >> 56 & 0x7F != _ZEROS:
                raise NotPlainError
            return np.zeros(nbytes, np.uint8)
        if offset >= len(source):
            raise IntegrityError("its blosc2 payload has its chunk beyond its end")
        return self._chunk(source[offset:], nbytes, needed)

    def _chunk(self, source: Array, nbytes: int, needed: slice | None = None) -> Array:
        """Decode a chunk that declares so many bytes, or its blocks with the bytes that are needed."""
        if len(source) < _CHUNK.size:
            raise IntegrityError("its blosc2 payload is cut off")
        flags, declared, block, stored, filters, _, more_flags, own_flags = _CHUNK.unpack_from(source.data)
        if declared != nbytes or not _CHUNK.size <= stored <= len(source):
            raise IntegrityError(f"its blosc2 chunk declares {declared} of {nbytes} bytes in {stored} of {len(source)}")
        is_known = flags & _EXTENDED == _EXTENDED and flags >> 5 in _CODECS and _FILTERS.issuperset(filters)
        if not is_known or more_flags or own_flags & _LAZY_OR_INSTRUMENTED_OR_DICTIONARY:
            raise NotPlainError
        if not block:
            raise IntegrityError("its blosc2 chunk has blocks without a length")
        target, context = empty(nbytes), self._contexts.address
        skipped = _skipped(-(-nbytes // block), block, needed)
        # Set anew for each chunk: the library does not promise to forget what was to be skipped of the last one.
        made = self._skip(context, skipped.ctypes.data, len(skipped))
        if made >= 0:
            made = self._decompress(context, source.ctypes.data, stored, target.ctypes.data, nbytes)
        if made != nbytes:
            self._contexts.drop()
            raise IntegrityError(f"its blosc2 chunk is damaged (error {made} of Blosc2)")
        return target


def _shapes(metalayers: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the chunk and of its blocks, if it has more than one dimension; else nothing."""
    fields = _fields(memoryview(metalayers))
    try:
        kind, _, count = next(fields), next(fields), next(fields)
        names = {next(fields): next(fields) for _ in range(count)}
        contents = [next(fields) for _ in range(next(fields))]
        if kind != 3 or not names:
            return (), ()
        if len(contents) != 1 or b"b2nd" not in names:
            raise NotPlainError
        return _b2nd(_fields(memoryview(contents[0])))
    except (StopIteration, RuntimeError, TypeError, IndexError, struct.error) as error:
        raise IntegrityError("its blosc2 payload has a damaged header") from error


_remembered_shapes = functools.lru_cache(_REMEMBERED)(_shapes)


def _skipped(count: int, block: int, needed: slice | None) -> Array:
    """Return which blocks are not decoded, as an array of booleans."""
    found = np.full(count, needed is not None)
    if needed is not None:
        found[needed.start // block : -(-needed.stop // block)] = False
    return found


def _b2nd(fields: Iterator[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a chunk and of its blocks from the metalayer of an array."""
    _, version, dimensions = next(fields), next(fields), next(fields)
    shapes = [tuple(next(fields) for _ in range(next(fields))) for _ in range(3)]
    if version or any(len(shape) != dimensions for shape in shapes) or not 0 < dimensions <= _MOST_DIMENSIONS:
        raise NotPlainError
    if any(length < 1 for shape in shapes for length in shape):
        raise IntegrityError("its blosc2 payload has a damaged shape")
    if shapes[0] != shapes[1]:
        raise NotPlainError
    return shapes[1], shapes[2]


def _unblocked(found: Array, itemsize: int, shape: tuple[int, ...], blocks: tuple[int, ...]) -> Array:
    """Return the elements in their own order: they are stored block by block, and the last blocks are padded."""
    counts = tuple(-(-length // block) for length, block in zip(shape, blocks, strict=True))
    if len(found) != math.prod(counts) * math.prod(blocks) * itemsize:
        raise IntegrityError(f"its blosc2 payload has {len(found)} bytes for an array of {shape}")
    if blocks[1:] == shape[1:]:
        return found[: math.prod(shape) * itemsize]
    # Numbers are copied faster than other elements of the same size.
    elements = found.view(f"u{itemsize}" if itemsize in (1, 2, 4, 8) else f"V{itemsize}")
    axes = [axis for number in range(len(shape)) for axis in (number, number + len(shape))]
    whole = elements.reshape(counts + blocks).transpose(axes)
    ends = tuple(count * block for count, block in zip(counts, blocks, strict=True))
    cut = whole.reshape(ends)[tuple(slice(length) for length in shape)]
    result: Array = np.ascontiguousarray(cut).reshape(-1).view(np.uint8)
    return result


_INTEGERS = {0xCD: ">H", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q", 0xCE: ">I", 0xCF: ">Q", 0xDC: ">H", 0xDE: ">H", 0xDD: ">I"}
_LENGTHS = {0xC6: ">I", 0xDB: ">I", 0xD9: ">B", 0xC4: ">B"}


def _fields(data: memoryview) -> Iterator[Any]:
    """Yield the fields of msgpack: integers, bytes, and of an array or a map the number of its members."""
    at = 0
    while at < len(data):
        kind = data[at]
        at += 1
        if kind in _INTEGERS:
            kind_of = struct.Struct(_INTEGERS[kind])
            yield kind_of.unpack_from(data, at)[0]
            at += kind_of.size
        elif kind < 0x80:
            yield kind
        elif kind < 0xA0:
            yield kind & 0x0F
        elif kind < 0xC0 or kind in _LENGTHS:
            kind_of = struct.Struct(_LENGTHS.get(kind, ">0s"))
            length = kind_of.unpack_from(data, at)[0] if kind in _LENGTHS else kind & 0x1F
            at += kind_of.size
            if length > len(data) - at:
                raise IndexError(length)
            yield bytes(data[at : at + length])
            at += length
        else:
            raise IndexError(kind)
