"""Elements and attributes with exactly the bytes and types that a file has: by calls that h5py does not expose.

h5py converts every element to one of numpy's.  A copy must not: numpy has no bit fields, no padded strings and no new
references.  Here the type in memory is that of the file, and buffers are plain bytes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py

from dask_chunkio.errors import FilterError, IntegrityError, TargetError
from dask_chunkio.storage.hdf5.h5py_compat import hdf5_lock, separate_library

__all__ = [
    "PLAIN",
    "Region",
    "StandardReference",
    "are_attributes_plain",
    "close_attribute",
    "commit_anonymously",
    "copy_link",
    "create_attribute",
    "find_region",
    "find_standard",
    "free_standard",
    "get_comment",
    "link_phases",
    "make_region",
    "make_standard",
    "opened_attribute",
    "read_attribute",
    "read_elements",
    "reclaim",
    "require_raw_access",
    "set_link_phases",
    "standard_reference_type",
    "write_attribute",
    "write_elements",
]

_ID, _ADDRESS, _TEXT, _NUMBER = ctypes.c_int64, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int
_UNSIGNED = ctypes.c_uint
_DEFAULT = 0
_OBJECT, _REGION = 0, 1
_NEW_REGION, _NEW_ATTRIBUTE = 3, 4
# HDF5's longest comment is limited by the size of a message in an object header.
_MOST_COMMENT = 1 << 16
_SHORT: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "H5Aclose": (_NUMBER, (_ID,)),
    "H5Acreate2": (_ID, (_ID, _TEXT, _ID, _ID, _ID, _ID)),
    "H5Aget_create_plist": (_ID, (_ID,)),
    "H5Aget_type": (_ID, (_ID,)),
    "H5Aopen": (_ID, (_ID, _TEXT, _ID)),
    "H5Aopen_by_idx": (_ID, (_ID, _TEXT, _NUMBER, _NUMBER, ctypes.c_uint64, _ID, _ID)),
    "H5Aread": (_NUMBER, (_ID, _ID, _ADDRESS)),
    "H5Awrite": (_NUMBER, (_ID, _ID, _ADDRESS)),
    "H5Lcopy": (_NUMBER, (_ID, _TEXT, _ID, _TEXT, _ID, _ID)),
    "H5Oget_comment": (ctypes.c_ssize_t, (_ID, _ADDRESS, ctypes.c_size_t)),
    "H5Pclose": (_NUMBER, (_ID,)),
    "H5Pget_link_phase_change": (_NUMBER, (_ID, _ADDRESS, _ADDRESS)),
    "H5Pset_link_phase_change": (_NUMBER, (_ID, _UNSIGNED, _UNSIGNED)),
    "H5Rcreate": (_NUMBER, (_ADDRESS, _ID, _TEXT, _NUMBER, _ID)),
    "H5Rcreate_attr": (_NUMBER, (_ID, _TEXT, _TEXT, _ID, _ADDRESS)),
    "H5Rcreate_object": (_NUMBER, (_ID, _TEXT, _ID, _ADDRESS)),
    "H5Rcreate_region": (_NUMBER, (_ID, _TEXT, _ID, _ID, _ADDRESS)),
    "H5Rdereference2": (_ID, (_ID, _ID, _NUMBER, _ADDRESS)),
    "H5Rdestroy": (_NUMBER, (_ADDRESS,)),
    "H5Rget_attr_name": (ctypes.c_ssize_t, (_ADDRESS, _ADDRESS, ctypes.c_size_t)),
    "H5Rget_file_name": (ctypes.c_ssize_t, (_ADDRESS, _ADDRESS, ctypes.c_size_t)),
    "H5Rget_region": (_ID, (_ID, _NUMBER, _ADDRESS)),
    "H5Rget_type": (_NUMBER, (_ADDRESS,)),
    "H5Ropen_object": (_ID, (_ADDRESS, _ID, _ID)),
    "H5Ropen_region": (_ID, (_ADDRESS, _ID, _ID)),
    "H5Tcommit_anon": (_NUMBER, (_ID, _ID, _ID, _ID)),
    "H5Tclose": (_NUMBER, (_ID,)),
    "H5Tcommitted": (_NUMBER, (_ID,)),
    "H5Tcopy": (_ID, (_ID,)),
    "H5Tget_class": (_NUMBER, (_ID,)),
    "H5Treclaim": (_NUMBER, (_ID, _ID, _ID, _ADDRESS)),
}
_LONG: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "H5Dread": (_NUMBER, (_ID, _ID, _ID, _ID, _ID, _ADDRESS)),
    "H5Dwrite": (_NUMBER, (_ID, _ID, _ID, _ID, _ID, _ADDRESS)),
}
# Classes of types whose elements hold neither references nor sequences.
PLAIN = frozenset(
    {h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.BITFIELD, h5py.h5t.OPAQUE, h5py.h5t.ENUM}
)
_WRITES = frozenset({"H5Acreate2", "H5Awrite", "H5Dwrite", "H5Tcommit_anon"})


def require_raw_access() -> None:
    """Make sure that HDF5's functions can be called.

    Raises
    ------
    FilterError
        If this build of h5py does not expose them.
    """
    if _functions() is None:
        raise FilterError(
            "this build of h5py does not let other modules call HDF5 (H5Treclaim and others), which is needed to copy "
            "every type as it is; install h5py from PyPI or conda-forge on Linux or macOS"
        )


@functools.cache
def _functions() -> Any:
    """Return the functions, with their types; None if one is missing."""
    found: dict[str, Any] = {}
    try:
        for keeps_gil, table in ((True, _SHORT), (False, _LONG)):
            library = separate_library(keeps_gil)
            for name, (result, arguments) in table.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
                found[name] = function
    except AttributeError:
        return None
    return found


def _call(name: str, *arguments: Any) -> int:
    """Call a function; an OSError says that it failed, a TargetError that it could not write."""
    with hdf5_lock():
        result = int(_functions()[name](*arguments))
    if result < 0:
        raise (TargetError if name in _WRITES else OSError)(f"{name} of HDF5 failed")
    return result


@contextmanager
def opened_attribute(owner: Any, name: bytes) -> Iterator[int]:
    """Open an attribute, and return its identifier."""
    attribute = _call("H5Aopen", owner.id, name, _DEFAULT)
    try:
        yield attribute
    finally:
        _call("H5Aclose", attribute)


def are_attributes_plain(owner: Any) -> bool:
    """Return whether all attributes have numbers or text, and no named types: HDF5 copies them as they are.

    It is asked of each of very many small objects, so that it calls HDF5 as directly as possible.
    """
    with hdf5_lock():
        return all(_is_attribute_plain(owner.id, number) for number in range(h5py.h5a.get_num_attrs(owner)))


def _is_attribute_plain(owner: int, number: int) -> bool:
    found = _functions()
    attribute = found["H5Aopen_by_idx"](owner, b".", h5py.h5.INDEX_NAME, h5py.h5.ITER_NATIVE, number, 0, 0)
    kind = found["H5Aget_type"](attribute) if attribute >= 0 else -1
    is_plain = kind >= 0 and found["H5Tget_class"](kind) in PLAIN and found["H5Tcommitted"](kind) == 0
    if kind >= 0:
        found["H5Tclose"](kind)
    if attribute >= 0:
        found["H5Aclose"](attribute)
    if kind < 0:
        raise OSError("H5Aopen_by_idx or H5Aget_type of HDF5 failed")
    return is_plain


def create_attribute(owner: Any, name: bytes, kind: Any, space: Any, like: int) -> int:
    """Create an attribute with the creation properties of another one, and return its identifier.

    Whoever creates it closes it, with `close_attribute`.
    """
    plist = _call("H5Aget_create_plist", like)
    try:
        return _call("H5Acreate2", owner.id, name, kind.id, space.id, plist, _DEFAULT)
    finally:
        _call("H5Pclose", plist)


def read_attribute(attribute: int, kind: Any, address: int) -> None:
    """Read the elements of an attribute into memory."""
    _call("H5Aread", attribute, kind.id, address)


def write_attribute(attribute: int, kind: Any, address: int) -> None:
    """Write the elements of an attribute from memory."""
    _call("H5Awrite", attribute, kind.id, address)


def close_attribute(attribute: int) -> None:
    """Close an attribute."""
    _call("H5Aclose", attribute)


def read_elements(dataset: Any, kind: Any, memory: Any, selected: Any, address: int) -> None:
    """Read the selected elements of a dataset into memory."""
    _call("H5Dread", dataset.id, kind.id, memory.id, selected.id, _DEFAULT, address)


def write_elements(dataset: Any, kind: Any, memory: Any, selected: Any, address: int) -> None:
    """Write the selected elements of a dataset from memory."""
    _call("H5Dwrite", dataset.id, kind.id, memory.id, selected.id, _DEFAULT, address)


def reclaim(kind: Any, space: Any, address: int) -> None:
    """Free what HDF5 has allocated for elements of variable length."""
    _call("H5Treclaim", kind.id, space.id, _DEFAULT, address)


def commit_anonymously(file: Any, kind: Any, properties: Any) -> None:
    """Store a type in a file, without a name."""
    _call("H5Tcommit_anon", file.id, kind.id, properties.id, _DEFAULT)


def copy_link(source: Any, target: Any, name: bytes, properties: Any) -> None:
    """Copy a link of any kind that is not a hard one, under its name."""
    _call("H5Lcopy", source.id, name, target.id, name, properties.id, _DEFAULT)


def get_comment(owner: Any) -> bytes:
    """Return the comment of an object; empty if it has none."""
    length = _call("H5Oget_comment", owner.id, 0, 0)
    if not 0 < length < _MOST_COMMENT:
        return b""
    text = ctypes.create_string_buffer(length + 1)
    _call("H5Oget_comment", owner.id, ctypes.addressof(text), length + 1)
    return text.value


def link_phases(properties: Any) -> tuple[int, int]:
    """Return how many links a group keeps in its header at most, and how many outside of it at least."""
    most, least = ctypes.c_uint(), ctypes.c_uint()
    _call("H5Pget_link_phase_change", properties.id, ctypes.addressof(most), ctypes.addressof(least))
    return most.value, least.value


def set_link_phases(properties: Any, most: int, least: int) -> None:
    """Set what `link_phases` returns."""
    _call("H5Pset_link_phase_change", properties.id, most, least)


@dataclass(frozen=True, slots=True)
class Region:
    """What a region reference refers to: the address of the dataset, and the selection in it."""

    dataset: int
    selection: Any


def find_region(owner: Any, address: int) -> Region | None:
    """Return what the region reference at an address in memory refers to; None if that is nothing."""
    try:
        dataset = h5py.h5i.wrap_identifier(_call("H5Rdereference2", owner.id, _DEFAULT, _REGION, address))
        space = h5py.h5s.SpaceID(_call("H5Rget_region", owner.id, _REGION, address))
    except OSError:
        return None
    return Region(h5py.h5o.get_info(dataset).addr, space)


@functools.cache
def standard_reference_type() -> Any:
    """Return ``H5T_STD_REF``, the type of the references that HDF5 1.12 has introduced, which h5py does not name."""
    return h5py.h5i.wrap_identifier(_call("H5Tcopy", _ID.in_dll(separate_library(True), "H5T_STD_REF_g").value))


@dataclass(frozen=True, slots=True)
class StandardReference:
    """What a reference of the type `standard_reference_type` refers to.

    Parameters
    ----------
    target : int
        Address of the object.
    selection : h5py.h5s.SpaceID or None
        For a region of a dataset: the selection.
    attribute : bytes or None
        For an attribute of the object: its name.
    """

    target: int
    selection: Any = None
    attribute: bytes | None = None


def find_standard(owner: Any, address: int) -> StandardReference | None:
    """Return what the reference at an address in memory refers to; None if that is nothing that is there.

    Parameters
    ----------
    owner : h5py.h5i.ObjectID
        The dataset or the attribute from which it was read.
    address : int
        Where it is in memory.

    Raises
    ------
    IntegrityError
        If that is in another file, which is not opened.
    """
    kind = _call("H5Rget_type", address)
    # HDF5 would open that file, whatever it is.
    if (name := _text_of("H5Rget_file_name", address)) != h5py.h5f.get_name(owner):
        where = (h5py.h5i.get_name(owner) or b"an object").decode(errors="replace")
        raise IntegrityError(
            f"{where} refers to an object in the file {name.decode(errors='replace')}, and such references are not "
            f"copied; leave it out with exclude="
        )
    try:
        item = h5py.h5i.wrap_identifier(_call("H5Ropen_object", address, _DEFAULT, _DEFAULT))
        space = h5py.h5s.SpaceID(_call("H5Ropen_region", address, _DEFAULT, _DEFAULT)) if kind == _NEW_REGION else None
    except OSError:
        return None
    name_of_attribute = _text_of("H5Rget_attr_name", address) if kind == _NEW_ATTRIBUTE else None
    return StandardReference(h5py.h5o.get_info(item).addr, space, name_of_attribute)


def make_standard(file: Any, path: bytes, found: StandardReference, address: int) -> None:
    """Write a reference to the same as `found`, at a path of a file, to memory, where there is none."""
    if found.attribute is not None:
        _call("H5Rcreate_attr", file.id, path, found.attribute, _DEFAULT, address)
    elif found.selection is not None:
        _call("H5Rcreate_region", file.id, path, found.selection.id, _DEFAULT, address)
    else:
        _call("H5Rcreate_object", file.id, path, _DEFAULT, address)


def free_standard(address: int) -> None:
    """Free what HDF5 has allocated for a reference in memory."""
    _call("H5Rdestroy", address)


def _text_of(function: str, address: int) -> bytes:
    text = ctypes.create_string_buffer(_call(function, address, 0, 0) + 1)
    _call(function, address, ctypes.addressof(text), len(text))
    return text.value


def make_region(file: Any, path: bytes, selection: Any, address: int) -> None:
    """Write a region reference to memory."""
    _call("H5Rcreate", address, file.id, path, _REGION, selection.id)
