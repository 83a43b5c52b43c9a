"""The records of the parts of a write, and the end of a write in parts."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dask_chunkio.errors import ArgumentError
from dask_chunkio.geometry.share import Share
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal.part import PartState, conflict, enter_part, missing_parts
from dask_chunkio.storage.journal.records import PART, pack_json, read_records


def body_of(part: PartState) -> bytes:
    ((kind, _, body),) = read_records(part.pack(), "a journal")
    assert kind == PART
    return bytes(body)


def test_a_record_is_read_back() -> None:
    begun = PartState.here(Share(3, 7), "me", ((), ((0, 5), (2, 3))))
    for found in (begun, begun.done(is_durable=True), begun.done(is_durable=False)):
        assert PartState.unpack(body_of(found)) == found


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
        {"boxes": 3},
        {"boxes": [[[0, 5, 6]]]},
        {"boxes": [[[0, "5"]]]},
        {"boxes": [[[-1, 5]]]},
        {"boxes": [[[True, 5]]]},
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


ROWS, COLUMNS = ((0, 10), (0, 4)), ((0, 20), (4, 8))


def part(number: int, *boxes: Any) -> PartState:
    return PartState.here(Share(number, 3), "me", boxes)


@pytest.mark.parametrize(
    ("mine", "other", "words"),
    [
        (part(0, ROWS), part(1, COLUMNS), None),
        (part(0, ROWS), part(1, ((9, 10), (3, 5))), "/x: part 0 [0:10, 0:4] overlaps part 1 [9:10, 3:5]"),
        (part(0, ROWS), part(0, ROWS), None),
        (part(0, ROWS), part(0, COLUMNS), "/x: part 0 [0:10, 0:4] was begun as part 0 [0:20, 4:8]"),
        (part(0, ROWS), part(1, ()), "/x: some jobs give region= and others do not; all have to, or none"),
        (part(0, ()), part(1, ()), None),
        (part(0, ROWS), part(1, ((0, 0), (0, 0))), None),
    ],
)
def test_regions_that_jobs_may_have(mine: PartState, other: PartState, words: str | None) -> None:
    assert conflict(mine, [other], ["/x"]) == words


def test_regions_of_other_datasets_or_axes_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="shorter"):
        conflict(part(0, ROWS), [part(1)], ["/x"])
    with pytest.raises(ValueError, match="longer"):
        conflict(part(0, ROWS), [part(1, ((0, 1), (0, 1), (0, 1)))], ["/x"])


def test_a_part_has_regions_by_the_numbers_of_datasets() -> None:
    found = part(0, (), ROWS)
    assert [found.has_region_of(number) for number in range(3)] == [False, True, False]


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
