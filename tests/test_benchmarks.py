"""Each benchmark runs at a tiny size, so that none of them rots; what it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
OURS = "dask_chunkio"
FAST, GOOD = "gzip 1 + shuffle", "gzip 4 + shuffle"


def run(name: str, *options: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--tiny", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_cells(text: str) -> list[str]:
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]


def verdicts(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("PASS", "MISS"))]


def test_compare_writes_a_table_and_figures(tmp_path: Path) -> None:
    table, figures = tmp_path / "table.md", tmp_path / "figures.json"
    chosen = ["--codecs", "none", GOOD, "--systems", OURS, "h5py", "dask.to_hdf5"]
    text = run("compare", *chosen, "--markdown", str(table), "--json", str(figures))
    pairs = {f"{codec}: {system}" for codec in ("none", GOOD) for system in (OURS, "h5py", "dask.to_hdf5")}
    assert pairs | {f"{GOOD}: codec alone, one core"} <= set(first_cells(text))
    assert len(verdicts(text)) == 3
    assert table.read_text(encoding="utf-8").rstrip() == text.rstrip()
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert {row["system"] for row in found["rows"]} == {OURS, "h5py", "dask.to_hdf5", "codec alone, one core"}
    assert all(row["mb_per_s"] > 0 and row["of_raw"] > 0 and len(row["seconds"]) == 2 for row in found["rows"])


@pytest.mark.heavy
def test_compare_has_every_system_with_every_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import codecs, systems

    rows = set(first_cells(run("compare")))
    for name, system in systems.SYSTEMS.items():
        here = {f"{codec.name}: {name}" for codec in codecs.CODECS.values() if system.knows(codec)}
        assert here.isdisjoint(rows) if systems.missing(system) else here <= rows


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["mri", "float", "random"])
def test_compare_takes_other_data_and_one_thread(kind: str) -> None:
    text = run("compare", "--data", kind, "--threads", "1", "--codecs", "none", FAST)
    assert "here they only tell" in text


@pytest.mark.heavy
def test_compare_takes_worker_processes() -> None:
    text = run("compare", "--processes", "2", "--codecs", "none", GOOD)
    assert "2 worker processes" in text


def row(system: str, codec: str, seconds: float, size: float, **more: Any) -> Any:
    from benchmarks.rows import Row

    return Row(system, codec, 10**8, int(10**8 * size), (seconds,), **more)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import targets

    def judge(*rows: Any) -> list[bool]:
        return [verdict.passed for verdict in targets.verdicts({(row.system, row.codec): row for row in rows})]

    return judge


@pytest.mark.parametrize(
    ("ours", "size", "passed"), [(0.9, 0.49, True), (1.1, 0.49, False), (0.9, 0.56, False)], ids=str
)
def test_a_target_asks_for_speed_and_size(judge: Any, ours: float, size: float, passed: bool) -> None:
    assert judge(row(OURS, FAST, ours, size), row("dask.to_hdf5", GOOD, 10, 0.5)) == [passed]


@pytest.mark.parametrize(("alone", "ours", "passed"), [(0.5, 0.6, False), (0.5, 0.5, True), (0.1, 0.7, True)], ids=str)
def test_less_is_asked_of_a_fast_codec(judge: Any, alone: float, ours: float, passed: bool) -> None:
    rows = row("codec alone, one core", "lzf", alone, 0.5), row(OURS, "lzf", ours, 0.5), row("h5py", "lzf", 1, 0.5)
    assert judge(*rows) == [passed]


def test_memory_is_held_against_the_plan(judge: Any) -> None:
    assert judge(row(OURS, GOOD, 1, 0.5, peak_nbytes=11, bound_nbytes=10)) == [False]
    assert judge(row(OURS, GOOD, 1, 0.5, peak_nbytes=9, bound_nbytes=10)) == [True]


def test_targets_of_what_was_not_measured_are_left_out(judge: Any) -> None:
    assert judge(row(OURS, FAST, 1, 0.5)) == []


def test_the_plot_is_the_same_for_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import plot

    rows = [
        {"system": system, "codec": codec, "mb_per_s": speed, "of_raw": size}
        for codec, size in (("none", 1.0), (GOOD, 0.4), (FAST, 0.45))
        for system, speed in ((OURS, 300.0), ("h5py", 30.0), ("tensorstore", 55.0))
    ]
    figures = tmp_path / "figures.json"
    figures.write_text(json.dumps({"setting": "noise; 2 threads\nmachine", "rows": rows}), encoding="utf-8")
    pictures = [tmp_path / "one.svg", tmp_path / "other.svg"]
    for picture in pictures:
        plot.main([str(figures), str(picture)])
    one, other = (picture.read_text(encoding="utf-8") for picture in pictures)
    assert one == other
    for words in (OURS, "h5py", "tensorstore", GOOD, FAST, "none"):
        assert words in one


def test_efficiency() -> None:
    text = run("efficiency", "--codecs", FAST, "--threads", "1", "2")
    assert first_cells(text)[2:] == [FAST, FAST]
    assert len(verdicts(text)) == 1


@pytest.mark.heavy
def test_schedulers() -> None:
    cells = first_cells(run("schedulers"))
    for name in ("synchronous", "threads", "processes", "distributed, threads", "distributed, processes"):
        assert name in cells


def test_many_chunks() -> None:
    text = run("many_chunks")
    assert first_cells(text)[2:] == ["100", "1000"]
    assert len(verdicts(text)) == 3


@pytest.mark.heavy
def test_small_memory(tmp_path: Path) -> None:
    text = run("small_memory", "--folder", str(tmp_path))
    # From an iterator, and from a dask array.
    assert text.count("reads back equal") == 2
    assert text.count("never paused") == 4
    assert text.count("peak") == 4


@pytest.mark.heavy
def test_durability() -> None:
    text = run("durability")
    assert first_cells(text) == ["durability", "-----------", "unprotected", "process", "power"]
    assert text.count("PASS") + text.count("FAIL") == 1


@pytest.mark.heavy
def test_kills() -> None:
    text = run("kills")
    assert first_cells(text).count("dask_chunkio") == 2
    assert "3 kills of each" in text


@pytest.mark.parametrize("kind", ["recording", "noise", "ecg", "mri", "float", "random"])
def test_deflate_levels(deflate_table: str, kind: str) -> None:
    part = deflate_table.partition(f"\n{kind}\n")[2]
    assert [cell for cell in first_cells(part) if cell.isdecimal()][:9] == list("123456789")


@pytest.fixture(scope="module")
def deflate_table() -> str:
    return run("deflate_levels")


def test_simulated_workers_that_never_meet_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.simulation import Costs, simulate

    costs = Costs([0.002], 0.004, 0.0, 0.0)
    alone = simulate(1, 100, 0.1, costs)
    assert alone == pytest.approx(100 * (0.1 + 0.006), rel=0.1)
    assert simulate(4, 400, 0.1, costs) == pytest.approx(alone, rel=0.15)


def test_simulated_workers_wait_for_turns_handovers_cores_and_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.simulation import Costs, simulate

    # A hundred that do nothing else: what is shared is always busy.
    transactions = simulate(100, 2000, 0, Costs([0.002], 0.0, 0.0, 0.0))
    assert transactions == pytest.approx(2000 * 0.002, rel=0.01)
    assert simulate(100, 2000, 0, Costs([0.002], 0.0, 0.0, 0.001)) == pytest.approx(2000 * 0.003, rel=0.01)
    assert simulate(100, 2000, 0, Costs([0.001], 0.007, 0.0, 0.0), cores=2) == pytest.approx(2000 * 0.004, rel=0.05)
    # Each reads in its transaction what was reserved since it asked for it: the transactions of all others.
    read = simulate(100, 2000, 0, Costs([0.001], 0.0, 0.0001, 0.0))
    assert read == pytest.approx(2000 * (0.001 + 99 * 0.0001), rel=0.1)
