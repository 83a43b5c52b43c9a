"""What a storm must leave, judged by h5py, h5dump and pyfive, without the package."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyfive
from numpy.typing import NDArray

from tests.support.promises import require
from tests.support.storm.jobs import COLUMNS, FILE, Job


def require_whole(folder: str | Path, jobs: Sequence[Job]) -> None:
    """Nothing is doubled, lost or harmed, and nothing is left beside the file."""
    path = os.path.join(folder, FILE)
    require(not os.path.exists(path + ".writing"), "the folder of side files is left")
    with h5py.File(path, "r") as file:
        _require_others(file)
        _require_series(file["series"][...], [job for job in jobs if job.kind == "append"])
        _require_map(file["map"][...], [job for job in jobs if job.kind == "region"])
        for job in jobs:
            if job.kind in ("new", "overwrite"):
                require(np.array_equal(file[job.name][...], job.data), f"{job.name} holds other values")
        names = {"by": 0, "theirs": 0, "g": 0, "series": 0, "map": 0} | dict.fromkeys(job.kind for job in jobs)
        require(set(file) <= set(names), f"{set(file) - set(names)} is left in the file")
        for kind in ("new", "overwrite"):
            wanted = {str(job.number) for job in jobs if job.kind == kind}
            require(set(file.get(kind, ())) == wanted, f"/{kind} holds {set(file.get(kind, ()))}, not {wanted}")
    _require_read_elsewhere(path)


def _require_others(file: h5py.File) -> None:
    require(file.attrs["by"] == "others" and file["g"].attrs["note"] == "kept", "attributes of others are harmed")
    require(np.array_equal(file["theirs"][...], np.arange(3000)), "/theirs is harmed")
    require(np.array_equal(file["g/packed"][...], np.arange(4000).reshape(-1, 8)), "/g/packed is harmed")


def _require_series(found: NDArray[Any], jobs: Sequence[Job]) -> None:
    require((found[:7] == 0).all(), "the first rows of /series are harmed")
    blocks = found[7:].reshape(-1, *(jobs[0].data.shape if jobs else (1, COLUMNS)))
    which = [next((job.number for job in jobs if np.array_equal(block, job.data)), None) for block in blocks]
    wanted = sorted(job.number for job in jobs)
    require(None not in which, f"/series has rows that are nobody's: {which}")
    require(
        sorted(number for number in which if number is not None) == wanted,
        f"/series has the rows of {which}, not of {wanted}",
    )


def _require_map(found: NDArray[Any], jobs: Sequence[Job]) -> None:
    wanted = np.full_like(found, -1)
    for job in jobs:
        wanted[job.rows] = job.data
    require(np.array_equal(found, wanted), f"/map differs in rows {np.flatnonzero((found != wanted).any(axis=1))}")


def _require_read_elsewhere(path: str) -> None:
    with h5py.File(path, "r") as file:
        by_h5py = {name: file[name][...] for name in ("theirs", "series", "map")}
    if shutil.which("h5dump"):
        done = subprocess.run(["h5dump", path], capture_output=True, check=False)
        require(done.returncode == 0 and not done.stderr, f"h5dump: {done.returncode} {done.stderr[-300:]!r}")
    with pyfive.File(path) as file:
        for name, wanted in by_h5py.items():
            try:
                found = file[name][...]
            except RuntimeError:  # a format that it does not know
                continue
            require(np.array_equal(found, wanted), f"pyfive reads other values of {name}")
