"""Calls to the system that change the disk: they are counted, and a process is killed at one of them."""

import itertools
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

CALLS = ("pwrite", "pwritev", "ftruncate", "open", "mkdir", "link", "replace", "rename", "unlink", "rmdir", "fsync")


def count_calls(act: Callable[[str, int, tuple[Any, ...]], object], names: Iterable[str] = CALLS) -> None:
    """Have `act(name, number, arguments)` called before each call to the system that changes the disk."""
    numbers = itertools.count()

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:
                act(name, next(numbers), arguments)
            return function(*arguments, **keywords)

        return wrapped

    for name in names:
        setattr(os, name, wrap(name, getattr(os, name)))


def kill_at(number: int, names: Iterable[str] = CALLS) -> None:
    """Have this process killed by SIGKILL at a call; of one that writes, the first half is done."""
    pwrite, pwritev = os.pwrite, os.pwritev

    def act(name: str, count: int, arguments: tuple[Any, ...]) -> None:
        if count == number:
            if name == "pwrite":
                pwrite(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], arguments[2])
            elif name == "pwritev":
                pwritev(arguments[0], [view[: len(view) // 2] for view in arguments[1][:1]], arguments[2])
            os.kill(os.getpid(), signal.SIGKILL)

    count_calls(act, names)
