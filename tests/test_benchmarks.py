"""Each benchmark runs at a tiny size, so that none of them rots; what it measures is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(name: str, *options: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--tiny", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_cells(text: str) -> list[str]:
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]


def test_compare(tmp_path: Path) -> None:
    table, figures = tmp_path / "table.md", tmp_path / "figures.json"
    text = run("compare", "--markdown", str(table), "--json", str(figures))
    rows = first_cells(text)
    for name in ("gzip 4", "gzip 1", "uncompressed"):
        assert f"dask_chunkio {name}" in rows
    assert {"dask gzip 4", "dask uncompressed", "h5py gzip 4", "h5py uncompressed"} <= set(rows)
    assert sum(line.startswith(("PASS", "FAIL")) for line in text.splitlines()) == 3
    assert table.read_text(encoding="utf-8").rstrip() == text.rstrip()
    assert '"mb_per_s"' in figures.read_text(encoding="utf-8")


def test_many_chunks() -> None:
    text = run("many_chunks")
    assert len(first_cells(text)) >= 3
    assert "overhead" in text


def test_small_memory(tmp_path: Path) -> None:
    text = run("small_memory", "--folder", str(tmp_path))
    assert "reads back equal" in text
    assert text.count("never paused") == 2
    assert text.count("peak") == 2


def test_durability() -> None:
    text = run("durability")
    assert first_cells(text) == ["durability", "-----------", "unprotected", "process", "power"]
    assert text.count("PASS") + text.count("FAIL") == 1


@pytest.mark.heavy
def test_kills() -> None:
    text = run("kills")
    assert first_cells(text).count("dask_chunkio") == 2
    assert "3 kills of each" in text


@pytest.mark.parametrize("kind", ["noise", "ecg", "mri", "float", "random"])
def test_deflate_levels(deflate_table: str, kind: str) -> None:
    part = deflate_table.partition(f"\n{kind}\n")[2]
    assert [cell for cell in first_cells(part) if cell.isdecimal()][:9] == list("123456789")


@pytest.fixture(scope="module")
def deflate_table() -> str:
    return run("deflate_levels")
