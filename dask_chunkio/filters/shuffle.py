"""HDF5's shuffle filter, which stores all first bytes of the elements, then all second bytes, and so on."""

from __future__ import annotations

import numpy as np

__all__ = ["SHUFFLE", "shuffle"]

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
