"""The records of the parts of a write, and the end of a write in parts."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dask_chunkio.errors import ArgumentError
from dask_chunkio.geometry.share import Share
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal.part import PartState, enter_part, missing_parts
from dask_chunkio.storage.journal.records import PART, pack_json, read_records


def body_of(part: PartState) -> bytes:
    ((kind, _, body),) = read_records(part.pack(), "a journal")
    assert kind == PART
    return bytes(body)


def test_a_record_is_read_back() -> None:
    begun = PartState.here(Share(3, 7), "me")
    for part in (begun, begun.done(is_durable=True), begun.done(is_durable=False)):
        assert PartState.unpack(body_of(part)) == part


@pytest.mark.parametrize(
    "change",
    [
        {"number": "3"},
        {"number": 7},
        {"count": 0},
        {"count": 10**15},
        {"pid": None},
        {"host": 3},
        {"boot": None},
        {"user": []},
        {"is_durable": 1},
        {"started": "yesterday"},
        {"finished": "yesterday"},
        {"more": 1},
    ],
    ids=str,
)
def test_what_no_job_records_is_refused(change: dict[str, Any]) -> None:
    times = {"started": "2026-11-26 12:00:00 +0000", "finished": ""}
    found = {**dataclasses.asdict(PartState.here(Share(3, 7), "me")), **times, **change}
    ((_, _, body),) = read_records(pack_json(PART, found), "a journal")
    with pytest.raises((ValueError, TypeError, KeyError, ArgumentError)):
        PartState.unpack(bytes(body))


def test_a_part_that_is_committed_stays_so() -> None:
    parts: dict[int, PartState] = {}
    begun = PartState.here(Share(1, 3), "me")
    enter_part(parts, begun)
    assert missing_parts(parts, 3) == (0, 1, 2)
    enter_part(parts, begun.done(is_durable=False))
    enter_part(parts, begun)
    assert missing_parts(parts, 3) == (0, 2)
    with pytest.raises(ValueError, match="another number of parts"):
        enter_part(parts, PartState.here(Share(1, 4), "me"))


def test_what_a_late_job_makes_in_a_folder_that_is_removed_is_removed_too(tmp_path: Path) -> None:
    path = tmp_path / "out.h5.writing"
    path.mkdir()
    (path / "journal").touch()
    with Folder(str(path)) as folder:
        folder.remove((path / "lease-late").touch)
    assert not path.exists()
