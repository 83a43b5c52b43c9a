"""A script of five writes that always says resume=True: killed until it ends, then run three times more.

Usage: python -m tests.support.kills.scripted_writes [--runs N] [--seed S] [--folder DIR]

Each run is killed by SIGKILL some times, at a random call to the system, halfway through its bytes, or at a random
moment; the calls of the end of a write and of the removal of its folder are among them.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from tests.support.files import Entry, content, hidden, values
from tests.support.options import seeded
from tests.support.processes import exit_code, forked, in_child
from tests.support.system_calls import count_calls, kill_at


def numbers(seed: int, rows: int, columns: int = 12) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 1000, (rows, columns)).astype("i4")


X, MORE, Y, PART, Z, OLD = (numbers(seed, rows) for seed, rows in enumerate((22, 13, 17, 8, 20, 9)))
TOKENS: dict[str, list[str]] = {"x": ["made", "more"], "g/y": ["part"], "z": []}


def script(path: Path, durability: str) -> list[dcio.WriteResult]:
    """What a user's script does, as often as it is run."""
    keywords: dict[str, Any] = {
        "resume": True,
        "durability": durability,
        "progress": False,
        "chunks": (4, 5),
        "compression": "gzip",
    }
    region: dict[str, Any] = {"resume": True, "durability": durability, "progress": False}
    with dask.config.set(scheduler="threads", num_workers=2):
        return [
            dcio.to_hdf5(path, "/x", X, token="made", maxshape=(None, 12), **keywords),
            dcio.to_hdf5(path, "/g/y", Y, **keywords),
            dcio.to_hdf5(path, "/x", MORE, append=True, token="more", **keywords),
            dcio.to_hdf5(path, "/g/y", PART, region=np.s_[5:13], token="part", **region),
            dcio.to_hdf5(path, "/z", Z, overwrite=True, **keywords),
        ]


def prepare(path: Path, has_file: bool) -> None:
    if has_file:
        with h5py.File(path, "w") as file:
            file["old"] = OLD
            file["z"] = [1, 2, 3]


def check(path: Path, has_file: bool) -> dict[str, Entry]:
    expected = {"x": np.concatenate([X, MORE]), "g/y": Y.copy(), "z": Z} | ({"old": OLD} if has_file else {})
    expected["g/y"][5:13] = PART
    found = content(path)
    assert found.keys() == {"/", "/g", *(f"/{name}" for name in expected)}, found.keys()
    assert not hidden(path)
    for name, data in expected.items():
        assert found[f"/{name}"][0] == values(data), f"/{name} is {found[f'/{name}'][0][0]}"
        tokens = tokens_of(path, name)
        assert tokens == TOKENS.get(name, []), f"/{name} has the tokens {tokens}"
    assert os.listdir(path.parent) == ["out.h5"], os.listdir(path.parent)
    assert dcio.verify(path).ok
    return found


def tokens_of(path: Path, name: str) -> Any:
    with h5py.File(path) as file:
        return json.loads(file[name].attrs.get("dask_chunkio_tokens", "[]"))


def killed(path: Path, durability: str, number: int | None) -> None:
    if number is not None:
        kill_at(number)
    script(path, durability)


def killed_after(path: Path, durability: str, seconds: float) -> int:
    """Return how a process ends that is killed after a while."""
    child = forked(script, path, durability)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return exit_code(child)


def counted(path: Path, durability: str, note: Path) -> None:
    calls: list[str] = []
    count_calls(lambda *call: calls.append(call[0]))
    start = time.monotonic()
    script(path, durability)
    note.write_text(json.dumps([len(calls), time.monotonic() - start]))


def run(seed: int, folder: Path) -> int:
    """Return how often the script was killed, and what the file holds."""
    draw = random.Random(seed)
    has_file, durability = draw.random() < 0.5, draw.choice(["process", "power"])
    for name in ("counted", "run"):
        (folder / name).mkdir()
        prepare(folder / name / "out.h5", has_file)
    assert in_child(counted, folder / "counted" / "out.h5", durability, folder / "calls") == 0
    calls, seconds = json.loads((folder / "calls").read_text())
    path, kills = folder / "run" / "out.h5", 0
    for _ in range(draw.randrange(1, 9)):
        if draw.random() < 0.7:
            ended = in_child(killed, path, durability, draw.randrange(calls))
        else:
            ended = killed_after(path, durability, draw.uniform(0, seconds))
        assert ended in (0, -signal.SIGKILL), f"the script ended with an error after {kills} kills"
        kills += ended != 0
    found = []
    for _ in range(4):
        assert in_child(killed, path, durability, None) == 0, f"the script ended with an error after {kills} kills"
        found.append(check(path, has_file))
    assert found == found[:1] * 4, "not one result"
    return kills


def main(arguments: Sequence[str] | None = None) -> None:
    options = seeded(__doc__, 50).parse_args(arguments)
    kills = 0
    for seed in range(options.seed, options.seed + options.runs):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            try:
                kills += run(seed, Path(folder))
            except AssertionError as error:
                sys.exit(f"seed {seed}: {error}")
    sys.stdout.write(f"{options.runs} scripts, {kills} kills, one result each\n")


if __name__ == "__main__":
    main()
