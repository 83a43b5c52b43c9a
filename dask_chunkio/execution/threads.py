"""Threads for one call of `to_hdf5`: the interpreter waits for them when it exits, but not for ever."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

__all__ = ["Threads", "begin_thread", "hurry_exit"]

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")

# Seconds that the end of the process waits for threads of calls that were left: for the chunks that they encode.
_PATIENCE = 5.0
_begun: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class _Ending:
    """What is known of the end of the process."""

    is_begun = False
    is_hurried = False


_ending = _Ending()


class Threads(Executor):
    """An executor of daemon threads, which begin one by one as they are needed.

    The threads of `concurrent.futures.ThreadPoolExecutor` keep a process alive until their work is done,
    however often Ctrl-C is pressed.  Its futures stay open for ever where a thread dies between two calls;
    here a future ends whatever is raised in the thread.

    Parameters
    ----------
    count : int
        The most threads.
    name : str
        How the names of the threads begin.

    Examples
    --------
    >>> with Threads(2, "squares") as threads:
    ...     threads.submit(pow, 3, 2).result()
    9
    """

    def __init__(self, count: int, name: str) -> None:
        self._max_workers = count  # dask asks for it
        self._name = name
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open: set[_Work] = set()

    def submit(
        self, function: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Schedule a call of a function in a thread, in the context of the caller.

        Raises
        ------
        RuntimeError
            If the process is ending.
        """
        if _ending.is_begun:
            raise RuntimeError("the process is ending: nothing more is begun")
        context = contextvars.copy_context()
        work = _Work(functools.partial(context.run, function, *args, **kwargs))
        self._open.add(work)
        self._work.put(work)
        if len(self._threads) < self._max_workers:
            name = f"{self._name}-{len(self._threads)}"
            self._threads.append(begin_thread(name, self._work_off))
        return work.future

    def _work_off(self) -> None:
        try:
            while (one := self._work.get()) is not None:
                one.run()
                self._open.discard(one)
                # What it has computed may be large.
                del one
        except BaseException as error:
            # Raised between two calls, where nobody else hears of it: what this thread had taken is lost.
            for lost in list(self._open):
                lost.fail(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads when the submitted calls are done, or at once with `cancel_futures`."""
        while cancel_futures and not self._work.empty():
            work = self._work.get()
            if work is not None:
                work.future.cancel()
        for _ in self._threads:
            self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()


class _Work:
    """A call, and the future that its caller waits for."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.future: Future[Any] = Future()

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self._call())
            except BaseException as error:
                # Also what is raised between the call and its result: the caller must hear of it.
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the future, if nothing else has."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


def begin_thread(name: str, target: Callable[..., object], *arguments: object) -> threading.Thread:
    """Begin a thread that a process waits for when it exits, but not for ever."""
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    _begun.add(thread)
    thread.start()
    return thread


def hurry_exit() -> None:
    """Limit the wait at the end of the process to a few seconds: the user has pressed Ctrl-C twice."""
    _ending.is_hurried = True


# After what storage has registered, and so before that: tasks end while their files are open.
@atexit.register
def _wait() -> None:
    """Wait for the threads that run, as the interpreter does for others.

    An interpreter that is taken down under a thread that encodes frees what this reads: the process would crash.
    So it dies of SIGINT where Ctrl-C was pressed twice and a thread is held up.
    """
    _ending.is_begun = True
    end = time.monotonic() + _PATIENCE if _ending.is_hurried else None
    try:
        for thread in list(_begun):
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
    except KeyboardInterrupt:
        _die_of_interrupt()
    if any(thread.is_alive() for thread in _begun):
        _die_of_interrupt()


def _die_of_interrupt() -> None:
    """End the process as Python itself does on Ctrl-C that nobody handles."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
    os._exit(130)
