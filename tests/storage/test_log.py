import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.files import pwrite_all
from dask_chunkio.storage.log import (
    CREATED,
    RESERVED,
    Journal,
    Reservations,
    Turn,
    checksum,
    pack_record,
    read_records,
    read_turn,
)

bodies = st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=50)), max_size=6)
numbers = st.integers(0, 2**64 - 1)


def packed(records):
    return b"".join(pack_record(*record) for record in records)


@given(bodies)
@settings(deadline=None)
def test_records_come_back(records):
    data = packed(records)
    found = list(read_records(data, "journal"))
    assert [(kind, body) for kind, _, body in found] == records
    assert [end for _, end, _ in found] == [len(packed(records[: n + 1])) for n in range(len(records))]


@given(bodies, st.tuples(st.integers(1, 3), st.binary(max_size=50)), st.data())
@settings(deadline=None)
def test_a_torn_last_record_never_happened(records, last, data):
    whole, torn = packed(records), pack_record(*last)
    cut = data.draw(st.integers(0, len(torn) - 1))
    for tail in (torn[:cut], torn[:cut] + bytes(len(torn) - cut - 1)):  # cut off, or lost in a sparse end
        assert len(list(read_records(whole + tail, "journal"))) == len(records)


def test_a_damaged_record_before_others_is_an_error():
    records = [(CREATED, b""), (RESERVED, b"first"), (RESERVED, b"second")]
    whole, last = packed(records), pack_record(*records[-1])
    for position in range(len(whole) - len(last)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        with pytest.raises(IntegrityError, match=r"journal is damaged at byte \d+, before other records.*discard"):
            list(read_records(bytes(damaged), "journal"))


def test_a_damaged_last_record_is_a_torn_one():
    whole, first = packed([(CREATED, b""), (RESERVED, b"second")]), pack_record(CREATED, b"")
    for position in range(len(first), len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        assert len(list(read_records(bytes(damaged), "journal"))) == 1


def test_the_checksum_of_parts_is_that_of_the_whole():
    assert checksum(b"ab", b"", bytearray(b"cd"), memoryview(b"e")) == checksum(b"abcde")
    assert checksum(b"abcde") != checksum(b"abcdf")


@given(numbers, numbers, st.lists(st.tuples(*[numbers] * 5), max_size=5))
@settings(deadline=None)
def test_reservations_come_back(dataset, buffer, rows):
    reserved = Reservations.of(dataset, buffer, rows)
    ((kind, _, body),) = read_records(reserved.pack(), "journal")
    assert kind == RESERVED
    found = Reservations.unpack(body)
    assert (found.dataset, found.buffer, found.epoch) == (dataset, buffer, 0)
    assert found.entries.tolist() == rows
    assert found.entries.dtype.names == ("chunk", "offset", "nbytes", "checksum", "mask")


def test_a_place_that_is_replaced_is_the_next_epoch():
    reserved = Reservations.of(1, 2, [(5, 100, 10, 77, 0), (6, 110, 20, 88, 1)])
    found = reserved.replaced(1, 300, 25, 99, 0)
    assert found.entries.tolist() == [(5, 100, 10, 77, 0), (6, 300, 25, 99, 0)]
    assert (found.epoch, found.stored_nbytes) == (1, 35)
    assert reserved.entries.tolist()[1] == (6, 110, 20, 88, 1)
    ((_, _, body),) = read_records(found.pack(), "journal")
    assert Reservations.unpack(body).epoch == 1


TURN = Turn(24, b"journal", 5000, 9000, [(0, b"superblock"), (4096, b"x" * 40), (5100, b"new")])
runs = st.lists(st.tuples(st.integers(0, 2**40), st.binary(max_size=30)), max_size=5)


@given(st.binary(max_size=30), runs)
@settings(deadline=None)
def test_turns_come_back(journal, staged):
    turn = Turn(3, journal, 2**33, 2**34, staged)
    assert read_turn(turn.pack()) == turn
    assert read_turn(turn.pack() + b"rest of an older log") == turn


def test_a_turn_cut_off_anywhere_never_happened():
    record = TURN.pack()
    for length in range(len(record)):
        assert read_turn(record[:length]) is None
        assert read_turn(record[:length] + bytes(len(record) - length)) is None


def test_a_turn_with_any_bit_changed_never_happened():
    record = TURN.pack()
    for position in range(len(record)):
        damaged = bytearray(record)
        damaged[position] ^= 1
        assert read_turn(bytes(damaged)) is None


def test_other_records_are_no_turn():
    assert read_turn(pack_record(RESERVED, TURN.pack())) is None


@pytest.fixture
def opened(tmp_path):
    descriptors = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("file", "journal")]
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def contents(descriptors):
    return [os.pread(descriptor, 1 << 20, 0) for descriptor in descriptors]


def test_a_turn_applied_twice_changes_nothing(opened):
    os.pwrite(opened[0], b"o" * 5000, 0)
    os.pwrite(opened[1], b"j" * 24, 0)
    TURN.apply(*opened)
    once = contents(opened)
    TURN.apply(*opened)
    assert contents(opened) == once
    file, journal = once
    expected = bytearray(b"o" * 5000 + bytes(4000))
    for offset, data in TURN.runs:
        expected[offset : offset + len(data)] = data
    assert file == expected
    assert journal == b"j" * 24 + b"journal"


def test_applying_never_cuts_the_file(opened):
    os.pwrite(opened[0], b"o" * 12000, 0)
    TURN.apply(*opened)
    assert os.fstat(opened[0]).st_size == 12000


def test_a_turn_extends_then_writes_what_is_new_then_the_superblock_then_the_rest(opened, monkeypatch):
    order = []

    def note(descriptor, _, offset):
        order.append((descriptor, offset, os.fstat(opened[0]).st_size))

    monkeypatch.setattr("dask_chunkio.storage.log.pwrite_all", note)
    TURN.apply(*opened)
    file, journal = opened
    assert order == [(file, 5100, 9000), (file, 0, 9000), (file, 4096, 9000), (journal, 24, 9000)]


# The journal


@pytest.fixture
def journal(opened):
    return Journal(opened[1], "journal")


def append(descriptor, data):
    pwrite_all(descriptor, data, os.fstat(descriptor).st_size)


def test_the_journal_reads_what_others_add(opened, journal):
    journal.refresh()
    assert (journal.created, journal.size, journal.find(0, 0)) == (False, 0, None)
    append(opened[1], pack_record(CREATED, b""))
    append(opened[1], Reservations.of(0, 3, [(1, 2, 3, 4, 5)]).pack())
    journal.refresh()
    assert journal.created
    assert journal.find(0, 3).entries.tolist() == [(1, 2, 3, 4, 5)]
    append(opened[1], Reservations.of(1, 0, []).pack())
    journal.refresh()
    assert [found.buffer for found in journal.of_dataset(0)] == [3]
    assert [found.buffer for found in journal.of_dataset(1)] == [0]
    assert journal.size == os.fstat(opened[1]).st_size


def test_the_last_reservation_of_a_buffer_counts(opened, journal):
    first = Reservations.of(0, 0, [(0, 10, 1, 1, 0)])
    append(opened[1], first.pack())
    append(opened[1], first.replaced(0, 50, 2, 2, 0).pack())
    journal.refresh()
    assert journal.find(0, 0).entries.tolist() == [(0, 50, 2, 2, 0)]
    assert len(journal.of_dataset(0)) == 1


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_record_that_is_still_being_written_is_read_when_it_is_whole(data):
    file = os.memfd_create("journal")
    try:
        journal = Journal(file, "journal")
        record = Reservations.of(0, 1, [(0, 0, 9, 9, 0)] * 3).pack()
        cut = data.draw(st.integers(0, len(record) - 1))
        append(file, pack_record(CREATED, b"") + record[:cut])
        journal.refresh()
        assert journal.created
        assert journal.find(0, 1) is None
        append(file, record[cut:])
        journal.refresh()
        assert len(journal.find(0, 1).entries) == 3
    finally:
        os.close(file)


def test_entries_have_room_for_any_file():
    rows = [(2**63, 2**62, 2**33, 2**64 - 1, 2**32 - 1)]
    found = Reservations.of(0, 0, rows)
    assert found.entries.tolist() == rows
    assert found.stored_nbytes == 2**33
    assert found.entries.dtype.itemsize == 40
    assert isinstance(found.entries, np.ndarray)
