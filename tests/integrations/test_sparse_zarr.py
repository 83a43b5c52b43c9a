"""Chunks that a zarr store or an HDF5 file does not have are not made by a conversion."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

import dask_chunkio as dcio
from tests.support.processes import run_python
from tests.support.references.files import expected, read, require_equal

pytestmark = pytest.mark.filterwarnings("ignore:.*not in the Zarr version 3.*", "ignore:.*does not have a Zarr V3.*")

SHAPE, CHUNKS = (20, 9), (4, 3)
RECORD = np.dtype([("a", "<i4"), ("b", "S3"), ("c", "<f8")])
WRITTEN = {(0, 0), (2, 1), (4, 2)}


def sparse(path: Path, dtype: Any, fill: Any, **keywords: Any) -> Any:
    """An array of which a few chunks are stored, one of them at each end."""
    array: Any = zarr.create_array(
        path, name="x", shape=SHAPE, chunks=CHUNKS, dtype=dtype, fill_value=fill, **{"zarr_format": 3, **keywords}
    )
    for row, column in WRITTEN:
        value = np.full((4, 3), 7).astype(array.dtype)
        array[row * 4 : row * 4 + 4, column * 3 : column * 3 + 3] = value
    return array


def stored_cells(dataset: h5py.Dataset) -> set[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    if dataset.id.get_num_chunks():
        dataset.id.chunk_iter(lambda one: found.append(one.chunk_offset))
    return {tuple(at // n for at, n in zip(origin, dataset.chunks, strict=True)) for origin in found}


def cells_of(array: Any, store: Path) -> set[tuple[int, ...]]:
    cells = np.ndindex(*(-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)))
    folder = store / array.path
    return {cell for cell in cells if (folder / array.metadata.encode_chunk_key(cell)).exists()}


def to_hdf5(tmp_path: Path, **keywords: Any) -> Path:
    dcio.convert(tmp_path / "in.zarr", tmp_path / "out.h5", progress=False, **keywords)
    return tmp_path / "out.h5"


FILLS: dict[str, tuple[Any, Any, Any]] = {
    "zero": ("i4", 0, 3),
    "minus one": (">i2", -1, 3),
    "nan": ("f8", np.nan, 3),
    "infinity": ("f4", -np.inf, 2),
    "minus zero": ("f4", -0.0, 3),
    "null": ("i4", None, 2),
    "false": ("bool", False, 2),
    "complex": ("c16", complex(np.nan, 2), 3),
    "bytes": ("S4", b"none", 2),
    "opaque": ("V4", b"abcd", 3),
    "records": (RECORD, np.array((5, b"xy", 2.5), RECORD)[()], 2),
}


@pytest.mark.parametrize("case", FILLS)
def test_every_fill_value(case: str, tmp_path: Path) -> None:
    dtype, fill, zarr_format = FILLS[case]
    array = sparse(tmp_path / "in.zarr", dtype, fill, zarr_format=zarr_format)
    out = to_hdf5(tmp_path)
    with h5py.File(out) as file:
        assert stored_cells(file["x"]) == WRITTEN
        assert file["x"][...].astype(array.dtype).tobytes() == array[...].tobytes()
    dcio.convert(out, tmp_path / "back.zarr", zarr_format=zarr_format)
    back: Any = zarr.open_group(tmp_path / "back.zarr", mode="r")["x"]
    assert back[...].astype(array.dtype).tobytes() == array[...].tobytes()
    assert cells_of(back, tmp_path / "back.zarr") == WRITTEN


CODECS: dict[str, dict[str, Any]] = {
    "none": {"compressors": None},
    "zstd": {},
    "gzip, decoded": {"compressors": zarr.codecs.GzipCodec(level=3)},
    "shards": {"shards": (8, 9)},
    "column-major": {"zarr_format": 2, "order": "F"},
}


SCHEDULED = [(case, scheduler) for case in CODECS for scheduler in ("synchronous", "threads")]


@pytest.mark.parametrize(("case", "scheduler"), [*SCHEDULED, ("none", "processes"), ("gzip, decoded", "processes")])
def test_every_way_of_storing(case: str, scheduler: str, tmp_path: Path) -> None:
    array = sparse(tmp_path / "in.zarr", "f4", 2.5, **CODECS[case])
    with h5py.File(to_hdf5(tmp_path, scheduler=scheduler)) as file:
        assert stored_cells(file["x"]) == WRITTEN
        assert np.array_equal(file["x"], array[...])


def test_other_filters(tmp_path: Path) -> None:
    array = sparse(tmp_path / "in.zarr", "f4", 2.5)
    with h5py.File(to_hdf5(tmp_path, compression="gzip", fletcher32=True)) as file:
        assert stored_cells(file["x"]) == WRITTEN
        assert np.array_equal(file["x"], array[...])


def test_nothing_is_stored(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w")
    for name in ("x", "y"):
        root.create_array(name, shape=(1 << 30,), chunks=(1 << 20,), dtype="u1", fill_value=3)
    out = to_hdf5(tmp_path)
    assert out.stat().st_size < 1 << 14
    with h5py.File(out) as file:
        assert file["x"].shape == (1 << 30,)
        assert file["y"][1 << 29] == 3
    dcio.convert(out, tmp_path / "back.zarr")
    back: Any = zarr.open_group(tmp_path / "back.zarr", mode="r")["y"]
    assert cells_of(back, tmp_path / "back.zarr") == set()
    assert back.metadata.fill_value == 3


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("fill", ["", "none µ"])
def test_strings_that_hdf5_does_not_have(fill: str, zarr_format: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for name in ("x", "named"):
            made = file.create_dataset(name, (20,), h5py.string_dtype(), chunks=(4,), fillvalue=fill)
            made[8:12] = ["a", "", "bb", fill]
        file["named"].make_scale("named")
        right = file["x"].asstr()[...].tolist()
    dcio.convert(tmp_path / "in.h5", tmp_path / "out.zarr", zarr_format=zarr_format)
    root: Any = zarr.open_group(tmp_path / "out.zarr", mode="r")
    for name in ("x", "named"):
        assert root[name][...].tolist() == right
        # xarray takes the fill value of format 2 for missing data, so that there is none.
        is_dense = zarr_format == 2 and name == "named"
        assert len(cells_of(root[name], tmp_path / "out.zarr")) == (5 if is_dense else 1)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_numbers_that_hdf5_does_not_have(zarr_format: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for name, fill in {"zero": None, "nan": np.nan, "one": 1.0}.items():
            for attribute in (None, 1.0):
                made = file.create_dataset(f"{name} {attribute}", (20,), "f8", chunks=(4,), fillvalue=fill)
                made[8:12] = 7
                made.dims[0].label = "time"
                if attribute is not None:
                    made.attrs["_FillValue"] = attribute
        right = {name: one[...] for name, one in file.items()}
    dcio.convert(tmp_path / "in.h5", tmp_path / "out.zarr", zarr_format=zarr_format)
    root: Any = zarr.open_group(tmp_path / "out.zarr", mode="r")
    for name, values in right.items():
        np.testing.assert_array_equal(root[name][...], values)
        # xarray takes the fill value of format 2 for missing data: only where it is HDF5's, chunks may be missing.
        is_sparse = zarr_format == 3 or name == "one 1.0"
        assert len(cells_of(root[name], tmp_path / "out.zarr")) == (1 if is_sparse else 5), name
    with (
        xr.open_zarr(tmp_path / "out.zarr", consolidated=False) as ours,
        xr.open_dataset(tmp_path / "in.h5", engine="h5netcdf", phony_dims="access") as theirs,
    ):
        for name in right:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_chunks_that_hold_the_fill_value_are_copied_where_they_are_stored(tmp_path: Path) -> None:
    array: Any = zarr.create_array(
        tmp_path / "in.zarr", name="x", shape=SHAPE, chunks=CHUNKS, dtype="i4", config={"write_empty_chunks": True}
    )
    array[:4, :3] = 0
    with h5py.File(to_hdf5(tmp_path)) as file:
        assert stored_cells(file["x"]) == {(0, 0)}


def test_what_the_structure_of_a_draft_holds_is_replaced(tmp_path: Path) -> None:
    array, out = sparse(tmp_path / "in.zarr", "f4", 2.5), tmp_path / "out.h5"
    for never in (False, True):
        with dcio.draft(out, mode="w", references=tmp_path / "out.json") as draft:
            with h5py.File(draft.path, "w") as file:
                more = {"fill_time": "never"} if never else {}
                made = file.create_dataset("x", SHAPE, "f4", chunks=CHUNKS, fillvalue=2.5, **more)
                made[:8] = 1
                file.create_dataset("other", SHAPE, "f4", chunks=CHUNKS, fillvalue=1)
            draft.fill({"/x": array, "/other": array}, progress=False)
        rows = {(row, column) for row in range(5) for column in range(3)}
        with h5py.File(out) as file:
            assert np.array_equal(file["x"], array[...])
            assert np.array_equal(file["other"], array[...])
            top = {(row, column) for row, column in rows if row < 2}
            assert stored_cells(file["x"]) == (rows if never else WRITTEN | top)
            assert stored_cells(file["other"]) == rows
        require_equal(read(tmp_path / "out.json"), expected(out))


@pytest.mark.parametrize("codec", ["gzip", "zstd"])  # copied, and encoded
def test_what_is_replaced_by_nothing_but_fill_values_goes_through_the_filters(codec: str, tmp_path: Path) -> None:
    array: Any = zarr.create_array(
        tmp_path / "in.zarr", shape=(400, 90), chunks=(100, 90), dtype="f8", fill_value=2.5,
        compressors=[{"name": codec, "configuration": {}}],
    )  # fmt: skip
    array[:100] = np.arange(9000).reshape(100, 90)
    out = tmp_path / "out.h5"
    for more in ({"fill_time": "never"}, {}):
        with dcio.draft(out, mode="w", references=tmp_path / "out.json") as draft:
            with h5py.File(draft.path, "w") as file:
                made = file.create_dataset(
                    "x", array.shape, "f8", chunks=array.chunks, compression="gzip", fillvalue=2.5, **more
                )
                made[...] = 1
            draft.fill("/x", array, progress=False)
        with h5py.File(out) as file:
            assert np.array_equal(file["x"], array[...])
            found = [file["x"].id.get_chunk_info(number) for number in range(4)]
            assert [one.filter_mask for one in found] == [0] * 4
            assert max(one.size for one in found[1:]) < 1000
        require_equal(read(tmp_path / "out.json"), expected(out))


def test_a_chunk_that_another_program_makes_meanwhile_is_noticed(tmp_path: Path) -> None:
    array = sparse(tmp_path / "in.zarr", "f4", 2.5)
    draft = dcio.draft(tmp_path / "out.h5").open()
    with h5py.File(draft.path, "w") as file:
        file.create_dataset("x", SHAPE, "f4", chunks=CHUNKS, fillvalue=2.5)

    def make_chunk(event: dcio.WriteEvent) -> None:
        if isinstance(event, dcio.BufferCommitted) and event.buffer == 3:
            with h5py.File(draft.path, "r+") as file:
                file["x"][5, 0] = 9

    with pytest.raises(dcio.errors.IntegrityError, match="chunks that the journal does not know"):
        draft.fill("/x", array, buffer_shape=(4, 9), scheduler="synchronous", callback=make_chunk, progress=False)
    draft.keep()
    dcio.discard(tmp_path / "out.h5")


SCRIPT = """
import os, signal, sys
import dask_chunkio as dcio
from dask_chunkio.storage.writer import Writer

real, count = Writer.commit, 0

def commit(*arguments):
    global count
    count += 1
    if "kill" in sys.argv and count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)

Writer.commit = commit
dcio.convert("in.zarr", "out.h5", resume=True, scheduler="synchronous", progress=False)
"""


def test_a_conversion_that_was_killed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = sparse(tmp_path / "in.zarr", "f4", 2.5)
    Path("script.py").write_text(SCRIPT)
    assert run_python("script.py", "kill").returncode == -signal.SIGKILL
    assert (tmp_path / "out.h5.draft").exists()
    run_python("script.py", "again", check=True)
    with h5py.File("out.h5") as file:
        assert stored_cells(file["x"]) == WRITTEN
        assert np.array_equal(file["x"], array[...])
    assert sorted(os.listdir()) == ["in.zarr", "out.h5", "script.py"]
