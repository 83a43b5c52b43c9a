"""Writes that are killed at a random call to the system, looked at, and resumed: seeded, so that each can be run again.

Usage: python -m tests.support.kills.killed_writes [--runs N] [--seed S] [--folder DIR]

Every run draws a file (new or existing), format, filters, datasets, buffers and scheduler; counts the calls to
the system that an undisturbed write makes; and kills another with SIGKILL at one of them, halfway through its bytes.
"""

import contextlib
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import dask
import h5py
import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from dask_chunkio.errors import TargetExistsError
from dask_chunkio.storage.hdf5.dataset import DatasetLayout
from dask_chunkio.storage.writer import Writer
from tests.support.iterators import Noting
from tests.support.metadata import metadata_end, page_nbytes
from tests.support.notes import note, notes
from tests.support.options import seeded
from tests.support.processes import import_for_writes, in_child
from tests.support.system_calls import CALLS, count_calls, kill_at

FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "lzf"},
)

# Names of datasets, and numbers of buffers.
Acknowledged = Sequence[tuple[str, int]]


@dataclass
class Plan:
    """One write, drawn from a seed."""

    seed: int
    folder: Path
    arrays: dict[str, NDArray[Any]] = field(init=False)
    chunk: tuple[int, int] = field(init=False)
    buffers: tuple[int, int] = field(init=False)
    keywords: dict[str, Any] = field(init=False)
    existing: bool = field(init=False)
    overwrites: bool = field(init=False)
    libver: str = field(init=False)
    scheduler: str = field(init=False)
    layout: Literal["cloud"] | None = field(init=False)

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        values = np.random.default_rng(self.seed)
        rows, columns = draw.randrange(8, 40), draw.randrange(9, 20)
        names = draw.sample(["/x", "/g/y", "/g/h/z"], draw.randrange(1, 4))
        self.arrays = {name: values.integers(0, 50, (rows, columns)).astype(draw.choice("ui") + "2") for name in names}
        self.chunk = draw.randrange(1, 6), draw.randrange(2, 9)
        self.buffers = min(rows, self.chunk[0] * draw.randrange(1, 3)), columns
        self.existing = draw.random() < 0.5
        self.overwrites = self.existing and draw.random() < 0.3
        self.libver = draw.choice(["earliest", "v110"])
        self.scheduler = draw.choice(["synchronous", "threads"])
        self.keywords = {
            **draw.choice(FILTERS),
            "chunks": self.chunk,
            "maxshape": draw.choice([None, (None, columns), (None, None)]),
            "durability": draw.choice(["process", "process", "power"]),
            "overwrite": self.overwrites,
        }
        self.layout = None if self.existing else draw.choice([None, "cloud"])

    @property
    def path(self) -> Path:
        return self.folder / "out.h5"

    @property
    def log(self) -> Path:
        return self.folder / "notes"

    def prepare(self) -> None:
        """Make the folder anew, with other people's file where there is one."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        if self.existing:
            with h5py.File(self.path, "w", libver=(self.libver, "v110")) as file:
                file.attrs["title"] = "mine"
                file["old"] = np.arange(1000)
                file.create_dataset("a/deflated", data=np.arange(3000), chunks=(100,), compression="gzip")
                for number in range(20):
                    file[f"a/n{number}"] = number
                if self.overwrites:
                    file[next(iter(self.arrays))] = [1, 2, 3]

    def write(
        self, *, buffers: tuple[int, int] | None = None, scheduler: str | None = None, resume: bool = False
    ) -> None:
        shapes = {"chunk_shape": self.chunk, "buffer_shape": buffers or self.buffers}
        sources = {name: Noting(array, self.log, name, **shapes) for name, array in self.arrays.items()}
        with dask.config.set(num_workers=2):
            dcio.to_hdf5(
                self.path, sources, scheduler=scheduler or self.scheduler, resume=resume,
                libver=None if self.existing else self.libver, layout=self.layout, progress=False, **self.keywords,
            )  # fmt: skip

    # What must hold

    def check_old(self) -> None:
        if self.existing:
            with h5py.File(self.path) as file:
                assert file.attrs["title"] == "mine"
                assert (file["old"][...] == np.arange(1000)).all()
                assert (file["a/deflated"][...] == np.arange(3000)).all()
                assert [file[f"a/n{number}"][()] for number in range(20)] == list(range(20))

    def is_named(self) -> bool:
        """Whether the final names are there; half of them, or half of a dataset, would be an error."""
        if not self.path.exists():
            return False
        with h5py.File(self.path) as file:
            first = next(iter(self.arrays))
            if self.overwrites and file[first].shape == (3,):
                assert file[first][...].tolist() == [1, 2, 3]
                others = {name for name in self.arrays if name != first and name in file}
                assert not others
                return False
            there = [name for name in self.arrays if name in file]
            assert len(there) in (0, len(self.arrays)), f"only {there} have their names"
            for name in there:
                np.testing.assert_array_equal(file[name][...], self.arrays[name])
            return bool(there)

    def check_whole(self) -> None:
        self.check_old()
        assert self.is_named()
        assert dcio.verify(self.path).ok
        assert {entry.name for entry in self.folder.iterdir()} <= {"out.h5", "notes", "lock"}, list(
            self.folder.iterdir()
        )
        if self.layout is not None:
            assert metadata_end(self.path) <= page_nbytes(self.path)
        with h5py.File(self.path) as file:
            assert not [name for name in file if name.startswith(".")]
            for name in self.arrays:
                assert file[name].chunks == self.chunk
                assert file[name].compression == self.keywords.get("compression")

    def check_acknowledged(self, acknowledged: Acknowledged) -> None:
        found = dcio.recover(self.path)
        with h5py.File(found.path) as file:
            for name, buffer in acknowledged:
                rows = slice(buffer * self.buffers[0], (buffer + 1) * self.buffers[0])
                np.testing.assert_array_equal(file[found.datasets[name]][rows], self.arrays[name][rows])


def acknowledge(log: Path) -> None:
    """Note each buffer whose commit has returned."""
    commit = Writer.commit

    def noting(self: Writer, place: tuple[int, int], layout: DatasetLayout, *others: Any) -> None:
        commit(self, place, layout, *others)
        note(log, "done", layout.name, place[1])

    mock.patch.object(Writer, "commit", noting).start()


def counted(plan: Plan, counts: Path) -> None:
    count_calls(lambda name, number, _: note(counts, number, name))
    plan.write()


def killed(plan: Plan, number: int) -> None:
    acknowledge(plan.log)
    kill_at(number)
    plan.write()


def killed_again(plan: Plan, number: int, buffers: tuple[int, int], scheduler: str) -> None:
    kill_at(number)
    with contextlib.suppress(TargetExistsError):
        plan.write(buffers=buffers, scheduler=scheduler, resume=True)


def resumed(plan: Plan, buffers: tuple[int, int], scheduler: str) -> None:
    try:
        plan.write(buffers=buffers, scheduler=scheduler, resume=True)
    except TargetExistsError:
        # It was whole: the process died after it had removed the folder, before it could say so.
        assert not plan.path.with_name("out.h5.writing").exists()
        assert plan.is_named()


def looked_at(plan: Plan, acknowledged: Acknowledged) -> None:
    """What must hold before anything is resumed."""
    opens = True
    if plan.existing:
        try:
            plan.check_old()
        except (OSError, KeyError, RuntimeError, AssertionError):
            opens = False  # a transaction that was cut off: the log has the rest
    if plan.path.with_name("out.h5.writing").exists():
        dcio.status(plan.path)
        try:
            plan.check_acknowledged(acknowledged)
        except dcio.errors.TargetError:
            assert not acknowledged or plan.is_named()
    plan.check_old()
    plan.is_named()
    note(plan.log, "opens", opens)


def run(seed: int, folder: Path) -> tuple[str, bool]:
    """Kill one write and resume it; return at which call, and how plain HDF5 found an existing file."""
    draw = random.Random(f"kill {seed}")
    plan = Plan(seed, folder)
    counts = folder.with_name("counts")
    counts.unlink(missing_ok=True)
    plan.prepare()
    assert in_child(counted, plan, counts) == 0
    calls = notes(counts)
    number = draw.randrange(len(calls))
    plan.prepare()
    ended = in_child(killed, plan, number)
    # Threads do not always make the same number of calls.
    assert ended in (-signal.SIGKILL, 0), ended
    acknowledged = [words[1:] for words in notes(plan.log) if words[0] == "done"]
    assert in_child(looked_at, plan, acknowledged) == 0, "before resuming"
    opens = [words[1] for words in notes(plan.log) if words[0] == "opens"][-1]
    other = draw.random() < 0.3
    buffers = plan.chunk if other else plan.buffers
    scheduler = draw.choice(["synchronous", "threads"])
    if draw.random() < 0.3:
        if not plan.path.with_name("out.h5.writing").joinpath("journal").exists():
            acknowledged = []  # the write was over; with overwrite=True the next one is a new one
        assert in_child(killed_again, plan, draw.randrange(len(calls)), buffers, scheduler) in (0, -signal.SIGKILL)
        assert in_child(looked_at, plan, acknowledged) == 0, "after the second kill"
    plan.log.unlink(missing_ok=True)
    # Without it the write was over; with overwrite=True the next one is a new one.
    goes_on = plan.path.with_name("out.h5.writing").exists()
    assert in_child(resumed, plan, buffers, scheduler) == 0, "resuming"
    if goes_on and not other:
        read = {words[1:] for words in notes(plan.log) if words[0] == "read"}
        starts = {(name, buffer * plan.buffers[0], 0) for name, buffer in acknowledged}
        if len(plan.arrays) == 1:
            assert not read & starts, "acknowledged buffers were read again"
    assert in_child(plan.check_whole) == 0, "at the end"
    return calls[number][1], opens


def main(arguments: Sequence[str] | None = None) -> None:
    options = seeded(__doc__, 1000).parse_args(arguments)
    import_for_writes()
    tally = dict.fromkeys(CALLS, 0)
    unreadable = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for seed in range(options.seed, options.seed + options.runs):
            try:
                name, opens = run(seed, Path(folder, "run"))
            except AssertionError as error:
                sys.exit(f"seed {seed}: {error}")
            tally[name] += 1
            unreadable += not opens
    places = ", ".join(f"{name} {count}" for name, count in tally.items())
    sys.stdout.write(f"{options.runs} kills, nothing lost; at {places}\n")
    sys.stdout.write(f"{unreadable} existing files could not be read by plain HDF5 before the log was replayed\n")


if __name__ == "__main__":
    main()
