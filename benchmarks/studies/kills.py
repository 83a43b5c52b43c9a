"""What remains after a kill, of our writes and of plain h5py's: python -m benchmarks.studies.kills.

Each writer writes a compressed dataset, buffer by buffer, to a new file and to one that holds
an older dataset, in a process that is killed (SIGKILL) after a random part of the time that the
write takes.  Then another process looks at the file.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np

import dask_chunkio
from benchmarks.studies.measure import machine, markdown_table, save, working_folder
from dask_chunkio.execution import tasks
from dask_chunkio.keywords import DatasetKeywords

ROWS, COLUMNS, BUFFER = 6000, 64, 100
CHUNKS = (5, 32)
OLD = np.arange(5000)

Write = Callable[[Path, Callable[[int], None]], None]


def data() -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return what is written: nowhere the fill value."""
    return np.random.default_rng(0).integers(1, 1000, (ROWS, COLUMNS), "i4")


def by_h5py(libver: str, flush: bool) -> Write:
    """Return a write by plain h5py; a buffer is done when its write, and its flush, have returned."""

    def write(path: Path, done: Callable[[int], None]) -> None:
        with h5py.File(path, "a", libver=libver) as file:
            made = file.create_dataset("new", (ROWS, COLUMNS), "i4", chunks=CHUNKS, compression="gzip")
            for start in range(0, ROWS, BUFFER):
                made[start : start + BUFFER] = data()[start : start + BUFFER]
                if flush:
                    file.flush()
                done(start // BUFFER)

    return write


def by_us(path: Path, done: Callable[[int], None], resume: bool = False) -> None:
    """Write with dask_chunkio, on threads; a buffer is done when its commit has returned."""
    store = tasks._store

    def noting(layout: Any, place: tuple[int, int], *more: Any) -> Any:
        receipt = store(layout, place, *more)
        done(place[1])
        return receipt

    keywords: DatasetKeywords = {"compression": "gzip", "chunks": CHUNKS, "buffer_shape": (BUFFER, COLUMNS)}
    with mock.patch.object(tasks, "_store", noting):
        dask_chunkio.to_hdf5(path, "/new", data(), resume=resume, scheduler="threads", progress=False, **keywords)


FILES = ("new", "existing")
WRITERS: dict[str, Write] = {
    "h5py": by_h5py("earliest", flush=False),
    "h5py, flush after each buffer": by_h5py("earliest", flush=True),
    'h5py libver="latest", flush after each buffer': by_h5py("latest", flush=True),
    "dask_chunkio": by_us,
}


@dataclass(frozen=True, slots=True)
class Remains:
    """What another process finds after one kill."""

    opens: bool
    old: bool
    done: int
    right: int
    wrong: bool
    goes_on: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print a table, and fail if anything was lost by us."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.kills", description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="kills of each writer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where files go; by default a memory file system")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, to see that it works")
    options = parser.parse_args(argv)
    runs, draw = 3 if options.tiny else options.runs, random.Random(options.seed)
    found: dict[tuple[str, str], list[Remains]] = {(file, name): [] for file in FILES for name in WRITERS}
    with working_folder(options.folder, 100_000_000) as folder:
        path = folder / "out.h5"
        lengths = {
            name: statistics.median(undisturbed(path, write) for _ in range(3)) for name, write in WRITERS.items()
        }
        for _ in range(runs):
            for (file, name), remains in found.items():
                share = draw.uniform(0.02, 1.0)
                remains.append(killed(path, file, WRITERS[name], share * lengths[name]))
    text = table(found) + f"\n\n{runs} kills of each, after 2 to 100 % of the time that the write takes. {machine()}."
    print(text)
    save(text, None, options.markdown, None)
    ours = [one for (_, name), remains in found.items() if name == "dask_chunkio" for one in remains]
    return 0 if all(one.old and one.right == one.done and not one.wrong and one.goes_on for one in ours) else 1


def undisturbed(path: Path, write: Write) -> float:
    """Return how long a write takes."""
    prepare(path, "existing")
    started = time.perf_counter()
    _wait(_forked(write, path, notes_of(path)))
    return time.perf_counter() - started


def prepare(path: Path, file: str) -> None:
    """Make the folder as it was before the write."""
    for name in path.parent.iterdir():
        if name.is_dir():
            dask_chunkio.discard(path)
        elif name != path:
            name.unlink()
    path.unlink(missing_ok=True)
    if file == "existing":
        with h5py.File(path, "w") as made:
            made["old"] = OLD


def notes_of(path: Path) -> Path:
    """Return where the writer notes which buffers are done."""
    return path.with_name("done")


def killed(path: Path, file: str, write: Write, seconds: float) -> Remains:
    """Kill one write, and look at what it leaves."""
    prepare(path, file)
    child = _forked(write, path, notes_of(path))
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _wait(child)
    notes = notes_of(path)
    done = sorted(map(int, notes.read_text().split())) if notes.exists() else []
    seen = path.with_name("seen")
    # In a process of its own: HDF5 may crash on what is left.
    _wait(_forked(lambda *_: look(path, file, done, write is by_us, seen), path, notes))
    words = list(map(int, seen.read_text().split())) if seen.exists() else [0, 0, 0, 0, 0]
    return Remains(bool(words[0]), bool(words[1]), len(done), words[2], bool(words[3]), bool(words[4]))


def look(path: Path, kind: str, done: list[int], ours: bool, seen: Path) -> None:
    """Note whether the file opens, the old data are there, how many done buffers are right, and whether it goes on."""
    name, file_path, goes_on = "new", path, False
    if ours and path.with_name("out.h5.writing").exists():
        try:
            recovered = dask_chunkio.recover(path)
            name, file_path = recovered.datasets["/new"], Path(recovered.path)
        except dask_chunkio.errors.TargetError:
            name = ""
    opens = wrong = False
    # A write that is killed before it has begun leaves no new file, and nothing old that could be lost.
    old = kind == "new"
    right = 0
    try:
        with h5py.File(file_path, "r") as file:
            opens = True
            old = kind == "new" or bool((file["old"][...] == OLD).all())
            found = file[name][...] if name in file else np.zeros((ROWS, COLUMNS), "i4")
            same = (found == data()).reshape(-1, BUFFER * COLUMNS).all(axis=1)
            right = int(same[done].sum())
            wrong = bool(((found != data()) & (found != 0)).any())
    except Exception:
        opens = opens and old
    if ours:
        with contextlib.suppress(dask_chunkio.errors.TargetExistsError):
            by_us(path, lambda _: None, resume=True)
        with h5py.File(path, "r") as file:
            goes_on = bool((file["new"][...] == data()).all())
            goes_on &= kind == "new" or bool((file["old"][...] == OLD).all())
    seen.write_text(f"{opens:d} {old:d} {right} {wrong:d} {goes_on:d}")


def table(found: dict[tuple[str, str], list[Remains]]) -> str:
    """Return what remained, one row for each file and writer."""
    rows = []
    for (file, name), remains in found.items():
        begun = [one for one in remains if one.done]
        done = sum(one.done for one in begun)
        opens = sum(one.opens for one in begun)
        missed = sum(one.opens and one.right < one.done for one in begun)
        rows.append(
            [
                name,
                file,
                f"{opens} of {len(begun)}",
                "" if file == "new" else f"{sum(one.old for one in remains)} of {len(remains)}",
                f"{100 * sum(one.right for one in begun) / max(done, 1):.1f} %",
                f"{missed} of {len(begun)}",
                f"{sum(one.goes_on for one in remains)} of {len(remains)}",
            ]
        )
    head = ["writer", "file", "opens", "old data there", "finished buffers there", "some missing, silently", "goes on"]
    return markdown_table(head, rows)


def _forked(write: Write, path: Path, notes: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            descriptor = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            write(path, lambda buffer: _note(descriptor, buffer))
        finally:
            os._exit(0)
    return child


def _note(descriptor: int, buffer: int) -> None:
    os.write(descriptor, f"{buffer}\n".encode())


def _wait(child: int) -> None:
    os.waitpid(child, 0)


if __name__ == "__main__":
    sys.exit(main())
