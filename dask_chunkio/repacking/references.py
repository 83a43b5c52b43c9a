"""Elements that hold references or are of variable length: found in a type, and mapped in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import h5py
import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.geometry.grid import Array
from dask_chunkio.storage.hdf5.raw_access import (
    find_region,
    find_standard,
    free_standard,
    make_region,
    make_standard,
    standard_reference_type,
)

__all__ = ["MissingObjectError", "Part", "References", "column", "holds_references", "special_part"]

_UNDEFINED = 2**64 - 1
_REGION_NBYTES = 12
_STANDARD_NBYTES = 64
_ADDRESS = np.dtype("u8")
_REFERENCES = frozenset({"object", "region", "standard"})
# A type is at most as deep as this; the recursion of Python and of HDF5 has its limits.
_MOST_DEPTH = 60


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an element that is more than plain bytes, at an offset in it.

    Parameters
    ----------
    kind : str
        ``"object"`` and ``"region"`` are references, ``"standard"`` those that HDF5 1.12 has introduced, ``"text"`` a
        string of variable length, ``"sequence"`` a sequence of variable length, ``"array"`` an array of fixed shape,
        ``"compound"`` a type with fields.
    offset : int
        Where it is in the element around it.
    count, nbytes : int
        For an array and a sequence: the number of its elements (in an array), and the bytes of each.
    parts : tuple of Part
        What in its elements, or fields, is more than plain bytes.
    """

    kind: Literal["object", "region", "standard", "text", "sequence", "array", "compound"]
    offset: int = 0
    count: int = 1
    nbytes: int = 0
    parts: tuple[Part, ...] = ()


class MissingObjectError(Exception):
    """A reference to an object that is not copied yet."""


def special_part(kind: Any, where: str, offset: int = 0, depth: int = 0) -> Part | None:
    """Return what in a type is more than plain bytes; None if nothing is.

    Parameters
    ----------
    kind : h5py.h5t.TypeID
        A type as it is in memory.
    where : str
        What has the type, for messages.
    offset, depth : int
        Where it is in the type around it, and how deep.

    Raises
    ------
    IntegrityError
        If it is of a kind that cannot be copied.
    """
    group = kind.get_class()
    if group == h5py.h5t.STRING:
        return Part("text", offset) if kind.is_variable_str() else None
    if group not in _COMPOSED:
        return None
    if depth > _MOST_DEPTH:
        raise IntegrityError(f"{where}: its type has more than {_MOST_DEPTH} levels; it is damaged")
    if group == h5py.h5t.REFERENCE:
        return Part(_kind_of_reference(kind, where), offset)
    if group == h5py.h5t.COMPOUND:
        fields = range(kind.get_nmembers())
        found = (special_part(kind.get_member_type(n), where, kind.get_member_offset(n), depth + 1) for n in fields)
        parts = tuple(one for one in found if one is not None)
        return Part("compound", offset, parts=parts) if parts else None
    base = kind.get_super()
    inner = special_part(base, where, 0, depth + 1)
    parts = () if inner is None else (inner,)
    if group == h5py.h5t.VLEN:
        return Part("sequence", offset, nbytes=base.get_size(), parts=parts)
    count = int(np.prod(kind.get_array_dims(), dtype=object))
    return Part("array", offset, count, base.get_size(), parts) if parts else None


_COMPOSED = frozenset({h5py.h5t.REFERENCE, h5py.h5t.COMPOUND, h5py.h5t.VLEN, h5py.h5t.ARRAY})


def _kind_of_reference(kind: Any, where: str) -> Literal["object", "region", "standard"]:
    if kind.equal(h5py.h5t.STD_REF_OBJ):
        return "object"
    if kind.equal(h5py.h5t.STD_REF_DSETREG):
        return "region"
    if kind.equal(standard_reference_type()):
        return "standard"
    raise IntegrityError(f"{where} holds references of an unknown kind; leave it out with exclude=")


def holds_references(part: Part | None) -> bool:
    """Return whether a part holds references."""
    return part is not None and (part.kind in _REFERENCES or any(map(holds_references, part.parts)))


@dataclass(slots=True)
class References:
    """Maps references of one file to those of its copy.

    Parameters
    ----------
    target : h5py.h5f.FileID
        The copy.
    paths : dict
        For the address of each object of the file, where its copy is.
    is_final : bool
        Whether all objects are copied; until then, a reference to one that is not there raises `MissingObjectError`.
    lost : int
        How many references point to nothing that was copied; they become empty.
    """

    target: Any
    paths: dict[int, bytes]
    is_final: bool = False
    lost: int = 0
    _addresses: dict[int, int] = field(default_factory=dict)

    def map(self, part: Part, owner: Any, address: int, count: int, stride: int) -> None:
        """Replace the references of elements in memory.

        Parameters
        ----------
        part : Part
            What the elements hold.
        owner : h5py.h5i.ObjectID
            An object of the file from which they were read.
        address : int
            Where the first element is.
        count, stride : int
            How many there are, and how many bytes lie from one to the next.

        Raises
        ------
        MissingObjectError
            If an object is not there yet.
        """
        if not count or not holds_references(part):
            return
        at = address + part.offset
        if part.kind == "object":
            self._map_objects(column(at, count, stride))
        elif part.kind in _REFERENCES:
            map_one = self._map_region if part.kind == "region" else self._map_standard
            for number in range(count):
                map_one(owner, at + number * stride)
        else:
            for inner, first, many, step in _inside(part, at, count, stride):
                self.map(inner, owner, first, many, step)

    def _map_objects(self, column: Array) -> None:
        olds, places = np.unique(column, return_inverse=True)
        column[:] = np.array([self._address(old) for old in olds.tolist()], _ADDRESS)[places]

    def _address(self, old: int) -> int:
        if old in (0, _UNDEFINED):
            return old
        if (found := self._addresses.get(old)) is None:
            path = self._path(old)
            found = 0 if path is None else int(h5py.h5o.get_info(self.target, path).addr)
            self._addresses[old] = found
        return found

    def _path(self, old: int) -> bytes | None:
        path = self.paths.get(old)
        if path is None and not self.is_final:
            raise MissingObjectError
        self.lost += path is None
        return path

    def _map_region(self, owner: Any, address: int) -> None:
        raw: Any = (ctypes.c_ubyte * _REGION_NBYTES).from_address(address)
        if not any(raw):
            return
        region = find_region(owner, address)
        path = None if region is None else self._path(region.dataset)
        self.lost += region is None
        raw[:] = bytes(_REGION_NBYTES)
        if region is not None and path is not None:
            make_region(self.target, path, region.selection, address)

    def _map_standard(self, owner: Any, address: int) -> None:
        raw: Any = (ctypes.c_ubyte * _STANDARD_NBYTES).from_address(address)
        if not any(raw):
            return
        found = find_standard(owner, address)
        path = None if found is None else self._path(found.target)
        self.lost += found is None
        free_standard(address)
        raw[:] = bytes(_STANDARD_NBYTES)
        if found is not None and path is not None:
            make_standard(self.target, path, found, address)


def column(address: int, count: int, stride: int) -> Array:
    """Return one number of 8 bytes of each element in memory, as an array that changes it."""
    memory: Any = (ctypes.c_ubyte * ((count - 1) * stride + _ADDRESS.itemsize)).from_address(address)
    return np.ndarray((count,), _ADDRESS, memory, 0, (stride,))


def _inside(part: Part, at: int, count: int, stride: int) -> Iterator[tuple[Part, int, int, int]]:
    """Yield what the elements of a part hold: each part in them, the first address, how many, and the stride."""
    for inner in part.parts:
        if part.kind == "compound":
            yield inner, at, count, stride
        elif part.kind == "array" and part.count < count:
            yield from ((inner, at + number * part.nbytes, count, stride) for number in range(part.count))
        elif part.kind == "array":
            yield from ((inner, at + number * stride, part.count, part.nbytes) for number in range(count))
        else:
            lengths, places = column(at, count, stride).tolist(), column(at + 8, count, stride).tolist()
            yield from ((inner, p, n, part.nbytes) for n, p in zip(lengths, places, strict=True) if n and p)
