"""Chunks of an HDF5 file or a zarr array that are written as they are stored, where chunks and filters stay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numcodecs
import numpy as np
import pytest
import zarr
from distributed import Client

import dask_chunkio as dcio
from dask_chunkio import errors

DATA = np.arange(60 * 40, dtype="i4").reshape(60, 40)
# zlib's level 9: what our own engine makes of it has other bytes.
AS_STORED: dict[str, Any] = {"chunks": (10, 16), "compression": "gzip", "compression_opts": 9, "shuffle": True}


def payloads(path: Path, name: str = "x") -> dict[tuple[int, ...], tuple[int, bytes]]:
    with h5py.File(path) as file:
        dataset = file[name].id
        infos = [dataset.get_chunk_info(number) for number in range(dataset.get_num_chunks())]
        return {info.chunk_offset: dataset.read_direct_chunk(info.chunk_offset) for info in infos}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("x", data=DATA, **AS_STORED)
    return tmp_path / "in.h5"


def copied(source: Path, **keywords: Any) -> Path:
    out = source.with_name("out.h5")
    with h5py.File(source) as file:
        dcio.to_hdf5(out, "/x", file["x"], progress=False, **{**AS_STORED, **keywords})
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA.astype(file["x"].dtype))
    return out


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_chunks_are_copied_where_chunks_and_filters_stay(source: Path, scheduler: str) -> None:
    assert payloads(copied(source, scheduler=scheduler)) == payloads(source)


def test_chunks_are_copied_on_a_cluster(source: Path, process_client: Client) -> None:
    assert payloads(copied(source, scheduler=process_client)) == payloads(source)


@pytest.mark.parametrize(
    "changed",
    [
        {"compression_opts": 8},
        {"shuffle": False},
        {"fletcher32": True},
        {"chunks": (10, 40)},
        {"dtype": ">i4"},
        {"dtype": "i8"},
        {"fillvalue": 5},
    ],
    ids="-".join,
)
def test_other_chunks_or_filters_are_encoded(source: Path, changed: dict[str, Any]) -> None:
    assert payloads(copied(source, **changed)) != payloads(source)


def test_a_buffer_with_a_chunk_that_was_never_written_is_encoded(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("x", DATA.shape, DATA.dtype, **AS_STORED)[:40] = DATA[:40]
    with h5py.File(tmp_path / "in.h5") as file:
        dcio.to_hdf5(tmp_path / "out.h5", "/x", file["x"], buffer_shape=(10, 48), progress=False, **AS_STORED)
        expected = file["x"][...]
    theirs, ours = payloads(tmp_path / "in.h5"), payloads(tmp_path / "out.h5")
    assert {origin: ours[origin] for origin in theirs} == theirs
    assert len(ours) == 18
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["x"], expected)


def test_masks_stay(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        dataset = file.create_dataset("x", (20,), "i4", chunks=(10,), compression="gzip")
        dataset.id.write_direct_chunk((0,), np.arange(10, dtype="i4").tobytes(), 1)
        dataset[10:] = np.arange(10)
    with h5py.File(tmp_path / "in.h5") as file:
        dcio.to_hdf5(tmp_path / "out.h5", "/x", file["x"], chunks=(10,), compression="gzip", progress=False)
    assert payloads(tmp_path / "out.h5") == payloads(tmp_path / "in.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["x"][...].tolist() == [*range(10), *range(10)]


def test_only_whole_datasets_are_copied(source: Path) -> None:
    out = copied(source)
    with h5py.File(source) as file:
        dcio.to_hdf5(out, "/x", file["x"], region=(slice(0, 60), slice(0, 40)), progress=False)
    assert payloads(out) != payloads(source)
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_a_dataset_without_chunks_is_filled_by_hdf5(tmp_path: Path) -> None:
    """Its only chunk would have the form of the source's."""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("x", data=DATA, chunks=DATA.shape)
    with dcio.draft(tmp_path / "out.h5") as draft:
        with h5py.File(draft.path, "w") as file:
            file.create_dataset("x", DATA.shape, DATA.dtype)
        with h5py.File(tmp_path / "in.h5") as file:
            draft.fill("/x", file["x"], buffer_shape=DATA.shape, progress=False)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["x"].chunks is None
        assert np.array_equal(file["x"], DATA)


def test_a_payload_that_no_filter_makes_is_refused(source: Path) -> None:
    with h5py.File(source, "r+") as file:
        file["x"].id.write_direct_chunk((10, 16), bytes(200_000))
    with h5py.File(source) as file, pytest.raises(errors.IntegrityError, match=r"in\.h5, /x: the chunk at \(10, 16\)"):
        dcio.to_hdf5(source.with_name("out.h5"), "/x", file["x"], progress=False, **AS_STORED)
    assert not source.with_name("out.h5").exists()


def test_the_plan_says_that_chunks_are_copied(source: Path) -> None:
    with h5py.File(source) as file:
        plan: Callable[..., Any] = dcio.plan
        same = plan(source.with_name("out.h5"), "/x", file["x"], **AS_STORED)
        other = plan(source.with_name("out.h5"), "/x", file["x"], **{**AS_STORED, "compression_opts": 1})
    assert same.datasets[0].encoder == "copying of the chunks as they are stored"
    assert "isal" in other.datasets[0].encoder


# zarr


# Each level of zstd encodes these in another way.
DIGITS = np.random.default_rng(0).integers(0, 9, DATA.shape).astype("<i4")
GZIP9: dict[str, Any] = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
# Format of zarr and its keywords; those of h5py that are equal; some that are not.
CODECS: dict[str, tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = {
    "format 2, zlib": (
        {"zarr_format": 2, "filters": [numcodecs.Shuffle(4)], "compressors": numcodecs.Zlib(9)},
        GZIP9,
        [{**GZIP9, "compression_opts": 1}, {**GZIP9, "shuffle": False}, {**GZIP9, "fletcher32": True}],
    ),
    "format 2, zstd": (
        {"zarr_format": 2, "compressors": numcodecs.Zstd(7)},
        dict(hdf5plugin.Zstd(7)),
        [dict(hdf5plugin.Zstd(1)), {**hdf5plugin.Zstd(7), "shuffle": True}, {"compression": "gzip"}],
    ),
    "format 3, zstd": (
        {"zarr_format": 3, "compressors": zarr.codecs.ZstdCodec(level=7)},
        dict(hdf5plugin.Zstd(7)),
        [dict(hdf5plugin.Zstd(1)), {**hdf5plugin.Zstd(7), "shuffle": True}, {"compression": "gzip"}],
    ),
}


def array_of(tmp_path: Path, name: str) -> tuple[Any, bytes]:
    """Return an array of zarr, and its first chunk as it is stored."""
    path = tmp_path / "in.zarr"
    array = zarr.create_array(path, shape=DIGITS.shape, dtype="<i4", chunks=(10, 16), **CODECS[name][0])
    array[...] = DIGITS
    return array, (path / ("0.0" if "format 2" in name else "c/0/0")).read_bytes()


@pytest.mark.parametrize("name", CODECS)
def test_chunks_of_zarr_are_copied_where_codecs_and_filters_are_equal(tmp_path: Path, name: str) -> None:
    array, chunk = array_of(tmp_path, name)
    dcio.to_hdf5(tmp_path / "out.h5", "/x", array, chunks=(10, 16), progress=False, **CODECS[name][1])
    assert payloads(tmp_path / "out.h5")[0, 0] == (0, chunk)
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["x"], DIGITS)


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in CODECS for number in range(3)])
def test_chunks_of_zarr_with_other_options_are_encoded(tmp_path: Path, name: str, number: int) -> None:
    array, chunk = array_of(tmp_path, name)
    dcio.to_hdf5(tmp_path / "out.h5", "/x", array, chunks=(10, 16), progress=False, **CODECS[name][2][number])
    assert payloads(tmp_path / "out.h5")[0, 0][1] != chunk
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["x"], DIGITS)
