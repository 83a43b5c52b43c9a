"""Threads for one call of `to_hdf5`.

The interpreter waits for them at its exit, but only a few seconds if Ctrl-C was pressed twice.
"""

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

# Maximum time that the exit of the process waits for threads after Ctrl-C was pressed twice, in seconds.  They may be
# encoding a chunk.
_PATIENCE = 5.0
# How often a callback is called again without memory for it, and the pause in between, in seconds.
_ATTEMPTS, _PAUSE = 100, 0.05
_begun: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class _Ending:
    """The state of the exit of the process."""

    is_begun = False
    is_hurried = False


_ending = _Ending()


class Threads(Executor):
    """An executor of daemon threads, which start one by one when they are needed.

    The threads of `concurrent.futures.ThreadPoolExecutor` keep a process alive until their work is done,
    however often Ctrl-C is pressed.  If one of its threads dies between two calls, its futures never end.
    The futures of this executor always end, whatever is raised in a thread.

    Parameters
    ----------
    count : int
        Maximum number of threads.
    name : str
        Prefix of the names of the threads.

    Examples
    --------
    >>> with Threads(2, "squares") as threads:
    ...     threads.submit(pow, 3, 2).result()
    9
    """

    def __init__(self, count: int, name: str) -> None:
        self._max_workers = count  # dask reads this attribute
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
                # Release the result, which may be large.
                del one
        except BaseException as error:
            # Raised between two calls, where no future would get the error: the call that this thread took is lost.
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


class _Future(Future[Any]):
    """A future whose callbacks are called again if there was no memory for them.

    `concurrent.futures` drops the error of a callback.  dask's callback hands the result to the main thread, which
    would wait for it without end.
    """

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        super().add_done_callback(functools.partial(_call_back, fn))


def _call_back(function: Callable[[Future[Any]], object], future: Future[Any]) -> None:
    for _ in range(_ATTEMPTS):
        try:
            function(future)
        except MemoryError:
            time.sleep(_PAUSE)
        else:
            return
    function(future)


class _Work:
    """A call, and the future for which its caller waits."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.future: Future[Any] = _Future()

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self._call())
            except BaseException as error:
                # Includes errors that are raised after the call but before its result is set: the caller must get them.
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Set an error on the future, if it has not ended already."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


def begin_thread(name: str, target: Callable[..., object], *arguments: object) -> threading.Thread:
    """Start a thread for which the process waits at its exit, but only a few seconds if Ctrl-C was pressed twice."""
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    _begun.add(thread)
    thread.start()
    return thread


def hurry_exit() -> None:
    """Limit the wait at the exit of the process to a few seconds, after the user has pressed Ctrl-C twice."""
    _ending.is_hurried = True


# Registered after the function of storage, and therefore called before it: tasks end while their files are open.
@atexit.register
def _wait() -> None:
    """Wait for running threads, as the interpreter does for threads that are not daemons.

    If the interpreter shut down while a thread encodes, it would free memory that the thread reads, and the process
    would crash.  Therefore the process ends by SIGINT if Ctrl-C was pressed twice and a thread does not end in time.
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
    """End the process as Python does after a `KeyboardInterrupt` that is not handled."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
    os._exit(130)
