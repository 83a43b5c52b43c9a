"""Handling of Ctrl-C during a write: tell all tasks to stop, and raise `KeyboardInterrupt` only at safe points.

Python runs a signal handler between any two steps of the main thread.  A `KeyboardInterrupt` that is raised
inside h5py, dask, distributed or `threading` leaves locks held and futures that never end.  Therefore
another thread computes while a call runs, and the main thread only waits for that thread.  The first
Ctrl-C tells the tasks to stop, which they do between two chunks; the second Ctrl-C ends the wait.

With the synchronous scheduler, tasks run in the main thread, as its users expect.  There `KeyboardInterrupt`
is raised in the user's own code and during a wait for a lock, and otherwise between two tasks or chunks.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Generic, NoReturn, TypeVar

from dask.callbacks import Callback
from dask.local import queue_get

from dask_chunkio.execution.supervise import add_resume_note
from dask_chunkio.execution.threads import begin_thread, hurry_exit
from dask_chunkio.storage.filesystem.locks import WAITS
from dask_chunkio.storage.session import cancel, interrupt
from dask_chunkio.storage.target import Target

__all__ = ["Interrupts", "interruptible"]

Result = TypeVar("Result")
logger = logging.getLogger("dask_chunkio")

# Seconds after which a wait checks for Ctrl-C: on Windows, no signal ends a wait.
_LOOK = 0.2
# Maximum time that the end of a call waits for the log of Ctrl-C, in seconds.
_SAYING = 2.0
_STANDARD = os.path.dirname(os.__file__)
# Packages whose code `KeyboardInterrupt` must not interrupt.
_OURS = ("dask_chunkio", "dask", "distributed", "h5py", "tornado")


class Interrupts:
    """The state and the effects of Ctrl-C for one call of `to_hdf5`.

    Parameters
    ----------
    name : str
        The file, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._presses = 0
        self._has_told = False
        self.is_aside = False
        self._target: Target | None = None
        self._in_processes = False
        self._give_up: Callable[[], object] | None = None
        self.pressed: SimpleQueue[None] = SimpleQueue()
        self._said: SimpleQueue[None] = SimpleQueue()

    # Methods for the call

    @property
    def is_pressed(self) -> bool:
        """Whether Ctrl-C was pressed since the call began."""
        return self._presses > 0

    @property
    def is_pressed_again(self) -> bool:
        """Whether Ctrl-C was pressed twice: the user wants to leave at once."""
        return self._presses > 1

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed."""
        if self._presses:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Sleep; raise `KeyboardInterrupt` if Ctrl-C is pressed."""
        end = time.monotonic() + seconds
        self.check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK))
            self.check()

    def begun(self, target: Target, in_processes: bool) -> None:
        """Store the target of the write, and whether its tasks run in other processes."""
        self._target, self._in_processes = target, in_processes
        self.check()

    def leave(self, error: BaseException) -> NoReturn:
        """Raise an error while tasks may still run."""
        hurry_exit()
        with contextlib.nullcontext() if self._target is None else add_resume_note(self._target):
            raise error

    def wait_until_said(self) -> None:
        """Wait until Ctrl-C is logged, so that this line precedes the line about the end of the call."""
        if self._presses:
            with contextlib.suppress(Empty):
                self._said.get(timeout=_SAYING)

    @contextlib.contextmanager
    def given_up_by(self, give_up: Callable[[], object]) -> Iterator[None]:
        """Call `give_up` on Ctrl-C, to end the wait inside the context."""
        self._give_up = give_up
        try:
            self.check()
            yield
        finally:
            self._give_up = None

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Replace an error of a task or a scheduler that Ctrl-C stopped by `KeyboardInterrupt`."""
        try:
            yield
        except Exception:
            if not self._presses:
                raise
            raise KeyboardInterrupt from None

    def between_tasks(self) -> Callback:
        """Return a dask callback that stops a local scheduler between two tasks, in the thread that enters it."""
        thread = threading.get_ident()

        def check(*_: object) -> None:
            # dask calls this for all computations of the process, in any thread.
            if threading.get_ident() == thread:
                self.check()

        return Callback(pretask=check, posttask=check)

    # Methods for the signal handler

    def press(self) -> None:
        """Handle a press of Ctrl-C: tell all tasks to stop; take no lock, because a signal handler must not wait."""
        self._presses += 1
        if self._target is not None:
            cancel(self._target.write_id)
        if not self._has_told:
            self._has_told = True
            # Do not use `threading`, and do not log here: the main thread may hold a lock of `threading` or of stderr.
            with contextlib.suppress(RuntimeError, MemoryError):
                _thread.start_new_thread(self._tell, ())
        self.pressed.put(None)

    def _tell(self) -> None:
        with contextlib.suppress(Exception):
            logger.warning(
                "%s: interrupted; waiting for the chunks that are being encoded and the calls of the source that run. "
                "Press Ctrl-C again to leave at once",
                self._name,
            )
        self._said.put(None)
        if self._target is not None and self._in_processes:
            interrupt(self._target)
        if (give_up := self._give_up) is not None:
            give_up()


def interruptible(interrupts: Interrupts, job: Callable[[], Result], aside: bool) -> Result:
    """Run a job that Ctrl-C can interrupt.

    Outside of the main thread, and if SIGINT is ignored, the function only calls the job.  A signal handler of the
    user stays in place: if it raises, the error ends the job as Ctrl-C does; if it does not, the job continues.

    Parameters
    ----------
    interrupts : Interrupts
        The state of Ctrl-C for this call.
    job : callable
        Does the work.
    aside : bool
        Whether the job may run in another thread.

    Raises
    ------
    KeyboardInterrupt
        If Ctrl-C was pressed.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        return job()
    if before is not signal.default_int_handler:
        return _aside(interrupts, job) if aside else job()

    def pressed(number: int, frame: FrameType | None) -> None:
        interrupts.press()
        if not aside and _may_be_cut_off():
            before(number, frame)

    try:
        signal.signal(signal.SIGINT, pressed)
        try:
            result = _aside(interrupts, job) if aside else _here(interrupts, job)
        finally:
            interrupts.wait_until_said()
    finally:
        if signal.getsignal(signal.SIGINT) is pressed:
            signal.signal(signal.SIGINT, before)
    if interrupts.is_pressed:
        raise _too_late(interrupts)
    return result


def _too_late(interrupts: Interrupts) -> KeyboardInterrupt:
    error = KeyboardInterrupt()
    error.add_note(f"Ctrl-C was pressed as the write ended: {interrupts._name} is complete.")
    return error


def _here(interrupts: Interrupts, job: Callable[[], Result]) -> Result:
    with interrupts.heard():
        return job()


class _Outcome(Generic[Result]):
    """The result or the error of a job that runs in another thread."""

    def __init__(self, job: Callable[[], Result], done: Callable[[], object]) -> None:
        self.is_there = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._job, self._done = job, done

    def __call__(self) -> None:
        """Do the job."""
        try:
            self._result = self._job()
        except BaseException as error:
            self._error = error
        finally:
            self.is_there = True
            self._done()

    def get(self) -> Result:
        error, self._error = self._error, None
        if error is None:
            found: Result = self._result
            return found
        try:
            raise error
        finally:
            # The traceback holds this frame.
            del error


def _aside(interrupts: Interrupts, job: Callable[[], Result]) -> Result:
    """Run the job in another thread, and wait for it."""
    outcome = _Outcome(job, lambda: interrupts.pressed.put(None))
    interrupts.is_aside = True
    context = contextvars.copy_context()
    begin_thread("dask_chunkio-call", context.run, outcome)
    raised: BaseException | None = None
    while not outcome.is_there and not interrupts.is_pressed_again:
        try:
            _wait(interrupts)
        except BaseException as error:
            # Raised by a signal handler of the user.
            raised = error
            interrupts.press()
    if not outcome.is_there:
        interrupts.leave(raised or KeyboardInterrupt())
    with interrupts.heard():
        try:
            result = outcome.get()
        except KeyboardInterrupt as error:
            if raised is None:
                raise
            raise raised from error
    if raised is not None:
        raise raised
    return result


def _wait(interrupts: Interrupts) -> None:
    with contextlib.suppress(Empty):
        interrupts.pressed.get(timeout=_LOOK)


# Functions that only wait, in which `KeyboardInterrupt` does no harm.
_WAITS = WAITS | {_wait.__code__, queue_get.__code__}


def _may_be_cut_off() -> bool:
    """Return whether the main thread is in the user's code or in a wait, where `KeyboardInterrupt` does no harm."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _is_standard(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None or frame.f_code in _WAITS:
        return True
    return _package(frame) not in _OURS and not _is_inside_hdf5(frame)


def _is_inside_hdf5(frame: FrameType | None) -> bool:
    while frame is not None:
        if _package(frame) == "h5py" or str(frame.f_globals.get("__name__", "")).startswith("dask_chunkio.storage."):
            return True
        frame = frame.f_back
    return False


def _is_standard(path: str) -> bool:
    return path.startswith(("<frozen", _STANDARD)) and f"{os.sep}site-packages{os.sep}" not in path


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
