from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat
from dask_chunkio.geometry.grid import ChunkGrid
from dask_chunkio.reading import chunk_table as module
from dask_chunkio.reading.chunk_reader import ChunkReader
from dask_chunkio.reading.chunk_table import ChunkTable, Place, chunk_table, read_chunk_table
from dask_chunkio.storage.chunk_index import StoredChunks
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import open_to_read
from dask_chunkio.storage.journal.journal import ROW

GRID = ChunkGrid((10, 4), (5, 2))


def stored(*rows: tuple[tuple[int, int], int, int]) -> StoredChunks:
    places = np.zeros(len(rows), ROW)
    places["offset"], places["nbytes"] = [row[1] for row in rows], [row[2] for row in rows]
    return StoredChunks(np.array([row[0] for row in rows], np.int64).reshape(-1, 2), places)


def test_chunks_are_found_by_their_numbers_in_any_order() -> None:
    table = chunk_table(stored(((5, 2), 300, 30), ((0, 0), 100, 10)), GRID, 1000)
    assert table is not None
    assert [table.find(number) for number in range(4)] == [Place(100, 10, 0), None, None, Place(300, 30, 0)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([((0, 0), 100, 10), ((0, 0), 200, 10)], "lists a chunk twice"),
        ([((0, 1), 100, 10)], "that its grid does not have"),
        ([((10, 0), 100, 10)], "that its grid does not have"),
        ([((-5, 0), 100, 10)], "that its grid does not have"),
        ([((0, 0), 100, 1001)], "larger than the whole file"),
        ([((0, 0), 991, 10)], "beyond the end of the file"),
        ([((0, 0), 2**64 - 5, 10)], "beyond the end of the file"),
    ],
)
def test_places_that_cannot_be_are_refused(rows: Any, words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        chunk_table(stored(*rows), GRID, 1000)


def test_a_place_that_ends_with_the_file_is_right() -> None:
    assert chunk_table(stored(((0, 0), 990, 10)), GRID, 1000) is not None


def test_more_chunks_than_the_file_has_bytes_are_not_even_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "count_stored", lambda _: 1001)
    monkeypatch.delattr(module, "list_stored")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (4,), "i4", chunks=(2,))
        with pytest.raises(IntegrityError, match="lists 1001 chunks, and the whole file has 1000 bytes"):
            read_chunk_table(dataset, 1000)


def test_a_file_that_was_cut_off_since_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(12))
    table = ChunkTable(np.array([0]), np.array([8]), np.array([8]), np.array([0]))
    descriptor = open_to_read(str(path))
    try:
        form = ChunkFormat((2,), np.dtype("i4"), ())
        with pytest.raises(IntegrityError, match=r"x, /x: the chunk at \(0,\) .*: the file ends before it does"):
            ChunkReader(descriptor, "x, /x", ChunkGrid((2,), (2,)), form, table).read(0)
    finally:
        close_descriptor(descriptor)
