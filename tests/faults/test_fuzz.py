"""Side files that are damaged, by accident and on purpose: an error of ours, and nothing else touched."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.files import MEMORY
from tests.support.processes import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's limits and devices")
SCRIPT = "tests.support.fuzz.side_files"
FINISHED = "tests.support.fuzz.finished_files"
# Of the heavy tests: how many cases, and which; with thousands, --timeout has to be longer.
RUNS = int(os.environ.get("DASK_CHUNKIO_FUZZ_RUNS", "400"))
SEED = int(os.environ.get("DASK_CHUNKIO_SEED", "1000000"))


def fuzz(tmp_path: Path, *words: Any, script: Any = SCRIPT, timeout: int = 250) -> Any:
    """In a process of its own, which may crash or be ended by its watchdog."""
    done = run_python("-W", "error", "-m", script, "--folder", tmp_path, *words, timeout=timeout)
    lines = done.stdout.splitlines()
    said = f"ended with {done.returncode}; last lines: {done.stderr[-3000:]}"
    assert done.returncode in (0, 1), said
    assert lines, said
    tally = json.loads(lines[-1])
    assert tally["failures"] == 0, "\n".join([*lines[:40], f"{tally['failures']} of {tally['runs']}"])
    return tally


def test_side_files_that_are_damaged_are_refused_and_lead_nowhere(tmp_path: Path) -> None:
    tally = fuzz(tmp_path, "--runs", 5)
    assert tally["runs"] == 20
    assert tally["outcomes"]["done"] > 3
    assert tally["outcomes"]["IntegrityError"] > 1


def test_verify_of_damaged_files_ends_with_an_answer_or_an_error_of_ours(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, "--runs", 8, "--seed", 1158, script=FINISHED)["outcomes"]
    assert outcomes["problems"] > 0
    assert "crashed or endless, and said so" in outcomes


def test_recover_and_discard_of_damaged_files_end_with_an_error_of_ours(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, "--runs", 15, "--unfinished", script=FINISHED)["outcomes"]
    assert outcomes["IntegrityError"] > 1
    assert outcomes["answer"] > 2


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """Made of thousands of small files that are synced, it is not about the disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.mark.heavy
def test_verify_of_many_damaged_files(in_memory: Any) -> None:
    fuzz(in_memory, "--runs", RUNS // 2, "--seed", SEED, script=FINISHED)
    fuzz(in_memory, "--runs", RUNS // 2, "--seed", SEED, "--unfinished", script=FINISHED)


@pytest.mark.heavy
def test_every_entry_on_side_files_as_they_were_left(in_memory: Any) -> None:
    fuzz(in_memory, "--cases", "undamaged")


@pytest.mark.heavy
def test_many_damaged_side_files(in_memory: Any) -> None:
    fuzz(in_memory, "--cases", "seeded", "--runs", RUNS, "--seed", SEED)


@pytest.mark.heavy
@pytest.mark.parametrize("cases", ["stand-ins", "forged"])
def test_stand_ins_and_forgeries(in_memory: Any, cases: str) -> None:
    fuzz(in_memory, "--cases", cases, "--runs", RUNS, "--seed", SEED)
