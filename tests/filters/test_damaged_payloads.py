"""Damaged payloads through every decoder (`tests.support.fuzz.payloads`)."""

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat, Payload
from tests.support.fuzz import payloads
from tests.support.processes import run_python

SEED = os.environ.get("DASK_CHUNKIO_SEED", str(int.from_bytes(os.urandom(3))))


def fuzzed(runs: int, isolated: int) -> list[dict[str, Any]]:
    words = ("--runs", runs, "--isolated-runs", isolated, "--seed", SEED)
    done = run_python("-m", "tests.support.fuzz.payloads", *words, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_damaged_payloads_neither_crash_nor_hang_nor_take_memory() -> None:
    found = {one["codec"]: one for one in fuzzed(300, 0)}
    assert found.keys() == set(payloads.NAMES)
    assert not any(found[name]["other"] for name in payloads.CHECKED)


@pytest.mark.heavy
def test_damaged_payloads_at_length() -> None:
    runs = int(os.environ.get("DASK_CHUNKIO_FUZZ_RUNS", "400"))
    fuzzed(250 * runs, runs // 4)


FORM = ChunkFormat((8,), np.dtype("u1"), ())


class Decoder:
    """A decoder that does what none may."""

    name, is_parallel, most_nbytes, decodes_parts = "none", True, 100, False

    def __init__(self, act: Any) -> None:
        self._act = act

    def decode(self, payload: Payload, needed: slice | None = None) -> Any:  # noqa: ARG002, always all of it
        self._act(payload)
        return np.zeros(8, "u1")


def takes(nbytes: int) -> None:
    assert len(np.empty(nbytes, "u1")) == nbytes


def refuses(_: Payload) -> None:
    raise IntegrityError("the chunk is wrong")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda _: ctypes.string_at(0), "signal 11"),
        (lambda _: takes(100 << 20), "bytes more for"),
        (lambda _: sum(iter(int, 1)), "signal 14"),
        (refuses, "words: the chunk is wrong"),
    ],
    ids=["crash", "memory", "hang", "words"],
)
def test_what_must_not_be_is_noticed_and_named(
    act: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = payloads.Case(FORM, Decoder(act), [(Payload(bytes(8)), bytes(8))])
    monkeypatch.setattr(payloads, "cases", lambda _: [case])
    monkeypatch.setattr(payloads, "PATIENCE", 1)
    said = tmp_path / "said"
    with said.open("w") as file:
        found = payloads.run("none", 5, 1, file)
    assert sum(found["failures"].values()) == 1
    assert words in said.read_text() + str(found["failures"])
