"""Real recordings, tiled beyond a gigabyte, read back by h5py and by HDF5 1.10's own tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from dask_chunkio import GenericDataChunkIterator, to_hdf5

HERE = Path(__file__).parent / "data"
GIGABYTE = 10**9


class Tiled(GenericDataChunkIterator):
    """An array repeated along a first axis of its own until it is longer than a size."""

    def __init__(self, name: str, nbytes: int, **options: Any) -> None:
        self.name = name
        with np.load(HERE / f"{name}.npz") as file:
            self.tile: NDArray[Any] = file[name]
        self.count = -(-nbytes // self.tile.nbytes) + 1
        super().__init__(**options)

    def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        first, *inner = selection
        return np.repeat(self.tile[tuple(inner)][np.newaxis], first.stop - first.start, axis=0)

    def _get_maxshape(self) -> tuple[int, ...]:
        return (self.count, *self.tile.shape)

    def _get_dtype(self) -> np.dtype[Any]:
        return self.tile.dtype


CHUNKS = {"ecg": (4, 4800, 12), "mri": (1, 64, 117, 95)}


def write(path: Path, name: str, nbytes: int, scheduler: Any) -> Tiled:
    source = Tiled(name, nbytes, chunk_shape=CHUNKS[name], buffer_gb=0.05)
    to_hdf5(path, f"/{name}", source, compression="gzip", shuffle=True, scheduler=scheduler)
    return source


def assert_equal_by_h5py(path: Path, source: Tiled) -> None:
    with h5py.File(path, "r") as file:
        dataset = file[source.name]
        assert dataset.shape == source.maxshape
        assert (dataset.compression, dataset.compression_opts, dataset.shuffle) == ("gzip", 4, True)
        step = max(1, 50_000_000 // source.tile.nbytes)
        for start in range(0, len(dataset), step):
            tiles = dataset[start : start + step]
            assert (tiles == source.tile).all()


def run(*command: object) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def assert_equal_by_h5dump(path: Path, source: Tiled) -> None:
    dumped = path.with_suffix(".raw")
    run("h5dump", "-d", f"/{source.name}", "-b", "LE", "-o", dumped, path)
    found = np.memmap(dumped, source.dtype, "r", shape=source.maxshape)
    assert all((tile == source.tile).all() for tile in found)
    dumped.unlink()
    described = run("h5stat", path)
    for line in ("GZIP filter: 1", "SHUFFLE filter: 1", "Unaccounted space: 0 bytes"):
        assert line in described


needs_tools = pytest.mark.skipif(shutil.which("h5dump") is None, reason="needs Debian's hdf5-tools (h5dump, h5stat)")


@needs_tools
@pytest.mark.parametrize("name", ["ecg", pytest.param("mri", marks=pytest.mark.heavy)])
def test_a_part_of_real_data(target: Path, name: str) -> None:
    source = write(target, name, 20_000_000, "threads")
    assert_equal_by_h5py(target, source)
    assert_equal_by_h5dump(target, source)


@needs_tools
@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "where"), [("mri", "threads"), ("ecg", "process_client")])
def test_real_data_beyond_a_gigabyte(target: Path, name: str, where: str, request: pytest.FixtureRequest) -> None:
    scheduler = where if where == "threads" else request.getfixturevalue(where)
    source = write(target, name, GIGABYTE, scheduler)
    assert source.count * source.tile.nbytes > GIGABYTE
    assert_equal_by_h5py(target, source)
    assert_equal_by_h5dump(target, source)
