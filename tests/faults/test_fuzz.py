"""Side files that are damaged, by accident and on purpose: an error of ours, and nothing else touched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's limits and devices")
SCRIPT = Path(__file__).with_name("fuzz_side_files.py")
FINISHED = Path(__file__).with_name("fuzz_finished_files.py")


def fuzz(tmp_path, *words, script=SCRIPT, timeout=250):
    """In a process of its own, which may crash or be ended by its watchdog."""
    words = [sys.executable, "-W", "error", str(script), "--folder", str(tmp_path), *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode in (0, 1), f"ended with {done.returncode}; last lines: {done.stderr[-3000:]}"
    tally = json.loads(lines[-1])
    assert tally["failures"] == 0, "\n".join([*lines[:40], f"{tally['failures']} of {tally['runs']}"])
    return tally


def test_side_files_that_are_damaged_are_refused_and_lead_nowhere(tmp_path):
    tally = fuzz(tmp_path, "--runs", 120)
    assert tally["runs"] == 480
    assert tally["outcomes"]["done"] > 100
    assert tally["outcomes"]["IntegrityError"] > 50


def test_verify_of_damaged_files_ends_with_an_answer_or_an_error_of_ours(tmp_path):
    outcomes = fuzz(tmp_path, "--runs", 20, "--seed", 1150, script=FINISHED)["outcomes"]
    assert outcomes["problems"] > 3
    assert "crashed or endless, and said so" in outcomes


def test_recover_and_discard_of_damaged_files_end_with_an_error_of_ours(tmp_path):
    outcomes = fuzz(tmp_path, "--runs", 40, "--unfinished", script=FINISHED)["outcomes"]
    assert outcomes["IntegrityError"] > 3
    assert outcomes["answer"] > 5


@pytest.mark.heavy
def test_verify_of_thousands_of_damaged_files(tmp_path):
    fuzz(tmp_path, "--runs", 600, "--seed", 5000, script=FINISHED)
    fuzz(tmp_path, "--runs", 600, "--seed", 5000, "--unfinished", script=FINISHED)


@pytest.mark.heavy
def test_every_entry_on_side_files_as_they_were_left(tmp_path):
    fuzz(tmp_path, "--cases", "undamaged")


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(1_000_000, 1_008_000, 4000))
def test_thousands_of_damaged_side_files(tmp_path, seed):
    fuzz(tmp_path, "--cases", "seeded", "--runs", 4000, "--seed", seed)


@pytest.mark.heavy
@pytest.mark.parametrize("cases", ["stand-ins", "forged"])
def test_every_stand_in_and_every_forgery(tmp_path, cases):
    fuzz(tmp_path, "--cases", cases)
