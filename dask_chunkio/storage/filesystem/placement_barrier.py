"""The barrier between processes that place payloads and the process that ends the write.

A process may be stopped while it places payloads, and continue when the write is long over.  It would then write into
space that may belong to other data.  So a write ends only when no process is placing payloads.
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
    """A lock on the journal, shared by the processes that place payloads.

    The order of locks: first the scheduler's lock, for which a worker that is presumed dead may wait; then this
    barrier; then the locks on the files.  A process that holds the locks on the files waits for nothing.

    Parameters
    ----------
    descriptor : int
        Descriptor of the journal.
    path : str
        Path of the target, for messages.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor, self._path = descriptor, path
        self._changed = threading.Condition()
        self._users = 0
        self._is_ending = False

    @contextlib.contextmanager
    def shared(self, lock: Lock, placed: contextlib.ExitStack) -> Iterator[None]:
        """Hold the scheduler's lock for a transaction, and share the barrier until `placed` is closed."""
        with lock():
            placed.enter_context(self._share())
            yield

    @contextlib.contextmanager
    def exclusive(self, lock: Lock) -> Iterator[None]:
        """Hold the scheduler's lock, and the barrier exclusively: no payload is being placed.

        Raises
        ------
        TargetBusyError
            If a process keeps placing payloads for minutes.
        """
        with lock(), self._alone():
            yield

    @contextlib.contextmanager
    def _share(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_ending)
            # (All threads of a process share one lock.)
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
                        f"and may be stopped; continue or kill it, and go on with resume=True"
                    ) from error
                yield
        finally:
            with self._changed:
                self._is_ending = False
                self._changed.notify_all()
