"""The beginning of a chunk in which nothing repeats, such as the noise in the low bytes of a measurement.

A search for repetitions takes libdeflate most of its time, and finds none there: only the frequencies of the bytes
count.  ISA-L encodes those as well, several times faster.  After a shuffle the low bytes of little-endian elements come
first, so that the first planes of a chunk often are of this kind.

Samples of each plane decide, by what both engines make of them: one that is longer than a deflate stream can refer
back, and some from all over the plane.  ISA-L then encodes the plane in segments; the first one that is not like the
samples, and all that follows, is left to libdeflate.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import deflate as libdeflate
import numpy as np
from isal import isal_zlib

__all__ = ["leading_literals"]

_LEVEL, _RAW = 2, -15
# A shorter plane would consist of samples for the most part.
_LEAST_PLANE = 96 << 10
# A deflate stream can refer 32 KiB back (RFC 1951, section 3.2.5), which a large sample shows.
_SMALL, _LARGE = 8 << 10, 40 << 10
_SPREAD, _SPREAD_SAMPLE = 4, 4 << 10
# A sample that becomes so much smaller has repetitions, or so few values that ISA-L's codes are too long for them.
_LEAST_RATIO = 0.4
# How much larger than libdeflate's ISA-L's output may be, and that of spread samples together than one by one.
_LOSS, _MIXED = 1.002, 1.005
# Each segment, of at least this size, has codes of its own.  How its ratio may differ from that of the sample.
_SEGMENT = 64 << 10
_ALIKE = (0.98, 1.01)


def leading_literals(data: memoryview, planes: int, level: int) -> tuple[list[bytes], int]:
    """Encode the beginning of a chunk, as far as the frequencies of its bytes are all that counts.

    Parameters
    ----------
    data : memoryview
        The bytes of a chunk.
    planes : int
        Number of planes into which a shuffle has split them; 1 without a shuffle.
    level : int
        Level of libdeflate that would encode them otherwise.

    Returns
    -------
    list of bytes, int
        Pieces of a raw deflate stream, which end with a byte and not with a final block; and the number of bytes of
        `data` that they encode, 0 if it begins with repetitions.
    """
    length = len(data) // planes
    pieces, done = list[bytes](), 0
    if length < _LEAST_PLANE:
        return pieces, done
    stream = isal_zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
    for number in range(planes):
        # Bytes that are left over after the last plane belong to it.
        end = (number + 1) * length if number + 1 < planes else len(data)
        for piece, size in _encoded(stream, data[done:end], level):
            pieces.append(piece)
            done += size
        if done < end:
            break
    return pieces, done


def _encoded(stream: isal_zlib.Compress, plane: memoryview, level: int) -> Iterator[tuple[bytes, int]]:
    """Yield the segments of a plane, encoded, and their sizes before; stop where they are not like the samples."""
    expected = _literal_ratio(plane, level)
    if expected is None:
        return
    count = len(plane) // _SEGMENT
    for number in range(count):
        segment = plane[number * len(plane) // count : (number + 1) * len(plane) // count]
        piece = stream.compress(segment) + stream.flush(isal_zlib.Z_SYNC_FLUSH)
        if not _ALIKE[0] * expected <= len(piece) / len(segment) <= _ALIKE[1] * expected:
            return
        yield piece, len(segment)


def _literal_ratio(plane: memoryview, level: int) -> float | None:
    """Return the ratio at which ISA-L encodes a plane; None if libdeflate's output would be smaller."""
    # The cheapest first: most planes are decided by a small sample.
    if _ratio(_middle(plane, _SMALL), level) is None or _is_mixed(plane):
        return None
    return _ratio(_middle(plane, _LARGE), level)


def _middle(plane: memoryview, size: int) -> memoryview:
    start = (len(plane) - size) // 2
    return plane[start : start + size]


def _ratio(sample: memoryview, level: int) -> float | None:
    ours = _nbytes(sample)
    if ours < _LEAST_RATIO * len(sample):
        return None
    theirs = len(libdeflate.zlib_compress(sample, level))
    return None if ours > _LOSS * theirs or theirs < _entropy_nbytes(sample) else ours / len(sample)


def _entropy_nbytes(sample: memoryview) -> float:
    """Return how long a sample is at least if only the frequencies of its bytes count."""
    counts = np.bincount(np.frombuffer(sample, np.uint8))
    counts = counts[counts > 0]
    return float(counts @ np.log2(len(sample) / counts)) / 8


def _is_mixed(plane: memoryview) -> bool:
    """Return whether one table of codes for the whole plane is longer than one for each part."""
    step = len(plane) // _SPREAD
    samples = [plane[number * step :][:_SPREAD_SAMPLE] for number in range(_SPREAD)]
    together, one_by_one = _nbytes(b"".join(samples)), sum(map(_nbytes, samples))
    return together > _MIXED * one_by_one


def _nbytes(data: bytes | memoryview) -> int:
    return len(isal_zlib.compress(data, _LEVEL))
