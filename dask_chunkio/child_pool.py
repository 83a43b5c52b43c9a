"""Child processes that answer requests through pipes, kept for the next request; what they do is in `forked_worker`."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar, cast

from dask_chunkio.errors import WorkerError

__all__ = ["ChildPool", "ChildProcess", "is_sent_by_others", "is_time_over"]

# Seconds in which a process that has closed its output ends.
_PATIENCE = 10
_SENT_BY_OTHERS = frozenset(getattr(signal, name, 0) for name in ("SIGTERM", "SIGINT", "SIGKILL")) - {0}
_TIME_IS_OVER = frozenset(getattr(signal, name, 0) for name in ("SIGPROF", "SIGALRM", "SIGXCPU")) - {0}


def is_sent_by_others(code: int) -> bool:
    """Return whether a process with an exit code was ended by a signal that somebody else has sent.

    Examples
    --------
    >>> is_sent_by_others(-15), is_sent_by_others(1)
    (True, False)
    """
    return -code in _SENT_BY_OTHERS


def is_time_over(code: int) -> bool:
    """Return whether a process with an exit code took more time than it may."""
    return -code in _TIME_IS_OVER


class ChildProcess:
    """A process that answers one request at a time.

    Parameters
    ----------
    command : sequence of str
        Its command.
    variables : mapping of str to str
        Variables of its environment, beside those of this process.
    purpose : str
        What it is to do, for messages.
    remedy : str
        What the user can do if it cannot be started; empty, or with a semicolon in front.

    Attributes
    ----------
    is_sound : bool
        Whether it can get another request.

    Raises
    ------
    WorkerError
        If it cannot be started.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], purpose: str, remedy: str = "") -> None:
        try:
            # In a session of its own: Ctrl-C is for the parent.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                env={**os.environ, **variables}, start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:  # the last in a sub-interpreter
            raise WorkerError(f"cannot start {sys.executable}, which is to {purpose}: {error}{remedy}") from error
        self.source = cast(io.FileIO, self._process.stdout)
        self.sink = cast(io.FileIO, self._process.stdin)
        self.is_sound = True

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes to its standard input.

        Raises
        ------
        OSError
            If it has ended.
        """
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self.sink.write(rest) or 0 :]

    def exit_code(self) -> int:
        """Return how the process ended that has closed its output; not 0."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_PATIENCE) or 1
        return 1

    @property
    def has_ended(self) -> bool:
        """Whether somebody else has ended the process; its worker may be left, without anybody who watches it."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the process, and leave the rest to `end`."""
        self._process.kill()

    def end(self) -> None:
        """End the process and its worker."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL) if hasattr(os, "killpg") else self._process.kill()
        self.close()
        self._process.wait()

    def close(self) -> None:
        """Close the pipes, which ends the process if no other has them."""
        for pipe in (self.source, self.sink):
            with contextlib.suppress(OSError):
                pipe.close()


Process = TypeVar("Process", bound=ChildProcess)


class ChildPool(Generic[Process]):
    """The processes of one kind: each is lent to one thread at a time, and some are kept.

    Parameters
    ----------
    start : callable
        Starts a process.
    most_idle : int
        How many are kept that nobody has.
    most : int, optional
        How many are lent at once; other threads wait.
    """

    def __init__(self, start: Callable[[], Process], most_idle: int, most: int | None = None) -> None:
        self._start, self._most_idle, self._most = start, most_idle, most
        self.idle: list[Process] = []
        self._lent: set[Process] = set()
        self._unlock()

    def _unlock(self) -> None:
        self._lock = threading.Lock()
        self._slots = contextlib.nullcontext() if self._most is None else threading.BoundedSemaphore(self._most)

    def end_with_this_process(self) -> None:
        """End the processes when the interpreter ends; a child that is forked has none of them."""
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    @contextlib.contextmanager
    def lent(self) -> Iterator[Process]:
        """Lend a process that no other thread has."""
        with self._slots:
            process = self._taken() or self._start()
            self._lent.add(process)
            try:
                yield process
            finally:
                self._give_back(process)

    def _taken(self) -> Process | None:
        """Take an idle process that nobody has ended meanwhile."""
        while True:
            with self._lock:
                if not self.idle:
                    return None
                process = self.idle.pop()
            if not process.has_ended:
                return process
            process.end()

    def _give_back(self, process: Process) -> None:
        with self._lock:
            self._lent.discard(process)
            is_kept = process.is_sound and len(self.idle) < self._most_idle
            if is_kept:
                self.idle.append(process)
        if not is_kept:
            process.end()

    def end(self) -> None:
        """End the idle processes."""
        while self.idle:
            self.idle.pop().end()

    def forget(self) -> None:
        """Leave the processes to the parent, in a child that was forked."""
        self._unlock()
        # The threads that had the others are not in the child, whose pipes would keep them alive after the parent.
        for process in (*self.idle, *self._lent):
            process.close()
        self.idle.clear()
        self._lent.clear()
