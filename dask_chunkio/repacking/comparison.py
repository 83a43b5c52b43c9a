"""Comparison of a copy with the file: every link, attribute and element."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import ChunkIOError, IntegrityError
from dask_chunkio.geometry.grid import Array
from dask_chunkio.repacking.attributes import names_of
from dask_chunkio.repacking.elements import Elements, Slab, elements_of, memory_of, slabs
from dask_chunkio.repacking.patterns import Selection
from dask_chunkio.repacking.references import column
from dask_chunkio.repacking.walk import Found, links_of
from dask_chunkio.storage.hdf5.raw_access import (
    find_region,
    find_standard,
    get_comment,
    read_attribute,
    read_elements,
    standard_reference_type,
)

__all__ = ["require_same"]

_FAILED = (OSError, RuntimeError, ValueError, TypeError, KeyError, ArithmeticError, MemoryError, SystemError)
# What a reference stands for, if it points to nothing that was copied.
_NOTHING = b""
_MOST_BLOCKS = 10_000


@dataclass(slots=True)
class _Side:
    """One of the two files."""

    file: h5py.File
    # Where the object with each address is.
    paths: dict[int, bytes] = field(default_factory=dict)

    def refers_to(self, kind: Any, owner: Any, at: int) -> bytes:
        """Return what a reference in memory stands for, in words that are the same in both files."""
        if kind.equal(h5py.h5t.STD_REF_OBJ):
            return self.paths.get(int(column(at, 1, 8)[0]), _NOTHING)
        if kind.equal(standard_reference_type()):
            return self._standard_refers_to(kind, owner, at)
        if not any(ctypes.string_at(at, 12)) or (region := find_region(owner, at)) is None:
            return _NOTHING
        path = self.paths.get(region.dataset, _NOTHING)
        return path + b"\0" + _words(region.selection) if path else _NOTHING

    def _standard_refers_to(self, kind: Any, owner: Any, at: int) -> bytes:
        if not any(ctypes.string_at(at, kind.get_size())) or (found := find_standard(owner, at)) is None:
            return _NOTHING
        path = self.paths.get(found.target, _NOTHING)
        selection = b"" if found.selection is None else _words(found.selection)
        return b"\0".join((path, selection, found.attribute or b"")) if path else _NOTHING


def _words(selection: Any) -> bytes:
    """Return a selection in words, without the limits of the dataset, which may have changed."""
    space = selection.copy()
    words = [space.get_select_type(), space.get_select_npoints()]
    if space.get_select_npoints():
        words.append(space.get_select_bounds())
    if space.get_select_type() == h5py.h5s.SEL_POINTS:
        words.append(space.get_select_elem_pointlist().tolist())
    elif space.get_select_type() == h5py.h5s.SEL_HYPERSLABS and space.get_select_hyper_nblocks() < _MOST_BLOCKS:
        words.append(space.get_select_hyper_blocklist().tolist())
    return repr(words).encode()


def require_same(
    source: h5py.File, path: str, selection: Selection, begin: Callable[[Found], None] = lambda _: None
) -> None:
    """Compare a copy with a file.

    Parameters
    ----------
    source : h5py.File
        The file.
    path : str
        The copy.
    selection : Selection
        What was copied.
    begin : callable
        Told of each link of the file before it is compared.

    Raises
    ------
    IntegrityError
        If they differ; the message names the first difference.
    """
    with h5py.File(path, "r") as file:
        where = "/"
        try:
            old, new = _walked(source, selection), _walked(file, Selection())
            _compare_owners(old[0], new[0], "/", *_opened(source, file, b"/"))
            for where, one, other in _pairs(old[1], new[1]):
                begin(one)
                _compare_links(old[0], new[0], where, one, other)
        except ChunkIOError:
            raise
        except _FAILED as error:
            raise IntegrityError(f"{where} of {path} or of {source.filename} cannot be read: {error}") from error


def _walked(file: h5py.File, selection: Selection) -> tuple[_Side, list[Found]]:
    root = h5py.h5o.get_info(h5py.h5g.open(file.id, b"/"))
    side, links = _Side(file, {root.addr: b"/"}), []
    for found in links_of(file, selection):
        links.append(found)
        if found.is_hard and found.first is None:
            side.paths[found.address] = found.path
    return side, links


def _pairs(old: list[Found], new: list[Found]) -> Iterator[tuple[str, Found, Found]]:
    mine, theirs = {one.path: one for one in new}, {one.path for one in old}
    if missing := [one.text for one in old if one.path not in mine] + [
        one.text for one in new if one.path not in theirs
    ]:
        raise IntegrityError(f"{missing[0]} is in one of the two files only")
    for one in old:
        yield one.text, one, mine[one.path]


def _compare_links(old: _Side, new: _Side, where: str, one: Found, other: Found) -> None:
    _require(one.kind == other.kind and one.first == other.first, where, "the links")
    if not one.is_hard:
        values = [found.group.links.get_val(found.name) for found in (one, other)]
        _require(values[0] == values[1], where, "what the links point to")
    elif one.first is None:
        _compare_owners(old, new, where, h5py.h5o.open(one.group, one.name), h5py.h5o.open(other.group, other.name))


def _opened(source: h5py.File, file: h5py.File, path: bytes) -> tuple[Any, Any]:
    return h5py.h5o.open(source.id, path), h5py.h5o.open(file.id, path)


def _compare_owners(old: _Side, new: _Side, where: str, one: Any, other: Any) -> None:
    """Compare two objects: their attributes, and what they are."""
    _require(type(one) is type(other), where, "the kinds of the objects")
    _require(get_comment(one) == get_comment(other), where, "the comments")
    _require(names_of(one) == names_of(other), where, "the names of the attributes, or their order")
    for name in names_of(one):
        _compare_attributes(
            old, new, f"{where}, attribute {name!r}", h5py.h5a.open(one, name), h5py.h5a.open(other, name)
        )
    if isinstance(one, h5py.h5d.DatasetID):
        _compare_datasets(old, new, where, one, other)
    elif isinstance(one, h5py.h5t.TypeID):
        _require(one.equal(other), where, "the types")


def _compare_attributes(old: _Side, new: _Side, where: str, one: Any, other: Any) -> None:
    _compare_form(where, one, other, with_limits=True)
    space = one.get_space()
    values = tuple(_Value(side, at, functools.partial(_read_attribute, at)) for side, at in ((old, one), (new, other)))
    if count := space.get_simple_extent_npoints():
        _compare_values(where, elements_of(one.get_type(), where), Slab(space, space, count), values)


def _compare_datasets(old: _Side, new: _Side, where: str, one: Any, other: Any) -> None:
    plist = one.get_create_plist()
    is_elsewhere = plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count()
    _compare_form(where, one, other, with_limits=False)
    if is_elsewhere or one.get_space().get_simple_extent_type() == h5py.h5s.NULL or not _has_elements(one):
        return
    chunk = plist.get_chunk() if plist.get_layout() == h5py.h5d.CHUNKED else None
    elements = elements_of(one.get_type(), where)
    values = tuple(_Value(side, at, functools.partial(_read_slab, at)) for side, at in ((old, one), (new, other)))
    for slab in slabs(one, chunk, elements.nbytes, where):
        _compare_values(where, elements, slab, values)


def _read_attribute(attribute: Any, elements: Elements, _: Slab, address: int) -> None:
    read_attribute(attribute.id, elements.kind, address)


def _read_slab(dataset: Any, elements: Elements, slab: Slab, address: int) -> None:
    read_elements(dataset, elements.kind, slab.memory, slab.selected, address)


@dataclass(frozen=True, slots=True)
class _Value:
    """The value of an attribute or a dataset, on one side."""

    side: _Side
    owner: Any
    read: Callable[[Elements, Slab, int], None]

    def resolve(self, kind: Any, address: int) -> bytes:
        return self.side.refers_to(kind, self.owner, address)


def _has_elements(dataset: Any) -> bool:
    """Return whether anything was ever written to a dataset."""
    return bool(dataset.get_space_status() != h5py.h5d.SPACE_STATUS_NOT_ALLOCATED)


def _compare_form(where: str, one: Any, other: Any, with_limits: bool) -> None:
    _require(one.get_type().equal(other.get_type()), where, "the types")
    _require(one.get_type().committed() == other.get_type().committed(), where, "the names of the types")
    spaces = one.get_space(), other.get_space()
    kinds = [space.get_simple_extent_type() for space in spaces]
    _require(kinds[0] == kinds[1], where, "the dataspaces")
    if kinds[0] == h5py.h5s.SIMPLE:
        shapes = [
            (space.get_simple_extent_dims(), with_limits and space.get_simple_extent_dims(True)) for space in spaces
        ]
        _require(shapes[0] == shapes[1], where, "the shapes")


def _compare_values(where: str, elements: Elements, slab: Slab, values: tuple[_Value, ...]) -> None:
    count, nbytes = slab.count, elements.nbytes
    with memory_of(elements, slab.memory, count) as first, memory_of(elements, slab.memory, count) as second:
        for value, address in zip(values, (first, second), strict=True):
            value.read(elements, slab, address)
        is_same = ctypes.string_at(first, count * nbytes) == ctypes.string_at(second, count * nbytes)
        if is_same and elements.part is None:
            return
        mine, theirs = (
            list(_canonical(elements.kind, address, count, nbytes, value.resolve))
            for value, address in zip(values, (first, second), strict=True)
        )
        _require(mine == theirs, where, "the elements")


_Resolve = Callable[[Any, int], bytes]


def _canonical(kind: Any, at: int, count: int, stride: int, resolve: _Resolve) -> Iterator[bytes]:
    """Yield all that elements hold, wherever it is in memory, but for the padding between fields."""
    group = kind.get_class()
    places = range(at, at + count * stride, stride)
    if group == h5py.h5t.COMPOUND:
        for number in range(kind.get_nmembers()):
            start = at + kind.get_member_offset(number)
            yield from _canonical(kind.get_member_type(number), start, count, stride, resolve)
    elif group == h5py.h5t.ARRAY:
        many, base = int(np.prod(kind.get_array_dims(), dtype=object)), kind.get_super()
        for place in places:
            yield from _canonical(base, place, many, base.get_size(), resolve)
    elif group == h5py.h5t.VLEN:
        yield from itertools.chain.from_iterable(_sequence(kind.get_super(), place, resolve) for place in places)
    elif group == h5py.h5t.REFERENCE:
        yield from (resolve(kind, place) for place in places)
    elif group == h5py.h5t.STRING and kind.is_variable_str():
        yield from map(_text, places)
    else:
        yield _plain(at, count, stride, kind.get_size()).tobytes()


def _sequence(base: Any, at: int, resolve: _Resolve) -> Iterator[bytes]:
    length, place = column(at, 2, 8).tolist()
    yield length.to_bytes(8, "little")
    if length:
        yield from _canonical(base, place, length, base.get_size(), resolve)


def _text(at: int) -> bytes:
    text = ctypes.c_char_p.from_address(at).value
    return b"\0" if text is None else b"\1" + text


def _plain(at: int, count: int, stride: int, nbytes: int) -> Array:
    memory: Any = (ctypes.c_ubyte * ((count - 1) * stride + nbytes)).from_address(at)
    return np.ndarray((count, nbytes), np.uint8, memory, 0, (stride, 1))


def _require(is_same: bool, where: str, what: str) -> None:
    if not is_same:
        raise IntegrityError(f"{where}: {what} of the copy differ from those of the file")
