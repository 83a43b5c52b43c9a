"""Every Python block in README and docs runs, file by file, in order."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import dask_chunkio

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = [
    module.name
    for module in pkgutil.walk_packages(dask_chunkio.__path__, "dask_chunkio.")
    if module.name not in ("dask_chunkio.__main__", "dask_chunkio.integrations.neuroconv")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), space)


def test_the_pages_have_blocks() -> None:
    assert sum(len(BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES) >= 3


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_pages_name_are_there(page: Path) -> None:
    for name in re.findall(r"\b(?:dask_chunkio|docs|tests)/[\w./]*\w/?", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\btests\.support\.[\w.]*\w", page.read_text(encoding="utf-8")):
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_test_functions_that_pages_name_are_there(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+|Test\w+)`", page.read_text(encoding="utf-8")))
    if named:
        sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
        found = {
            name for source in sources for name in re.findall(r"^(?:def )?((?:test_|Test)\w+)", source, re.MULTILINE)
        }
        assert not named - found
