"""Memory for the steps of a decoder, which a thread uses again for its next chunk.

New memory of the size of a chunk comes from the system page by page, which takes as long as the faster codecs.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

__all__ = ["empty", "reused"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
# Larger pieces are not kept.
_MOST_KEPT = 32 << 20


class _Reused(threading.local):
    """The pieces of memory of one thread; inside the context, each is lent once."""

    def __init__(self) -> None:
        self._pieces: list[Bytes] = []
        self._lent = 0
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._lent = 0

    def empty(self, nbytes: int) -> Bytes:
        if not self._depth or nbytes > _MOST_KEPT:
            return np.empty(nbytes, np.uint8)
        if self._lent == len(self._pieces):
            self._pieces.append(np.empty(nbytes, np.uint8))
        elif len(self._pieces[self._lent]) < nbytes:
            self._pieces[self._lent] = np.empty(nbytes, np.uint8)
        self._lent += 1
        return self._pieces[self._lent - 1][:nbytes]


reused = _Reused()
"""A context in which `empty` lends memory that is lent again after its end: nothing may refer to it by then."""


def empty(nbytes: int) -> Bytes:
    """Return bytes that are not initialized: inside the context `reused`, those of an earlier chunk.

    Examples
    --------
    >>> with reused:
    ...     first, second = empty(4), empty(4)
    >>> with reused:
    ...     third = empty(4)
    >>> first is second, third.base is first.base
    (False, True)
    """
    return reused.empty(nbytes)
