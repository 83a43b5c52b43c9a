"""Flips bits of the hidden file of a write that was cut off, goes on with the write, and counts how that ended; seeded.

Usage: python -m tests.support.fuzz.flipped_bits [--runs N] [--seed S] [--folder DIR] [--libver latest] [--all]

Each run has a process of its own, with bounds of time and memory: some bits have HDF5 crash, or ask for memory without
an end.  However it ends, what stands under the final name is the whole array, or nothing does.
"""

import collections
import json
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import dask_chunkio as dcio
from dask_chunkio.errors import ChunkIOError, SourceError
from tests.support.options import seeded
from tests.support.storage.writes import numbers

MEMORY, SECONDS = 2 << 30, 30
DATA = numbers((48, 10))
# Whole data; an error of ours; a crash of HDF5, or its end by a bound.
GOOD = ("whole", "refused", "ended")


class Interrupted(dcio.GenericDataChunkIterator):
    """Its last buffer cannot be read the first time."""

    broken = True

    def _get_data(self, selection: Any) -> Any:
        if self.broken and selection[0].stop == self.maxshape[0]:
            raise OSError("not yet")
        return DATA[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        return DATA.shape

    def _get_dtype(self) -> Any:
        return DATA.dtype


def interrupted(path: Path, libver: str | None = None) -> tuple[Interrupted, dict[str, Any], Path]:
    """Begin a write that its source interrupts; return the source, the other arguments, and the hidden file."""
    source = Interrupted(chunk_shape=(4, 5), buffer_shape=(12, 10))
    call: dict[str, Any] = {"compression": "gzip", "scheduler": "synchronous", "libver": libver}
    try:
        dcio.to_hdf5(path, "/x", source, **call)
    except SourceError:
        source.broken = False
    return source, call, path.with_name(f"{path.name}.writing") / "data.h5"


def flip(path: Path, at: int, bit: int) -> None:
    """Change one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(at)
        (old,) = file.read(1)
        file.seek(at)
        file.write(bytes([old ^ 1 << bit]))


def outcome(path: Path, source: Interrupted, call: dict[str, Any]) -> str:
    """Go on with a write, and say how it ended."""
    try:
        dcio.to_hdf5(path, "/x", source, resume=True, **call)
    except ChunkIOError:
        return "refused, and there" if path.exists() else "refused"
    except Exception as error:
        return f"raised {error!r}"
    try:
        with h5py.File(path) as file:
            return "whole" if np.array_equal(file["x"][...], DATA) else "other data"
    except Exception as error:
        return f"unreadable: {error!r}"


def isolated_outcome(path: Path, source: Interrupted, call: dict[str, Any]) -> str:
    """Do the same in a child."""
    told, tell = os.pipe()
    if not (child := os.fork()):
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.write(tell, outcome(path, source, call).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(told) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said or ("ended, and there" if path.exists() else "ended")


def main() -> int:
    parser = seeded(__doc__, 25)
    parser.add_argument("--libver", help="of the file; by default that of h5py")
    parser.add_argument("--all", action="store_true", help="every bit, in the place of --runs")
    options = parser.parse_args()
    logging.getLogger("dask_chunkio").setLevel(logging.ERROR)
    tally: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        path, copy = Path(base) / "out.h5", Path(base) / "copy"
        source, call, hidden = interrupted(path, options.libver)
        shutil.copytree(hidden.parent, copy)
        bits = [(at, bit) for at in range(hidden.stat().st_size) for bit in range(8)]
        for at, bit in bits if options.all else random.Random(options.seed).sample(bits, options.runs):
            shutil.rmtree(hidden.parent, ignore_errors=True)
            path.unlink(missing_ok=True)
            shutil.copytree(copy, hidden.parent)
            flip(hidden, at, bit)
            ending = isolated_outcome(path, source, call)
            tally[ending] += 1
            if ending not in GOOD:
                sys.stdout.write(f"byte {at}, bit {bit}: {ending}\n")
    failures = sum(count for ending, count in tally.items() if ending not in GOOD)
    sys.stdout.write(json.dumps({"runs": tally.total(), "failures": failures, "outcomes": tally}) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
