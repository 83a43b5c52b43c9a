"""Payloads on their way into the places that a transaction has given them.

A process that is stopped there, and goes on when the write is long over, would write into space
that may be other people's by then: so a write ends only when nothing is on its way any more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from dask_chunkio.errors import TargetBusyError
from dask_chunkio.storage.filesystem.locks import locked, share, unlock

__all__ = ["Lock", "PlacementBarrier"]

Lock = Callable[[], AbstractContextManager[object]]
# How long the end of a write waits, in seconds, for a process that may be stopped.
_PATIENCE = 300.0


class PlacementBarrier:
    """A lock on the journal, shared by those who place payloads.

    Taken behind the scheduler's lock, for which a worker may wait that is presumed dead, and before the locks
    on the files: who has these waits for nothing.

    Parameters
    ----------
    descriptor : int
        Of the journal.
    path : str
        Of the target, for messages.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor, self._path = descriptor, path
        self._changed = threading.Condition()
        self._users = 0
        self._is_ending = False

    @contextlib.contextmanager
    def shared(self, lock: Lock, placed: contextlib.ExitStack) -> Iterator[None]:
        """Hold the scheduler's lock for a transaction, and the barrier, shared, until `placed` is closed."""
        with lock():
            placed.enter_context(self._share())
            yield

    @contextlib.contextmanager
    def exclusive(self, lock: Lock) -> Iterator[None]:
        """Hold the scheduler's lock and the barrier alone: no payload is being placed.

        Raises
        ------
        TargetBusyError
            If that takes minutes.
        """
        with lock(), self._alone():
            yield

    @contextlib.contextmanager
    def _share(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_ending)
            # (All threads of a process have the lock in common.)
            if self._users == 0:
                share(self._descriptor, self._path)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0:
                    unlock(self._descriptor)
                self._changed.notify_all()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._users == 0 and not self._is_ending)
            self._is_ending = True
        try:
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(locked(self._descriptor, self._path, _PATIENCE))
                except TargetBusyError as error:
                    raise TargetBusyError(
                        f"the write of {self._path} cannot end: a process has been placing data for {_PATIENCE:g} s, "
                        f"and may be stopped; continue or kill that, and go on with resume=True"
                    ) from error
                yield
        finally:
            with self._changed:
                self._is_ending = False
                self._changed.notify_all()
