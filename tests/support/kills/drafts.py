"""Drafts that are killed at random moments and made again, until they are published.

Usage: python -m tests.support.kills.drafts [--kills N] [--seed S] [--folder DIR]

A script makes a structure with every kind of object, fills it in two calls, and publishes it.  It is killed as it
begins, in the structure, in the fills and as it publishes, and run again with ``resume=True``.  Before it ends, the
final name stands for nothing, or for what it stood for before.
"""

import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

import dask_chunkio as dcio
from tests.support.drafts.structures import make_reference, make_structure, require_alike, sources
from tests.support.files import digest
from tests.support.iterators import FromArray
from tests.support.kills.killed_scripts import count_kills, parser_of, run_and_kill
from tests.support.processes import python
from tests.support.promises import require

FILE = "out.h5"


class Paused(FromArray):
    """An array that takes its time."""

    def _get_data(self, selection: Any) -> Any:
        time.sleep(0.004)
        return super()._get_data(selection)


def run_script(folder: Path, mode: Any, scheduler: str) -> None:
    """Make the whole draft, as a user's script does that is run again and again."""
    (folder / "begun").touch()
    with dcio.draft(folder / FILE, mode=mode, resume=True, wait=True) as draft:
        if draft.is_new and mode == "x":
            make_structure(draft.path)
        elif draft.is_new:
            with h5py.File(draft.path, "r+") as file:
                file.attrs["changed"] = True
        data = sources()
        raw, records = data.pop("/acquisition/raw"), data.pop("/records")
        paused = {
            "/acquisition/raw": Paused(raw, chunk_shape=(50, 8), buffer_shape=(50, 12)),
            "/records": Paused(records, chunk_shape=(25,), buffer_shape=(25,)),
        }
        draft.fill(paused, scheduler=scheduler, progress=False)
        draft.fill({**data, "/new/dataset": data["/acquisition/time"]}, scheduler=scheduler, progress=False)


def killed_until_done(folder: Path, mode: str, scheduler: str, draw: random.Random, longest: float) -> int:
    """Run and kill the script until it ends by itself; return how often it was killed."""
    before = digest(folder / FILE) if (folder / FILE).exists() else ""
    words = python("-m", "tests.support.kills.drafts", "--script", mode, scheduler, "--folder", folder)
    kills = 0
    while True:
        # A structure that is cut off begins anew: the script is given longer and longer.
        code, errors, is_killed = run_and_kill(words, folder, draw.random() * longest * 1.2**kills)
        kills += is_killed
        if code == 0:
            return kills
        is_published = b"TargetExistsError" in errors and mode == "x"
        require(code == -9 or is_published, errors.decode())
        if is_published or _is_published(folder, mode, before):
            return kills
        is_as_before = digest(folder / FILE) == before if before else not (folder / FILE).exists()
        require(is_as_before or (folder / f"{FILE}.draft").exists(), "something is there before the end")


def _is_published(folder: Path, mode: str, before: str) -> bool:
    """Whether the script was killed after it had published the file and removed the folder."""
    is_there = (folder / FILE).exists() and not (folder / f"{FILE}.draft").exists()
    return is_there and (mode == "x" or digest(folder / FILE) != before)


def one_draft(folder: Path, draw: random.Random) -> Counter[str]:
    """Make one draft, and judge what comes of it."""
    mode, scheduler = draw.choice("xxa"), draw.choice(["threads", "synchronous"])
    reference = folder / "reference.h5"
    make_reference(reference)
    if mode == "a":
        make_structure(folder / FILE)
    kills = killed_until_done(folder, mode, scheduler, draw, draw.choice([0.05, 0.3, 1.0]))
    with h5py.File(reference, "r+") as file:
        file["new/dataset"] = sources()["/acquisition/time"]
        if mode == "a":
            file.attrs["changed"] = True
    dcio.discard(folder / FILE)
    with h5py.File(folder / FILE, "r+") as file:
        # Chunked here, contiguous in the reference.
        chunked = file["new/dataset"][:]
        del file["new/dataset"]
        file["new/dataset"] = chunked
    require_alike(folder / FILE, reference)
    require(sorted(one.name for one in folder.iterdir() if "out" in one.name) == [FILE], "something is left")
    shutil.rmtree(folder)
    return Counter({"drafts": 1, "kills": kills, mode: 1})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, 300)
    parser.add_argument("--script", nargs=2, metavar=("MODE", "SCHEDULER"), help="run the script, and nothing else")
    options = parser.parse_args(arguments)
    if options.script is not None:
        run_script(options.folder, *options.script)
        return 0
    count_kills(options, one_draft)
    return 0


if __name__ == "__main__":
    sys.exit(main())
