import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.journal.records import REDO, RESERVED, pack_record
from dask_chunkio.storage.journal.redo_record import SECTOR, RedoRecord, load_redo_record, read_redo_record

OLD = b"o" * 5000
CHANGE = [(0, b"superblock"), (4096, b"x" * 40), (4800, b"y" * 600), (8990, b"new")]
runs = st.lists(st.tuples(st.integers(0, 2**33), st.binary(min_size=1, max_size=30)), max_size=5)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[int, int]]:
    descriptors = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("file", "journal")]
    os.pwrite(descriptors[0], OLD, 0)
    os.pwrite(descriptors[1], b"j" * 24, 0)
    yield descriptors[0], descriptors[1]
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def redo(opened: tuple[int, int]) -> RedoRecord:
    return RedoRecord.on(opened[0], 24, b"journal", 9000, CHANGE)


def apply(redo: RedoRecord, descriptors: tuple[int, int]) -> None:
    redo.apply(descriptors[0])
    redo.enter(descriptors[1])


def contents(descriptors: tuple[int, int]) -> list[bytes]:
    return [os.pread(descriptor, 1 << 20, 0) for descriptor in descriptors]


def applied() -> bytes:
    expected = bytearray(OLD + bytes(4000))
    for offset, data in CHANGE:
        expected[offset : offset + len(data)] = data
    return bytes(expected)


@given(st.binary(max_size=30), runs)
@settings(deadline=None)
def test_transactions_come_back(journal: Any, staged: Any) -> None:
    before = [bytes(min(len(data), max(0, 2**32 - offset))) for offset, data in staged]
    redo = RedoRecord(3, journal, 2**32, 2**34, staged, before, 7, 8)
    assert read_redo_record(redo.pack()) == redo
    assert read_redo_record(redo.pack() + b"rest of an older log") == redo


def test_a_transaction_cut_off_anywhere_never_happened(redo: RedoRecord) -> None:
    record = redo.pack()
    for length in range(len(record)):
        assert read_redo_record(record[:length]) is None
        assert read_redo_record(record[:length] + bytes(len(record) - length)) is None


def test_a_transaction_with_any_bit_changed_never_happened(redo: RedoRecord) -> None:
    record = redo.pack()
    for position in range(len(record)):
        damaged = bytearray(record)
        damaged[position] ^= 1
        assert read_redo_record(bytes(damaged)) is None


def test_other_records_are_no_transaction(redo: RedoRecord) -> None:
    with pytest.raises(IntegrityError, match="holds an invalid transaction"):
        read_redo_record(pack_record(RESERVED, redo.pack()))


@pytest.mark.parametrize("cut", [0, 8, 55, 57, 80, 120, -1, -8])
def test_a_whole_record_of_half_a_transaction_is_an_error(redo: RedoRecord, cut: int) -> None:
    body = redo.pack()[24:]
    with pytest.raises(IntegrityError, match="holds an invalid transaction"):
        read_redo_record(pack_record(REDO, body[:cut]))


@pytest.mark.parametrize(
    "wrong",
    [
        RedoRecord(0, b"", 0, 10, [(8, b"beyond")], [b""]),
        RedoRecord(0, b"", 0, 2**63, [], []),
        RedoRecord(2**63, b"", 0, 10, [], []),
        RedoRecord(0, b"", 9, 10, [(0, b"one")], [b""]),
        RedoRecord(0, b"", 0, 10, [(0, b"one")], [b"more"]),
    ],
)
def test_hostile_numbers_are_an_error(wrong: Any) -> None:
    with pytest.raises(IntegrityError, match="holds an invalid transaction"):
        read_redo_record(wrong.pack())


def test_a_transaction_applied_twice_changes_nothing(opened: tuple[int, int], redo: RedoRecord) -> None:
    for _ in range(2):
        redo.require_applicable(*opened, "out.h5")
        apply(redo, opened)
        assert contents(opened) == [applied(), b"j" * 24 + b"journal"]


def test_applying_never_cuts_the_file(opened: tuple[int, int], redo: RedoRecord) -> None:
    os.ftruncate(opened[0], 12000)
    apply(redo, opened)
    assert os.fstat(opened[0]).st_size == 12000


def test_a_transaction_extends_then_writes_what_is_new_then_the_superblock_then_the_rest(
    opened: tuple[int, int], redo: RedoRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def note(descriptor: Any, _: Any, offset: Any) -> None:
        order.append((descriptor, offset, os.fstat(opened[0]).st_size))

    monkeypatch.setattr("dask_chunkio.storage.journal.redo_record.pwrite_all", note)
    apply(redo, opened)
    file, journal = opened
    assert order == [(file, 8990, 9000), (file, 0, 9000), (file, 4096, 9000), (file, 4800, 9000), (journal, 24, 9000)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def test_a_transaction_is_loaded_from_its_log(log: int, redo: RedoRecord) -> None:
    record = redo.pack()
    assert load_redo_record(log, "log") is None
    for rest in (b"", b"rest of an older log"):
        os.pwrite(log, record + rest, 0)
        assert load_redo_record(log, "log") == redo
    for length in range(len(record)):
        os.ftruncate(log, length)
        assert load_redo_record(log, "log") is None
        os.pwrite(log, record, 0)


def test_what_is_no_transaction_is_not_loaded_into_memory(log: int, redo: RedoRecord) -> None:
    """A sparse file, and one whose header claims all of it."""
    nbytes = 300 << 20
    whole = redo.pack()
    claims = whole[:8] + nbytes.to_bytes(8, "little") + whole[16:]
    tracemalloc.start()
    try:
        for start in (b"", whole[:30], claims):
            os.pwrite(log, start, 0)
            os.ftruncate(log, nbytes + 24)
            assert load_redo_record(log, "log") is None
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_transaction_is_held_in_memory_once(log: int, opened: tuple[int, int]) -> None:
    """And the file is compared with it block by block."""
    data = bytes(range(256)) * (20 << 12)
    redo = RedoRecord.on(opened[0], 24, b"journal", 3 * len(data), [(0, data), (len(data) + 7, data)])
    os.pwrite(log, redo.pack(), 0)
    tracemalloc.start()
    try:
        found = load_redo_record(log, "log")
        assert found is not None
        found.require_applicable(*opened, "out.h5")
        apply(found, opened)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data)
    finally:
        tracemalloc.stop()
    assert os.pread(opened[0], len(data), len(data) + 7) == data
    found.require_applicable(*opened, "out.h5")
    os.pwrite(opened[0], b"!", len(data) - 1)
    with pytest.raises(IntegrityError, match=f"at byte {(len(data) - 1) // SECTOR * SECTOR} "):
        found.require_applicable(*opened, "out.h5")


def test_a_log_larger_than_memory_is_refused(log: int) -> None:
    nbytes = 1 << 43
    os.pwrite(log, pack_record(REDO, b"")[:8] + nbytes.to_bytes(8, "little"), 0)
    try:
        os.ftruncate(log, nbytes + 24)
    except OSError:
        pytest.skip("this file system has no files of that length")
    with pytest.raises(IntegrityError, match=r"log takes .* bytes of memory, more than this machine has"):
        load_redo_record(log, "log")


# Replay


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_mixture_of_old_and_new_sectors_is_applied_again(data: Any) -> None:
    """What a power failure leaves of a transaction that was being applied; one sector may be torn besides."""
    file, journal = os.memfd_create("file"), os.memfd_create("journal")
    try:
        os.pwrite(file, OLD, 0)
        os.pwrite(journal, b"j" * 24, 0)
        redo = RedoRecord.on(file, 24, b"journal", 9000, CHANGE)
        os.ftruncate(file, 9000)
        torn, length = data.draw(st.integers(0, 8999 // SECTOR)), data.draw(st.integers(0, SECTOR))
        for at in range(0, 9000, SECTOR):
            if data.draw(st.booleans()):
                os.pwrite(file, applied()[at : at + (length if at // SECTOR == torn else SECTOR)], at)
        redo.require_applicable(file, journal, "out.h5")
        apply(redo, (file, journal))
        assert os.pread(file, 1 << 20, 0) == applied()
    finally:
        os.close(file)
        os.close(journal)


@pytest.mark.parametrize("at", [0, 9, 4096, 4135, 4800, 5000, 5399, 8990])
@pytest.mark.parametrize("was_applied", [False, True])
def test_a_change_by_another_program_is_never_written_over(
    opened: tuple[int, int], redo: RedoRecord, at: int, was_applied: bool
) -> None:
    """Replayed blindly, a transaction cut a file of 56 kB to 13 kB."""
    if was_applied:
        apply(redo, opened)
    os.pwrite(opened[0], b"T", at)
    before = contents(opened)
    with pytest.raises(IntegrityError, match=r"out\.h5 was changed by another program at byte \d+.*discard --force"):
        redo.require_applicable(*opened, "out.h5")
    assert contents(opened) == before


@pytest.mark.parametrize("at", [10, 4095, 4136, 4799, 5400, 8989])
def test_what_the_transaction_does_not_touch_may_change(opened: tuple[int, int], redo: RedoRecord, at: int) -> None:
    """Payloads are placed beside metadata at any time."""
    os.pwrite(opened[0], b"P", at)
    redo.require_applicable(*opened, "out.h5")


def test_a_journal_that_lost_its_end_is_an_error(opened: tuple[int, int], redo: RedoRecord) -> None:
    os.ftruncate(opened[1], 20)
    with pytest.raises(IntegrityError, match=r"the journal of out\.h5 is shorter than it was"):
        redo.require_applicable(*opened, "out.h5")


def test_what_was_torn_behind_the_journal_is_cut(opened: tuple[int, int], redo: RedoRecord) -> None:
    os.pwrite(opened[1], b"torn record, longer than what is written now", 24)
    apply(redo, opened)
    assert contents(opened)[1] == b"j" * 24 + b"journal"
