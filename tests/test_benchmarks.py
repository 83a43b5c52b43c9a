"""Each benchmark runs at a tiny size, so that none of them rots; what it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
OURS = "dask_chunkio"
FAST, GOOD = "gzip 1 + shuffle", "gzip 4 + shuffle"


def run(name: str, *options: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.studies.{name}", "--tiny", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_cells(text: str) -> list[str]:
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]


def verdicts(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("PASS", "MISS"))]


@pytest.mark.heavy
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
    from benchmarks.studies import codecs, systems

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
    from benchmarks.studies.rows import Row

    return Row(system, codec, 10**8, int(10**8 * size), (seconds,), **more)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.studies import targets

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


@pytest.fixture
def plot(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.studies import plot

    return plot


def test_the_picture_shows_the_published_table(plot: Any, tmp_path: Path) -> None:
    drawn = tmp_path / "speed.svg"
    assert plot.main([str(ROOT / "docs" / "benchmarks.md"), str(drawn)]) == 0
    assert drawn.read_bytes() == (ROOT / "docs" / "speed.svg").read_bytes()


def test_the_picture_draws_what_compare_prints(plot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.studies.rows import table

    speeds = {OURS: 0.25, "h5py": 1.0, "hdmf": 1.0, "dask.to_hdf5": 1.1}
    rows = {(system, GOOD): row(system, GOOD, seconds, 0.4) for system, seconds in speeds.items()}
    found = plot.bars(["some words", *table(rows).splitlines(), "", *table({}).splitlines()])
    assert [(bar.system, bar.percent) for bar in found] == [(system, 40.0) for system in speeds]
    picture = ElementTree.fromstring(plot.draw(found))
    words = ["".join(one.itertext()) for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "400 MB/s4.0 x h5py" in words
    assert set(speeds) <= set(words)
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    for one in picture.iter():
        # A letter in 16 pixels is less than 9 wide on average, and in 13 pixels less than 7.
        letters = "".join(one.itertext()) if one.tag.endswith("text") else ""
        x, y = float(one.get("x", 0)), float(one.get("y", 0))
        wide = len(letters) * (7 if one.get("class") == "small" else 11 if one.get("class") == "title" else 9)
        if one.get("text-anchor") == "end":
            x -= wide
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= height


def test_a_table_without_a_system_is_not_drawn(plot: Any) -> None:
    with pytest.raises(ValueError, match=r"no row .* is 'gzip 4 . shuffle: dask_chunkio'"):
        plot.bars(["no table"])


@pytest.mark.heavy
def test_efficiency() -> None:
    text = run("efficiency", "--codecs", FAST, "--threads", "1", "2")
    assert first_cells(text)[2:] == [FAST, FAST]
    assert len(verdicts(text)) == 1


RUN_REGRESSIONS = """
import importlib, inspect, itertools, pkgutil
from benchmarks import regressions
for found in pkgutil.iter_modules(regressions.__path__):
    module = importlib.import_module(f"benchmarks.regressions.{found.name}")
    for cls in vars(module).values():
        if not inspect.isclass(cls) or cls.__module__ != module.__name__:
            continue
        for name in filter(lambda name: name.startswith("time_"), dir(cls)):
            for params in itertools.product(*getattr(cls, "params", ())):
                one = cls()
                one.setup(*params)
                getattr(one, name)(*params)
                getattr(one, "teardown", lambda *_: None)(*params)
                print(f"{found.name}.{cls.__name__}.{name}")
    if hasattr(module, "timeraw_import"):
        exec(module.timeraw_import())
        print(f"{found.name}.timeraw_import")
"""


@pytest.mark.heavy
def test_each_benchmark_of_asv_runs_once_without_asv() -> None:
    command = [sys.executable, "-c", RUN_REGRESSIONS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    ran = done.stdout.split()
    assert {name.partition(".")[0] for name in ran} == {
        "encoding",
        "importing",
        "planning",
        "resuming",
        "writes",
    }
    assert len(ran) == 14


def test_asv_finds_the_benchmarks_where_they_are() -> None:
    lines = (ROOT / "asv.conf.json").read_text(encoding="utf-8").splitlines()
    found = json.loads("\n".join(line for line in lines if not line.strip().startswith("//")))
    assert (ROOT / found["benchmark_dir"] / "__init__.py").is_file()
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    for made in ("env_dir", "results_dir", "html_dir"):
        assert found[made].partition("/")[0] + "/" in ignored


@pytest.mark.heavy
def test_paired_compares_two_checkouts() -> None:
    text = run("paired", "--old", str(ROOT))
    cells = first_cells(text)[2:]
    assert [cell.partition(",")[0] for cell in cells[::2]] == [FAST, "uncompressed", "serial part", "small write"]
    assert len(verdicts(text)) == 8


def test_paired_refuses_a_folder_that_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.studies import paired

    with pytest.raises(SystemExit, match=f"{tmp_path} is no checkout"):
        paired.main(["--old", str(tmp_path)])


def test_the_interval_of_a_median_narrows_with_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.studies.paired import interval

    few, many = interval([0.9, 1.0, 1.1]), interval([0.9, 1.0, 1.1] * 20)
    assert few == (0.9, 1.1)
    assert many == (1.0, 1.0)


@pytest.mark.heavy
def test_schedulers() -> None:
    cells = first_cells(run("schedulers"))
    for name in ("synchronous", "threads", "processes", "distributed, threads", "distributed, processes"):
        assert name in cells


@pytest.mark.heavy
def test_netcdf() -> None:
    cells = first_cells(run("netcdf"))[2:]
    assert len(cells) == 8
    assert {"threads, to_netcdf, netcdf4", "processes, dask_chunkio"} <= set(cells)


@pytest.mark.heavy
def test_references() -> None:
    text = run("references")
    assert {"none", ".json"} <= set(first_cells(text)[2:])
    assert "Target: the step takes at most 5 % of the write" in text


@pytest.mark.heavy
def test_many_chunks() -> None:
    text = run("many_chunks")
    assert first_cells(text)[2:] == ["100", "1000"]
    assert len(verdicts(text)) == 3


@pytest.mark.heavy
def test_cloud() -> None:
    text = run("cloud")
    # Three readers with three caches for each file, and one with a page buffer.
    assert first_cells(text)[2:] == ["default"] * 9 + ["cloud"] * 10
    assert [line[:4] for line in verdicts(text)] == ["PASS"] * 3


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


def test_decoding() -> None:
    rows = first_cells(run("decoding"))
    assert {"none", "gzip 4 + shuffle", "zstd 3", "blosc2 lz4", "szip", "sz3"} <= set(rows)


def test_simulated_workers_that_never_meet_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.studies.simulation import Costs, simulate

    costs = Costs([0.002], 0.004, 0.0, 0.0)
    alone = simulate(1, 100, 0.1, costs)
    assert alone == pytest.approx(100 * (0.1 + 0.006), rel=0.1)
    assert simulate(4, 400, 0.1, costs) == pytest.approx(alone, rel=0.15)


def test_simulated_workers_wait_for_transactions_handovers_cores_and_the_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.studies.simulation import Costs, simulate

    # A hundred that do nothing else: what is shared is always busy.
    transactions = simulate(100, 2000, 0, Costs([0.002], 0.0, 0.0, 0.0))
    assert transactions == pytest.approx(2000 * 0.002, rel=0.01)
    assert simulate(100, 2000, 0, Costs([0.002], 0.0, 0.0, 0.001)) == pytest.approx(2000 * 0.003, rel=0.01)
    assert simulate(100, 2000, 0, Costs([0.001], 0.007, 0.0, 0.0), cores=2) == pytest.approx(2000 * 0.004, rel=0.05)
    # Each reads in its transaction what was reserved since it asked for it: the transactions of all others.
    read = simulate(100, 2000, 0, Costs([0.001], 0.0, 0.0001, 0.0))
    assert read == pytest.approx(2000 * (0.001 + 99 * 0.0001), rel=0.1)
