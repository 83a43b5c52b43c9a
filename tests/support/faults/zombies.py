"""Processes that stop themselves (SIGSTOP) in a phase of a write, and are continued or killed from outside.

Loaded by workers (``dask worker --preload``, or as initializer of a pool); the first process that comes to the phase
takes the marker, and stops.  What becomes of its task after that stands beside the marker.
"""

import functools
import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np

import dask_chunkio as dcio
from dask_chunkio.execution import graph, tasks
from dask_chunkio.storage import begin, finish, payload_file, publish, session, transaction
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.filesystem import placement_barrier
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal.redo_record import Mark, RedoRecord
from dask_chunkio.storage.payload_file import PayloadFile
from dask_chunkio.storage.redo_log import RedoLog
from tests.support.iterators import FromArray

DATA = np.arange(40 * 8, dtype="i4").reshape(40, 8) % 23
CHUNK, BUFFER = (5, 4), (5, 8)


class Numbers(FromArray):
    """The data, in its buffers."""

    def __init__(self) -> None:
        super().__init__(DATA, chunk_shape=CHUNK, buffer_shape=BUFFER)


class Stop:
    """Stops this process once, the first time that a thread comes by inside the right task."""

    def __init__(self, marker: str | os.PathLike[str], inside: str | None) -> None:
        self.marker, self.inside, self.local = str(marker), inside, threading.local()

    def here(self) -> None:
        if getattr(self.local, "inside", None) != self.inside:
            return
        try:
            descriptor = os.open(self.marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        self.local.was_stopped = True
        os.write(descriptor, f"{os.getpid()}\n".encode())
        os.close(descriptor)
        # Sent to the process, it could reach another thread first, and this one go on for a while.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def within(self, owner: object, name: str, inside: str) -> None:
        """Know that this thread runs a certain task, and note how it ends."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            before, self.local.inside = getattr(self.local, "inside", None), inside
            error: BaseException | None = None
            try:
                return function(*arguments, **keywords)
            except BaseException as caught:
                error = caught
                raise
            finally:
                self.local.inside = before
                if getattr(self.local, "was_stopped", False) and before is None:
                    self.local.was_stopped = False
                    self._note(error)

        setattr(owner, name, wrapped)

    def _note(self, error: BaseException | None) -> None:
        with open(self.marker + ".new", "w", encoding="utf-8") as file:
            json.dump([type(error).__name__, str(error)], file)
        os.rename(self.marker + ".new", self.marker + ".outcome")

    def note_those_who_come(self, owner: object, name: str) -> None:
        """Leave a second marker when another process comes here after this one stopped."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if os.path.exists(self.marker):
                with open(f"{self.marker}.waiting", "w", encoding="utf-8"):
                    pass
            return function(*arguments, **keywords)

        setattr(owner, name, wrapped)

    def before(self, owner: object, name: str, which: Callable[..., Any] = lambda *_: True) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if which(*arguments):
                self.here()
            return function(*arguments, **keywords)

        setattr(owner, name, wrapped)

    def after(self, owner: object, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            answer = function(*arguments, **keywords)
            self.here()
            return answer

        setattr(owner, name, wrapped)


def _placing_half(stop: Stop) -> None:
    def pwrite_each(descriptor: int, pieces: Sequence[tuple[int, bytes | memoryview]]) -> None:
        for number, (offset, data) in enumerate(pieces):
            half = len(data) // 2
            os.pwrite(descriptor, data[:half], offset)
            if number == 0:
                stop.here()
            os.pwrite(descriptor, data[half:], offset + half)

    mock.patch.object(payload_file, "pwrite_each", pwrite_each).start()


def _before_names(stop: Stop) -> None:
    stop.before(os, "link")
    stop.before(os, "replace")


def _is_log(path: str, *_: object) -> bool:
    return os.path.basename(path) == "log"


Phases = dict[str, Callable[[Stop], None]]
# Where nobody has to wait for the stopped one; and where it has the lock of the file.
FREE: Phases = {
    "reading": lambda stop: stop.before(tasks, "read_checked"),
    "encoding": lambda stop: stop.before(tasks, "cut_chunk"),
    "with the scheduler's lock": lambda stop: stop.before(transaction, "locked"),
    "before placing": lambda stop: stop.before(payload_file, "pwrite_each"),
    "placing": _placing_half,
    "after placing": lambda stop: stop.after(PayloadFile, "place"),
}
HELD: Phases = {
    "before the log": lambda stop: stop.before(RedoLog, "commit"),
    "before applying": lambda stop: stop.before(Mark, "pack"),
    "after applying": lambda stop: stop.after(RedoRecord, "apply"),
}
FREE_FINISH: Phases = {
    "before publishing": lambda stop: stop.before(finish, "publish"),
    "before the name": _before_names,
    "after the name": lambda stop: stop.before(publish, "sync_folder"),
    "before removing": lambda stop: stop.before(Folder, "remove"),
    "removing": lambda stop: stop.before(os, "unlink", _is_log),
    "before removing the folder": lambda stop: stop.before(os, "rmdir"),
}
HELD_FINISH: Phases = {
    "before naming": lambda stop: stop.after(PayloadFile, "settle"),
    "naming": lambda stop: stop.before(Mark, "pack"),
    "before trimming": lambda stop: stop.before(PayloadFile, "trim"),
}


def _without_its_lock(stop: Stop) -> None:
    """The lock is one that others do not see, as where the server of a network's files has dropped it."""
    mock.patch.object(ActivityLock, "try_share", return_value=True).start()
    stop.after(tasks, "write_buffer")


# As it begins: before others are kept out, and after.
FREE_BEGINNING: Phases = {
    "before the lock is made": lambda stop: stop.before(begin, "ActivityLock"),
    "before the activity lock": lambda stop: stop.before(ActivityLock, "take_alone"),
}
HELD_BEGINNING: Phases = {
    "before the manifest": lambda stop: stop.before(begin, "describe_folder"),
    "before sharing": lambda stop: stop.before(ActivityLock, "share"),
    "before the datasets": lambda stop: stop.before(session, "writer_for"),
}
# In no task.
OUTSIDE: Phases = {
    "between tasks": lambda stop: stop.after(tasks, "write_buffer"),
    "without its lock": _without_its_lock,
    "discarding": lambda stop: stop.before(os, "unlink", _is_log),
    **FREE_BEGINNING,
    **HELD_BEGINNING,
}


def as_worker(path: str | os.PathLike[str], write_id: str, **keywords: Any) -> Any:
    """Do every task of one write, as the last worker that is left would."""
    with mock.patch.object(uuid, "uuid4", return_value=mock.Mock(hex=write_id)):
        delayed = dcio.to_hdf5(path, "/new/x", Numbers(), compression="gzip", compute=False, **keywords)
    return delayed.compute(scheduler="synchronous")


def stop_at(phase: str, marker: str | os.PathLike[str]) -> None:
    """Have the first process that comes to `phase` stop there."""
    if phase in OUTSIDE:
        OUTSIDE[phase](Stop(marker, None))
    else:
        _stop_in_task(phase, marker)
    # A graph that is built here names them too.
    mock.patch.multiple(graph, write_buffer=tasks.write_buffer, finish_target=tasks.finish_target).start()


def _stop_in_task(phase: str, marker: str | os.PathLike[str]) -> None:
    inside, phases = ("commit", FREE | HELD) if phase in FREE | HELD else ("finish", FREE_FINISH | HELD_FINISH)
    stop = Stop(marker, inside)
    phases[phase](stop)
    stop.within(tasks, "write_buffer", "commit")
    stop.within(tasks, "finish_target", "finish")
    stop.note_those_who_come(placement_barrier, "locked")


def main(call: str, path: str, phase: str, marker: str, *words: str) -> None:
    """Stop in the midst of a call, and print how it ends: as_worker, to_hdf5 or discard."""
    stop_at(phase, marker)
    try:
        if call == "as_worker":
            as_worker(path, words[0], overwrite="overwrite" in words)
        elif call == "to_hdf5":
            dcio.to_hdf5(path, "/new/x", Numbers(), compression="gzip", scheduler="synchronous")
        else:
            dcio.discard(path)
    except dcio.errors.ChunkIOError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
    else:
        sys.stdout.write("done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
elif "ZOMBIE_PHASE" in os.environ:
    stop_at(os.environ["ZOMBIE_PHASE"], os.environ["ZOMBIE_MARKER"])
