"""The beginning of a chunk in which nothing repeats, such as the noise in the low bytes of a measurement.

A search for repetitions takes libdeflate most of its time, and finds none there: only the frequencies of the bytes
count.  ISA-L encodes those as well, several times faster.  After a shuffle the low bytes of little-endian elements come
first, so that the first planes of a chunk often are of this kind.

Samples of each plane decide, by what both engines make of them; one is longer than a deflate stream can refer back.
ISA-L then encodes the plane in segments; the first one that is not like the sample, and all that follows, is left to
libdeflate.
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
# A deflate stream can refer 32 KiB back (RFC 1951, section 3.2.5), which only the second sample shows.  The first one
# decides most planes, at a fifth of the cost.
_SAMPLES = (8 << 10, 40 << 10)
# How much larger than libdeflate's ISA-L's output may be.
_LOSS = 1.002
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
    """Yield the segments of a plane, encoded, and their sizes before; stop where they are not like the sample."""
    expected = 0.0
    for size in _SAMPLES:
        sample = plane[(len(plane) - size) // 2 :][:size]
        ours, theirs = len(isal_zlib.compress(sample, _LEVEL)), len(libdeflate.zlib_compress(sample, level))
        # Repetitions that both find in the first sample are more at a distance: that saves the second one.
        if ours > _LOSS * theirs or theirs < _entropy_nbytes(sample):
            return
        expected = ours / size
    count = len(plane) // _SEGMENT
    for number in range(count):
        segment = plane[number * len(plane) // count : (number + 1) * len(plane) // count]
        piece = stream.compress(segment) + stream.flush(isal_zlib.Z_SYNC_FLUSH)
        if not _ALIKE[0] * expected <= len(piece) / len(segment) <= _ALIKE[1] * expected:
            return
        yield piece, len(segment)


def _entropy_nbytes(sample: memoryview) -> float:
    """Return how long a sample is at least if only the frequencies of its bytes count."""
    counts = np.bincount(np.frombuffer(sample, np.uint8))
    counts = counts[counts > 0]
    return float(counts @ np.log2(len(sample) / counts)) / 8
