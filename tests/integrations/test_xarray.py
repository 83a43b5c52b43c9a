"""Files of `to_netcdf`, beside those that xarray itself writes from the same objects."""

from __future__ import annotations

import datetime
import importlib.util
import math
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import dask
import dask.array as da
import dask.base
import h5py
import numpy as np
import pandas as pd
import pyfive
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import ArgumentError, ArgumentTypeError, SourceError, TargetExistsError, UnfinishedWriteError
from dask_chunkio.integrations.xarray import compat, structure, to_netcdf

H5NETCDF: Any = {"engine": "h5netcdf"}
# A write takes a tenth of a second or more.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
SIZES = {"time": 40, "x": 12, "y": 7}


def opened(path: Any, engine: Any = "h5netcdf", **keywords: Any) -> xr.Dataset:
    with xr.open_dataset(path, engine=engine, **keywords) as found:
        return found.load()


def encodings(dataset: xr.Dataset, *, without: set[str] = frozenset()) -> dict[Any, Any]:  # type: ignore[assignment]
    """What the file says of each variable, as text: NaN is equal to itself."""
    ignored = {"source", *without}
    return {
        name: {key: repr(value) for key, value in sorted(one.encoding.items()) if key not in ignored}
        for name, one in dataset.variables.items()
    }


def dumped(path: Path) -> str:
    """What h5dump says of the structure: no sizes of compressed data, and no places in the file."""
    done = subprocess.run(["h5dump", "-p", "-A", str(path)], capture_output=True, text=True, check=True)
    kept = (line for line in done.stdout.splitlines() if not re.match(r" *(SIZE|OFFSET|HDF5) ", line))
    return re.sub(r"DATASET \d+ ", "DATASET ", "\n".join(kept))


# The same files as xarray's

VALUES: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "int16": lambda numbers: numbers.astype("i2"),
    "uint8": lambda numbers: (numbers % 251).astype("u1"),
    "big": lambda numbers: numbers.astype(">i4"),
    "float32": lambda numbers: (numbers / 7 - 5).astype("f4"),
    "missing": lambda numbers: np.where(numbers % 3, numbers / 2, np.nan),
    "bool": lambda numbers: numbers % 2 == 0,
    "complex": lambda numbers: numbers * (1 + 2j),
    "time": lambda numbers: np.datetime64("2000-01-01", "ns") + numbers.astype("m8[h]"),
    "delay": lambda numbers: numbers.astype("m8[s]").astype("m8[ns]"),
    "bytes": lambda numbers: np.array([b"abc", b"", b"de"])[numbers % 3],
    "text": lambda numbers: np.array(["abc", "", "äß"])[numbers % 3],
    "objects": lambda numbers: np.array(["abc", "", "äß"], object)[numbers % 3],
}
PACKED = {"dtype": "i2", "scale_factor": 0.5, "add_offset": 3.0, "_FillValue": -999}
COMPRESSIONS: list[dict[str, Any]] = [
    {},
    {"zlib": True},
    {"zlib": True, "complevel": 1, "shuffle": True},
    {"compression": "gzip", "compression_opts": 2, "fletcher32": True},
    {"compression": "lzf"},
    {"shuffle": True},
]
SPECIAL: dict[str, list[dict[str, Any]]] = {
    "missing": [{}, PACKED, {"_FillValue": None}, {"_FillValue": -1.0, "dtype": "f4"}],
    "float32": [{}, {"dtype": "f8"}, {"_FillValue": 7.0}],
    "int16": [{}, {"_FillValue": -1}, {"dtype": "i8"}],
    "time": [{"units": "seconds since 1999-12-31", "dtype": "i8"}, {"units": "days since 2000-01-01", "dtype": "f8"}],
    "delay": [{"units": "seconds", "dtype": "i8"}],
}


@st.composite
def variables(draw: st.DrawFn) -> tuple[xr.Variable, dict[str, Any]]:
    kind = draw(st.sampled_from(sorted(VALUES)))
    dims = tuple(draw(st.permutations(sorted(SIZES)))[: draw(st.integers(0, 3))])
    shape = tuple(SIZES[dim] for dim in dims)
    data = VALUES[kind](np.arange(math.prod(shape))).reshape(shape)
    encoding: dict[str, Any] = {**draw(st.sampled_from(SPECIAL.get(kind, [{}])))}
    if kind not in ("bytes", "text", "objects") and dims:
        encoding.update(draw(st.sampled_from(COMPRESSIONS)))
        if draw(st.booleans()) or encoding.keys() & {"zlib", "compression", "shuffle"}:
            encoding["chunksizes"] = tuple(draw(st.integers(1, length)) for length in shape)
    if kind != "objects" and draw(st.integers(0, 3)) > 0:
        data = da.from_array(data, chunks=tuple(draw(st.integers(1, length)) for length in shape))
    return xr.Variable(dims, data, {"long_name": kind} if draw(st.booleans()) else {}), encoding


datasets = given(
    st.lists(variables(), min_size=5, max_size=12),
    st.sampled_from([None, ["time"], ["x", "y"]]),
    st.sampled_from([None, "one/two"]),
)
few, many = (
    settings(
        deadline=None, max_examples=n, phases=NO_SHRINKING, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    for n in (6, 150)
)


@datasets
@few
def test_the_file_is_that_of_xarray(tmp_path: Path, drawn: Any, unlimited: Any, group: Any) -> None:
    check_file(tmp_path, drawn, unlimited, group)


@pytest.mark.heavy
@datasets
@many
def test_many_files_are_those_of_xarray(tmp_path: Path, drawn: Any, unlimited: Any, group: Any) -> None:
    check_file(tmp_path, drawn, unlimited, group)


def check_file(folder: Path, drawn: list[tuple[xr.Variable, dict[str, Any]]], unlimited: Any, group: Any) -> None:
    dataset = xr.Dataset({f"v{number}": one for number, (one, _) in enumerate(drawn)}, attrs={"title": "t"})
    dataset = dataset.assign_coords(x=np.arange(SIZES["x"]) * 1.5, label=("y", list("abcdefg")))
    named = None if unlimited is None else [dim for dim in unlimited if dim in dataset.dims]
    chosen = {f"v{number}": encoding for number, (_, encoding) in enumerate(drawn)}
    keywords: Any = {"encoding": chosen, "unlimited_dims": named, "group": group}
    theirs, ours = folder / "theirs.nc", folder / "ours.nc"
    dataset.to_netcdf(theirs, engine="h5netcdf", **keywords)
    with dask.config.set(num_workers=2):
        to_netcdf(dataset, ours, **keywords)
    # Where no chunks are given and a dimension can grow, we choose other chunks.
    free = (
        {"chunksizes", "preferred_chunks"}
        if named and any("chunksizes" not in one for one in chosen.values())
        else set()
    )
    # netCDF-C does not know lzf.
    known = all(one.get("compression") != "lzf" for one in chosen.values())
    for engine in ("h5netcdf", "netcdf4") if known else ("h5netcdf",):
        found, expected = (opened(path, engine, group=group) for path in (ours, theirs))
        xr.testing.assert_identical(found, expected)
        assert encodings(found, without=free) == encodings(expected, without=free)
    if shutil.which("h5dump") and not free:
        assert dumped(ours) == dumped(theirs)


def test_h5diff_finds_no_difference(tmp_path: Path) -> None:
    if not shutil.which("h5diff"):
        pytest.skip("h5diff is missing: install hdf5-tools")
    dataset = weather(48)
    for keywords in ({"encoding": ENCODING}, {"encoding": ENCODING, "unlimited_dims": ["time"], "group": "g"}):
        theirs, ours = tmp_path / "theirs.nc", tmp_path / "ours.nc"
        dataset.to_netcdf(theirs, **H5NETCDF, **keywords)
        to_netcdf(dataset, ours, **keywords)
        subprocess.run(["h5diff", str(theirs), str(ours)], check=True)


# Datasets of a day


ENCODING: dict[str, Any] = {
    "wind": {
        "zlib": True,
        "shuffle": True,
        "chunksizes": (12, 10),
        "dtype": "i2",
        "scale_factor": 0.5,
        "_FillValue": -1,
    },
    "time": {"units": "hours since 2000-01-01", "dtype": "i8"},
}


def weather(hours: int, day: int = 0) -> xr.Dataset:
    numbers = da.arange(hours * 20, chunks=100).reshape(hours, 20) % 100 / 2
    return xr.Dataset(
        {"wind": (("time", "x"), numbers + day, {"units": "m/s"}), "note": ("time", np.array([f"day {day}"] * hours))},
        coords={
            "time": pd.date_range("2000-01-01", periods=hours, freq="h") + pd.Timedelta(hours=hours * day),
            "x": np.arange(20.0),
        },
        attrs={"station": "north"},
    )


def test_large_arrays_are_written_in_parallel_and_small_ones_with_the_structure(tmp_path: Path) -> None:
    dataset = xr.Dataset(
        {
            "lazy": ("x", da.ones(10, chunks=5)),
            "large": ("y", np.arange(200_000.0)),
            "small": ("z", np.arange(1000.0)),
            "scalar": ((), da.full((), 7.0, chunks=())),
            "empty": ("none", da.ones((0,), chunks=0)),
        }
    )
    result = to_netcdf(dataset, tmp_path / "out.nc")
    assert {one.name for one in result.datasets} == {"/lazy", "/large", "/scalar", "/empty"}
    assert result.path == str(tmp_path / "out.nc")
    xr.testing.assert_identical(opened(tmp_path / "out.nc"), dataset.compute())
    assert [one.name for one in tmp_path.iterdir()] == ["out.nc"]


def test_a_dataset_without_large_arrays_is_written_too(tmp_path: Path) -> None:
    dataset = xr.Dataset({"x": ("t", np.arange(3))}, attrs={"a": 1})
    assert to_netcdf(dataset, tmp_path / "out.nc").datasets == ()
    xr.testing.assert_identical(opened(tmp_path / "out.nc"), dataset)


def test_chunks_that_are_not_given_divide_the_blocks(tmp_path: Path) -> None:
    array = da.zeros((600, 1000), chunks=(300, 500))
    dataset = xr.Dataset(dict.fromkeys(("free", "given", "plain", "dropped"), (("t", "x"), array)))
    dataset["dropped"].encoding = {"zlib": True, "chunksizes": (6, 7), "original_shape": (5, 5)}
    encoding: dict[str, Any] = {"free": {"zlib": True}, "given": {"zlib": True, "chunksizes": (70, 90)}}
    with dask.config.set({"chunkio.chunk-size": "400kB"}):
        to_netcdf(dataset, tmp_path / "out.nc", encoding=encoding)
    with h5py.File(tmp_path / "out.nc") as file:
        chunks = {name: file[name].chunks for name in dataset}
    # Of 1 MiB and less, and a block has whole chunks.
    assert chunks == {"free": (150, 250), "given": (70, 90), "plain": None, "dropped": (150, 250)}


def test_a_file_replaces_the_one_that_it_is_read_from(tmp_path: Path) -> None:
    path = tmp_path / "out.nc"
    to_netcdf(weather(48), path)
    with xr.open_dataset(path, chunks={"time": 10}, **H5NETCDF) as found:
        to_netcdf(found.isel(time=slice(5, 30)), path)
    xr.testing.assert_identical(opened(path), weather(48).isel(time=slice(5, 30)).compute())


def test_the_mode_says_what_happens_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out.nc"
    to_netcdf(weather(24), path, "a", group="first")
    to_netcdf(weather(48), path, "a", group="second")
    to_netcdf(weather(24, day=3), path, "a", group="first")
    for group, expected in (("first", weather(24, day=3)), ("second", weather(48))):
        for engine in ("h5netcdf", "netcdf4"):
            xr.testing.assert_identical(opened(path, engine, group=group), expected.compute())
    with pytest.raises(TargetExistsError, match=r"out\.nc exists"):
        to_netcdf(weather(24), path, "x")
    to_netcdf(weather(24), path)
    with h5py.File(path) as file:
        assert set(file) == {"wind", "note", "time", "x"}


def test_a_dataarray_is_written_as_xarray_writes_it(tmp_path: Path) -> None:
    array = weather(24)["wind"]
    for name in ("wind", None, "time"):
        array.rename(name).chunkio.to_netcdf(tmp_path / "out.nc")
        with xr.open_dataarray(tmp_path / "out.nc", **H5NETCDF) as found:
            xr.testing.assert_identical(found.load(), array.rename(name).compute())


@pytest.mark.parametrize("inherits", [False, True])
def test_a_tree_is_written_as_xarray_writes_it(tmp_path: Path, inherits: bool) -> None:
    tree = xr.DataTree.from_dict(
        {"/": weather(24), "/a": weather(24)[["wind"]] * 2, "/a/b": weather(24)[["note"]], "/c": None}
    )
    keywords: Any = {
        "encoding": {"/": ENCODING, "/a": {"wind": {"zlib": True, "chunksizes": (5, 5)}}},
        "unlimited_dims": {"/": ["time"]},
        "write_inherited_coords": inherits,
    }
    theirs, ours = tmp_path / "theirs.nc", tmp_path / "ours.nc"
    tree.to_netcdf(theirs, **H5NETCDF, **keywords)
    result = tree.chunkio.to_netcdf(ours, **keywords)
    assert {one.name for one in result.datasets} == {"/wind", "/a/wind"}
    with xr.open_datatree(theirs, **H5NETCDF) as expected, xr.open_datatree(ours, **H5NETCDF) as found:
        xr.testing.assert_identical(found.load(), expected.load())
    if shutil.which("h5dump"):
        assert dumped(ours) == dumped(theirs)


def test_enumerations_and_the_classic_model(tmp_path: Path) -> None:
    weathers = np.dtype("u1", metadata={"enum": {"clear": 0, "cloudy": 1}, "enum_name": "cloud"})
    enum = xr.Dataset({"cloud": ("t", da.from_array(np.array([0, 1, 1], "u1"), chunks=2))})
    enum["cloud"].encoding["dtype"] = weathers
    classic = xr.Dataset(
        {"s": ("t", da.from_array(np.array([b"ab", b"c"]), chunks=1)), "x": ("t", da.arange(2, chunks=1))}
    )
    cases: tuple[Any, ...] = (enum, {}), (classic, {"format": "NETCDF4_CLASSIC"})
    for dataset, keywords in cases:
        theirs, ours = tmp_path / "theirs.nc", tmp_path / "ours.nc"
        dataset.to_netcdf(theirs, **H5NETCDF, **keywords)
        to_netcdf(dataset, ours, **keywords)
        xr.testing.assert_identical(opened(ours, "netcdf4"), opened(theirs, "netcdf4"))
        if shutil.which("h5dump"):
            assert dumped(ours) == dumped(theirs)


# Appends


@pytest.mark.filterwarnings("ignore:Times can't be serialized faithfully")
def test_days_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "days.nc"
    for day in range(3):
        keywords: Any = {"encoding": ENCODING} if day == 0 else {}
        to_netcdf(weather(30, day), path, "a", append_dim="time", **keywords)
    expected = xr.concat([weather(30, day) for day in range(3)], "time").compute()
    for engine in ("h5netcdf", "netcdf4"):
        found = opened(path, engine)
        xr.testing.assert_identical(found, expected)
        assert found.encoding["unlimited_dims"] == {"time"}
        assert found["wind"].encoding["dtype"] == np.dtype("i2")
        assert found["time"].encoding["units"] == "hours since 2000-01-01"
    refused: list[tuple[xr.Dataset, Any, str]] = [
        (weather(30, 3).assign_coords(time=weather(30, 3).time + pd.Timedelta(minutes=7)), {}, "units"),
        (weather(30, 3).drop_vars("note"), {}, "lacks note"),
        (weather(30, 3).assign(new=("time", np.ones(30))), {}, "the file lacks new"),
        (weather(30, 3).transpose("x", "time"), {}, "its dimensions are"),
        (weather(30, 3), {"encoding": {"wind": {"zlib": True}}}, "its encoding is used"),
        (weather(30, 3), {"append_dim": "z"}, "is no dimension"),
        (weather(30, 3), {"append_dim": "x"}, "fixed length 20"),
    ]
    for dataset, keywords, words in refused:
        with pytest.raises(ArgumentError, match=words):
            to_netcdf(dataset, path, "a", **{"append_dim": "time", **keywords})
    with pytest.raises(ValueError, match="size"):
        to_netcdf(weather(30, 3).isel(x=slice(3)), path, "a", append_dim="time")
    xr.testing.assert_identical(opened(path), expected)
    assert [one.name for one in tmp_path.iterdir()] == ["days.nc"]


def test_a_file_of_netcdf4_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "days.nc"
    weather(30).to_netcdf(path, engine="netcdf4", encoding=ENCODING, unlimited_dims=["time"], group="g")
    to_netcdf(weather(30, 1), path, "a", append_dim="time", group="g")
    for engine in ("h5netcdf", "netcdf4"):
        expected = xr.concat([weather(30), weather(30, 1)], "time").compute()
        xr.testing.assert_identical(opened(path, engine, group="g"), expected)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("time", {}),  # xarray's own units have the time of the day, those that it writes again have none
        ("time", {"units": "days since 2000-1-1 0:0:0", "dtype": "f8"}),
        ("calendar", {}),
        ("delay", {}),
        ("missing", PACKED),
        ("bool", {}),
        ("bytes", {}),
        ("text", {}),
        ("complex", {}),
    ],
)
def test_all_kinds_of_values_are_appended(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    values = cftimes if kind == "calendar" else VALUES[kind]
    parts = [xr.Dataset({"v": ("t", values(np.arange(24) + start))}) for start in (0, 24, 48)]
    for chunks in (None, 10):
        (tmp_path / "out.nc").unlink(missing_ok=True)
        for number, part in enumerate(parts):
            encoding = {"v": more} if number == 0 else None
            lazy = part if chunks is None or part["v"].dtype == object else part.chunk(chunks)
            to_netcdf(lazy, tmp_path / "out.nc", "a", append_dim="t", encoding=encoding)
        xr.testing.assert_identical(opened(tmp_path / "out.nc", decode_timedelta=True), xr.concat(parts, "t"))


def cftimes(numbers: np.ndarray[Any, Any]) -> Any:
    """Times of a calendar whose months have 30 days."""
    start = cftime.Datetime360Day(2000, 2, 30)
    return np.array([start + datetime.timedelta(hours=int(number)) for number in numbers])


# When it runs, and how it ends


def failing(dataset: xr.Dataset, *, fails: bool) -> xr.Dataset:
    """A dataset whose last block may not be computed, and that notes its other blocks."""

    def block(data: Any, block_info: Any = None) -> Any:
        if fails and block_info[0]["chunk-location"][0] == 2:
            raise ZeroDivisionError("the last block")
        return data

    return dataset.assign(
        wind=dataset["wind"].copy(data=dataset["wind"].chunk(time=10).data.map_blocks(block, dtype="f8"))
    )


@pytest.mark.parametrize("mode", ["w", "a"])
def test_an_interrupted_write_is_resumed(tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "days.nc"
    keywords: Any = {"encoding": ENCODING, "unlimited_dims": ["time"]}
    if mode == "a":
        to_netcdf(weather(30), path, **keywords)
        keywords = {"append_dim": "time", "token": "day 1"}
    before = path.read_bytes() if path.exists() else None
    with pytest.raises((SourceError, ZeroDivisionError)):
        to_netcdf(failing(weather(30, 1), fails=True), path, mode, **keywords)
    assert (path.read_bytes() if path.exists() else None) == before
    with pytest.raises(UnfinishedWriteError):
        to_netcdf(failing(weather(30, 1), fails=False), path, mode, **keywords)
    to_netcdf(failing(weather(30, 1), fails=False), path, mode, resume=True, **keywords)
    if mode == "a":
        assert to_netcdf(weather(30, 1), path, mode, resume=True, **keywords).already_complete
        assert to_netcdf(weather(30, 1), path, mode, **keywords).already_complete
    expected = xr.concat([weather(30), weather(30, 1)], "time") if mode == "a" else weather(30, 1)
    expected.attrs.update({"dask_chunkio_tokens": '["day 1"]'} if mode == "a" else {})
    xr.testing.assert_identical(opened(path, "netcdf4"), expected.compute())
    assert [one.name for one in tmp_path.iterdir()] == ["days.nc"]


def test_a_call_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    for keywords, words in (
        ({"encoding": {"wind": {"colour": "red"}}}, "colour"),
        ({"scheduler": "none"}, "scheduler='none'"),
        ({"memory_limit": "many"}, "memory_limit='many'"),
    ):
        with pytest.raises(ValueError, match=words):
            to_netcdf(weather(24), tmp_path / "out.nc", **keywords)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", pytest.param("processes", marks=pytest.mark.heavy)])
def test_nothing_is_written_before_it_is_computed(tmp_path: Path, scheduler: str) -> None:
    path = tmp_path / "out.nc"
    delayed = to_netcdf(weather(24), path, encoding=ENCODING, compute=False)
    assert list(tmp_path.iterdir()) == []
    (result,) = dask.base.compute(delayed, scheduler=scheduler)
    assert [one.name for one in result.datasets] == ["/wind"]
    xr.testing.assert_identical(opened(path), weather(24).compute())


def test_a_cluster_writes_it_now_or_later(tmp_path: Path) -> None:
    """Even a cluster of one thread: the task that makes the structure gives its thread up."""
    from distributed import Client

    one: Any = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with Client(**one, set_as_default=False) as client:
        to_netcdf(weather(24), tmp_path / "now.nc", encoding=ENCODING, scheduler=client)
        delayed = to_netcdf(weather(24), tmp_path / "later.nc", encoding=ENCODING, compute=False)
        client.compute(delayed).result(timeout=60)
    for name in ("now.nc", "later.nc"):
        xr.testing.assert_identical(opened(tmp_path / name), weather(24).compute())


@pytest.mark.timeout(60)
def test_many_blocks_and_threads_do_not_hang(tmp_path: Path) -> None:
    """As xarray's own ``to_netcdf(compute=False)`` does, which writes inside the graph under a lock."""
    arrays = {f"v{number}": (("t", "x"), da.ones((400, 10), chunks=(4, 5))) for number in range(3)}
    ways: tuple[Any, ...] = {}, {"compute": False}
    for keywords in ways:
        with dask.config.set(num_workers=8):
            dask.base.compute(to_netcdf(xr.Dataset(arrays), tmp_path / "out.nc", **keywords))
        xr.testing.assert_identical(opened(tmp_path / "out.nc"), xr.Dataset(arrays).compute())


class Chunked(np.ndarray[Any, Any]):
    """An array of another library than dask that has chunks."""

    chunks = ((2,), (3,))


@pytest.mark.parametrize(
    ("keywords", "kind", "words"),
    [
        ({"engine": "netcdf4"}, ArgumentError, "engine='netcdf4'"),
        ({"format": "NETCDF3_CLASSIC"}, ArgumentError, "format='NETCDF3_CLASSIC'"),
        ({"mode": "r+"}, ArgumentError, "mode='r\\+'"),
        ({"append_dim": "time"}, ArgumentError, "needs mode='a'"),
        ({"mode": "a", "append_dim": "time", "resume": True}, ArgumentError, "needs token="),
        ({"token": "day 1"}, ArgumentError, "needs append_dim="),
        ({"mode": "a", "append_dim": "time", "token": ""}, ArgumentTypeError, "token is ''"),
        ({"group": 3}, ArgumentTypeError, "group is 3"),
        ({"path": None}, ArgumentTypeError, "path is None"),
        ({"path": "s3://bucket/out.nc"}, ArgumentError, "s3://bucket"),
        ({"compute": "no"}, ArgumentTypeError, "compute is 'no'"),
        ({"append": True}, ArgumentTypeError, "no keyword append"),
        ({"encoding": {"rain": {}}}, ArgumentError, "rain"),
        ({"data": {"x": 1}}, ArgumentTypeError, "must be a Dataset"),
        ({"data": xr.DataTree(), "group": "a"}, ArgumentError, "DataTree"),
        ({"data": xr.DataTree(), "encoding": {"/b": {}}}, ArgumentError, "/b"),
        ({"data": xr.DataTree(), "unlimited_dims": ["time"]}, ArgumentTypeError, "unlimited_dims"),
        ({"scheduler": object(), "compute": False}, ArgumentTypeError, "scheduler"),
    ],
)
def test_what_is_refused(tmp_path: Path, keywords: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        to_netcdf(**{"data": weather(24), "path": tmp_path / "out.nc", **keywords})
    assert list(tmp_path.iterdir()) == []


def test_chunked_arrays_of_others_are_refused() -> None:
    class Target:
        def get_array(self) -> Any:
            return types.SimpleNamespace(dtype=np.dtype("f8"), _h5path="/x")

    with pytest.raises(ArgumentTypeError, match="/x: its chunked array is a Chunked"):
        structure.Parts(True, False).add(np.zeros((2, 3)).view(Chunked), Target())


def test_a_version_of_xarray_that_lacks_a_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("xarray.backends.writers.dump_to_store")
    spec = importlib.util.spec_from_file_location("compat_again", compat.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"xarray .* lacks dump_to_store .* install another version"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# Layouts of the file


def climate(*, shape: tuple[int, int, int] = (160, 90, 180), dask_blocks: int | None = 50) -> xr.Dataset:
    field = np.random.default_rng(0).integers(0, 200, shape).astype("f4")
    tas: Any = field if dask_blocks is None else da.from_array(field, chunks=(dask_blocks, *shape[1:]))
    days = np.arange(shape[0], dtype="f8")
    return xr.Dataset(
        {
            "tas": (("time", "lat", "lon"), tas, {"units": "K"}),
            "time_bnds": (("time", "bnds"), np.stack([days, days], 1)),
        },
        coords={"time": ("time", days, {"bounds": "time_bnds"}), "lat": np.arange(90.0), "lon": np.arange(180.0)},
        attrs={"variable_id": "tas", "title": "A climate"},
    )


GZIP: dict[str, Any] = {"tas": {"zlib": True, "complevel": 1}}


@pytest.mark.parametrize(
    ("layout", "blocks", "unlimited"),
    [("cloud", 50, []), ("cloud", None, ["time"]), ("cmip7", 50, ["time"]), ("cmip7", None, [])],
)
def test_all_metadata_are_in_the_first_page(
    tmp_path: Path, layout: Any, blocks: int | None, unlimited: list[str]
) -> None:
    ds, path = climate(dask_blocks=blocks), tmp_path / "tas.nc"
    to_netcdf(ds, path, layout=layout, encoding=GZIP, unlimited_dims=unlimited)
    assert opened(path).identical(ds.compute())
    with pyfive.File(path) as file:
        assert file.consolidated_metadata
    with h5py.File(path) as file:
        page = file.id.get_create_plist().get_file_space_page_size()
        assert file["tas"].id.get_chunk_info(0).byte_offset >= page
        if layout == "cmip7":
            assert file["tas"].id.get_num_chunks() > 1
            assert [file[name].chunks for name in ("time", "time_bnds")] == [
                None if not unlimited else shape for shape in ((160,), (160, 2))
            ]


# Beside this Python, which need not be on the path.
CHECK_CMIP7 = Path(sys.executable).with_name("check_cmip7_packing")


@pytest.mark.skipif(not CHECK_CMIP7.exists(), reason="cmip7_repack is not installed")
def test_the_archive_of_cmip7_accepts_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tas.nc"
    layouts: dict[Any, int] = {"cmip7": 0, None: 1}
    for layout, code in layouts.items():
        to_netcdf(climate(), path, layout=layout, encoding=GZIP, unlimited_dims=["time"])
        done = subprocess.run([sys.executable, CHECK_CMIP7, path], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout


def test_chunks_that_were_read_are_replaced_for_cmip7(tmp_path: Path) -> None:
    to_netcdf(climate(), tmp_path / "a.nc", encoding={"tas": {"zlib": True, "chunksizes": (10, 90, 180)}})
    with xr.open_dataset(tmp_path / "a.nc", chunks={}, **H5NETCDF) as found:
        to_netcdf(found, tmp_path / "b.nc", layout="cmip7")
        assert opened(tmp_path / "b.nc").equals(found)
    with h5py.File(tmp_path / "b.nc") as file:
        assert math.prod(file["tas"].chunks) * 4 >= 4 << 20


@pytest.mark.parametrize(
    ("name", "chunks", "words"),
    [
        ("tas", (10, 90, 180), r"tas: layout='cmip7' needs chunks of at least 4194304 bytes, .* chunksizes=\(10, 90"),
        (
            "time",
            (10,),
            r"time: layout='cmip7' needs the time coordinate in one chunk, .*; leave it out, or give \(160,\)",
        ),
        ("time_bnds", (10, 2), r"time_bnds: layout='cmip7' needs the time coordinate in one chunk"),
    ],
)
def test_chunks_that_cmip7_does_not_accept_are_refused(tmp_path: Path, name: str, chunks: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        to_netcdf(climate(), tmp_path / "x.nc", layout="cmip7", encoding={name: {"chunksizes": chunks}})
    assert not list(tmp_path.iterdir())


def test_an_existing_file_has_its_layout(tmp_path: Path) -> None:
    ds = climate(shape=(20, 90, 180))
    with pytest.raises(ArgumentError, match=r"layout='cloud' is chosen when a file is created, and mode='a'"):
        to_netcdf(ds, tmp_path / "x.nc", "a", layout="cloud")
    with pytest.raises(ArgumentError, match=r"did you mean 'cloud'\?"):
        ds.chunkio.to_netcdf(tmp_path / "x.nc", layout="cloudy")
    ds.chunkio.to_netcdf(tmp_path / "x.nc", layout="cloud", unlimited_dims=["time"])
    for number in (1, 2):
        to_netcdf(ds.assign_coords(time=ds.time + 20 * number), tmp_path / "x.nc", "a", append_dim="time")
    with pyfive.File(tmp_path / "x.nc") as file:
        assert file.consolidated_metadata
        assert file["tas"].shape == (60, 90, 180)
