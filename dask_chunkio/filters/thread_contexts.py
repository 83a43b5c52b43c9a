"""Contexts of a C library, of which each thread has one of its own.

The memory in which a library works comes from the system page by page, if it makes a context for each chunk: that takes
longer than the faster codecs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["ThreadContexts"]


class _Context:
    """A context that is freed with its thread."""

    def __init__(self, address: int, free: Callable[[int], Any]) -> None:
        self.address, self._free = address, free

    def __del__(self) -> None:
        self._free(self.address)


class ThreadContexts:
    """The contexts of all threads.

    Parameters
    ----------
    create : callable
        Makes a context; returns its address, or None if there is no memory.
    free : callable
        Takes an address.

    Examples
    --------
    >>> contexts = ThreadContexts(lambda: 7, print)
    >>> contexts.address
    7
    >>> contexts.drop()
    7
    """

    def __init__(self, create: Callable[[], int | None], free: Callable[[int], Any]) -> None:
        self._create, self._free = create, free
        self._local = threading.local()

    @property
    def address(self) -> int:
        """The context of this thread.

        Raises
        ------
        MemoryError
            If it cannot be made.
        """
        found: _Context | None = getattr(self._local, "context", None)
        if found is None:
            if not (address := self._create()):
                raise MemoryError("no memory for the context of a codec")
            found = self._local.context = _Context(address, self._free)
        return found.address

    def drop(self) -> None:
        """Free the context of this thread: after an error, nothing is known of its state."""
        self._local.context = None
