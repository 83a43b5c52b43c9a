"""The command line, run in this process."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from distributed import Client, LocalCluster

from dask_chunkio import GenericDataChunkIterator, __version__, to_hdf5
from dask_chunkio.cli import scheduler
from dask_chunkio.cli.main import main
from dask_chunkio.errors import SourceError

DATA = np.arange(6000, dtype="i2").reshape(300, 20)
SIZE = r"[\d.]+ (?:[kMG]i)?B"
LINE = re.compile(rf"\S+: {SIZE} stored in {SIZE} \(ratio [\d.]+\) in [\d.]+ s, {SIZE}/s\n")

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder of its own; no exception but SystemExit may come out."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, words, input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run


@pytest.fixture
def done(run: Run) -> Run:
    def done(*words: str) -> Result:
        result = run(*words)
        assert (result.exit_code, result.stderr) == (0, "")
        return result

    return done


def failed(result: Result, words: str, code: int = 1) -> None:
    """Hold that a command failed with one line that begins with ``Error:`` and contains `words`."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("Error: ")
    assert words in lines[-1]
    if code == 1:
        assert len(lines) == 1


def stored(file: str, name: str) -> Any:
    with h5py.File(file, "r") as opened:
        return opened[name][()]


def npy() -> list[str]:
    np.save("a.npy", DATA)
    return ["a.npy"]


def fortran_npy() -> list[str]:
    np.save("a.npy", np.asfortranarray(DATA))
    return ["a.npy"]


def raw() -> list[str]:
    Path("a.bin").write_bytes(DATA.tobytes())
    return ["a.bin", "--dtype", "int16", "--shape", "300,20"]


def raw_with_header() -> list[str]:
    Path("a.bin").write_bytes(b"header" + DATA.astype(">i2").tobytes())
    return ["a.bin", "--dtype", ">i2", "--shape", "-1,20", "--offset", "6"]


def hdf5() -> list[str]:
    with h5py.File("a.h5", "w") as file:
        file["group/a"] = DATA
    return ["a.h5"]


def hdf5_of_many() -> list[str]:
    with h5py.File("many.h5", "w") as file:
        file["group/a"], file["b"] = DATA, DATA[:3]
    return ["many.h5:/group/a"]


def zarr() -> list[str]:
    store = pytest.importorskip("zarr").open("a.zarr", mode="w", shape=DATA.shape, chunks=(100, 20), dtype="i2")
    store[:] = DATA
    return ["a.zarr"]


def zarr_group() -> list[str]:
    group = pytest.importorskip("zarr").open_group("group.zarr", mode="w")
    group.create_array("of/a", data=DATA)
    return ["group.zarr"]


def zarr_of_many() -> list[str]:
    group = pytest.importorskip("zarr").open_group("many.zarr", mode="w")
    group.create_array("of/a", data=DATA)
    group.create_array("b", data=DATA[:3])
    return ["many.zarr:/of/a"]


SOURCES = [npy, fortran_npy, raw, raw_with_header, hdf5, hdf5_of_many, zarr, zarr_group, zarr_of_many]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_reads_back_under_its_own_name(done: Run, source: Callable[[], list[str]]) -> None:
    src, *options = source()
    assert LINE.fullmatch(done("write", src, "out.h5", *options).stdout)
    np.testing.assert_array_equal(stored("out.h5", "/a"), DATA)
    assert not Path("out.h5.writing").exists()


def test_the_line_says_what_was_written(done: Run) -> None:
    line = done("write", *npy(), "out.h5:/group/x", "--compression", "gzip", "--shuffle").stdout
    with h5py.File("out.h5", "r") as file:
        nbytes = file["/group/x"].id.get_storage_size()
    assert line.startswith(f"out.h5:/group/x: 11.72 kiB stored in {nbytes} B (ratio {12000 / nbytes:.2f}) in ")


def test_options_reach_the_dataset(done: Run) -> None:
    done("write", *npy(), "out.h5:/x", "--chunks", "100,10", "--buffer-shape", "200,20", "--compression", "gzip",
         "--compression-opts", "1", "--shuffle", "--fletcher32", "--out-dtype", "<f4")  # fmt: skip
    with h5py.File("out.h5", "r") as file:
        dataset = file["x"]
        assert (dataset.chunks, dataset.dtype) == ((100, 10), np.dtype("<f4"))
        assert (dataset.compression, dataset.compression_opts) == ("gzip", 1)
        assert dataset.shuffle
        assert dataset.fletcher32


@pytest.mark.parametrize(
    ("words", "filters"),
    [
        ((), []),
        (("--compression", "none"), []),
        (("--compression", "lzf"), [h5py.h5z.FILTER_LZF]),
        (("--compression", "szip", "--compression-opts", "nn,8"), [h5py.h5z.FILTER_SZIP]),
        (("--compression", "32015", "--compression-opts", "3"), [32015]),
        (("--compression", "32008"), [32008]),
    ],
)
def test_filters(done: Run, words: tuple[str, ...], filters: list[int]) -> None:
    if "320" in "".join(words):
        pytest.importorskip("hdf5plugin")
    done("write", *npy(), "out.h5:/x", *words)
    with h5py.File("out.h5", "r") as file:
        found = file["x"].id.get_create_plist()
        assert [found.get_filter(number)[0] for number in range(found.get_nfilters())] == filters
    np.testing.assert_array_equal(stored("out.h5", "x"), DATA)


@pytest.mark.parametrize("shape", ["0,3", "0", ""])
def test_arrays_without_elements_or_axes(done: Run, shape: str) -> None:
    array = np.zeros([int(length) for length in shape.split(",")] if shape else ())
    np.save("a.npy", array)
    done("write", "a.npy", "out.h5")
    np.testing.assert_array_equal(stored("out.h5", "/a"), array)


def test_an_empty_raw_file(done: Run) -> None:
    Path("a.bin").touch()
    done("write", "a.bin", "out.h5", "--dtype", "f8", "--shape", "-1,3")
    assert stored("out.h5", "/a").shape == (0, 3)


SCHEDULERS = [
    ["--scheduler", "synchronous"],
    ["--workers", "3"],
    ["--threads", "3"],
    ["--scheduler", "processes", "--workers", "1", "--threads", "2", "--progress"],
]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param(
            source,
            words,
            id=f"{source.__name__}-{' '.join(words[:2])}",
            # A cluster is started for each.
            marks=pytest.mark.heavy if "processes" in words and source is not hdf5 else [],
        )
        for source in (raw, hdf5, zarr)
        for words in SCHEDULERS
    ],
)
def test_schedulers(run: Run, words: list[str], source: Callable[[], list[str]]) -> None:
    src, *options = source()
    result = run("write", src, "out.h5", *options, *words, "--chunks", "50,20", "--buffer-shape", "50,20")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(stored("out.h5", "/a"), DATA)


def test_workers_are_threads_by_default(done: Run) -> None:
    assert "by 3 threads (threads)" in done("write", *npy(), "out.h5", "--plan", "--workers", "3").stdout


def test_workers_are_processes_with_processes(done: Run) -> None:
    words = "--plan", "--scheduler", "processes", "--workers", "1", "--threads", "2"
    assert "by 2 threads (distributed)" in done("write", *npy(), "out.h5", *words).stdout


def test_a_running_cluster(done: Run, process_client: Client) -> None:
    assert process_client.scheduler is not None
    done("write", *npy(), "out.h5", "--scheduler", process_client.scheduler.address, "--compression", "gzip")
    np.testing.assert_array_equal(stored("out.h5", "/a"), DATA)


def test_a_cluster_without_workers(run: Run) -> None:
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        failed(run("write", *npy(), "out.h5", "--scheduler", cluster.scheduler_address), "has no workers")


def test_a_cluster_that_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_CONNECT_SECONDS", 0.2)
    address = "tcp://127.0.0.1:1"
    failed(run("write", *npy(), "out.h5", "--scheduler", address), f"cannot reach a dask scheduler at {address}")


def test_plan_touches_nothing(done: Run) -> None:
    npy()
    before = sorted(os.listdir())
    shown = done("write", "a.npy", "out.h5", "--plan", "--compression", "gzip", "--chunks", "100,20").stdout
    assert sorted(os.listdir()) == before
    assert "/a\n    array    (300, 20) int16, 11.72 kiB" in shown
    assert "deflate(4)" in shown


def test_progress_goes_to_standard_error(run: Run) -> None:
    result = run("write", *npy(), "out.h5", "--progress")
    assert LINE.fullmatch(result.stdout)
    assert "/a: 100%" in result.stderr
    assert run("write", "a.npy", "other.h5").stderr == ""


def test_overwrite(run: Run) -> None:
    assert run("write", *npy(), "out.h5").exit_code == 0
    failed(run("write", "a.npy", "out.h5"), "already has /a")
    np.save("a.npy", DATA + 1)
    assert run("write", "a.npy", "out.h5", "--overwrite").exit_code == 0
    np.testing.assert_array_equal(stored("out.h5", "/a"), DATA + 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.npy", "out.h5"], "there is no file none.npy"),
        (["a.npy", "nowhere/out.h5"], "nowhere; create it first"),
        (["a.npy", "."], "it is a directory"),
        (["a.npy", "a.bin"], "exists and is not an HDF5 file"),
        (["a.npy", "out.h5:/"], "cannot be the name of a dataset"),
        (["a.npy:/x", "out.h5"], "a.npy is npy and has no paths in it; leave /x out"),
        (["a.npy", "out.h5", "--dtype", "i2"], "leave --dtype, --shape and --offset out"),
        (["a.npy", "out.h5", "--chunks", "10"], "--chunks 10 has 1 axes, the source 2"),
        (["a.npy", "out.h5", "--chunks", "10,20", "--buffer-shape", "15,20"], "Use a multiple of 10"),
        (["a.npy", "out.h5", "--out-dtype", "bool"], "numbers would become truth values"),
        (["a.npy", "out.h5", "--compression", "gzip", "--compression-opts", "11"], "from 0-9, not 11"),
        (["a.npy", "out.h5", "--compression", "65000"], "filter 65000 is not available"),
        (["a.bin", "out.h5"], "to read it as raw binary give --dtype and --shape"),
        (["a.bin", "out.h5", "--dtype", "i2"], "give --dtype and --shape"),
        (["a.bin", "out.h5", "--dtype", "i2", "--shape", "301,20"], "requires 12040 bytes, but the file has 12000"),
        (["a.bin", "out.h5", "--dtype", "i2", "--shape", "300,20", "--offset", "2"], "requires 12002 bytes"),
        (["a.bin", "out.h5", "--dtype", "i2", "--shape", "-1,21"], "a multiple of 42 bytes, but the file has 12000"),
        (["a.bin", "out.h5", "--dtype", "i2", "--shape", "-1", "--offset", "20000"], "after an offset of 20000"),
        (["a.bin", "out.h5", "--dtype", "O", "--shape", "-1"], "has no fixed length"),
        (["a.bin", "out.h5", "--dtype", "S", "--shape", "-1"], "has no fixed length"),
        (["bad.npy", "out.h5"], "cannot read bad.npy"),
        (["objects.npy", "out.h5"], "cannot read objects.npy"),
        (["a.npz", "out.h5"], "is an archive of arrays"),
        (["many.h5", "out.h5"], "many.h5 holds 2 datasets; choose one of its datasets, as many.h5:/b. They are /b"),
        (["many.h5:/nope", "out.h5"], "many.h5 has no /nope; choose one of its datasets"),
        (["none.h5", "out.h5"], "none.h5 holds no datasets"),
        (["none.h5:/x", "out.h5"], "none.h5 has no /x, nor any other dataset"),
        (["cut.h5", "out.h5"], "cannot read cut.h5"),
        (["many.zarr", "out.h5:/x"], "many.zarr holds 2 datasets; choose one of its datasets"),
        (["many.zarr:/nope", "out.h5"], "many.zarr has no /nope; choose one of its datasets"),
        (["a.zarr:/nope", "out.h5"], "a.zarr has no /nope"),
        (["folder", "out.h5"], "cannot read the folder folder as zarr"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_errors(run: Run, words: list[str], message: str) -> None:
    npy(), raw(), hdf5_of_many()
    if "zarr" in message + words[0]:
        zarr(), zarr_of_many()
    Path("bad.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save("objects.npy", np.array([{}, []], dtype=object))
    np.savez("a.npz", DATA)
    Path("folder").mkdir()
    h5py.File("none.h5", "w").close()
    Path("cut.h5").write_bytes(Path("many.h5").read_bytes()[:1000])
    before = sorted(os.listdir())
    failed(run("write", *words), message)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.npy", "out.h5:x"], "did you mean 'out.h5:/x'?"),
        (["a.npy", ":/x"], "names no file"),
        (["a.npy", "out.h5", "--chunks", "a,b"], "is not a list of whole numbers"),
        (["a.npy", "out.h5", "--chunks", "0,1"], "lengths are at least 1"),
        (["a.npy", "out.h5", "--chunks", "-1,1"], "lengths are at least 1"),
        (["a.npy", "out.h5", "--shape", "-1,-1"], "except for one -1"),
        (["a.npy", "out.h5", "--dtype", "int17"], "is not a numpy dtype"),
        (["a.npy", "out.h5", "--compression", "zst"], "the number of an HDF5 filter"),
        (["a.npy", "out.h5", "--compression-opts", "3"], "requires --compression"),
        (["a.npy", "out.h5", "--compression", "307", "--compression-opts", "x"], "are whole numbers"),
        (["a.npy", "out.h5", "--scheduler", "fast"], "give one of threads, processes, synchronous"),
        (["a.npy", "out.h5", "--scheduler", "synchronous", "--workers", "2"], "which is one thread"),
        (["a.npy", "out.h5", "--scheduler", "tcp://h:1", "--threads", "2"], "which has its own workers"),
        (["a.npy", "out.h5", "--workers", "2", "--threads", "2"], "give only one of the two"),
        (["a.npy", "out.h5", "--workers", "0"], "not in the range"),
        (["a.npy", "out.h5", "--nonsense"], "No such option"),
        (["a.npy"], "Missing argument"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_commands_that_cannot_be_understood(run: Run, words: list[str], message: str) -> None:
    npy()
    failed(run("write", *words), message, code=2)


def test_version(done: Run) -> None:
    assert done("--version").stdout == f"dask-chunkio, version {__version__}\n"


def test_zarr_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.zarr").mkdir()
    monkeypatch.setitem(sys.modules, "zarr", None)
    failed(run("write", "a.zarr", "out.h5"), "pip install zarr")


class Broken(GenericDataChunkIterator):
    def _get_data(self, selection: tuple[slice, ...]) -> Any:
        raise ValueError(f"broken at {selection}")

    def _get_maxshape(self) -> tuple[int, ...]:
        return (10,)

    def _get_dtype(self) -> np.dtype[Any]:
        return np.dtype("i2")


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError):
        to_hdf5("out.h5", "/x", Broken())
    return Path("out.h5.writing").absolute()


def test_discard(run: Run, unfinished: Path) -> None:
    assert run("discard", "--yes", "out.h5").stdout == f"Removed {unfinished}.\n"
    assert not unfinished.exists()
    result = run("discard", "out.h5")
    assert (result.exit_code, result.stdout) == (0, "There is nothing to remove: no unfinished write of out.h5.\n")


@pytest.mark.parametrize(("answer", "code", "stays"), [("y\n", 0, False), ("n\n", 1, True), ("", 1, True)])
def test_discard_asks(run: Run, unfinished: Path, answer: str, code: int, stays: bool) -> None:
    result = run("discard", "out.h5", stdin=answer)
    assert str(unfinished) in result.stdout
    assert (result.exit_code, unfinished.exists()) == (code, stays)


def test_discard_keeps_what_is_not_ours(run: Run, unfinished: Path) -> None:
    (unfinished / "thesis.tex").touch()
    failed(run("discard", "--yes", "out.h5"), "thesis.tex")
    assert unfinished.exists()


def test_a_write_over_an_unfinished_one(run: Run, unfinished: Path) -> None:
    result = run("write", *npy(), "out.h5")
    failed(result, f"{unfinished} holds an unfinished write")
    assert "dask-chunkio discard" in result.stderr


def test_an_error_in_the_midst_names_what_it_leaves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "memmap", lambda *_: Broken())
    words = ["--dtype", "i2", "--shape", "10"]
    Path("a.bin").write_bytes(bytes(20))
    result = run("write", "a.bin", "out.h5", *words)
    failed(result, "the source raised ValueError: broken at")
    assert "remove them with: dask-chunkio discard out.h5" in result.stderr


def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dask_chunkio.cli.write.run_write", interrupt)
    result = run("write", *npy(), "out.h5")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Interrupted\n")
    monkeypatch.setattr("dask_chunkio.cli.main.say", interrupt)  # pressed again, as the first one is reported
    assert run("write", *npy(), "out.h5").exit_code == 130


def test_every_command_is_listed_and_has_its_help(run: Run) -> None:
    listed = run("--help").stdout.partition("Commands:")[2]
    names = main.list_commands(click.Context(main))
    assert {"write", "repack", "demo"} <= set(names)
    for name in names:
        assert f"\n  {name} " in listed
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.name == name
        assert f"main {name} [OPTIONS]" in run(name, "--help").stdout
    misspelt = run("wirte")
    assert (misspelt.exit_code, "No such command 'wirte'" in misspelt.stderr) == (2, True)
