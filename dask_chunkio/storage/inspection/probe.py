"""Which features that a write needs a folder's file system has, found by trying them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dask_chunkio.errors import TargetError
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import (
    flush,
    open_side_file,
    pread_into,
    pwrite_all,
    read_small_file,
    sync_folder,
)
from dask_chunkio.storage.filesystem.kind import FileSystem, file_system_of
from dask_chunkio.storage.filesystem.side_folder import Folder, is_held_open

__all__ = ["CheckedFolder", "Probe", "check_folder"]

_PREFIX = ".dask_chunkio-check-"
_SECONDS = 60.0
_UNSEEN = "no: processes do not see one another's locks (flock)"
# Program of another process: take a lock, report it, and keep it until standard input ends or the process is killed.
_TAKE_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
try:
    fcntl.flock(file, (fcntl.LOCK_EX if sys.argv[2] == "alone" else fcntl.LOCK_SH) | fcntl.LOCK_NB)
except BlockingIOError:
    print("busy", flush=True)
else:
    print("taken", flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of one trial.

    Parameters
    ----------
    about : str
        The feature that a write needs.
    found : str
        What was found, in words.
    ok : bool
        Whether a write works with that.
    """

    about: str
    found: str
    ok: bool = True


@dataclass(frozen=True, slots=True)
class CheckedFolder:
    """The result of `check_folder`.

    Parameters
    ----------
    path : str
        The folder.
    file_system : FileSystem
        The file system that holds it.
    probes : tuple of Probe
        The results of all trials.
    """

    path: str
    file_system: FileSystem
    probes: tuple[Probe, ...]

    @property
    def ok(self) -> bool:
        """Whether files can be written there."""
        return all(probe.ok for probe in self.probes)


def check_folder(path: str) -> CheckedFolder:
    """Try in a folder the features that a write needs; everything that this creates there is removed.

    Parameters
    ----------
    path : str
        Path of the folder.

    Raises
    ------
    TargetError
        If there is no such folder, or nothing can be created in it.
    """
    path = os.path.realpath(path)
    try:
        place = tempfile.mkdtemp(prefix=_PREFIX, dir=path)
    except OSError as error:
        raise TargetError(f"cannot make a folder in {path}: {error.strerror or error}") from error
    try:
        probes = tuple(Probe(about, *_tried(probe, place)) for about, probe in _PROBES.items())
    finally:
        with Folder(place) as folder:
            folder.remove()
    return CheckedFolder(path, file_system_of(path), probes)


_Found = tuple[str, bool]


def _tried(probe: Callable[[str], _Found], place: str) -> _Found:
    try:
        return probe(place)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no: {getattr(error, 'strerror', None) or error}", False


def _locks_exclude(place: str) -> _Found:
    path = os.path.join(place, "lock")
    with contextlib.closing(ActivityLock(path)) as activity_lock:
        activity_lock.share()
        answers = [_ask(path, "alone"), _ask(path, "shared")]
        activity_lock.take_alone(1)
        answers.append(_ask(path, "shared"))
    return _yes(answers == ["busy", "taken", "busy"], _UNSEEN)


def _locks_end(place: str) -> _Found:
    path = os.path.join(place, "lock")
    with contextlib.closing(ActivityLock(path)) as activity_lock, _holding(path, "alone") as (process, answer):
        if answer != "taken" or activity_lock.take_alone(1):
            return _UNSEEN, False
        process.kill()
        process.wait(_SECONDS)
        return _yes(activity_lock.take_alone(1), "no: the lock of a process that was killed stays")


def _ask(path: str, how: str) -> str:
    with _holding(path, how) as (_, answer):
        return answer


@contextlib.contextmanager
def _holding(path: str, how: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run another process that tries to take a lock, and yield it with its answer."""
    words = [sys.executable, "-I", "-S", "-c", _TAKE_LOCK, path, how]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise OSError("the other process has no pipes")
        yield process, process.stdout.readline().strip()
        process.stdin.close()


def _removed_while_open(place: str) -> _Found:
    path = os.path.join(place, "open")
    descriptor = open_side_file(path)
    try:
        os.unlink(path)
        kept = [name for name in os.listdir(place) if is_held_open(name)]
        pwrite_all(descriptor, b"written", 0)
    finally:
        close_descriptor(descriptor)
    left = [name for name in os.listdir(place) if is_held_open(name)]
    if left:
        return f"no: {left[0]} stays", False
    return f"renamed to {kept[0]} until it is closed: counts as removed" if kept else "yes", True


def _renamed_over(place: str) -> _Found:
    first, second = os.path.join(place, "first"), os.path.join(place, "second")
    for path in (first, second):
        _write(path, path.encode(), 0)
    os.replace(first, second)
    return _yes(read_small_file(second, 4096) == first.encode() and not os.path.exists(first), "no")


def _linked(place: str) -> _Found:
    first, second = os.path.join(place, "one"), os.path.join(place, "two")
    _write(first, b"one", 0)
    try:
        os.link(first, second)
    except OSError:
        return "no: a new file gets its name by a rename", True
    return _yes(os.path.samefile(first, second), "no: two names of one file are two files")


def _synced_file(place: str) -> _Found:
    descriptor = open_side_file(os.path.join(place, "synced"))
    try:
        pwrite_all(descriptor, b"synced", 0)
        flush(descriptor)
    finally:
        close_descriptor(descriptor)
    return "yes", True


def _synced_folder(place: str) -> _Found:
    sync_folder(place)
    return "yes", True


def _written_behind_the_end(place: str) -> _Found:
    path = os.path.join(place, "behind")
    _write(path, b"end", 1 << 20)
    descriptor = open_side_file(path)
    try:
        data = bytearray(b"x" * 4096)
        pread_into(descriptor, memoryview(data), 4096)
        size = os.fstat(descriptor).st_size
    finally:
        close_descriptor(descriptor)
    return _yes(size == (1 << 20) + 3 and not any(data), "no: what was never written is not zero")


def _write(path: str, data: bytes, offset: int) -> None:
    descriptor = open_side_file(path)
    try:
        pwrite_all(descriptor, data, offset)
    finally:
        close_descriptor(descriptor)


def _yes(is_so: bool, otherwise: str) -> _Found:
    return ("yes", True) if is_so else (otherwise, False)


_PROBES: dict[str, Callable[[str], _Found]] = {
    "locks between processes": _locks_exclude,
    "a lock ends with its process": _locks_end,
    "removal while open": _removed_while_open,
    "rename over a file": _renamed_over,
    "hard links": _linked,
    "fsync of a file": _synced_file,
    "fsync of a folder": _synced_folder,
    "writes behind the end": _written_behind_the_end,
}
