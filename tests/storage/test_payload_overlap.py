"""Payloads that overlap in the file: found, whatever their order, and a write that has made some does not finish."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.journal.journal import HELD, ROW, VOID, Entries
from dask_chunkio.storage.payload_overlap import find_overlap
from tests.support.storage.writes import Write

rows = st.tuples(st.integers(0, 40), st.integers(0, 6), st.just(0), st.just(0), st.sampled_from((0, HELD, VOID)))
tables = st.lists(st.lists(rows, max_size=5).map(lambda table: np.array(table, ROW)), min_size=1, max_size=3)


def _bytes_of(tables: list[Entries], dataset: int, chunk: int) -> set[int]:
    row = tables[dataset][chunk]
    return set(range(row["offset"], row["offset"] + row["nbytes"])) if row["state"] else set()


@given(tables)
def test_as_by_sets_of_bytes(tables: list[Entries]) -> None:
    all_chunks = [(n, chunk) for n, table in enumerate(tables) for chunk in range(len(table))]
    overlap = {
        frozenset((one, other))
        for one in all_chunks
        for other in all_chunks
        if one < other and _bytes_of(tables, *one) & _bytes_of(tables, *other)
    }
    found = find_overlap(tables)
    assert (found is None) == (not overlap)
    assert found is None or frozenset(found) in overlap


def test_space_that_hdf5_gives_away_twice_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.h5"
    given_away: list[int] = []
    reserve = StagedFile.reserve

    def again(self: StagedFile, *arguments: Any) -> int:
        given_away.append(reserve(self, *arguments))
        return given_away[max(0, len(given_away) - 2)]

    monkeypatch.setattr(StagedFile, "reserve", again)
    with Write(path) as write:
        write.commit_missing()
        with pytest.raises(IntegrityError, match=r"the same space to the chunk of /x at \(0, 0\) and to that of /x at"):
            write.finish()
    assert not path.exists()
