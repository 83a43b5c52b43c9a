"""One ``fsync`` fails, and what it had to write is dropped: the same call goes on, and later the power fails.

Linux tells a failed ``fsync`` once and marks the pages clean.  Programs go on to read them, no later ``fsync`` writes
them, and a power failure shows that the disk never had them.
"""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import dask_chunkio
from dask_chunkio.errors import ChunkIOError
from dask_chunkio.storage.filesystem import disk
from tests.support.files import content, values
from tests.support.power.power_writes import (
    FILE,
    SEED,
    TIMES,
    Case,
    Source,
    acked,
    acknowledging,
    check_here,
    folder,
    some_of,
    without_pauses,
)
from tests.support.power.simulated_disk import Recorder, disks_after
from tests.support.promises import Broken, require


def noise(seed: int, rows: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 1 << 30, (rows, 64)).astype("i4")


def others(path: Any) -> None:
    """Other people's file, with space in it that is free, and datasets that are to be added to or replaced."""
    with h5py.File(path, "w") as file:
        file["gone"] = noise(1, 12)
        file["theirs"] = noise(2, 10)
        file.create_dataset("x", data=noise(3, 14), chunks=(4, 64), maxshape=(None, 64))
        file.create_dataset("packed", data=noise(4, 14), chunks=(4, 64), maxshape=(None, 64), compression="gzip")
        del file["gone"]


@dataclass
class Visible(Case):
    """A write into a dataset that is there: rows from `first` on."""

    first: int = 0

    def write(self, root: Any, sources: Any = None, scheduler: str = "synchronous", **keywords: Any) -> Any:
        sources = sources or {name: Source(data) for name, data in self.data.items()}
        name, source = next(iter(sources.items()))
        together = {"durability": self.durability, "progress": False, "read": "concurrent"} | self.keywords | keywords
        return dask_chunkio.to_hdf5(os.path.join(root, FILE), name, source, scheduler=scheduler, **together)

    def new(self, old: dict[str, Any]) -> dict[str, Any]:
        (name, data), *_ = self.data.items()
        before = np.frombuffer(old[name][0][-1], "i4").reshape(-1, 64)
        after = np.zeros((max(len(before), self.first + len(data)), 64), "i4")
        after[: len(before)] = before
        after[self.first : self.first + len(data)] = data
        attrs = {"dask_chunkio_tokens"} if "token" in self.keywords else set()
        return old | {name: (values(after), attrs)}


X, NEW = noise(6, 8), noise(7, 6)
REGION = {"region": np.s_[2:11], "token": "once"}
APPEND = {"append": True, "token": "once"}
CASES = {
    "new": Case({"/x": X}),
    "new, many processes": Case({"/x": X}, exclusive=False),
    "new, threads": Case({"/x": noise(6, 24)}, scheduler="threads"),
    "added": Case({"/g/new": NEW}, others),
    "replaced": Case({"/x": X}, others, keywords={"overwrite": True}),
    "region": Visible({"/x": noise(8, 9)}, others, keywords={"region": np.s_[2:11]}, first=2),
    "region, token": Visible({"/packed": noise(8, 9)}, others, keywords=REGION, first=2),
    "append": Visible({"/x": noise(9, 9)}, others, keywords=APPEND, first=14),
    "append, gzip": Visible({"/packed": noise(9, 9)}, others, keywords=APPEND, first=14),
}


class RefusingRecorder(Recorder):
    """A recorder on whose disk one ``fsync`` fails, once, and drops what it had to write."""

    def __init__(self, root: Any, at: int | None = None) -> None:
        super().__init__(root)
        self._at, self.syncs, self.dropped = at, 0, None

    def do_fsync(self, real: Any, descriptor: Any) -> None:
        number = self._descriptors.get(descriptor)
        if number is None:
            real(descriptor)
            return
        self.syncs += 1
        if self.syncs - 1 == self._at:
            self.note("drop", number)
            self.dropped = next(path for path, one in self._paths.items() if one == number)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().do_fsync(real, descriptor)

    do_fdatasync = do_fsync


def interrupted(case: Case, at: int | None) -> RefusingRecorder:
    """Return what is recorded of a write whose fsync number `at` fails, and of the same call made once more."""
    with folder() as root, without_pauses():
        case.begin(root)
        recorder = RefusingRecorder(root, at)
        with recorder.recording(), acknowledging(recorder):
            try:
                case.write(root, scheduler=case.scheduler)
            except ChunkIOError as error:
                require(recorder.dropped is not None, f"refused without a reason: {error}")
            # (An fsync whose bytes the write itself writes again ends well.)
            if recorder.dropped is not None:
                case.write(root, scheduler=case.scheduler, resume=True)
                recorder.note("ack")
    return recorder


GROUP: tuple[str, set[str]] = ("group", set())


def new_content(case: Case, old: dict[str, Any]) -> dict[str, Any]:
    if isinstance(case, Visible):
        return case.new(old)
    names = {"/" + os.path.dirname(name).strip("/") for name in case.data} - {"/"}
    groups = {name: GROUP for name in names if name not in old}
    return {"/": GROUP} | old | groups | {name: (values(data), set()) for name, data in case.data.items()}


def plain(found: Any) -> dict[str, Any]:
    """Return the content of a file with the names of the attributes alone."""
    return {name: (held, set(attributes)) for name, (held, attributes) in found.items()}


def judge(case: Case, contents: Any, left: Any, acks: Any, is_done: Any) -> None:
    """See that a disk that the power failure left leads to the right file, by the same call."""
    old, new = contents
    with folder() as root:
        path = os.path.join(root, FILE)
        left.make(root)
        if is_done:
            require(plain(content(path)) == new, "the call had ended, and its data are not there")
        if isinstance(case, Visible):
            case.write(root, resume=True)
        else:
            check_here(case, old, root, acks, "resume")
        require(plain(content(path)) == new, "the same call does not lead to the right file")
        require(not os.path.lexists(path + ".writing"), "side files are left")


def broken(case: Case, at: int, most: int, points: int) -> list[str] | None:
    """Return in words which promises are broken after fsync number `at` has failed; None behind the last."""
    words: list[str] = []
    try:
        recorder = interrupted(case, at)
    except (ChunkIOError, Broken) as error:
        return [f"fsync {at}: the same call is refused: {type(error).__name__}: {error}"]
    if recorder.dropped is None:
        return None
    raw = case.old()
    old = plain(raw)
    new, end = new_content(case, old), len(recorder.events)
    since = next(count for count, event in enumerate(recorder.events, 1) if event[0] == "drop")
    random = Random(at)
    chosen = {end, *random.sample(range(since, end), min(points, end - since))}
    found = disks_after(recorder, random, most, prefixes=chosen)
    with without_pauses():
        for left, count, what in found.values():
            acks = [ack for ack in acked(recorder, count) if ack]
            try:
                judge(case, (raw, new), left, acks, count == end)
            except Exception as error:
                words.append(
                    f"fsync {at} of {recorder.dropped or 'the folder'}, power after event {count} of {end}, {what}: "
                    f"{type(error).__name__}: {error}"
                )
    return words[:3]


def all_broken(case: Case, ats: Iterable[int], most: int, points: int) -> list[str]:
    found: list[str] = []
    for at in ats:
        words = broken(case, at, most, points)
        if words is None:
            break
        found += words
    return found


@pytest.mark.parametrize(
    "name", ["new", *(pytest.param(name, marks=pytest.mark.heavy) for name in CASES if name != "new")]
)
def test_what_an_fsync_that_failed_has_dropped_is_written_again(name: str) -> None:
    words = all_broken(CASES[name], (6, 10, 12, 14, 17, 21), most=1, points=0)
    assert not words, "\n".join(words)


@pytest.mark.heavy
def test_a_call_that_was_cut_off_as_it_took_a_write_over_is_taken_over() -> None:
    # Its log names an owner that the journal does not name yet.
    words = all_broken(CASES["new"], (6, 12, 15, 21), most=2, points=2)
    assert not words, "\n".join(words)


@pytest.mark.heavy
@pytest.mark.parametrize("name", CASES)
def test_what_an_fsync_that_failed_has_dropped_is_written_again_searched_longer(name: str) -> None:
    count = interrupted(CASES[name], None).syncs
    words = all_broken(CASES[name], some_of(range(count), 8 * TIMES, Random(SEED)), most=1, points=1)
    assert not words, "\n".join(words)


@pytest.mark.heavy
def test_pages_that_are_dropped_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    # The harness sees what a write that trusts the second fsync loses.
    monkeypatch.setattr(disk.Disk, "is_doubted", property(lambda _: False))
    assert any(broken(CASES["new"], at, most=1, points=0) for at in range(1000))
