import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import ArgumentError, IntegrityError
from dask_chunkio.storage.journal import records
from dask_chunkio.storage.journal.checksum import checksum
from dask_chunkio.storage.journal.created import Created, CreatedDataset
from dask_chunkio.storage.journal.records import (
    CREATED,
    RESERVED,
    VERSION,
    first_record,
    pack_record,
    parse_json,
    read_records,
)

bodies = st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=50)), max_size=6)


def packed(found: Any) -> bytes:
    return b"".join(pack_record(*record) for record in found)


def header_of(length: int, version: int = VERSION) -> bytes:
    """Return the header of a record as docs/side_files.md has it, but for the checksum."""
    return struct.pack("<4sHHQ", b"DCIO", version, RESERVED, length)


def sum_of(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", checksum(header, body))


@given(bodies)
@settings(deadline=None)
def test_records_come_back(records: Any) -> None:
    data = packed(records)
    found = list(read_records(data, "journal"))
    assert [(kind, body) for kind, _, body in found] == records
    assert [end for _, end, _ in found] == [len(packed(records[: n + 1])) for n in range(len(records))]


@given(bodies, st.tuples(st.integers(1, 3), st.binary(max_size=50)), st.data())
@settings(deadline=None)
def test_a_torn_last_record_never_happened(records: Any, last: Any, data: Any) -> None:
    whole, torn = packed(records), pack_record(*last)
    cut = data.draw(st.integers(0, len(torn) - 1))
    for tail in (torn[:cut], torn[:cut] + bytes(len(torn) - cut - 1)):  # cut off, or lost in a sparse end
        assert len(list(read_records(whole + tail, "journal"))) == len(records)


def test_a_damaged_record_before_others_is_an_error() -> None:
    records = [(CREATED, b""), (RESERVED, b"first"), (RESERVED, b"second")]
    whole, last = packed(records), pack_record(*records[-1])
    for position in range(len(whole) - len(last)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        with pytest.raises(IntegrityError, match=r"journal is damaged at byte \d+, before other records.*discard"):
            list(read_records(bytes(damaged), "journal"))


def test_a_damaged_last_record_is_a_torn_one() -> None:
    whole, first = packed([(CREATED, b""), (RESERVED, b"second")]), pack_record(CREATED, b"")
    for position in range(len(first), len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        assert len(list(read_records(bytes(damaged), "journal"))) == 1


def test_the_checksum_of_parts_is_that_of_the_whole() -> None:
    assert checksum(b"ab", b"", bytearray(b"cd"), memoryview(b"e")) == checksum(b"abcde")
    assert checksum(b"abcde") != checksum(b"abcdf")


@pytest.mark.parametrize("version", [0, 1, VERSION - 1, VERSION + 1, 65535])
def test_another_version_is_an_error_that_says_so(version: int) -> None:
    header = header_of(len(b"body"), version)
    record = header + sum_of(header, b"body") + b"body"
    data = pack_record(CREATED, b"") + record
    with pytest.raises(IntegrityError, match=rf"written in version {version} of its format.* reads version {VERSION}"):
        list(read_records(data, "journal"))
    with pytest.raises(IntegrityError, match=f"version {version}"):
        first_record(record, "log")


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_no_record(data: Any) -> None:
    assert first_record(data, "log") is None
    assert list(read_records(data, "journal")) == []


@pytest.mark.parametrize("length", [2**31, 2**40, 2**63, 2**64 - 1])
def test_a_length_that_no_file_has_is_a_torn_record(length: int) -> None:
    header = header_of(length)
    assert first_record(header + sum_of(header, b"") + b"body", "log") is None


def test_headers_that_claim_all_that_follows_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    count, summed = 4000, []
    data = b"".join(header_of(24 * (count - number - 1)) + bytes(8) for number in range(count))

    def counting(*parts: Any) -> int:
        summed.append(sum(map(len, parts)))
        return checksum(*parts)

    monkeypatch.setattr(records, "checksum", counting)
    with pytest.raises(IntegrityError, match="is damaged at byte 0"):
        list(read_records(data, "journal"))
    assert sum(summed) < 10 * len(data)


BOMBS = {
    "nested arrays": "[" * 10**6,
    "nested objects": '{"a":' * 10**6,
    "a number of many digits": "1" * 4000,
    "a float that is none": "1e400",
    "infinity": "[Infinity]",
    "no number": "NaN",
    "a name twice": '{"a": 1, "a": 2}',
    "length": "[" + "[]," * (6 << 20) + "[]]",
    "no JSON": "{",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("kind", [str, str.encode])
def test_json_that_no_write_makes_is_refused(name: Any, kind: Any) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(kind(BOMBS[name]))
    assert len(str(caught.value)) < 200


def test_what_would_not_be_read_again_is_not_written() -> None:
    made = [CreatedDataset(f"/{n}" + "x" * 1000, (1,), (1,), "i4", "i4", "", "", True) for n in range(16_000)]
    with pytest.raises(ArgumentError, match="write fewer datasets in one call"):
        Created(tuple(made)).pack()
    assert Created.unpack(Created(tuple(made[:100])).pack()[24:]).datasets == tuple(made[:100])
