"""HDF5's fletcher32 filter, which appends a checksum of four bytes to the data.

The algorithm is that of ``H5_checksum_fletcher32`` in HDF5.  It reads big-endian words of 16 bits; an odd
last byte is a high byte.  It adds two running sums in ones' complement, the second one in the high half of
the result, which is stored little-endian after the data.

The sums are computed over native words: to swap the bytes of every word multiplies a sum
modulo 65535 by 256.  They are computed from the sums of the rows and of the columns of a table of
words, which are exact in 64 bits for all chunks that HDF5 allows (below 4 GiB).
"""

from __future__ import annotations

import sys

import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.geometry.grid import Array

__all__ = ["FLETCHER32", "append_fletcher32", "fletcher32", "remove_fletcher32"]

FLETCHER32 = 3
_NBYTES = 4
_MODULUS = 65535
_WIDTH = 32768
_SWAP = 256 if sys.byteorder == "little" else 1


def fletcher32(data: bytes | memoryview) -> int:
    """Return HDF5's fletcher32 checksum of `data`.

    Examples
    --------
    >>> hex(fletcher32(b"abcde"))
    '0x4ff029c7'
    """
    view = memoryview(data)
    whole = len(view) // 2
    first, second = _sums(np.frombuffer(view[: 2 * whole], np.uint16))
    first, second = first * _SWAP, second * _SWAP
    if len(view) % 2:
        first += view[-1] << 8
        second += first
    return _fold(second) << 16 | _fold(first)


def append_fletcher32(data: bytes | memoryview) -> bytes:
    """Return `data` followed by its checksum, as the filter stores it."""
    return b"".join((data, fletcher32(data).to_bytes(_NBYTES, "little")))


def remove_fletcher32(data: bytes | memoryview) -> memoryview:
    """Return the data before their checksum.

    HDF5 1.6.2 and older stored the checksum with the bytes of each half swapped on little-endian machines
    (``H5Z__filter_fletcher32``); both are accepted, as in HDF5.

    Raises
    ------
    IntegrityError
        If the checksum is not theirs.

    Examples
    --------
    >>> bytes(remove_fletcher32(append_fletcher32(b"abcde")))
    b'abcde'
    """
    view = memoryview(data)
    if len(view) < _NBYTES:
        raise IntegrityError(f"its payload has {len(view)} bytes, fewer than its fletcher32 checksum")
    content, stored = view[:-_NBYTES], bytes(view[-_NBYTES:])
    made = fletcher32(content).to_bytes(_NBYTES, "little")
    if stored not in (made, bytes((made[1], made[0], made[3], made[2]))):
        raise IntegrityError(
            f"its fletcher32 checksum is {stored[::-1].hex()}, and that of its bytes {made[::-1].hex()}"
        )
    return content


def _sums(words: Array) -> tuple[int, int]:
    """Return sum(w[i]) and sum((n - i) * w[i])."""
    rows = len(words) // _WIDTH
    total, weighted = _table_sums(words[: rows * _WIDTH].reshape(rows, _WIDTH))
    rest = words[rows * _WIDTH :].astype(np.uint64)
    rest_total = int(rest.sum())
    rest_weighted = int(rest @ np.arange(len(rest), 0, -1, dtype=np.uint64))
    return total + rest_total, weighted + total * len(rest) + rest_weighted


def _table_sums(table: Array) -> tuple[int, int]:
    by_row = table.sum(axis=1, dtype=np.uint64)
    by_column = table.sum(axis=0, dtype=np.uint64)
    total = int(by_row.sum())
    before = _WIDTH * int(by_row @ np.arange(len(by_row), dtype=np.uint64))
    before += int(by_column @ np.arange(_WIDTH, dtype=np.uint64))
    return total, total * table.size - before


def _fold(value: int) -> int:
    # In ones' complement, a positive sum stays positive: multiples of 65535 give 65535, not 0.
    return value % _MODULUS or (_MODULUS if value else 0)
