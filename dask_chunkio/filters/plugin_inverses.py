"""Inverses of plugins that are safe on damaged payloads, by functions of the plugins' libraries.

A plugin's own function trusts what a payload says of itself: bzip2's never ends on a payload that is cut off, those of
bitshuffle and blosc read beyond it.  So here the framing is checked first, memory is taken only for a size that fits
into the chunk, and the function that decompresses is one that knows both lengths.  A plugin without such functions is
left to HDF5, in a separate process.
"""

from __future__ import annotations

import bz2
import ctypes
import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.blosc2_frames import Blosc2
from dask_chunkio.filters.chunk_format import Data, Filter
from dask_chunkio.filters.plugin import PLUGIN_NAMES, Plugin, find_plugin
from dask_chunkio.filters.scratch import empty
from dask_chunkio.filters.thread_contexts import ThreadContexts
from dask_chunkio.filters.zstd_stream import ZstdStart

__all__ = ["Run", "decodes_parts", "find_inverse", "takes_part"]

Run = Callable[..., Data]

_BZIP2, _LZF, _BLOSC, _LZ4, _BITSHUFFLE, _ZSTD, _BLOSC2 = 307, 32000, 32001, 32004, 32008, 32015, 32026
_INT, _LONG, _SIZE, _ADDRESS = ctypes.c_int, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
_UNSIGNED = ctypes.c_uint
# Lengths that go through C's int, and unsigned int.
_MOST_INT, _MOST_UNSIGNED = 2**31 - 1, 2**32 - 1
# Bitshuffle: bytes before its blocks, and the length before each.
_HEAD_OF_BLOCKS, _LENGTH = 12, struct.Struct(">I")


def find_inverse(one: Filter) -> Run | None:
    """Return the function that undoes a plugin's filter; None if HDF5 must undo it, in a separate process.

    Parameters
    ----------
    one : Filter
        A step of a pipeline.

    Returns
    -------
    callable or None
        Takes the filter, bytes, how many bytes the result may have, and, if the filter is one of those that
        `takes_part` names, optionally a slice of the bytes that are needed of the result.  It raises
        `IntegrityError` for bytes that the filter cannot have made.

    Examples
    --------
    >>> find_inverse(Filter(4, 0, (32, 8), "szip")) is None
    True
    """
    if one.code == _BZIP2:
        return _bunzip2
    plugin = find_plugin(one.code) if one.code in _FINDERS else None
    return None if plugin is None else _found(plugin)


def decodes_parts(one: Filter) -> bool:
    """Return whether the inverse of a filter can leave out what is not needed: its blocks are encoded one by one."""
    return one.code in (_BITSHUFFLE, _BLOSC2)


def takes_part(one: Filter) -> bool:
    """Return whether the inverse of a filter takes a slice: it leaves out other blocks, or what is behind the part."""
    return decodes_parts(one) or one.code == _ZSTD


@functools.cache
def _found(plugin: Plugin) -> Run | None:
    try:
        run = _FINDERS[plugin.code](plugin.library)
    except AttributeError:  # a build that hides the functions of its library
        return None
    is_warm = False

    def run_alone_at_first(*arguments: Any) -> Data:
        nonlocal is_warm
        if is_warm:
            return run(*arguments)
        with plugin.alone():
            made = run(*arguments)
        is_warm = True
        return made

    return run_alone_at_first


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    # Indexing makes an object of its own: the types of an attribute would be those of every user of the library.
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


def _bytes(data: Data) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8)


def _damaged(one: Filter, what: str) -> IntegrityError:
    return IntegrityError(f"its {PLUGIN_NAMES[one.code]} payload {what}")


def _require_room(one: Filter, nbytes: int, most: int) -> None:
    if nbytes > most:
        raise _damaged(one, f"declares {nbytes} bytes, and its chunk has at most {most}")


def _bunzip2(one: Filter, data: Data, most: int) -> Data:
    stream = bz2.BZ2Decompressor()
    try:
        made = stream.decompress(data, most + 1)
    except (OSError, ValueError) as error:
        raise _damaged(one, "is damaged") from error
    _require_room(one, len(made), most)
    # The end of the stream may be behind its last byte.
    if not stream.eof and not stream.needs_input:
        made += stream.decompress(b"", most + 1 - len(made))
        _require_room(one, len(made), most)
    if not stream.eof:
        raise _damaged(one, "is cut off")
    return made


def _zstd(library: ctypes.CDLL) -> Run:
    declared = _function(library, "ZSTD_getFrameContentSize", _LONG, _ADDRESS, _SIZE)
    decompress = _function(library, "ZSTD_decompressDCtx", _SIZE, _ADDRESS, _ADDRESS, _SIZE, _ADDRESS, _SIZE)
    contexts = ThreadContexts(
        _function(library, "ZSTD_createDCtx", _ADDRESS), _function(library, "ZSTD_freeDCtx", _SIZE, _ADDRESS)
    )
    is_error = _function(library, "ZSTD_isError", _UNSIGNED, _SIZE)
    start = _zstd_start(library)
    unknown, invalid = 2**64 - 1, 2**64 - 2

    def run(one: Filter, data: Data, most: int, needed: slice | None = None) -> Data:
        source = _bytes(data)
        nbytes = declared(source.ctypes.data, len(source))
        if nbytes == invalid:
            raise _damaged(one, "has no valid header")
        is_start = needed is not None and nbytes != unknown and needed.stop < nbytes
        nbytes = most if nbytes == unknown else nbytes
        _require_room(one, nbytes, most)
        target = empty(nbytes)
        if is_start and needed is not None and start is not None:
            if not start.decode(source, target, needed.stop):
                raise _damaged(one, "is damaged")
            return target.data
        made = decompress(contexts.address, target.ctypes.data, nbytes, source.ctypes.data, len(source))
        if is_error(made):
            contexts.drop()
            raise _damaged(one, "is damaged")
        return target[:made].data

    return run


def _zstd_start(library: ctypes.CDLL) -> ZstdStart | None:
    try:
        return ZstdStart(library)
    except AttributeError:
        return None


def _lz4(library: ctypes.CDLL) -> Run:
    """Return the inverse of HDF5's lz4: length, length of blocks, and blocks with their stored lengths, big-endian."""
    decompress = _function(library, "LZ4_decompress_safe", _INT, _ADDRESS, _ADDRESS, _INT, _INT)
    head, length = struct.Struct(">QI"), struct.Struct(">I")

    def run(one: Filter, data: Data, most: int) -> Data:
        source = _bytes(data)
        if len(source) < head.size:
            raise _damaged(one, f"has {len(source)} bytes, fewer than its header")
        total, block = head.unpack_from(data)
        _require_room(one, total, most)
        if not block:
            raise _damaged(one, "has blocks without a length")
        target, at, done = empty(total), head.size, 0
        while done < total:
            wanted = min(block, total - done)
            if at + length.size > len(source):
                raise _damaged(one, "is cut off")
            (packed,) = length.unpack_from(data, at)
            at += length.size
            if packed > len(source) - at:
                raise _damaged(one, "is cut off")
            if packed == wanted:
                target[done : done + wanted] = source[at : at + wanted]
            elif max(packed, wanted) > _MOST_INT or wanted != decompress(
                source.ctypes.data + at, target.ctypes.data + done, packed, wanted
            ):
                raise _damaged(one, "is damaged")
            at, done = at + packed, done + wanted
        return target.data

    return run


def _bitshuffle(library: ctypes.CDLL) -> Run:
    # A library with zstd uses the function of lz4 that knows both lengths; older ones may not.
    arguments = (_ADDRESS, _ADDRESS, _SIZE, _SIZE, _SIZE)
    plain, *packed = (
        _function(library, name, ctypes.c_int64, *arguments)
        for name in ("bshuf_bitunshuffle", "bshuf_decompress_lz4", "bshuf_decompress_zstd")
    )
    by_mode = dict(zip((2, 3), packed, strict=True))
    head = struct.Struct(">QI")

    def run(one: Filter, data: Data, most: int, needed: slice | None = None) -> Data:
        itemsize, block, mode = (*one.options, 0, 0, 0, 0, 0)[2:5]
        decompress = by_mode.get(mode, plain)
        source, at, nbytes = _bytes(data), 0, len(data)
        if mode in by_mode:
            if nbytes < head.size:
                raise _damaged(one, f"has {nbytes} bytes, fewer than its header")
            nbytes, block = head.unpack_from(data)
            at, block = head.size, block // max(1, itemsize)
        _require_room(one, nbytes, most)
        if not itemsize or nbytes % itemsize:
            raise _damaged(one, f"declares {nbytes} bytes, and its elements have {itemsize}")
        first, size = 0, nbytes // itemsize
        if needed is not None and needed.stop > nbytes:
            needed = None  # what is declared is no chunk
        if mode in by_mode:
            first, at, size = _blocks(one, data, (size, itemsize, block), needed)
        target = empty(nbytes)
        made = decompress(source.ctypes.data + at, target.ctypes.data + first * itemsize, size, itemsize, block)
        if made < 0:
            raise _damaged(one, f"is damaged (error {made} of bitshuffle)")
        return target.data

    return run


def _blocks(one: Filter, data: Data, lengths: tuple[int, int, int], needed: slice | None) -> tuple[int, int, int]:
    """Return the first element to decode, where its block is in the payload, and how many elements to decode.

    `lengths` are the number of elements of the chunk, the bytes of one, and the elements of a block.
    Blocks that leave the payload are refused, as the library follows their lengths wherever these lead.
    """
    size, itemsize, block = lengths
    if not block or block % 8:
        raise _damaged(one, f"has blocks of {block} elements")
    count = size // block + (size % block >= 8)
    first, last = 0, count
    if needed is not None:
        first, last = needed.start // itemsize // block, min(-(-needed.stop // itemsize // block), count)
    start = at = _HEAD_OF_BLOCKS
    for number in range(last):
        if at + _LENGTH.size > len(data):
            raise _damaged(one, "is cut off")
        (packed,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + packed
        if packed > _MOST_INT:
            raise _damaged(one, f"has a block of {packed} bytes")
        if number + 1 == first:
            start = at
    # Behind the last block are the elements that make no eight.
    ending = 0 if last < count else size % 8 * itemsize
    if at + ending > len(data):
        raise _damaged(one, "is cut off")
    return first * block, start, (size if last == count else last * block) - first * block


def _lzf(library: ctypes.CDLL) -> Run:
    decompress = _function(library, "lzf_decompress", _UNSIGNED, _ADDRESS, _UNSIGNED, _ADDRESS, _UNSIGNED)

    def run(one: Filter, data: Data, most: int) -> Data:
        source, room = _bytes(data), min(most, _MOST_UNSIGNED)
        if len(source) > _MOST_UNSIGNED:
            raise _damaged(one, f"has {len(source)} bytes")
        target = empty(room)
        made = decompress(source.ctypes.data, len(source), target.ctypes.data, room)
        if not made:
            raise _damaged(one, f"is damaged, or holds more than {most} bytes")
        return target[:made].data

    return run


def _blosc(library: ctypes.CDLL) -> Run:
    validate = _function(library, "blosc_cbuffer_validate", _INT, _ADDRESS, _SIZE, ctypes.POINTER(_SIZE))
    decompress = _function(library, "blosc_decompress_ctx", _INT, _ADDRESS, _ADDRESS, _SIZE, _INT)
    head = struct.Struct("<4x3I")

    def run(one: Filter, data: Data, most: int) -> Data:
        source, nbytes = _bytes(data), _SIZE()
        if len(source) < head.size:
            raise _damaged(one, f"has {len(source)} bytes, fewer than its header")
        _, _, stored = head.unpack_from(data)
        if stored > len(source):
            raise _damaged(one, f"declares {stored} bytes, and has {len(source)}")
        if validate(source.ctypes.data, stored, ctypes.byref(nbytes)) < 0:
            raise _damaged(one, "has no valid header")
        _require_room(one, nbytes.value, most)
        target = empty(nbytes.value)
        made = decompress(source.ctypes.data, target.ctypes.data, len(target), 1)
        if made != len(target):
            raise _damaged(one, "is damaged")
        return target.data

    return run


def _blosc2(library: ctypes.CDLL) -> Run:
    decoder = Blosc2(library)
    return lambda _, data, most, needed=None: decoder.decode(data, most, needed)


_FINDERS: dict[int, Callable[[ctypes.CDLL], Run]] = {
    _LZF: _lzf,
    _BLOSC: _blosc,
    _LZ4: _lz4,
    _BITSHUFFLE: _bitshuffle,
    _ZSTD: _zstd,
    _BLOSC2: _blosc2,
}
