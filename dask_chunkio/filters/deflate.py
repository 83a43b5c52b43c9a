"""HDF5's deflate (gzip) filter, which makes a zlib stream with the fastest engine for each level.

HDF5 reads any zlib stream, so that the engine can depend on the level.  The table of engines is based on
measurements (``benchmarks/studies/deflate_levels.py``, results in ``docs/filters.md``).  From HDF5's default
level 4 up, the output is at most 1 % larger than that of zlib at the same level, for all kinds of data that
were measured.  Below level 4, the fastest engine is used.

After a shuffle the bytes come in planes: all first bytes of the elements, all second bytes,
and so on.  ISA-L encodes long stretches with one table of symbols.  With a new table for
each plane, its output is up to 2 % smaller at the same speed.  From level 3 up, planes at the
beginning in which nothing repeats are encoded by ISA-L, too, and the rest by libdeflate.

libdeflate decodes fastest: in less than half the time of zlib.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import cast

import deflate as libdeflate
from isal import isal_zlib

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.literal_planes import leading_literals

__all__ = ["DEFLATE", "deflate", "engine_for", "inflate"]

DEFLATE = 1

_ZLIB, _ISAL, _LIBDEFLATE = "zlib", "isal", "libdeflate"
# ISA-L's level for planes: about as fast as level 1, with an output that is 2 % smaller.
_OF_PLANES = 2

_COMPRESS: dict[str, Callable[[bytes | memoryview, int], bytes]] = {
    _ZLIB: zlib.compress,
    _ISAL: isal_zlib.compress,
    _LIBDEFLATE: lambda data, level: cast(bytes, libdeflate.zlib_compress(data, level)),
}

# A table of symbols has up to some hundred bytes: for shorter planes it costs more than it saves.
_LEAST_PLANE = 16 << 10

# CMF and FLG of RFC 1950, for a window of 32 KiB; and a last block without any symbol, of RFC 1951.
_HEADER, _EMPTY_LAST_BLOCK = b"\x78\x9c", b"\x03\x00"

# HDF5's level -> engine and the engine's own level.
_ENGINES = {
    0: (_ZLIB, 0),
    1: (_ISAL, 1),
    2: (_ISAL, 2),
    3: (_LIBDEFLATE, 1),
    4: (_LIBDEFLATE, 4),
    5: (_LIBDEFLATE, 5),
    # libdeflate 6 was 1.01 % larger than zlib 6 on the recording of the demo.
    6: (_LIBDEFLATE, 7),
    7: (_LIBDEFLATE, 7),
    8: (_LIBDEFLATE, 8),
    9: (_LIBDEFLATE, 9),
}


def engine_for(level: int, planes: int = 1) -> str:
    """Return the name of the engine for one of HDF5's levels, 0 to 9."""
    engine, own = _ENGINES[level]
    return f"{_ISAL} {_OF_PLANES}, by planes" if engine == _ISAL and planes > 1 else f"{engine} {own}"


def deflate(data: bytes | memoryview, level: int, planes: int = 1) -> bytes:
    """Return `data` as a zlib stream.

    Parameters
    ----------
    data : bytes-like
        The bytes to compress.
    level : int
        HDF5's level, 0 to 9.
    planes : int
        Number of planes into which a shuffle has split the data; 1 without a shuffle.

    Examples
    --------
    >>> zlib.decompress(deflate(b"spike" * 100, 4)) == b"spike" * 100
    True
    """
    engine, own = _ENGINES[level]
    if engine == _ISAL and planes > 1 and len(data) // planes >= _LEAST_PLANE:
        return _by_planes(memoryview(data), planes)
    if engine == _LIBDEFLATE:
        pieces, done = leading_literals(memoryview(data), planes, own)
        if done:
            return _joined(pieces, memoryview(data), done, own)
    return _COMPRESS[engine](data, own)


def inflate(data: bytes | memoryview, most: int) -> memoryview:
    """Return what a zlib stream holds.

    Bytes after the end of the stream are ignored, as in HDF5.

    Parameters
    ----------
    data : bytes-like
        The stream.
    most : int
        The number of bytes that it may hold; no more memory is taken.

    Raises
    ------
    IntegrityError
        If it is damaged, or holds more.

    Examples
    --------
    >>> bytes(inflate(deflate(b"spike" * 100, 4), 500)) == b"spike" * 100
    True
    """
    try:
        return memoryview(libdeflate.zlib_decompress(data, most))
    except libdeflate.DeflateError as error:
        raise IntegrityError(f"its deflate stream is damaged, or holds more than {most} bytes") from error


def _joined(pieces: list[bytes], data: memoryview, done: int, level: int) -> bytes:
    """Return a zlib stream (RFC 1950): pieces that encode the first bytes of `data`, and the rest by libdeflate."""
    rest = libdeflate.deflate_compress(data[done:], level) if done < len(data) else _EMPTY_LAST_BLOCK
    return b"".join((_HEADER, *pieces, rest, libdeflate.adler32(data).to_bytes(4, "big")))


def _by_planes(data: memoryview, planes: int) -> bytes:
    stream, length = isal_zlib.compressobj(_OF_PLANES), len(data) // planes
    parts: list[bytes] = []
    for plane in range(planes - 1):
        parts += (stream.compress(data[plane * length : (plane + 1) * length]), stream.flush(isal_zlib.Z_SYNC_FLUSH))
    parts += (stream.compress(data[(planes - 1) * length :]), stream.flush())
    return b"".join(parts)
