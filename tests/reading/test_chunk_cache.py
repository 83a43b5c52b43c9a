from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.reading.chunk_cache import ChunkCache
from dask_chunkio.reading.chunk_reader import ChunkReader
from dask_chunkio.reading.file_state import FileState

STATE = FileState(1, 2, 3, 4)


def chunk(value: int, nbytes: int = 40) -> Any:
    return np.full(nbytes, value, "u1")


def test_what_was_not_read_for_longest_makes_room() -> None:
    cache = ChunkCache(100)
    cache.keep(STATE, 1, chunk(1))
    cache.keep(STATE, 2, chunk(2))
    assert cache.find(STATE, 1) is not None
    cache.keep(STATE, 3, chunk(3))
    assert cache.find(STATE, 2) is None
    assert [cache.find(STATE, number) is None for number in (1, 3)] == [False, False]


def test_a_chunk_that_is_too_large_is_not_kept() -> None:
    cache = ChunkCache(100)
    cache.keep(STATE, 1, chunk(1))
    cache.keep(STATE, 2, chunk(2, 101))
    assert cache.find(STATE, 2) is None
    assert cache.find(STATE, 1) is not None


def test_a_file_that_has_changed_has_other_chunks() -> None:
    cache, changed = ChunkCache(100), replace(STATE, modified=5)
    cache.keep(STATE, 1, chunk(1))
    assert cache.find(changed, 1) is None
    cache.keep(changed, 2, chunk(2, 90))
    assert cache.find(STATE, 1) is None
    assert cache.find(changed, 1) is None


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The places of the chunks that were decoded."""
    places: list[Any] = []
    decode = ChunkReader.decode

    def noting(self: ChunkReader, place: Any, needed: slice | None = None) -> Any:
        places.append((place, needed))
        return decode(self, place, needed)

    monkeypatch.setattr(ChunkReader, "decode", noting)
    return places


def test_a_loop_over_rows_decodes_each_chunk_once(tmp_path: Path, decoded: list[Any]) -> None:
    data = np.arange(4000).reshape(100, 40)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=data, chunks=(20, 10), compression="gzip")
    array = dcio.open_array(tmp_path / "x.h5", "/x")
    for found, row in zip(array, data, strict=True):
        assert np.array_equal(found, row)
    assert len(decoded) == 20
    assert np.array_equal(array[50:60, 3], data[50:60, 3])


def test_what_is_kept_is_not_what_was_returned(tmp_path: Path) -> None:
    data = np.arange(100)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=data, chunks=(50,), compression="gzip")
    array = dcio.open_array(tmp_path / "x.h5", "/x")
    array[3:5][:] = 0
    assert array[3:5].tolist() == [3, 4]


def test_chunks_that_are_kept_are_those_of_the_file_as_it_is(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(100, "i4"), chunks=(50,), compression="gzip")
    array = dcio.open_array(tmp_path / "x.h5", "/x")
    assert array[3] == 0
    dcio.to_hdf5(tmp_path / "x.h5", "/x", np.ones(50, "i4"), region=(slice(0, 50),), progress=False)
    assert array[3] == 1


@pytest.mark.parametrize("filters", [{}, dict(hdf5plugin.Blosc2()), dict(hdf5plugin.Bitshuffle())])
def test_of_a_chunk_that_is_cheap_to_read_in_parts_the_second_read_keeps_the_whole(
    tmp_path: Path, filters: Any, decoded: list[Any]
) -> None:
    data = np.arange(8000).reshape(200, 40)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=data, chunks=(100, 40), **filters)
    array = dcio.open_array(tmp_path / "x.h5", "/x")
    assert np.array_equal(array[7:9, 3:5], data[7:9, 3:5])
    assert [needed for _, needed in decoded] == [slice(8 * (7 * 40 + 3), 8 * (8 * 40 + 5))]
    for number in range(100):
        assert np.array_equal(array[number], data[number])
    assert [needed for _, needed in decoded[1:]] == [None]
    assert np.array_equal(array[150], data[150])
    assert len(decoded) == 3


def test_the_parts_that_were_read_are_those_of_a_file_as_it_is() -> None:
    cache, changed = ChunkCache(100), replace(STATE, modified=5)
    found = [cache.was_read(STATE, 1, 40), cache.was_read(STATE, 1, 40), cache.was_read(changed, 1, 40)]
    assert found == [False, True, False]


def test_as_many_reads_are_noted_as_chunks_have_room() -> None:
    cache = ChunkCache(100)
    assert not any(cache.was_read(STATE, number, 40) for number in (1, 2, 3))
    assert [cache.was_read(STATE, number, 40) for number in (2, 3, 1)] == [True, True, False]
    assert not cache.was_read(STATE, 4, 101)
    assert not cache.was_read(STATE, 4, 101)
