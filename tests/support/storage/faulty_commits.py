"""Makes every callback of a commit fail in turn, and goes on.  Run as a script: leaving the interpreter is part of it.

Usage: python -m tests.support.storage.faulty_commits FAULT FOLDER
"""

import contextlib
import ctypes
import itertools
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from dask_chunkio.errors import TargetError
from dask_chunkio.storage.filesystem.io import pread_into
from dask_chunkio.storage.hdf5 import staged_file
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.hdf5.staged_pages import StagedPages
from tests.support.storage.writes import Write


class InjectedError(OSError):
    """Not to be taken for one of HDF5's."""


class At:
    """Does `act` in call number `number` of what it is put in front of."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self.calls, self.number, self.act = itertools.count(), number, act
        self.fired = False

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if next(self.calls) == self.number:
                self.fired = True
                self.act()
            return function(*arguments)

        return wrapped


# Where it is put, the context in which it is there, and what it raises.
Fault = tuple[At, contextlib.AbstractContextManager[Any], type[BaseException]]


def fail() -> None:
    raise InjectedError("injected")


def out_of_memory() -> None:
    raise MemoryError("injected")


def failing_reads(number: int) -> Fault:
    at = At(number, fail)
    return at, mock.patch.object(staged_file, "pread_into", at.before(pread_into)), InjectedError


def failing_stages(number: int) -> Fault:
    at = At(number, out_of_memory)
    return at, mock.patch.object(StagedPages, "write", at.before(StagedPages.write)), MemoryError


def failing_erases(number: int) -> Fault:
    at = At(number, fail)
    return at, mock.patch.object(StagedPages, "erase", at.before(StagedPages.erase)), InjectedError


class Token:
    """Its end is a call from C."""


def interrupts(number: int) -> Fault:
    """Ctrl-C inside HDF5, just after a callback has returned to it: the next Python code to run is another callback."""
    interrupt = ctypes.pythonapi.PyErr_SetInterrupt
    interrupt.argtypes = [ctypes.py_object]
    at = At(number, lambda: None)
    kept: list[weakref.ref[Token]] = []

    def wrap(callback: Callable[..., Any]) -> Callable[..., Any]:
        counted = at.before(callback)

        def wrapped(*arguments: Any) -> Any:
            before = at.fired
            token = Token()
            answer = callback(*arguments) if at.fired else counted(*arguments)
            if at.fired and not before:
                kept.append(weakref.ref(token, interrupt))
            return answer  # the token dies with this frame

        return wrapped

    patches = contextlib.ExitStack()
    for name in ("seek", "readinto", "write", "truncate", "flush"):
        patches.enter_context(mock.patch.object(StagedFile, name, wrap(getattr(StagedFile, name))))
    return at, patches, KeyboardInterrupt


FAULTS = {
    "read": failing_reads,
    "stage": failing_stages,
    "erase": failing_erases,
    "interrupt": interrupts,
}


def commit_with_fault(folder: Path, fault: str, number: int, exclusive: bool) -> bool:
    """Return whether there was a call of that number."""
    with Write(folder / f"{number} {exclusive}.h5", exclusive=exclusive, compression="gzip") as write:
        write.commit(0)
        if fault == "read":
            write.release()  # what is open is not read again
        at, patch, kind = FAULTS[fault](number)
        with patch:
            caught: BaseException | None = None
            try:
                write.commit(1)
            except BaseException as error:
                caught = error
        if at.fired:  # (TargetError is what errors of the system leave as)
            is_fault = isinstance(caught, kind) or (isinstance(caught, TargetError) and "injected" in str(caught))
            assert is_fault, f"{fault} in call {number} came out as {caught!r}"
        else:
            assert caught is None, f"{caught!r} without any fault"
        assert write.is_stored(0)
        write.complete()
    return at.fired


def leave_open(folder: Path) -> Write:
    """End with a dead file that HDF5 has not closed."""
    write = Write(folder / "left.h5", exclusive=True, compression="gzip")
    write.commit(0)
    # The file of an exclusive write stays open after this.
    with write.writer.transactions.opened() as state:
        state.staged.error = InjectedError("injected")
    return write


# What nobody lets go of before the interpreter ends.
KEPT: list[Write] = []


def main() -> None:
    fault, folder = sys.argv[1], Path(sys.argv[2])
    for name in ("exclusive", "shared"):
        count = 0
        while commit_with_fault(folder, fault, count, name == "exclusive"):
            count += 1
        sys.stdout.write(f"{name} {count}\n")
    KEPT.append(leave_open(folder))
    assert not os.path.lexists(KEPT[0].target.path)


if __name__ == "__main__":
    main()
