"""HDF5's shuffle filter, which stores all first bytes of the elements, then all second bytes, and so on."""

from __future__ import annotations

import sys

import numpy as np

from dask_chunkio.filters.scratch import empty
from dask_chunkio.geometry.grid import Array

__all__ = ["SHUFFLE", "shuffle", "unshuffle"]

SHUFFLE = 2


def shuffle(data: bytes | memoryview, itemsize: int) -> bytes | memoryview:
    """Regroup the bytes of `data` by their position in the element.

    Parameters
    ----------
    data : bytes-like
        Elements, one after the other.
    itemsize : int
        Size of an element in bytes.  Bytes after the last whole element stay last.

    Returns
    -------
    bytes-like
        The same number of bytes; `data` itself if there is nothing to regroup.

    Examples
    --------
    >>> bytes(shuffle(b"aAbBcC", 2))
    b'abcABC'
    """
    count = len(data) // itemsize
    if itemsize == 1 or count <= 1:
        return data
    source = np.frombuffer(data, np.uint8)
    whole = count * itemsize
    columns = np.ascontiguousarray(source[:whole].reshape(count, itemsize).T).reshape(-1)
    return columns.data if whole == len(data) else np.concatenate((columns, source[whole:])).data


def unshuffle(data: bytes | memoryview, itemsize: int) -> bytes | memoryview:
    """Return the bytes that `shuffle` has regrouped in their first order.

    Parameters
    ----------
    data : bytes-like
        The result of `shuffle`.
    itemsize : int
        Size of an element in bytes.

    Returns
    -------
    bytes-like
        The same number of bytes; `data` itself if there is nothing to regroup.

    Examples
    --------
    >>> bytes(unshuffle(b"abcABC", 2))
    b'aAbBcC'
    """
    count = len(data) // itemsize
    if itemsize == 1 or count <= 1:
        return data
    source, whole = np.frombuffer(data, np.uint8), count * itemsize
    planes = source[:whole].reshape(itemsize, count)
    found = _paired(planes) if itemsize in (2, 4, 8) else np.ascontiguousarray(planes.T).reshape(-1)
    return found.data if whole == len(data) else np.concatenate((found, source[whole:])).data


def _paired(planes: Array) -> Array:
    """Return elements of their planes: bytes are joined to words of two, these to words of four, and so on.

    It takes a fourth of the time of a transposition, because each step goes through memory in order.
    """
    halves, nbytes = list(planes), 1
    while len(halves) > 1:
        word = np.dtype(f"u{2 * nbytes}")
        low, high = (0, 1) if sys.byteorder == "little" else (1, 0)
        joined = []
        for pair in zip(halves[::2], halves[1::2], strict=True):
            words = empty(word.itemsize * len(pair[0])).view(word)
            words[...] = pair[high]
            words <<= word.type(8 * nbytes)
            words |= pair[low]
            joined.append(words)
        halves, nbytes = joined, 2 * nbytes
    found: Array = halves[0].view(np.uint8)
    return found
