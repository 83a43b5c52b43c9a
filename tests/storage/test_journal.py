import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import IntegrityError
from dask_chunkio.printable import local_time
from dask_chunkio.storage.filesystem.io import pwrite_all
from dask_chunkio.storage.journal import journal as journals
from dask_chunkio.storage.journal.created import Created, CreatedDataset
from dask_chunkio.storage.journal.journal import Entries, Journal, Reservations
from dask_chunkio.storage.journal.owner import Owner
from dask_chunkio.storage.journal.records import CREATED, FILLED, FINISHED, OWNER, RESERVED, pack_record, read_records

numbers = st.integers(0, 2**64 - 1)
MADE = CreatedDataset("/x", (10,), (2,), "int16", "int16", "", "", True)
SCALAR = CreatedDataset("/s", (), (), "int16", "int16", "", "", False)
CREATION = Created((MADE, SCALAR), "/.dask_chunkio-0123456789ab")
NOW = datetime(2026, 11, 23, 8, 13, 2, tzinfo=UTC)
ME = Owner("id", 1, "host", 7, "me", NOW, False)


class JournalOf(Journal):
    """The journal in a file, of which the descriptor is known."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "journal")
        self.file = descriptor


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalOf]:
    descriptor = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT)
    yield JournalOf(descriptor)
    os.close(descriptor)


def append(journal: JournalOf, data: bytes) -> None:
    pwrite_all(journal.file, data, os.fstat(journal.file).st_size)


def found(journal: Journal, chunks: list[int]) -> Entries:
    """Return the rows of chunks of the first dataset, which all have to be held."""
    rows = journal.find(0, chunks)
    assert rows is not None
    return rows


def held(rows: Any, **more: Any) -> bytes:
    return Reservations.of(0, 0, rows, **more).pack()


@given(numbers, numbers, st.lists(st.tuples(*[numbers] * 5), max_size=5))
@settings(deadline=None)
def test_reservations_are_packed_as_documented(dataset: Any, buffer: Any, rows: Any) -> None:
    ((kind, _, body),) = read_records(Reservations.of(dataset, buffer, rows, 3, 4).pack(), "journal")
    assert kind == RESERVED
    # docs/side_files.md: four numbers, and five for each chunk.
    assert struct.unpack(f"<{4 + 5 * len(rows)}Q", body) == (dataset, buffer, 3, 4, *itertools.chain(*rows))


KINDS = st.sampled_from([RESERVED, FILLED])
CHUNKS = st.lists(st.tuples(st.integers(0, 4), *[st.integers(1, 1000)] * 3, st.just(0)), max_size=6)
# The journal after each: read now, or with what follows.
STEPS = st.lists(st.tuples(KINDS, st.integers(0, 1), CHUNKS, st.integers(0, 99), st.booleans()), max_size=12)


@given(STEPS)
@settings(deadline=None)
def test_records_read_together_count_as_one_after_the_other(steps: Any) -> None:
    with tempfile.TemporaryFile() as file:
        journal = JournalOf(file.fileno())
        append(journal, Created((MADE, MADE)).pack())
        expected: dict[tuple[int, int], tuple[int, ...]] = {}
        last = 0
        for kind, dataset, rows, time, is_read in steps:
            append(journal, Reservations.of(dataset, 0, rows, 1, time).pack(kind))
            expected |= {(dataset, row[0]): (*row[1:], 1 if kind == RESERVED else 2) for row in rows}
            last = max(last, time)
            if is_read:
                journal.refresh()
        journal.refresh()
        for dataset in (0, 1):
            found = [expected.get((dataset, chunk), (0, 0, 0, 0, 0)) for chunk in range(5)]
            assert journal.table(dataset).tolist() == found
        assert journal.last_commit == last
        assert journal.size == os.fstat(file.fileno()).st_size


def test_a_record_with_half_a_chunk_is_refused_though_the_next_completes_it(journal: JournalOf) -> None:
    half = pack_record(RESERVED, bytes(32 + 20))
    append(journal, CREATION.pack() + half + half)
    with pytest.raises(IntegrityError, match="cut off"):
        journal.refresh()


def test_entries_have_room_for_any_file() -> None:
    rows = [(2**63, 2**62, 2**33, 2**64 - 1, 2**32 - 1)]
    found = Reservations.of(0, 0, rows)
    assert found.entries.tolist() == rows
    assert found.entries.dtype.itemsize == 40


def test_the_journal_reads_what_others_add(journal: JournalOf) -> None:
    journal.refresh()
    assert (journal.created, journal.owner, journal.size, journal.finished) == (None, None, 0, False)
    append(journal, ME.pack() + CREATION.pack())
    journal.refresh()
    assert (journal.created, journal.owner) == (CREATION, ME)
    assert [len(journal.table(number)) for number in (0, 1)] == [5, 1]
    assert journal.find(0, [3]) is None
    append(journal, held([(3, 20, 4, 99, 1)], time=5))
    journal.refresh()
    assert found(journal, [3]).tolist() == [(20, 4, 99, 1, 1)]
    assert journal.find(0, [2, 3]) is None
    assert (journal.missing(0), journal.missing(1), journal.last_commit) == (4, 1, 5)
    append(journal, pack_record(FINISHED, b""))
    journal.refresh()
    assert journal.finished
    assert journal.size == os.fstat(journal.file).st_size


def test_the_last_record_of_a_chunk_counts(journal: JournalOf) -> None:
    append(journal, CREATION.pack() + held([(0, 10, 1, 1, 0), (1, 11, 1, 1, 0)]) + held([(0, 50, 2, 2, 0)]))
    journal.refresh()
    assert found(journal, [0, 1]).tolist() == [(50, 2, 2, 0, 1), (11, 1, 1, 0, 1)]


def test_what_holds_the_fill_value_is_missing_and_has_a_place(journal: JournalOf) -> None:
    append(journal, CREATION.pack() + held([(0, 10, 1, 1, 0)]) + Reservations.of(0, 0, [(0, 10, 1, 2, 7)]).pack(FILLED))
    journal.refresh()
    assert journal.find(0, [0]) is None
    assert journal.rows(0, [0]).tolist() == [(10, 1, 2, 7, 2)]
    assert journal.missing(0) == 5
    append(journal, held([(0, 10, 1, 1, 0)]))
    journal.refresh()
    assert journal.missing(0) == 4


def test_the_last_owner_owns_the_write(journal: JournalOf) -> None:
    append(journal, ME.pack() + Owner("other", 2, "there", 8, "you", NOW + timedelta(hours=1), True).pack())
    journal.refresh()
    assert journal.owner is not None
    assert (journal.owner.write_id, journal.owner.epoch, journal.owner.exclusive) == ("other", 2, True)
    assert [owner.user for owner in journal.owners] == ["me", "you"]
    assert str(ME) == f"started {local_time(NOW)} by me on host (process 7)"


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_record_that_is_still_being_written_is_read_when_it_is_whole(data: Any) -> None:
    file = os.memfd_create("journal")
    try:
        journal = JournalOf(file)
        record = held([(chunk, 0, 9, 9, 0) for chunk in range(3)])
        cut = data.draw(st.integers(0, len(record) - 1))
        append(journal, CREATION.pack() + record[:cut])
        journal.refresh()
        assert journal.created
        assert journal.find(0, [1]) is None
        append(journal, record[cut:])
        journal.refresh()
        assert len(found(journal, [0, 1, 2])) == 3
    finally:
        os.close(file)


def test_differences_are_named() -> None:
    assert MADE.difference(MADE) is None
    other = CreatedDataset("/x", (10,), (2,), "int16", "int32", "deflate(4)", "", True)
    assert MADE.difference(other) == "source dtype was int16 and is int32 now"
    assert other.difference(MADE) == "source dtype was int32 and is int16 now"


def changed(**what: Any) -> bytes:
    body = json.loads(CREATION.pack()[24:])
    body["datasets"][0].update(what)
    return pack_record(CREATED, json.dumps(body).encode())


@pytest.mark.parametrize(
    "record",
    [
        pack_record(77, b""),
        pack_record(OWNER, b""),
        pack_record(OWNER, b"[]"),
        pack_record(OWNER, b"{}"),
        pack_record(OWNER, ME.pack()[24:].replace(b"7", b'"7"')),
        pack_record(OWNER, ME.pack()[24:].replace(b"2026-11", b"now")),
        pack_record(OWNER, ME.pack()[24:].replace(b"2026-11-23 08:13:02 +0000", b"0001-01-01 00:00:00 +2300")),
        pack_record(OWNER, b"[" * 100_000),
        pack_record(OWNER, b"\xff"),
        pack_record(CREATED, b"null"),
        pack_record(CREATED, b'{"datasets": 3, "group": ""}'),
        pack_record(CREATED, b'{"datasets": [], "group": 1}'),
        pack_record(CREATED, b'{"datasets": [3], "group": ""}'),
        changed(shape="ab"),
        changed(shape=[1.5]),
        changed(shape=[-1]),
        changed(shape=[2**62]),
        changed(shape=[2**39]),
        changed(chunks=[0]),
        changed(chunks=[1, 1]),
        changed(is_chunked="yes"),
        changed(name=3),
        changed(unknown=1),
        changed(region=[[1], [1]]),
        changed(region=[[1, 1], [1], [1]]),
        pack_record(CREATED, json.dumps({**json.loads(CREATION.pack()[24:]), "overwrite": 1}).encode()),
        pack_record(CREATED, json.dumps({**json.loads(CREATION.pack()[24:]), "token": 1}).encode()),
        CREATION.pack() + pack_record(RESERVED, b"short"),
        CREATION.pack() + pack_record(RESERVED, bytes(32) + b"not a whole entry"),
        CREATION.pack() + Reservations.of(2, 0, [(0, 0, 0, 0, 0)]).pack(),
        CREATION.pack() + Reservations.of(0, 0, [(5, 0, 0, 0, 0)]).pack(),
        CREATION.pack() + Reservations.of(0, 0, [(2**63, 0, 0, 0, 0)]).pack(),
        CREATION.pack() + Reservations.of(0, 0, [(0, 2**63, 0, 0, 0)]).pack(),
        CREATION.pack() + Reservations.of(0, 0, [(0, 0, 2**63, 0, 0)]).pack(),
        held([(0, 0, 0, 0, 0)]),
    ],
)
def test_whole_records_that_say_what_cannot_be_are_errors(journal: JournalOf, record: bytes) -> None:
    append(journal, record)
    with pytest.raises(IntegrityError, match=r"journal holds a record that cannot be read.*discard"):
        journal.refresh()


def test_a_table_takes_no_memory_until_it_is_used(journal: JournalOf) -> None:
    append(journal, changed(shape=[2**24], chunks=[1]))
    journal.refresh()
    append(journal, held([(2**24 - 1, 5, 6, 7, 0)]))
    journal.refresh()
    assert found(journal, [2**24 - 1]).tolist() == [(5, 6, 7, 0, 1)]
    assert isinstance(journal.table(0), np.ndarray)


def test_a_journal_that_is_read_in_blocks_says_the_same(journal: JournalOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_BLOCK_NBYTES", 100)
    rows = [(number % 5, number, 1 + number, 7, 0) for number in range(50)]
    append(journal, CREATION.pack() + b"".join(held([row]) for row in rows))
    journal.refresh()
    assert journal.size == os.fstat(journal.file).st_size
    assert journal.table(0)["offset"].tolist() == [45, 46, 47, 48, 49]
    append(journal, held([(0, 99, 1, 1, 0)]) + held([(1, 99, 1, 1, 0)])[:-1])
    journal.refresh()
    assert journal.table(0)["offset"].tolist() == [99, 46, 47, 48, 49]


@pytest.mark.parametrize("at", [10, 40, 300, 700])
def test_damage_is_found_in_any_block(journal: JournalOf, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(journals, "_BLOCK_NBYTES", 100)
    data = bytearray(CREATION.pack() + b"".join(held([(0, number, 1, 7, 0)]) for number in range(20)))
    data[at] ^= 0x10
    append(journal, bytes(data))
    with pytest.raises(IntegrityError, match=r"damaged at byte \d+, before other records"):
        journal.refresh()


HOSTILE = """
import os, resource, sys
from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.journal.journal import read_journal
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + (200 << 20),) * 2)
try:
    with read_journal(sys.argv[1]):
        print("read")
except IntegrityError as error:
    print("refused", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are told by /proc")
@pytest.mark.parametrize("data", [b"", CREATION.pack(), CREATION.pack() + pack_record(RESERVED, b"x" * 999)[:500]])
def test_a_sparse_journal_takes_no_memory(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "journal"
    path.write_bytes(data)
    os.truncate(path, 40 << 30)
    done = subprocess.run([sys.executable, "-c", HOSTILE, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused"), done
    assert "not a record; discard" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are told by /proc")
@pytest.mark.parametrize("count", [1 << 28, 1 << 34, 1 << 40])
def test_a_table_that_memory_does_not_hold_is_refused(tmp_path: Path, count: Any) -> None:
    path = tmp_path / "journal"
    path.write_bytes(changed(shape=[count], chunks=[1]))
    done = subprocess.run([sys.executable, "-c", HOSTILE, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused"), done
