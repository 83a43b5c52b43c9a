"""Conversions of zarr stores and HDF5 files that are killed at random moments and run again, until they are whole.

Usage: python -m tests.support.kills.conversions [--kills N] [--seed S] [--folder DIR]

Before a conversion ends, the name of its target stands for nothing, or for the store that it replaces.
"""

import random
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (its filters)
import numpy as np
import zarr

import dask_chunkio as dcio
from dask_chunkio.integrations.zarr.compat import quiet
from tests.support.kills.killed_scripts import count_kills, parser_of, run_and_kill
from tests.support.processes import python
from tests.support.promises import require

DATA = np.random.default_rng(0).integers(0, 50, (400, 60)).astype("i4")
ARRAYS = ("a", "g/b", "g/h/c")
OLD = 5


def make_source(folder: Path, is_file: bool) -> Path:
    """Make a file or a store of several arrays; the chunks of one of them have to be encoded."""
    if is_file:
        with h5py.File(folder / "in.h5", "w") as file:
            for name in ARRAYS:
                compression = "lzf" if name == "g/b" else "gzip"
                file.create_dataset(name, data=DATA, chunks=(10, 20), compression=compression)
        return folder / "in.h5"
    with quiet():
        root = zarr.open_group(folder / "in.zarr", mode="w")
        for name in ARRAYS:
            codec = "gzip" if name == "g/b" else "zstd"
            root.create_array(name, data=DATA, chunks=(10, 20), compressors=[{"name": codec, "configuration": {}}])
    return folder / "in.zarr"


def read_target(target: Path) -> dict[str, Any]:
    """Return all arrays of a whole target."""
    if target.suffix == ".h5":
        with h5py.File(target) as file:
            return {name: file[name][...] for name in ARRAYS}
    with quiet():
        root: Any = zarr.open_group(target, mode="r")
        return {name: root[name][...] for name in ARRAYS}


def require_whole(target: Path) -> None:
    """Require that a target has all arrays."""
    require(all(np.array_equal(found, DATA) for found in read_target(target).values()), f"{target} is not whole")


def make_old(target: Path) -> None:
    """Make a store that is replaced."""
    zarr.open_group(target, mode="w", attributes={"old": OLD}).create_array("x", data=np.arange(OLD))


def is_old(target: Path) -> bool:
    """Return whether a store is the one that is replaced."""
    root: Any = zarr.open_group(target, mode="r")
    return bool(root.attrs.get("old") == OLD) and root["x"][...].tolist() == list(range(OLD))


def convert(source: Path, target: Path, overwrite: bool) -> None:
    """Convert, as a user's script does that is run again and again."""
    (target.parent / "begun").touch()
    dcio.convert(source, target, overwrite=overwrite, resume=True)


def one_conversion(folder: Path, draw: random.Random) -> Counter[str]:
    """Run and kill a conversion until it ends by itself, and judge what comes of it."""
    is_file, longest = draw.random() < 0.5, draw.choice([0.05, 0.3, 1.0])
    source, target = make_source(folder, is_file), folder / ("out.zarr" if is_file else "out.h5")
    replaces = is_file and draw.random() < 0.5
    if replaces:
        make_old(target)
    words = python("-m", "tests.support.kills.conversions", "--convert", source, target, "--folder", folder)
    words += ["--overwrite"] if replaces else []
    kills = 0
    while True:
        code, errors, is_killed = run_and_kill(words, folder, draw.random() * longest * 1.2**kills)
        kills += is_killed
        if target.exists() and not (replaces and is_old(target)):
            require_whole(target)
        require(target.exists() or not replaces or (folder / "out.zarr.converting/old").exists(), "the old one is lost")
        if code == 0 or (b"TargetExistsError" in errors and target.exists()):
            break
        require(code == -9, errors.decode())
    require_whole(target)
    left = {path.name for path in folder.iterdir()} - {source.name, target.name, "begun"}
    require(not left, f"{left} is left")
    shutil.rmtree(folder)
    return Counter({"conversions": 1, "kills": kills, "to zarr" if is_file else "to HDF5": 1, "replaced": replaces})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, 100)
    parser.add_argument("--convert", nargs=2, type=Path, help="convert, and nothing else")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(arguments)
    if options.convert is not None:
        source, target = options.convert
        convert(source, target, options.overwrite)
        return 0
    count_kills(options, one_conversion)
    return 0


if __name__ == "__main__":
    sys.exit(main())
