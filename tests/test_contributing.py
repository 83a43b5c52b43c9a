"""What contributors go by is true of the tree: CONTRIBUTING.md, the sessions of nox, the forms."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NOX = (ROOT / "noxfile.py").read_text(encoding="utf-8")
FORMS = [
    ROOT / ".pre-commit-config.yaml",
    ROOT / "CITATION.cff",
    *sorted((ROOT / ".github").rglob("*.yml")),
]


def constants() -> dict[str, Any]:
    """The constants of the noxfile that need no nox."""
    found: dict[str, Any] = {}
    for node in ast.parse(NOX).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            found[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    return found


def test_the_floor_plan_names_every_module() -> None:
    words = set(re.findall(r"\w+", GUIDE))
    modules = {path.parent.name if path.stem == "__init__" else path.stem for path in ROOT.glob("dask_chunkio/**/*.py")}
    assert modules <= words, modules - words


def test_every_variable_that_tests_ask_for_is_explained() -> None:
    asked = set()
    for path in (ROOT / "tests").rglob("*.py"):
        asked |= set(re.findall(r"environ\.get\(\"(\w*CHUNKIO_\w+|CTRL_C_\w+)\"", path.read_text(encoding="utf-8")))
    explained = set(re.findall(r"`([A-Z_]+)`", GUIDE))
    assert asked <= explained, asked - explained


def test_every_session_is_explained() -> None:
    sessions = re.findall(r"@nox\.session.*\ndef (\w+)", NOX)
    assert set(sessions) <= set(re.findall(r"nox -s (\w+)", GUIDE))


def test_parts_of_the_heavy_tests_are_there() -> None:
    parts = constants()
    for path in (*parts["CRASH"], *parts["CLUSTER"], *parts["SLURM"]):
        assert (ROOT / path).exists(), path


def test_every_test_of_kills_is_in_one_part() -> None:
    found = sorted(path for name in ("CRASH", "CLUSTER") for path in constants()[name] if "/kills/" in path)
    assert found == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/kills").glob("test_*.py"))


def test_old_extras_are_all_of_users_but_those_that_ask_for_more() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    apart = {"virtualizarr", "neuroconv", "mpi", "docs", "dev", "test"}
    assert set(constants()["OLD_EXTRAS"]) == extras.keys() - apart


def test_benchmarks_are_those_of_ci() -> None:
    (line,) = re.findall(r"studies=\((.*)\)", (ROOT / ".ci/run").read_text(encoding="utf-8"))
    assert constants()["BENCHMARKS"] == tuple(line.split())


def test_the_workflow_runs_sessions_that_are_there() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]
    sessions = set(re.findall(r"@nox\.session.*\ndef (\w+)", NOX))
    for name in ("checks", "heavy"):
        assert set(jobs[name]["strategy"]["matrix"]["session"]) <= sessions
    supported = re.findall(r":: (3\.\d+)\"", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert jobs["tests"]["strategy"]["matrix"]["python"] == supported


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_can_be_read(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_has_what_its_format_asks_for() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= found.keys()
    assert found["license"] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
