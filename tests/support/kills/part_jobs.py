"""Independent jobs that write one file in parts, a third of them killed once.

Usage: python -m tests.support.kills.part_jobs [--jobs N] [--at-once N] [--seed S] [--folder DIR] [--way WAY]

Each job is a program of its own, and knows only its number.  They start in random order; a job that was killed is run
again later.  In the end the file is the one that h5py writes, and one job says that it has finished it.  With
``--way draft``, the job that comes first makes a structure, and each job fills its part of it; with ``--way regions``,
each job has only the data of its own part.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from tests.support.files import MEMORY
from tests.support.iterators import FromArray
from tests.support.processes import environment, python
from tests.support.promises import require

FILE = "out.h5"
SHAPE, CHUNKS, BUFFER = (3000, 40), (10, 16), (20, 40)
KILLED = 1 / 3


def data() -> NDArray[Any]:
    """Nowhere the fill value."""
    return (1 + np.arange(SHAPE[0] * SHAPE[1], dtype="i4")).reshape(SHAPE)


class Paused(FromArray):
    """An array that takes its time."""

    def _get_data(self, selection: Any) -> Any:
        time.sleep(0.002)
        return super()._get_data(selection)


def run_job(folder: Path, number: int, count: int, way: str) -> None:
    """Write one part, and say how that ended."""
    (folder / f"begun-{number}").touch()
    done = {"write": _write, "draft": _fill, "regions": _fill_region}[way](folder / FILE, (number, count))
    said = {"whole": done.is_whole, "missing": len(done.missing_parts), "complete": done.already_complete}
    said["nbytes"] = 0 if done.already_complete else done.nbytes
    (folder / f"said-{number}.part").write_text(json.dumps(said))
    os.replace(folder / f"said-{number}.part", folder / f"said-{number}")


def _paused(values: NDArray[Any]) -> Paused:
    return Paused(values, buffer_shape=BUFFER, chunk_shape=CHUNKS)


def _write(path: Path, part: tuple[int, int]) -> dcio.WriteResult:
    source = _paused(data())
    return dcio.to_hdf5(
        path, "/x", source, part=part, compression="gzip", shuffle=True, progress=False, scheduler="synchronous"
    )


def _fill(path: Path, part: tuple[int, int]) -> dcio.WriteResult:
    source = _paused(data())
    return _drafted(path, part, {"/x": source, "/new": source}, None)


def _fill_region(path: Path, part: tuple[int, int]) -> dcio.WriteResult:
    number, count = part
    rows = SHAPE[0] // CHUNKS[0]
    region = slice(number * rows // count * CHUNKS[0], (number + 1) * rows // count * CHUNKS[0])
    return _drafted(path, part, {"/x": _paused(data()[region])}, region)


def _drafted(path: Path, part: tuple[int, int], sources: dict[str, Paused], region: slice | None) -> dcio.WriteResult:
    if path.exists():
        # The job was killed after another one had published the file.
        return dcio.WriteResult(str(path), (), 0.0, already_complete=True)
    with dcio.draft(path, part=part) as draft:
        if draft.is_new:
            with h5py.File(draft.path, "w") as file:
                made = file.create_dataset("x", SHAPE, "i4", chunks=CHUNKS, compression="gzip", shuffle=True)
                file["soft"] = h5py.SoftLink("/x")
                made.attrs["unit"] = "mV"
        return draft.fill(sources, region=region, scheduler="synchronous", progress=False)


@dataclass
class Running:
    """A job that runs; it is killed at some time, if it is to be killed."""

    number: int
    process: subprocess.Popen[bytes]
    delay: float | None
    due: float | None = None


class Jobs:
    """All jobs of one write.

    Parameters
    ----------
    folder : Path
        An empty one.
    count, at_once : int
        How many jobs there are, and run at once.
    draw : random.Random
        Chooses.
    way : str
        What they do: ``"write"``, ``"draft"`` or ``"regions"``.
    """

    def __init__(self, folder: Path, count: int, at_once: int, draw: random.Random, way: str) -> None:
        self.folder, self.count, self.at_once, self.draw = folder, count, at_once, draw
        self.options = ["--way", way]
        self.waiting = draw.sample(range(count), count)
        self.to_kill = set(draw.sample(range(count), round(count * KILLED)))
        self.running: list[Running] = []
        self.tally: Counter[str] = Counter()

    def run(self) -> None:
        while self.waiting or self.running:
            while self.waiting and len(self.running) < self.at_once:
                self._start(self.waiting.pop())
            for one in list(self.running):
                self._look_at(one)
            time.sleep(0.005)

    def _start(self, number: int) -> None:
        words = python("-m", "tests.support.kills.part_jobs", "--job", number, "--jobs", self.count)
        process = subprocess.Popen([*words, "--folder", str(self.folder), *self.options], env=environment())
        delay = self.draw.random() * self.draw.choice([0.02, 0.1, 0.3]) if number in self.to_kill else None
        self.running.append(Running(number, process, delay))

    def _look_at(self, one: Running) -> None:
        if one.delay is not None and one.due is None and (self.folder / f"begun-{one.number}").exists():
            one.due = time.monotonic() + one.delay
        if one.due is not None and time.monotonic() > one.due:
            one.process.kill()
        code = one.process.poll()
        if code is None:
            return
        self.running.remove(one)
        self.to_kill.discard(one.number)
        require(code in (0, -signal.SIGKILL), f"job {one.number} ended with {code}")
        if code:
            self.tally["killed"] += 1
            self.waiting.insert(self.draw.randint(0, len(self.waiting)), one.number)


def judge(folder: Path, count: int, way: str) -> Counter[str]:
    """One file, equal, finished once."""
    require(not any((folder / f"{FILE}{end}").exists() for end in (".writing", ".draft")), "the folder is left")
    with h5py.File(folder / FILE, "r") as file:
        require(np.array_equal(file["x"][...], data()), "the file holds other values")
        require(file["x"].chunks == CHUNKS and file["x"].compression == "gzip", "the dataset is another one")
        if way == "draft":
            require(np.array_equal(file["new"][...], data()), "a new dataset holds other values")
        if way != "write":
            require(set(file) - {"new"} == {"soft", "x"} and file["soft"].attrs["unit"] == "mV", "another structure")
    said = [json.loads((folder / f"said-{number}").read_text()) for number in range(count)]
    whole = sum(one["whole"] and not one["complete"] for one in said)
    # A job may be killed when it has finished the file, before it can say so.
    # Several jobs may find that a draft is whole; the last of them publishes it.
    is_finished_once = (
        whole == 1 or (way != "write" and whole > 0) or (whole == 0 and any(one["complete"] for one in said))
    )
    require(is_finished_once, f"{whole} jobs say that they have finished the file")
    return Counter(whole=whole, complete=sum(one["complete"] for one in said))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--way", choices=("write", "draft", "regions"), default="write", help="what the jobs do")
    parser.add_argument("--job", type=int, help="run this job, and nothing else")
    options = parser.parse_args(arguments)
    if options.job is not None:
        run_job(options.folder, options.job, options.jobs, options.way)
        return 0
    folder, started = Path(tempfile.mkdtemp(dir=options.folder or MEMORY, prefix="parts-")), time.monotonic()
    jobs = Jobs(folder, options.jobs, options.at_once, random.Random(options.seed), options.way)
    try:
        jobs.run()
        tally = jobs.tally + judge(folder, options.jobs, options.way)
    finally:
        for one in jobs.running:
            one.process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    figures = ", ".join(f"{name} {count}" for name, count in tally.items())
    sys.stdout.write(f"seed {options.seed}: {options.jobs} jobs, {figures}; {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
