"""Chunks of zarr arrays that are written as they are stored, where chunks and codecs have equals in HDF5."""

import pickle
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, ZstdCodec

import dask_chunkio as dcio
from dask_chunkio import errors
from dask_chunkio.integrations.zarr.compat import quiet
from dask_chunkio.sources.adapt import as_source

DATA = np.arange(65 * 40, dtype="i4").reshape(65, 40)
ZLIB: dict[str, Any] = {"name": "numcodecs.zlib", "configuration": {"level": 9}}
GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 9}
CASES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "v2-zlib": (2, {"compressors": numcodecs.Zlib(9)}, GZIP),
    "v2-shuffle-zlib": (
        2,
        {"filters": [numcodecs.Shuffle(4)], "compressors": numcodecs.Zlib(9)},
        {**GZIP, "shuffle": True},
    ),
    "v2-zstd": (2, {"compressors": numcodecs.Zstd(7)}, dict(hdf5plugin.Zstd(clevel=7))),
    "v2-blosc": (
        2,
        {"compressors": numcodecs.Blosc("lz4", 5, 2)},
        dict(hdf5plugin.Blosc("lz4", 5, shuffle=hdf5plugin.Blosc.BITSHUFFLE)),
    ),
    "v2-none": (2, {"compressors": None}, {}),
    "v2-fletcher32": (2, {"filters": [numcodecs.Fletcher32()], "compressors": None}, {"fletcher32": True}),
    "v3-zlib": (3, {"compressors": [ZLIB]}, GZIP),
    "v3-shuffle-zstd": (
        3,
        {"compressors": [{"name": "numcodecs.shuffle", "configuration": {"elementsize": 4}}, ZstdCodec(level=7)]},
        {**hdf5plugin.Zstd(clevel=7), "shuffle": True},
    ),
    "v3-blosc": (
        3,
        {"compressors": [BloscCodec(cname="zstd", clevel=4, shuffle="shuffle", typesize=4)]},
        dict(hdf5plugin.Blosc("zstd", 4, shuffle=hdf5plugin.Blosc.SHUFFLE)),
    ),
    "v3-big-endian": (
        3,
        {"compressors": [ZLIB], "serializer": BytesCodec(endian="big")},
        {**GZIP, "dtype": ">i4"},
    ),
}


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with quiet():
        yield


def made(store: Any, data: Any = DATA, zarr_format: Any = 3, **keywords: Any) -> Any:
    chunks = keywords.pop("chunks", (10, 16))
    array = zarr.create_array(
        store, name="x", shape=data.shape, dtype=data.dtype, chunks=chunks, zarr_format=zarr_format, **keywords
    )
    array[...] = data
    return array if isinstance(store, zarr.storage.ZipStore) else zarr.open_group(store, mode="r")["x"]


def key(array: Any, cell: tuple[int, ...]) -> str:
    return f"x/{array.metadata.encode_chunk_key(cell)}"


def stored(array: Any, cell: tuple[int, ...]) -> bytes:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    return bytes(sync(array.store_path.store.get(key(array, cell), default_buffer_prototype())).to_bytes())


def written(path: Path, cell: tuple[int, int]) -> bytes:
    with h5py.File(path) as file:
        mask, data = file["x"].id.read_direct_chunk((cell[0] * 10, cell[1] * 16))
    assert mask == 0
    return bytes(data)


def copied(array: Any, out: Path, **keywords: Any) -> bool:
    dcio.to_hdf5(out, "/x", array, chunks=(10, 16), progress=False, **keywords)
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)
    return all(stored(array, cell) == written(out, cell) for cell in np.ndindex(7, 3))


@pytest.mark.parametrize("case", CASES)
def test_chunks_are_copied(case: str, tmp_path: Path) -> None:
    zarr_format, codecs, options = CASES[case]
    array = made(tmp_path / "in.zarr", zarr_format=zarr_format, **codecs)
    assert dcio.plan(tmp_path / "out.h5", "/x", array, chunks=(10, 16), **options).datasets[0].encoder.startswith("cop")
    assert copied(array, tmp_path / "out.h5", **options)


@pytest.mark.parametrize("case", CASES)
def test_other_options_are_encoded(case: str, tmp_path: Path) -> None:
    zarr_format, codecs, _ = CASES[case]
    array = made(tmp_path / "in.zarr", zarr_format=zarr_format, **codecs)
    assert not copied(array, tmp_path / "out.h5", compression="gzip", compression_opts=2, shuffle=True)


def test_any_store(tmp_path: Path) -> None:
    for number, store in enumerate(
        [
            zarr.storage.MemoryStore(),
            zarr.storage.ZipStore(tmp_path / "in.zip", mode="w"),
            zarr.storage.FsspecStore.from_url(f"memory://{tmp_path.name}/in.zarr"),
            tmp_path / "in.zarr",
        ]
    ):
        array = made(store, compressors=[ZLIB])
        assert copied(array, tmp_path / f"{number}.h5", **GZIP)


@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_other_processes(tmp_path: Path, scheduler: str) -> None:
    array = made(tmp_path / "in.zarr", compressors=[ZLIB])
    assert copied(array, tmp_path / "out.h5", scheduler=scheduler, **GZIP)
    source: Any = as_source(array, "/x")
    assert np.array_equal(pickle.loads(pickle.dumps(source)).read((slice(0, 65), slice(0, 40))), DATA)


def test_a_chunk_that_was_never_written_is_encoded(tmp_path: Path) -> None:
    data = DATA.copy()
    data[:10, :16] = 7
    array = made(tmp_path / "in.zarr", data, compressors=[ZLIB], fill_value=7)
    assert not (tmp_path / "in.zarr" / key(array, (0, 0))).exists()
    dcio.to_hdf5(tmp_path / "out.h5", "/x", array, chunks=(10, 16), buffer_shape=(10, 16), progress=False, **GZIP)
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["x"], data)
    assert written(tmp_path / "out.h5", (1, 0)) == stored(array, (1, 0))


def test_old_elements_at_the_edge_do_not_come_back(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "in.zarr", name="x", shape=(10,), dtype="i4", chunks=(10,), compressors=[ZLIB])
    array[...] = 5
    array.resize((4,))
    dcio.to_hdf5(tmp_path / "grows.h5", "/x", array, chunks=(10,), maxshape=(None,), progress=False, **GZIP)
    with h5py.File(tmp_path / "grows.h5", "r+") as file:
        file["x"].resize((10,))
        assert file["x"][...].tolist() == [5] * 4 + [0] * 6


@pytest.mark.parametrize("payload", [b"", b"\xff" * 10, bytes(5000)])
def test_a_damaged_chunk_is_named(tmp_path: Path, payload: bytes) -> None:
    array = made(tmp_path / "in.zarr", compressors=[ZLIB])
    (tmp_path / "in.zarr" / key(array, (1, 1))).write_bytes(payload)
    with pytest.raises(errors.IntegrityError, match=r"in\.zarr/x: the chunk at \(10, 16\) is damaged"):
        copied(array, tmp_path / "out.h5", **GZIP)
    assert not (tmp_path / "out.h5").exists()


def test_not_more_is_read_of_a_chunk_than_can_be_right(tmp_path: Path) -> None:
    array = made(tmp_path / "in.zarr", compressors=[ZLIB])
    with (tmp_path / "in.zarr" / key(array, (1, 1))).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(errors.IntegrityError, match="66817 bytes or more, and 66816 at most"):
        copied(array, tmp_path / "out.h5", **GZIP)


class _Failing(zarr.storage.WrapperStore[Any]):
    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if byte_range is not None:
            raise ConnectionError("the network is down")
        return await super().get(key, prototype)


def test_a_store_that_fails_is_named(tmp_path: Path) -> None:
    array = made(_Failing(zarr.storage.MemoryStore()), compressors=[ZLIB])
    with pytest.raises(errors.SourceError, match="cannot read its chunks: ConnectionError: the network is down"):
        copied(array, tmp_path / "out.h5", **GZIP)
