"""Planes of bytes in which nothing repeats, such as the noise in the low bytes of a measurement.

A search for repetitions takes libdeflate most of its time, and finds none there: only the frequencies of the bytes
count.  ISA-L encodes those as well, several times faster.  After a shuffle the low bytes of little-endian elements come
first, so that the beginning of a chunk often consists of such planes.

A small sample decides, and it is compared with zlib's encoding of frequencies alone (``Z_HUFFMAN_ONLY``).  Whatever a
sample cannot show is checked: repetitions at a long distance by probes, and other parts of a plane by its whole output.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import deflate as libdeflate
import numpy as np
from isal import isal_zlib

__all__ = ["leading_literals"]

_LEVEL = 2
# A shorter plane is too short for a sample.
_LEAST_PLANE = 32 << 10
_SAMPLE, _MOST_SAMPLE = 1 / 16, 8 << 10
# A sample that becomes so much smaller has repetitions, or so few values that ISA-L's codes are too long for them.
_LEAST_RATIO = 0.4
# How much smaller libdeflate may be than the frequencies alone, and ISA-L larger than libdeflate.
_GAIN, _LOSS = 0.999, 1.003
# How much better the whole plane may be encoded than its sample, before it has parts of another kind.
_LIKE_SAMPLE = 0.97
_PROBES, _PROBE, _COMPARED = 8, 8, 3
# How far back a deflate stream can refer (RFC 1951, section 3.2.5).
_WINDOW = 32 << 10

_RAW = -15


def leading_literals(data: memoryview, planes: int, level: int) -> tuple[list[bytes], int]:
    """Encode the planes at the beginning of a chunk for which frequencies are all that counts.

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
        `data` that they encode, 0 if the first plane has repetitions.
    """
    length = len(data) // planes
    pieces = list(_encoded(data, planes, length, level)) if length >= _LEAST_PLANE else []
    return pieces, len(data) if len(pieces) == planes else len(pieces) * length


def _encoded(data: memoryview, planes: int, length: int, level: int) -> Iterator[bytes]:
    stream = isal_zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
    for number in range(planes):
        # Bytes that are left over after the last plane belong to it.
        plane = data[number * length : (number + 1) * length if number + 1 < planes else len(data)]
        expected = _literal_ratio(plane, level)
        if expected is None or _repeats(plane):
            return
        piece = stream.compress(plane) + stream.flush(isal_zlib.Z_SYNC_FLUSH)
        if len(piece) < _LIKE_SAMPLE * expected * len(plane):
            return
        yield piece


def _literal_ratio(plane: memoryview, level: int) -> float | None:
    """Return the ratio at which ISA-L encodes a sample of a plane; None if another way is better."""
    size = min(int(len(plane) * _SAMPLE), _MOST_SAMPLE)
    sample = plane[(len(plane) - size) // 2 :][:size]
    # The fastest first: most planes are decided by the first two.
    ours = len(isal_zlib.compress(sample, _LEVEL))
    if ours < _LEAST_RATIO * size:
        return None
    theirs = len(libdeflate.zlib_compress(sample, level))
    if ours > _LOSS * theirs or theirs < _GAIN * _huffman_nbytes(sample):
        return None
    return ours / size


def _huffman_nbytes(sample: memoryview) -> int:
    stream = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return len(stream.compress(sample)) + len(stream.flush())


def _repeats(plane: memoryview) -> bool:
    """Return whether some bytes of a plane were there before, as far back as a deflate stream can refer."""
    data = np.frombuffer(plane, np.uint8)
    window = min(_WINDOW, len(data) // 2)
    # Each row has the bytes before a probe, and the probe.  numpy compares them without the GIL.
    rows = np.lib.stride_tricks.sliding_window_view(data, window + _PROBE)[:: (len(data) - window - _PROBE) // _PROBES]
    found = rows[:, :window] == rows[:, window, None]
    for offset in range(1, _COMPARED):
        found &= rows[:, offset : window + offset] == rows[:, window + offset, None]
    alike = rows[found.any(axis=1)]
    return any(row[:-1].tobytes().find(row[window:].tobytes()) >= 0 for row in alike)
