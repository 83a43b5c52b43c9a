"""A process that is stopped in a phase of a commit, presumed dead, and goes on later.

Usage: python -m tests.support.storage.stopped_commits PHASE ENDING FOLDER

PHASE is where it stops; ENDING what happens to it: "continued", or "killed".
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest

from dask_chunkio import status
from dask_chunkio.errors import TargetBusyError, TargetError
from dask_chunkio.storage import payload_file, redo_log, writer
from dask_chunkio.storage.filesystem import placement_barrier
from dask_chunkio.storage.filesystem.locks import try_exclusive, unlock
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.journal.redo_record import RedoRecord
from dask_chunkio.storage.take_over import take_over
from tests.support.processes import exit_code, forked
from tests.support.storage.writes import Write

# How a process ends whose write was over, or somebody else's.
REFUSED = 3
PLACING = ("before placing", "placing")
OUTSIDE = ("encoding", *PLACING)
INSIDE = ("reserving", "before the log", "before applying", "applying", "after applying")


def stop() -> None:
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def before(owner: object, name: str, which: Callable[..., Any] = lambda *_: True) -> None:
    function = getattr(owner, name)

    def stopping(*arguments: Any, **keywords: Any) -> Any:
        if which(*arguments):
            setattr(owner, name, function)
            stop()
        return function(*arguments, **keywords)

    setattr(owner, name, stopping)


def after(owner: object, name: str) -> None:
    function = getattr(owner, name)

    def stopping(*arguments: Any, **keywords: Any) -> Any:
        answer = function(*arguments, **keywords)
        setattr(owner, name, function)
        stop()
        return answer

    setattr(owner, name, stopping)


def placing_half(descriptor: int, pieces: Sequence[tuple[int, bytes | memoryview]]) -> None:
    for number, (offset, data) in enumerate(pieces):
        half = len(data) // 2
        os.pwrite(descriptor, data[:half], offset)
        if number == 1:
            stop()
        os.pwrite(descriptor, data[half:], offset + half)


def stop_in(phase: str) -> None:
    if phase == "encoding":
        before(writer, "checksum")
    elif phase == "reserving":
        before(StagedFile, "reserve")
    elif phase == "before the log":
        before(redo_log, "pwrite_all")
    elif phase == "before applying":
        before(RedoRecord, "apply")
    elif phase == "applying":
        before(os, "ftruncate", lambda _, size: size)
    elif phase == "after applying":
        after(RedoRecord, "apply")
    elif phase == "before placing":
        before(payload_file, "pwrite_each")
    elif phase == "placing":
        mock.patch.object(payload_file, "pwrite_each", placing_half).start()


def the_write(path: Path, **more: Any) -> Write:
    return Write(path, name="/new/x", compression="gzip", **more)


def commit_and_stop(path: Path, phase: str) -> None:
    """Commit, as a worker of the same write, which does not begin it anew; stop in the midst."""
    try:
        write = the_write(path, write_id="same")
        stop_in(phase)
        with write.writer.transactions.files.used():
            write.commit(1)
    except TargetError:
        os._exit(REFUSED)


def stopped_process(path: Path, phase: str) -> int:
    """Run a commit that stops itself; return its process when it has."""
    child = forked(commit_and_stop, path, phase)
    _, state = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(state), f"it never reached {phase}"
    return child


def end(child: int, ending: str) -> int:
    os.kill(child, signal.SIGKILL if ending == "killed" else signal.SIGCONT)
    return exit_code(child)


def is_locked(path: str) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        if try_exclusive(descriptor, path):
            unlock(descriptor)
            return False
        return True
    finally:
        os.close(descriptor)


def other_calls_are_refused(path: Path) -> None:
    found = status(path)
    assert found is not None
    assert found.running
    # Nobody here is about to let go.
    without_grace = mock.patch.object(take_over, "__defaults__", (0.2,))
    with without_grace, pytest.raises(TargetBusyError, match="is being written by another call"):
        the_write(path, resume=True)


def main() -> None:
    phase, ending, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    for kind in ("new", "existing"):
        path = folder / f"{kind}.h5"
        if kind == "existing":
            with h5py.File(path, "w") as file:
                file["old"] = np.arange(1000)
        write = the_write(path, write_id="same")
        write.commit(0)
        write.release()
        child = stopped_process(path, phase)
        other_calls_are_refused(path)
        if phase in OUTSIDE:
            write = the_write(path, write_id="same")
            write.commit_missing()
            if ending == "continued":
                assert end(child, ending) == 0
                assert all(write.is_stored(buffer) for buffer in range(3))
            elif phase in PLACING:
                require_no_end(write)
                end(child, ending)
            write.finish()
        else:
            assert is_locked(f"{path}.writing/log"), "another would take its transaction in the middle of this one"
            end(child, ending)
            write = the_write(path, write_id="same")
            write.commit_missing()
            write.finish()
        if phase == "encoding" and ending == "killed":
            end(child, ending)
        write.check()
        if kind == "existing":
            with h5py.File(path) as file:
                assert (file["old"][...] == np.arange(1000)).all()
                assert set(file) == {"old", "new"}
        assert not os.path.exists(f"{path}.writing")
    late(folder / "late.h5", phase)
    sys.stdout.write("done\n")


def require_no_end(write: Write) -> None:
    """What it would place after the end could land on data that others have put there since."""
    with mock.patch.object(placement_barrier, "_PATIENCE", 0), pytest.raises(TargetBusyError, match="cannot end"):
        write.finish()


def late(path: Path, phase: str) -> None:
    """It goes on after the write was finished by others, and is refused."""
    if phase in INSIDE or phase in PLACING:
        return
    # A child writes nothing for a call that its parent has open.
    the_write(path, write_id="same").release()
    child = stopped_process(path, phase)
    write = the_write(path, write_id="same")
    write.commit_missing()
    write.finish()
    before = path.read_bytes()
    assert end(child, "continued") == REFUSED
    assert path.read_bytes() == before
    write.check()


if __name__ == "__main__":
    main()
