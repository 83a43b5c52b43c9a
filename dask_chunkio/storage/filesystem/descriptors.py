"""Descriptors of open files, which forked children close.

A child that is forked during a write inherits every descriptor, and with it the locks.  The locks would outlive the
writer for as long as the child lives.  So this package opens and closes all of its files through this module.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

__all__ = ["close_descriptor", "duplicate_descriptor", "in_child", "open_descriptor"]

# Seconds that a fork waits for a thread that is opening a file: a file system that hangs must not block it for ever.
_PATIENCE = 1.0


class _Open:
    """The descriptors that this module has opened in this process.

    As a context it holds back forks: a child that is forked between a system call and its registration would keep
    the descriptor.
    """

    def __init__(self) -> None:
        self.descriptors: set[int] = set()
        self.changed = threading.Condition()
        self.changing = 0
        self.is_forking = False

    def __enter__(self) -> None:
        with self.changed:
            if self.is_forking:
                self.changed.wait_for(lambda: not self.is_forking, _PATIENCE)
            self.changing += 1

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.changing -= 1
            if self.is_forking:
                self.changed.notify_all()


_open = _Open()
_in_child: list[Callable[[], None]] = []


def open_descriptor(path: str, flags: int, mode: int = 0o666) -> int:
    """Open a file as `os.open` does; programs that are executed do not inherit it."""
    with _open:
        descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), mode)
        _open.descriptors.add(descriptor)
    return descriptor


def duplicate_descriptor(descriptor: int) -> int:
    """Return another descriptor of an open file, which has to be closed separately."""
    with _open:
        duplicate = os.dup(descriptor)
        _open.descriptors.add(duplicate)
    return duplicate


def close_descriptor(descriptor: int) -> None:
    """Close a descriptor that this module has opened."""
    with _open:
        _open.descriptors.discard(descriptor)
        os.close(descriptor)


def in_child(function: Callable[[], None]) -> None:
    """Register a function that each forked child calls before it closes the descriptors."""
    _in_child.append(function)


def _before_fork() -> None:
    with _open.changed:
        _open.is_forking = True
        _open.changed.wait_for(lambda: _open.changing == 0, _PATIENCE)


def _after_in_parent() -> None:
    with _open.changed:
        _open.is_forking = False
        _open.changed.notify_all()


def _after_in_child() -> None:
    global _open
    # Close the descriptors but do not unlock them: the locks belong to the parent.
    inherited, _open = _open, _Open()
    for function in _in_child:
        function()
    for descriptor in inherited.descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
