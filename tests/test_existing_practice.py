"""Scripts as people have them today, with the one line changed that writes.

The line before stands above the one after; where it works, its file is the oracle.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import dask.base
import h5py
import numpy as np
import pytest
from dask.delayed import delayed
from distributed import Client, worker_client

import dask_chunkio as dcio

DATA = np.arange(1200, dtype="i4").reshape(120, 10)


@pytest.fixture
def client(process_client: Client) -> Iterator[Client]:
    with process_client.as_current():
        yield process_client


under_a_client = pytest.mark.usefixtures("client")


@pytest.fixture
def array() -> Any:
    return da.from_array(DATA, chunks=(30, 10))


def check(path: Path, expected: Any, name: str = "x") -> None:
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file[name][...], expected, strict=True)


@under_a_client
def test_to_hdf5_under_a_client(target: Path, array: Any) -> None:
    # Today: h5py objects cannot be pickled.
    with pytest.raises(TypeError, match="serialize"):
        array.to_hdf5(str(target.with_name("before.h5")), "/x")
    dcio.to_hdf5(target, "/x", array)
    check(target, DATA)


def test_store_with_a_lock(target: Path, array: Any) -> None:
    before = target.with_name("before.h5")
    with h5py.File(before, "w") as file:
        dataset = file.create_dataset("x", array.shape, array.dtype, chunks=(30, 10), compression="gzip")
        da.store(array, dataset, lock=True)
    dcio.to_hdf5(target, "/x", array, chunks=(30, 10), compression="gzip")
    with h5py.File(before) as theirs, h5py.File(target) as ours:
        np.testing.assert_array_equal(ours["x"][...], theirs["x"][...], strict=True)
        for name in ("chunks", "compression", "compression_opts", "dtype", "maxshape"):
            assert getattr(ours["x"], name) == getattr(theirs["x"], name)


def scaled(block: Any) -> Any:
    return (block * 0.5).astype("f4")


@under_a_client
def test_map_blocks_then_write(target: Path, array: Any) -> None:
    result = array.map_blocks(scaled, dtype="f4")
    # result.to_hdf5(target, "/x")
    dcio.to_hdf5(target, "/x", result)
    check(target, (DATA * 0.5).astype("f4"))


def loaded(number: int) -> Any:
    return DATA[30 * number : 30 * number + 30]


@under_a_client
def test_delayed_arrays(target: Path) -> None:
    parts = [da.from_delayed(delayed(loaded)(number), (30, 10), "i4") for number in range(4)]
    # da.concatenate(parts).to_hdf5(target, "/x")
    dcio.to_hdf5(target, "/x", da.concatenate(parts))
    check(target, DATA)


@under_a_client
def test_several_arrays_in_one_compute(target: Path, array: Any) -> None:
    other = target.with_name("other.h5")
    # dask.compute(da.store(array, one, compute=False), da.store(array + 1, two, compute=False), array.sum())
    one, two, total = dask.base.compute(
        dcio.to_hdf5(target, "/x", array, compute=False),
        dcio.to_hdf5(other, {"/a": array + 1, "/b": array.mean(axis=0)}, compute=False),
        array.sum(),
    )
    check(target, DATA)
    check(other, DATA + 1, "a")
    check(other, DATA.mean(axis=0), "b")
    assert (one.nbytes, len(two.datasets), total) == (DATA.nbytes, 2, DATA.sum())


def counted(block: Any, folder: Path) -> Any:
    (folder / f"{block[0, 0]}-{np.random.default_rng().integers(1 << 60)}").touch()
    return block


@under_a_client
def test_persist_then_write(target: Path, array: Any, tmp_path: Path) -> None:
    """What is in the workers' memory is not computed again."""
    folder = tmp_path / "computed"
    folder.mkdir()
    kept = array.map_blocks(counted, folder, dtype="i4", meta=np.zeros((0, 0), "i4")).persist()
    # kept.to_hdf5(target, "/x")
    dcio.to_hdf5(target, "/x", kept)
    check(target, DATA)
    assert len(list(folder.iterdir())) == 4


def squared(number: int) -> Any:
    return DATA[30 * number : 30 * number + 30] ** 2


def test_futures(client: Client, target: Path) -> None:
    futures = client.map(squared, range(4))
    parts = [da.from_delayed(future, (30, 10), "i4") for future in futures]
    # with h5py.File(target, "w") as file:
    #     file["x"] = np.concatenate(client.gather(futures))
    dcio.to_hdf5(target, "/x", da.concatenate(parts))
    check(target, DATA**2)


def job(path: str) -> Any:
    array = da.from_array(DATA, chunks=(30, 10))
    with worker_client():
        # array.to_hdf5(path, "/x")
        result = dcio.to_hdf5(path, "/x", array, compression="gzip", progress=False)
    return result.datasets[0].name


def test_from_inside_a_task(client: Client, target: Path) -> None:
    assert client.submit(job, str(target)).result() == "/x"
    check(target, DATA)


def job_without_a_client(path: str) -> int:
    return dcio.to_hdf5(path, "/x", DATA, chunks=(30, 10), progress=False).chunks


def test_from_inside_a_task_that_asks_for_no_client(client: Client, target: Path) -> None:
    assert client.submit(job_without_a_client, str(target)).result() == 4
    check(target, DATA)
