"""Repacks that are killed at random moments and run again, until they are published.

Usage: python -m tests.support.kills.repacks [--kills N] [--seed S] [--folder DIR]

A file with every kind of object, and with datasets that are filled and copied in parallel, is repacked to another name
or in place.  The process is killed as it begins, in the structure, in the fill, in the comparison and as it publishes,
and run again with ``resume=True``.  Until it ends, the input is whole, and the name of the copy stands for nothing, or
for what it stood for before.
"""

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

import dask_chunkio as dcio
from dask_chunkio.repacking import layouts
from tests.support.drafts.structures import make_reference
from tests.support.files import digest
from tests.support.kills.killed_scripts import count_kills, parser_of, run_and_kill
from tests.support.processes import python
from tests.support.promises import require

OLD, NEW = "old.h5", "new.h5"


def make_file(path: Path) -> None:
    """Make the file that is repacked."""
    make_reference(path)
    with h5py.File(path, "r+") as file:
        x = np.arange(1_200_000, dtype="<i4").reshape(2000, 600)
        large = file.create_dataset("large/chunked", data=x, chunks=(100, 60), compression="gzip", compression_opts=1)
        file["large/plain"] = x[::-1] / 7
        file["large"].attrs["refers"] = large.ref
        kept = np.random.default_rng(7).integers(0, 9999, (2000, 60))
        file.create_dataset("kept", data=kept, chunks=(100, 60), shuffle=True, compression="gzip", compression_opts=2)
        for number in range(300):
            file[f"many/{number}"] = number


def pause(event: object) -> None:
    """Make a fill take its time."""
    if isinstance(event, dcio.BufferCommitted):
        time.sleep(0.004)


def run_script(folder: Path, mode: str, scheduler: str) -> None:
    """Repack the file, as a script does that is run again and again."""
    (folder / "begun").touch()
    # So that tasks copy the payloads of a dataset that stays as it is.
    layouts.LEAST_COPIED = 1 << 16
    output = None if mode == "in_place" else folder / NEW
    dcio.repack(
        folder / OLD, output, filters=["SHUF", "GZIP=2"], layouts=["/large/*:CHUNK=50x100"], verify=mode == "verify",
        in_place=mode == "in_place", overwrite=mode == "overwrite", resume=True, wait=True, callback=pause,
        isolated=scheduler == "threads",
        scheduler=scheduler, progress=False,
    )  # fmt: skip


def killed_until_done(folder: Path, mode: str, scheduler: str, draw: random.Random, longest: float) -> int:
    """Run and kill the script until it ends by itself; return how often it was killed."""
    target = folder / (OLD if mode == "in_place" else NEW)
    before, original = digest(target) if target.exists() else "", digest(folder / OLD)
    words = python("-m", "tests.support.kills.repacks", "--script", mode, scheduler, "--folder", folder)
    kills = 0
    while True:
        # A structure that is cut off begins anew: the script is given longer and longer.
        code, errors, is_killed = run_and_kill(words, folder, draw.random() * longest * 1.15**kills)
        kills += is_killed
        if code == 0:
            return kills
        is_published = b"TargetExistsError" in errors and mode in ("new", "verify")
        require(code == -9 or is_published, errors.decode())
        if is_published or _is_published(target, before):
            return kills
        require(mode == "in_place" or digest(folder / OLD) == original, "the input has changed")
        is_as_before = digest(target) == before if before else not target.exists()
        require(is_as_before or Path(f"{target}.draft").exists(), "something is there before the end")


def _is_published(target: Path, before: str) -> bool:
    """Whether the script was killed after it had published the file and removed the folder."""
    is_there = target.exists() and not Path(f"{target}.draft").exists()
    return is_there and digest(target) != before


def one_repack(folder: Path, draw: random.Random) -> Counter[str]:
    """Repack one file, and judge what comes of it."""
    mode, scheduler = draw.choice(["new", "verify", "in_place", "overwrite"]), draw.choice(["threads", "synchronous"])
    make_file(folder / OLD)
    shutil.copy(folder / OLD, folder / "reference.h5")
    if mode == "overwrite":
        with h5py.File(folder / NEW, "w") as file:
            file["before"] = 1
    kills = killed_until_done(folder, mode, scheduler, draw, draw.choice([0.1, 0.6, 1.5]))
    target = folder / (OLD if mode == "in_place" else NEW)
    dcio.discard(target)
    _judge(folder / "reference.h5", target)
    require(not [one for one in folder.iterdir() if "draft" in one.name or "removed" in one.name], "something is left")
    shutil.rmtree(folder)
    return Counter({"repacks": 1, "kills": kills, mode: 1})


def _judge(reference: Path, target: Path) -> None:
    told = subprocess.run(["h5diff", str(reference), str(target)], capture_output=True, text=True, check=False)
    require(told.returncode == 0, f"h5diff: {told.returncode} {told.stdout[-500:]}")
    with h5py.File(target) as file:
        require(file["large/chunked"].chunks == (50, 100), "the layout is not the one that was asked for")
        require(file["large/plain"].compression_opts == 2, "the filters are not those that were asked for")
        require(file[file["large"].attrs["refers"]] == file["large/chunked"], "a reference is lost")
        require(len(file["many"]) == 300, "small datasets are lost")
        with h5py.File(reference) as old:
            kept = [one["kept"].id.read_direct_chunk((100, 0)) for one in (old, file)]
        require(kept[0] == kept[1], "a payload that stays is encoded anew")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, 200)
    parser.add_argument("--script", nargs=2, metavar=("MODE", "SCHEDULER"), help="run the script, and nothing else")
    options = parser.parse_args(arguments)
    if options.script is not None:
        run_script(options.folder, *options.script)
        return 0
    count_kills(options, one_repack)
    return 0


if __name__ == "__main__":
    sys.exit(main())
