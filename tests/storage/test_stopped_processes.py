"""Processes that are stopped in the middle, presumed dead, and go on."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import run_python
from tests.support.storage.stopped_commits import INSIDE, OUTSIDE

QUICK = ("reserving", "before the log")
SCRIPT = "tests.support.storage.stopped_commits"


@pytest.mark.parametrize("ending", [pytest.param("continued", marks=pytest.mark.heavy), "killed"])
@pytest.mark.parametrize(
    "phase",
    [*(pytest.param(phase, marks=pytest.mark.heavy) for phase in [*OUTSIDE, *INSIDE] if phase not in QUICK), *QUICK],
)
def test_others_go_on_or_wait_and_nothing_is_lost(phase: Any, ending: str, tmp_path: Path) -> None:
    done = run_python("-m", SCRIPT, phase, ending, tmp_path, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
