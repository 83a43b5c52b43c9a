"""Deferral of signals while HDF5 runs."""

from __future__ import annotations

import _signal
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["deferred"]

# Higher numbers are the real-time signals: there are dozens, and no program handles them here.
_NUMBERS = tuple(number for number in map(int, signal.valid_signals()) if number < 32)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Run the handlers of signals that arrive inside the context at its end.

    Python runs a handler at the next step of the main thread, which may be the entry of a
    callback from HDF5, before any ``try``: Ctrl-C would raise there, and HDF5 would crash later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = _handlers()
    came: list[tuple[int, Any]] = []
    for number in handlers:
        signal.signal(number, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in came:
            handlers[number](number, frame)


def _handlers() -> dict[int, Callable[[int, Any], Any]]:
    """Return the handlers that are written in Python."""
    # The function of C below `signal.getsignal`, which makes an enum of each of the others, in twenty times the time.
    return {number: handler for number in _NUMBERS if callable(handler := _signal.getsignal(number))}
