"""The format of the records in all files beside the target.

Little-endian, without any pickle::

    magic  version kind  length  checksum  body
    4s     u2      u2    u8      u8        length bytes

``checksum`` is xxh3-64 of the header before it and of the body.  A record that is truncated at
the end of a file is ignored; a damaged record that others follow is an error.
A reader takes time and memory in proportion to the size of the file, whatever the headers claim.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

from dask_chunkio.errors import ArgumentError, IntegrityError
from dask_chunkio.storage.journal.checksum import Bytes, checksum, checksum_at

__all__ = ["APPLYING", "CREATED", "DISCARDED", "FILLED", "FINISHED", "LEASE", "OWNER", "PART", "REDO", "RESERVED"]
__all__ += ["HEADER_NBYTES", "VERSION", "claimed_nbytes", "damaged_before_others", "is_whole_at", "pack_json"]
__all__ += ["first_record", "is_cut_off", "json_object", "pack_record", "parse_json"]
__all__ += ["fields_of", "read_records"]

VERSION = 4
CREATED, RESERVED, REDO, OWNER, FILLED, FINISHED, APPLYING, DISCARDED, LEASE, PART = range(1, 11)

_MAGIC = b"DCIO"
_HEADER = struct.Struct("<4sHHQ")
_SUM = struct.Struct("<Q")
_PREFIX = HEADER_NBYTES = _HEADER.size + _SUM.size
# Python objects that are parsed from JSON take about twenty times its length.
_MOST_JSON = 16 << 20
# Digits of a number of 64 bits, with its sign.
_MOST_DIGITS = 20

Record = tuple[int, int, Any]


def is_whole_at(descriptor: int, header: bytes) -> bool:
    """Return whether a file begins with a complete record whose first bytes are `header`; read the file in blocks."""
    expected: int = _SUM.unpack_from(header, _HEADER.size)[0]
    length: int = _HEADER.unpack_from(header)[3]
    return expected == checksum_at(descriptor, _PREFIX, length, after=header[: _HEADER.size])


def pack_record(kind: int, body: bytes) -> bytes:
    """Return a complete record."""
    return _pack(kind, body, VERSION)


def _pack(kind: int, body: bytes, version: int) -> bytes:
    header = _HEADER.pack(_MAGIC, version, kind, len(body))
    return header + _SUM.pack(checksum(header, body)) + body


def first_record(data: Bytes, name: str) -> Record | None:
    """Return (kind, end, body) of the record at the start of `data`, or None if it is torn.

    Raises
    ------
    IntegrityError
        If another version of this package wrote it.
    """
    return _record_at(data, 0, name)


def read_records(data: bytes, name: str) -> Iterator[Record]:
    """Yield (kind, end, body) of the complete records at the start of `data`.

    A torn last record ends the iteration.

    Raises
    ------
    IntegrityError
        If a record that others follow is damaged, or another version of this package wrote it.
    """
    at = 0
    while (record := _record_at(data, at, name)) is not None:
        yield record
        at = record[1]
    if _record_after(data, at, name):
        raise damaged_before_others(name, at)


def damaged_before_others(name: str, at: int) -> IntegrityError:
    """Return the error for a damaged record at a byte, which other records follow."""
    return IntegrityError(
        f"{name} is damaged at byte {at}, before other records; what was written cannot be trusted. "
        f"Discard it (dask-chunkio discard) and write again"
    )


def claimed_nbytes(header: bytes) -> int | None:
    """Return the length that the header of a record claims; None if these bytes are not the header of a record."""
    if len(header) < HEADER_NBYTES or not header.startswith(_MAGIC):
        return None
    return HEADER_NBYTES + int(_HEADER.unpack_from(header)[3])


def is_cut_off(data: bytes, size: int, kind: int) -> bool:
    """Return whether a file holds only the beginning of one record, as a killed process leaves it.

    Parameters
    ----------
    data : bytes
        The first bytes of the file, at least a header if the file has as many.
    size : int
        Size of the file.
    kind : int
        Kind of the record.
    """
    header = data[: _HEADER.size]
    if len(header) < _HEADER.size:
        return _HEADER.pack(_MAGIC, VERSION, kind, 0).startswith(header[:8])
    magic, version, found, length = _HEADER.unpack(header)
    return (magic, version, found) == (_MAGIC, VERSION, kind) and size < _PREFIX + length


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in the body of a record.

    Raises
    ------
    ValueError
        If the body is not a JSON object, or is larger than what a write makes.
    """
    found = parse_json(body)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def parse_json(text: bytes | str) -> Any:
    """Parse JSON that another program may have written.

    Raises
    ------
    ValueError
        If it is invalid, or longer, deeper or with larger numbers than what a write makes, or repeats a name.
    """
    if len(text) > _MOST_JSON:
        raise ValueError(f"{len(text)} bytes of JSON, more than the limit of {_MOST_JSON}")
    try:
        return json.loads(
            text, object_pairs_hook=_without_doubles, parse_int=_short_int, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def fields_of(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass whose values are no dataclasses; `dataclasses.asdict` would copy each value."""
    return {one.name: getattr(record, one.name) for one in dataclasses.fields(record)}


def pack_json(kind: int, value: object) -> bytes:
    """Return a record with JSON as its body.

    Raises
    ------
    ArgumentError
        If the body is too long to be read again.
    """
    body = json.dumps(value).encode()
    if len(body) > _MOST_JSON:
        raise ArgumentError(
            f"the journal's description of this call takes {len(body)} bytes, more than the limit of {_MOST_JSON}; "
            f"write fewer datasets in one call, or give them shorter names"
        )
    return pack_record(kind, body)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _short_int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    found = float(digits)
    if not math.isfinite(found):
        raise ValueError("a number that is not finite")
    return found


def _record_at(data: Bytes, at: int, name: str) -> Record | None:
    if len(data) - at < _PREFIX:
        return None
    header = data[at : at + _HEADER.size]
    magic, version, kind, length = _HEADER.unpack(header)
    end = at + _PREFIX + length
    if magic != _MAGIC or end > len(data):
        return None
    body = data[at + _PREFIX : end]
    (expected,) = _SUM.unpack_from(data, at + _HEADER.size)
    if checksum(header, body) != expected:
        return None
    if version != VERSION:
        raise IntegrityError(
            f"{name} was written in version {version} of its format, and this is a dask_chunkio that reads version "
            f"{VERSION}; go on with the dask_chunkio that began the write, or discard it (dask-chunkio discard)"
        )
    return kind, end, body


def _record_after(data: bytes, at: int, name: str) -> bool:
    # Each header may claim all bytes that follow it.  A torn record holds no headers, so a few of them prove damage.
    following, left = data.find(_MAGIC, at + 1), 2 * (len(data) - at)
    while following != -1 and left >= 0:
        left -= _taken_over(data, following)
        if _record_at(data, following, name) is not None:
            return True
        following = data.find(_MAGIC, following + 1)
    return left < 0


def _taken_over(data: bytes, at: int) -> int:
    """Return how many bytes a header claims to follow it; 0 if the data do not have that many."""
    if len(data) - at < _PREFIX:
        return 0
    length: int = _HEADER.unpack_from(data, at)[3]
    return length if at + _PREFIX + length <= len(data) else 0
