"""Six processes that write one file at once, each four times, and wait for one another.

Usage: python -m tests.support.kills.busy_writes [--runs N] [--seed S] [--folder DIR]
"""

import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from tests.support.options import seeded
from tests.support.processes import exit_code, forked

PROCESSES, ROWS, COLUMNS = 6, 12, 8


def block(process: int, number: int) -> NDArray[Any]:
    return np.full((ROWS, COLUMNS), 100 * process + number, "i4")


def write(path: Path, process: int, scheduler: str) -> None:
    """A new file or a new dataset, a part of it, and two appends to what the others append to as well."""
    keywords: dict[str, Any] = {"wait": True, "progress": False, "scheduler": scheduler}
    new: dict[str, Any] = {"chunks": (5, 8), "compression": "gzip"}
    appended: dict[str, Any] = {"append": True, "resume": True, **keywords, **new}
    calls: list[Callable[[], dcio.WriteResult]] = [
        lambda: dcio.to_hdf5(path, f"/own/{process}", block(process, 0), **new, **keywords),
        lambda: dcio.to_hdf5(path, "/log", block(process, 1), token=f"{process} first", **appended),
        lambda: dcio.to_hdf5(path, f"/own/{process}", block(process, 2)[:7], region=np.s_[2:9], **keywords),
        lambda: dcio.to_hdf5(path, "/log", block(process, 3), token=f"{process} second", **appended),
    ]
    with dask.config.set(num_workers=2):
        for call in calls:
            assert not call().already_complete


def check(path: Path) -> None:
    with h5py.File(path) as file:
        assert set(file) == {"own", "log"}
        for process in range(PROCESSES):
            expected = block(process, 0)
            expected[2:9] = 100 * process + 2
            np.testing.assert_array_equal(file[f"own/{process}"][...], expected)
        log = file["log"][...]
    blocks = sorted(tuple(np.unique(part)) for part in log.reshape(-1, ROWS, COLUMNS))
    assert blocks == sorted((100 * process + number,) for process in range(PROCESSES) for number in (1, 3)), blocks
    assert os.listdir(path.parent) == ["out.h5"]
    assert dcio.verify(path).ok


def run(seed: int, path: Path) -> None:
    draw = random.Random(seed)
    schedulers = [draw.choice(["threads", "threads", "synchronous"]) for _ in range(PROCESSES)]
    begin, gate = os.pipe()

    def write_with_the_others(process: int, scheduler: str) -> None:
        os.close(gate)
        os.read(begin, 1)
        write(path, process, scheduler)

    children = [forked(write_with_the_others, *one) for one in enumerate(schedulers)]
    os.close(begin)
    os.close(gate)
    ends = list(map(exit_code, children))
    assert ends == [0] * PROCESSES, f"processes ended with {ends}"
    check(path)


def main(arguments: Sequence[str] | None = None) -> None:
    options = seeded(__doc__, 24).parse_args(arguments)
    for seed in range(options.seed, options.seed + options.runs):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            try:
                run(seed, Path(folder, "out.h5"))
            except AssertionError as error:
                sys.exit(f"seed {seed}: {error}")
    sys.stdout.write(f"{options.runs} times {4 * PROCESSES} calls, all of them whole\n")


if __name__ == "__main__":
    main()
