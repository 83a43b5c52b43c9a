import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.base
import h5py
import numpy as np
import pytest
from distributed import Client

import dask_chunkio as dcio
from dask_chunkio import errors
from dask_chunkio.reading.verification import verify_file

DATA = np.arange(60 * 40, dtype="i4").reshape(60, 40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("g/x", data=DATA, chunks=(10, 8), compression="gzip", shuffle=True)
    return tmp_path / "x.h5"


# open_array


def test_an_array_tells_what_it_is(path: Path) -> None:
    array = dcio.open_array(str(path), "g/x")
    assert (array.shape, array.dtype, array.chunks, array.ndim) == ((60, 40), DATA.dtype, (10, 8), 2)
    assert (array.size, array.nbytes, len(array)) == (2400, 9600, 60)
    assert (array.filename, array.name, array.is_direct) == (str(path), "/g/x", True)
    assert repr(array) == f"<Hdf5Array /g/x of {path}: shape (60, 40), dtype int32>"


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_an_array_is_read_as_numpy_reads(path: Path, threads: int | None) -> None:
    array = dcio.open_array(path, "/g/x", threads=threads)
    assert np.array_equal(np.asarray(array), DATA)
    assert np.asarray(array, "f8").dtype == "f8"
    assert np.array_equal(array[3:50:7, ::-1], DATA[3:50:7, ::-1])
    assert np.array_equal(array[[59, 0, 0, 21]], DATA[[59, 0, 0, 21]])
    assert np.array_equal(array[DATA[:, 0] % 3 == 0, ..., 5], DATA[DATA[:, 0] % 3 == 0, ..., 5])
    assert array[-1, -1] == 2399
    assert [row.sum() for row in array] == DATA.sum(axis=1).tolist()


def test_an_array_has_no_memory_of_its_own(path: Path) -> None:
    with pytest.raises(ValueError, match="copy=False"):
        np.asarray(dcio.open_array(path, "/g/x"), copy=False)


def test_steps_larger_than_chunks_read_only_the_chunks_that_hold_something(path: Path) -> None:
    """The others are damaged."""
    with h5py.File(path) as file:
        dataset = file["g/x"]
        bad = [dataset.id.get_chunk_info_by_coord((row, 0)) for row in (10, 20, 40, 50)]
    with path.open("r+b") as raw:
        for place in bad:
            raw.seek(place.byte_offset)
            raw.write(bytes(place.size))
    array = dcio.open_array(path, "/g/x")
    assert np.array_equal(array[::30, 0], DATA[::30, 0])
    assert np.array_equal(array[[5, 35], 0], DATA[[5, 35], 0])
    with pytest.raises(errors.IntegrityError, match=r"/g/x: the chunk at \(10, 0\)"):
        array[::10, 0]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"name": 3}, errors.ArgumentTypeError, "name is 3 of type int; it must be a str"),
        ({"threads": 0}, errors.ArgumentError, "threads=0 is not a number of threads"),
        ({"filename": 3}, errors.ArgumentTypeError, "filename is a int"),
        ({"filename": "s3://bucket/x.h5"}, errors.ArgumentError, "is a URL"),
        ({"filename": "none.h5"}, errors.TargetError, "none.h5"),
    ],
)
def test_arguments_that_cannot_be_used(path: Path, arguments: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        dcio.open_array(**{"filename": path, "name": "/g/x", **arguments})


# from_hdf5


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_a_dask_array_of_a_file(path: Path, scheduler: str) -> None:
    array = dcio.from_hdf5(path, "/g/x", (20, 24))
    assert array.chunks == ((20, 20, 20), (24, 16))
    whole, part = dask.base.compute(array, array[7, 3:9], scheduler=scheduler)
    assert np.array_equal(whole, DATA)
    assert part.tolist() == DATA[7, 3:9].tolist()


def test_a_dask_array_on_a_cluster(path: Path, process_client: Client) -> None:
    assert int(process_client.compute(dcio.from_hdf5(path, "/g/x").sum()).result()) == DATA.sum()


def test_blocks_are_multiples_of_chunks(path: Path) -> None:
    with dask.config.set({"array.chunk-size": "2 kiB"}):
        array = dcio.from_hdf5(path, "/g/x")
    assert array.numblocks > (1, 1)
    assert all(n % 10 == 0 for n in array.chunks[0][:-1])
    assert all(n % 8 == 0 for n in array.chunks[1][:-1])


def test_the_name_follows_from_the_file(path: Path) -> None:
    first = dcio.from_hdf5(path, "/g/x")
    assert dcio.from_hdf5(path, "/g/x").name == first.name
    assert dcio.from_hdf5(path, "/g/x", 7).name != first.name
    with h5py.File(path, "r+") as file:
        file["g/x"][0] = 0
    os.utime(path, ns=(1, 1))
    assert dcio.from_hdf5(path, "/g/x").name != first.name


def test_a_file_is_read_and_written_in_one_graph(path: Path) -> None:
    dcio.to_hdf5(path.with_name("y.h5"), "/y", dcio.from_hdf5(path, "/g/x", 16) + 1, chunks=(15, 8), progress=False)
    with h5py.File(path.with_name("y.h5")) as file:
        assert np.array_equal(file["y"], DATA + 1)


def test_elements_that_hdf5_has_to_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["words"] = ["a", "bc", "d"]
        file["number"] = 5
    assert dcio.from_hdf5(tmp_path / "x.h5", "words", 2).compute().tolist() == [b"a", b"bc", b"d"]
    assert dcio.from_hdf5(tmp_path / "x.h5", "number").compute() == 5


@pytest.mark.parametrize("chunks", [(1, 2, 3), "x", (0, -5)])
def test_blocks_that_cannot_be(path: Path, chunks: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="cannot be the blocks"):
        dcio.from_hdf5(path, "/g/x", chunks)


def test_a_shape_that_makes_too_many_blocks_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (1 << 60,), "u1", chunks=(1000,), compression="gzip")[5] = 1
    with pytest.raises(errors.ArgumentError, match=r"x\.h5, /x: the shape \(1152921504606846976,\)"):
        dcio.from_hdf5(tmp_path / "x.h5", "/x")
    assert dcio.open_array(tmp_path / "x.h5", "/x")[3:8].tolist() == [0, 0, 1, 0, 0]


def test_nothing_is_read_before_it_is_computed(path: Path) -> None:
    array = dcio.from_hdf5(path, "/g/x")
    assert isinstance(array, da.Array)
    path.unlink()
    with pytest.raises(errors.TargetError, match=r"x\.h5"):
        array.compute()


def test_a_block_is_read_without_hdf5(path: Path) -> None:
    script = """
import pickle, sys
array = pickle.load(sys.stdin.buffer)
import h5py
def refuse(*_, **__): raise AssertionError("HDF5 opens a file")
h5py.File.__init__ = refuse
assert int(array[:].sum()) == 2878800
"""
    data = pickle.dumps(dcio.open_array(path, "/g/x"))
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


# verify


def test_verify_shows_a_bar(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dcio.verify(path, progress=True).ok
    said = capsys.readouterr().err
    assert "x.h5: 100%" in said
    assert not dcio.verify(path, progress=False).problems
    assert capsys.readouterr().err == ""


def test_the_bytes_of_all_chunks_are_reported(path: Path) -> None:
    reported: list[int] = []
    assert verify_file(str(path), reported.append).checked == 30
    with h5py.File(path) as file:
        assert sum(reported) == file["g/x"].id.get_storage_size()


def test_a_flag_that_is_none(path: Path) -> None:
    with pytest.raises(errors.ArgumentTypeError, match="progress is 'no'"):
        dcio.verify(path, progress="no")  # type: ignore[arg-type]
