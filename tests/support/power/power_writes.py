"""Writes to be cut off, and what must be true of whatever is left of them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import h5py
import numpy as np
from numpy.typing import NDArray

import dask_chunkio
from dask_chunkio.errors import TargetError, TargetExistsError
from dask_chunkio.execution.graph import build_graph
from dask_chunkio.storage.activity import activity_lock
from dask_chunkio.storage.writer import Writer
from tests.support.files import MEMORY, Entry, content, hidden, values
from tests.support.power.failing_disk import FailingDisk
from tests.support.power.simulated_disk import Disk, Found, Recorder, State
from tests.support.promises import Broken, require

# How many times as much the heavy tests try, and what they choose.
TIMES, SEED = int(os.environ.get("DASK_CHUNKIO_TIMES", "1")), int(os.environ.get("DASK_CHUNKIO_SEED", "1"))
FILE = "out.h5"

# What a file holds; dataset and chunks that were acknowledged; rows by name.
Held = Mapping[str, Entry]
Ack = tuple[int, tuple[int, ...]]
Rows = Mapping[str, set[int]]


class Source:
    """An array that notes which of its rows were read."""

    def __init__(self, data: NDArray[Any]) -> None:
        self._data, self.shape, self.dtype = data, data.shape, data.dtype
        self.rows: set[int] = set()

    def __getitem__(self, selection: tuple[slice, ...]) -> NDArray[Any]:
        self.rows.update(range(selection[0].start, selection[0].stop))
        return self._data[selection]


@dataclass
class Case:
    """A write, and the disk on which it begins.

    Parameters
    ----------
    data : dict
        What is written: array by name.
    start : callable, optional
        Makes the file that is there before.
    rows : int
        Of a chunk, which takes all columns.
    buffer : int
        Chunks of a buffer.
    exclusive : bool
        Whether one process alone writes, as far as the write knows.
    keywords : dict
        For `to_hdf5`.
    """

    data: dict[str, NDArray[Any]]
    start: Callable[[str], object] | None = None
    rows: int = 4
    buffer: int = 1
    exclusive: bool = True
    durability: str = "power"
    scheduler: str = "synchronous"
    keywords: dict[Any, Any] = field(default_factory=dict)

    def begin(self, root: str | os.PathLike[str]) -> None:
        with open(os.path.join(root, "beside.txt"), "w") as file:
            file.write("other people's")
        if self.start is not None:
            self.start(os.path.join(root, FILE))

    def write(
        self,
        root: str | os.PathLike[str],
        sources: Mapping[str, Any] | None = None,
        scheduler: str = "synchronous",
        **keywords: Any,
    ) -> Any:
        sources = sources or {name: Source(data) for name, data in self.data.items()}
        encoding: dict[str, Any] = {
            name: {
                "chunks": (self.rows, *source.shape[1:]),
                "buffer_shape": (self.rows * self.buffer, *source.shape[1:]),
            }
            for name, source in sources.items()
        }
        together: dict[str, Any] = {"durability": self.durability, "progress": False, "read": "concurrent"}
        together |= self.keywords | keywords
        with contextlib.nullcontext() if self.exclusive else shared():
            return dask_chunkio.to_hdf5(
                os.path.join(root, FILE), sources, encoding=encoding, scheduler=scheduler, **together
            )

    def old(self) -> dict[str, Entry]:
        """What the file held before."""
        with folder() as root:
            self.begin(root)
            return content(os.path.join(root, FILE))

    def rows_of(self, acked: Iterable[Ack]) -> dict[str, set[int]]:
        """Rows of each dataset that are acknowledged."""
        names = list(self.data)
        found: dict[str, set[int]] = {name: set() for name in names}
        for dataset, chunks in acked:
            for chunk in chunks:
                found[names[dataset]].update(range(chunk * self.rows, (chunk + 1) * self.rows))
        return {name: rows & set(range(len(self.data[name]))) for name, rows in found.items()}


@contextlib.contextmanager
def folder() -> Iterator[str]:
    root = tempfile.mkdtemp(prefix="dask_chunkio-power-", dir=MEMORY)
    try:
        yield root
    finally:
        shutil.rmtree(root)


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Have a write take its transactions as where other processes write too."""
    from dask_chunkio import write

    def build(creation: Any, *args: Any) -> Any:
        return build_graph(type(creation)(creation.target, creation.specs, creation.jobs, False), *args)

    with mock.patch.object(write, "build_graph", build):
        yield


@contextlib.contextmanager
def without_pauses() -> Iterator[None]:
    with mock.patch.object(activity_lock, "_PAUSE", 0):
        yield


def is_begun(path: str) -> bool:
    """Say whether the folder of a write holds anything: an empty one is no write, and nothing is to be recovered."""
    return os.path.isdir(path + ".writing") and bool(os.listdir(path + ".writing"))


@contextlib.contextmanager
def acknowledging(recorder: Recorder | FailingDisk) -> Iterator[None]:
    """Note which chunks are acknowledged: `commit` has returned, or `is_stored` has said that nothing is to do."""
    commit, is_stored, whole, visible = Writer.commit, Writer.is_stored, Writer.commit_by_hdf5, Writer.commit_visible

    def noting_commit(self: Writer, place: tuple[int, int], layout: Any, chunks: Sequence[int], *others: Any) -> None:
        commit(self, place, layout, chunks, *others)
        recorder.note("ack", place[0], tuple(chunks))

    def noting_stored(self: Writer, dataset: int, chunks: Sequence[int]) -> bool:
        answer = is_stored(self, dataset, chunks)
        if answer:
            recorder.note("ack", dataset, tuple(chunks))
        return answer

    def noting_whole(self: Writer, place: tuple[int, int], chunks: Sequence[int], *others: Any) -> None:
        whole(self, place, chunks, *others)
        recorder.note("ack", place[0], tuple(chunks))

    def noting_visible(self: Writer, place: tuple[int, int], layout: Any, change: Any, lock: Any) -> None:
        visible(self, place, layout, change, lock)
        chunks = [*(chunk for chunk, _ in change.payloads), *(part.chunk for part in change.parts)]
        recorder.note("ack", place[0], tuple(chunks))

    noting: dict[str, Any] = {"commit": noting_commit, "is_stored": noting_stored}
    noting |= {"commit_by_hdf5": noting_whole, "commit_visible": noting_visible}
    with mock.patch.multiple(Writer, **noting):
        yield


def acked(recorder: Recorder, count: int | None) -> list[Any]:
    """Return what was acknowledged by the first `count` events: (dataset, chunks)."""
    return [event[1:] for event in recorder.events[:count] if event[0] == "ack"]


def recorded(
    case: Case,
    action: Callable[[str], object] | None = None,
    start: Disk | None = None,
    after: Any = (),
    before: Any = None,
) -> Recorder:
    """Return what a whole write, or another action on its disk, tells the disk to do.

    Parameters
    ----------
    case : Case
        The write.
    action : callable, optional
        Takes the folder; the write by default.
    start : Disk, optional
        In place of the disk on which the write begins.
    after : list of events
        That other processes had caused, of which `start` has everything.
    before : Disk, optional
        What the disk had before those.
    """
    with folder() as root, without_pauses():
        if start is None:
            case.begin(root)
        else:
            start.make(root)
        recorder = Recorder(root, after, before)
        with recorder.recording(), acknowledging(recorder):
            (action or (lambda root: case.write(root, scheduler=case.scheduler)))(root)
        everything = disk_with_everything(recorder)
        assert everything.key == Disk.at(root).key, "the recorder has missed something"
    return recorder


def disk_with_everything(recorder: Recorder, count: int | None = None) -> Disk:
    """Return the disk as programs see it after so many events, or all."""
    state = State(recorder.start)
    for event in recorder.events[:count]:
        state.add(event)
    return state.disk(set(state.units()))


def some_of(choice: Sequence[Any], count: int, random: random.Random) -> list[Any]:
    """Return so many of a sequence in their order, or all if they are fewer."""
    return [choice[place] for place in sorted(random.sample(range(len(choice)), min(count, len(choice))))]


def check(case: Case, old: Held, disk: Disk, acks: Iterable[Ack], how: str) -> None:
    """Bring a disk into order, and see that every promise was kept.

    Parameters
    ----------
    how : str
        ``"resume"``, ``"recover"`` (and resume) or ``"discard"``.
    """
    with folder() as root:
        disk.make(root)
        check_here(case, old, root, acks, how)


def check_here(case: Case, old: Held, root: str, acks: Iterable[Ack], how: str) -> None:
    """Bring into order what a folder holds, as `check`."""
    path = os.path.join(root, FILE)
    side = is_begun(path)
    new = _with_new(case, old)
    if not side or case.start is None:
        # Nothing has to be replayed, and nothing half-written has its name.
        _require_old_or_new(path, old, new)
    # A source that is read in order is read from its beginning.
    is_read_again = _is_whole(path, new) or case.keywords.get("read") == "ordered"
    rows = {} if is_read_again else case.rows_of(acks)
    if os.path.exists(os.path.join(path + ".writing", "manifest.json")):
        dask_chunkio.status(path)
    if how == "discard":
        dask_chunkio.discard(path)
        _require_old_or_new(path, old, new)
        require(not hidden(path), f"{hidden(path)} is left")
    else:
        if how == "recover" and side:
            _recover(case, path, rows, old, new)
        _resume(case, root, rows, new)
    require(not os.path.lexists(path + ".writing"), "side files are left")
    with open(os.path.join(root, "beside.txt")) as file:
        require(file.read() == "other people's", "the file beside was changed")


def _with_new(case: Case, old: Held) -> dict[str, Entry]:
    overwritten: dict[str, Entry] = {name: (values(data), {}) for name, data in case.data.items()}
    groups = {os.path.dirname(name) for name in case.data} - {"/"}
    added: dict[str, Entry] = {name: ("group", {}) for name in groups if name not in old}
    return {"/": ("group", {}), **old, **added, **overwritten}


def _require_old_or_new(path: str, old: Held, new: Held) -> None:
    found = content(path)
    if found not in (old, new):
        differ = [name for name in {*found, *old, *new} if found.get(name) != old.get(name)]
        raise Broken(f"{path} holds neither what it held before nor the whole write: {differ}")


def _recover(case: Case, path: str, rows: Rows, old: Held, new: Held) -> None:
    try:
        found = dask_chunkio.recover(path)
    except TargetError as error:
        require("before it had made anything" in str(error) or "no manifest" in str(error), f"recover raised {error}")
        require(not any(rows.values()), f"{error}: acknowledged chunks are lost")
        return
    _require_old_or_new(path, old, new)
    with h5py.File(found.path, "r") as file:
        for name, wanted in rows.items():
            some = sorted(wanted)
            is_right = np.array_equal(file[found.datasets[name]][...][some], case.data[name][some])
            require(is_right, f"{name}: acknowledged chunks are not in what recover leaves")


def _is_whole(path: str, new: Held) -> bool:
    try:
        return content(path) == new
    except (OSError, RuntimeError):  # a transaction was cut off, and has to be replayed
        return False


def _resume(case: Case, root: str, rows: Rows, new: Held) -> None:
    path = os.path.join(root, FILE)
    was_whole = _is_whole(path, new)
    sources = {name: Source(data) for name, data in case.data.items()}
    try:
        case.write(root, sources, resume=True)
    except TargetExistsError:
        # All is done and the file has its name: a second write is refused, as any would be.
        require(was_whole, "resume is refused")
        dask_chunkio.discard(path)
    require(content(path) == new, "resume does not lead to the right file")
    require(not hidden(path), f"{hidden(path)} is left")
    for name, wanted in rows.items():
        again = sorted(sources[name].rows & wanted)
        require(not again, f"{name}: rows {again} were acknowledged and had to be read again")


def broken(
    case: Case,
    recorder: Recorder,
    found: Found,
    hows: tuple[str, ...] = ("resume", "recover", "discard"),
    most: int = 5,
) -> list[str]:
    """Check disks; return in words which break a promise, and how many were checked."""
    old = case.old()
    words: list[str] = []
    with without_pauses():
        for number, (disk, count, what) in enumerate(found.values()):
            how = hows[number % len(hows)]
            try:
                check(case, old, disk, acked(recorder, count), how)
            except Exception as error:
                event = recorder.events[count - 1] if count else ("start",)
                shown = tuple(f"{len(part)} bytes" if isinstance(part, bytes) else part for part in event)
                words.append(
                    f"after event {count} {shown}, {what}; then {how}: {type(error).__name__}: {error} [{disk}]"
                )
                if len(words) == most:
                    break
    return words
