"""Rules for the conversion of dtypes: HDF5 must convert them, and no sign, fraction or meaning may be lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import CastError

__all__ = ["check_conversion", "common_fields", "exact_words", "holds_references", "is_partial", "refusal"]
__all__ += ["with_parts", "words"]

DType = np.dtype[Any]


def check_conversion(source: DType, target: DType, dataset: str) -> None:
    """Refuse a source whose values cannot be stored.

    Parameters
    ----------
    source, target : numpy.dtype
        Dtypes of the source and of the dataset, with the metadata of h5py (encodings, enumerations).
    dataset : str
        Name of the dataset, for the message.

    Raises
    ------
    CastError
        If they cannot; the message names the dataset, both dtypes and what to do.
    """
    if (reason := refusal(source, target)) is not None:
        raise CastError(f"{dataset}: {reason}")


def refusal(source: DType, target: DType) -> str | None:
    """Return why values of one dtype cannot be stored as another, and what to do; None if they can be stored.

    Examples
    --------
    >>> refusal(np.dtype("i4"), np.dtype("i2")) is None
    True
    >>> print(refusal(np.dtype("i4"), np.dtype("S4")))
    values of dtype int32 cannot be stored as S4: HDF5 does not convert numbers to strings or back; convert them in \
the source, or give a dtype= that holds them
    """
    if (strange := _without_type(target)) is not None:
        return strange
    if (reason := _difference(source, target)) is None:
        return None
    reason, _, remedy = reason.partition("; ")
    remedy = remedy or "convert them in the source, or give a dtype= that holds them"
    return f"values of dtype {words(source)} cannot be stored as {words(target)}: {reason}; {remedy}"


def words(dtype: DType) -> str:
    """Return the name of a dtype, with a summary of its metadata of h5py.

    Examples
    --------
    >>> words(np.dtype("<f4")), words(h5py.string_dtype()), words(h5py.string_dtype("utf-8", 5))
    ('float32', 'object (UTF-8 strings)', 'S5 (UTF-8)')
    """
    name = dtype.str[1:] if dtype.kind in "SUV" and dtype.names is None and dtype.subdtype is None else str(dtype)
    notes = _notes(dtype)
    if (vlen := notes.get("vlen")) is not None:
        kinds = {str: "UTF-8 strings", bytes: "ASCII strings"}
        return f"object ({kinds[vlen] if vlen in kinds else f'arrays of {words(np.dtype(vlen))}'})"
    if "ref" in notes:
        return f"object ({'region' if notes['ref'] is h5py.RegionReference else 'object'} references)"
    if "h5py_encoding" in notes:
        return f"{name} ({notes['h5py_encoding'].upper()})"
    return f"{name} (enumeration)" if "enum" in notes else name


def exact_words(dtype: DType) -> str:
    """Return the name of a dtype with all its metadata of h5py, unique among dtypes that HDF5 stores differently.

    Examples
    --------
    >>> exact_words(np.dtype("<f4")), exact_words(h5py.enum_dtype({"OFF": 0, "ON": 1}, "i1"))
    ('float32', 'int8 (enumeration OFF=0, ON=1)')
    """
    if not any(map(_notes, _parts(dtype))):
        return str(dtype)
    if dtype.subdtype is not None:
        return f"{exact_words(dtype.base)} {dtype.shape}"
    if dtype.names is not None:
        places: Mapping[str, Any] = dtype.fields or {}
        fields = (f"{name!r}: {exact_words(dtype[name])} at {places[name][1]}" for name in dtype.names)
        return f"{{{', '.join(fields)}}} of {dtype.itemsize} bytes"
    notes = _notes(dtype)
    if (vlen := notes.get("vlen")) is not None and vlen not in (str, bytes):
        return f"object (arrays of {exact_words(np.dtype(vlen))})"
    if (enum := notes.get("enum")) is not None:
        return f"{dtype} (enumeration {', '.join(f'{name}={value}' for name, value in enum.items())})"
    return words(dtype)


def _notes(dtype: DType) -> Mapping[str, Any]:
    """Return the metadata that h5py stores in a dtype."""
    return dtype.metadata or {}


# Dtypes for which HDF5 has a type


def _without_type(dtype: DType) -> str | None:
    """Return why a dataset cannot have a dtype; None if it can."""
    if dtype.subdtype is not None:
        return f"a dataset of arrays, dtype {dtype}, is not written; give the array's axes to the dataset"
    for part in _parts(dtype):
        if (reason := _without_scalar_type(part)) is not None:
            return reason
    return None


def _parts(dtype: DType) -> list[DType]:
    """Return the elementary dtypes, without fields, of which a dtype consists."""
    if dtype.names is None:
        return [dtype.base]
    return [part for name in dtype.names for part in _parts(dtype[name].base)]


def _without_scalar_type(dtype: DType) -> str | None:
    if dtype.kind in "mM" and not h5py.check_opaque_dtype(dtype):
        return (
            f"HDF5 has no type for {dtype}; store the numbers, array.view('i8'), and the unit "
            f"{np.datetime_data(dtype)[0]!r} as an attribute, or give dtype=h5py.opaque_dtype({dtype.str!r}), "
            f"which only h5py reads as times"
        )
    if dtype.kind == "U":
        return (
            f"HDF5 has no type for numpy's {dtype.str} strings; give dtype=h5py.string_dtype() for strings of any "
            f"length, or store bytes, array.astype('S') where all is ASCII"
        )
    if dtype.kind == "O" and not _is_variable(dtype):
        return (
            "HDF5 has no type for Python objects; give dtype=h5py.string_dtype() for strings, h5py.vlen_dtype(...) "
            "for arrays of different lengths, or h5py.ref_dtype for references"
        )
    return f"dtype {dtype.str} has elements of 0 bytes; give one with a length" if not dtype.itemsize else None


def holds_references(dtype: DType) -> bool:
    """Return whether elements are HDF5 references, or have fields that are.

    Examples
    --------
    >>> holds_references(np.dtype([("name", "S3"), ("at", h5py.ref_dtype)])), holds_references(h5py.string_dtype())
    (True, False)
    """
    return any("ref" in _notes(part) for part in _parts(dtype))


def _is_variable(dtype: DType) -> bool:
    """Return whether elements have a variable length, or are references."""
    noted = _notes(dtype)
    return dtype.kind == "T" or (dtype.kind == "O" and ("vlen" in noted or "ref" in noted))


# Differences between dtypes that prevent a conversion


def _difference(source: DType, target: DType) -> str | None:
    if source.shape != target.shape:
        return f"arrays of shape {source.shape} are not those of shape {target.shape}"
    source, target = source.base, target.base
    if target.names is not None or source.names is not None:
        return _difference_of_fields(source, with_parts(target))
    if target.hasobject or target.kind == "T":
        return _difference_of_objects(source, target)
    if source.hasobject or source.kind in "TU":
        return f"those are {'strings' if source.kind in 'TU' else 'Python objects'}{_with_hint(target)}"
    return _difference_of_bytes(source, target)


def _difference_of_bytes(source: DType, target: DType) -> str | None:
    kinds = {source.kind, target.kind}
    if kinds & {"m", "M", "V"}:
        return None if source.str == target.str else "their bytes mean different things"
    return _difference_of_strings(source, target) if "S" in kinds else _difference_of_numbers(source, target)


def _with_hint(target: DType) -> str:
    return f"; convert them with .astype({target.str!r})" if target.kind in "biufcS" else ""


def with_parts(dtype: DType) -> DType:
    """Return a complex dtype as a compound of two fields, as h5py stores it; other dtypes unchanged."""
    if dtype.kind != "c":
        return dtype
    real = np.empty(0, dtype).real.dtype
    return np.dtype([("r", real), ("i", real)])


def _difference_of_fields(source: DType, target: DType) -> str | None:
    if source.names is None or target.names is None:
        return "only one of them has fields; give both the same fields"
    here, there = set(source.names), set(target.names)
    if not here & there or (here - there and there - here):
        mine, theirs = ", ".join(sorted(here - there)), ", ".join(sorted(there - here))
        return (
            f"the fields {mine} are not in the dataset, and {theirs} are not in the source; fields are matched by "
            f"their names: rename them, or leave those out that are not meant"
        )
    for name in common_fields(source, target):
        if (reason := _difference(source[name], target[name])) is not None:
            return f"field {name!r}: {reason}"
    return None


def common_fields(source: DType, target: DType) -> list[str]:
    """Return the names of the fields that both dtypes have, in the order of `target`."""
    return [name for name in target.names or () if name in (source.names or ())]


def _difference_of_objects(source: DType, target: DType) -> str | None:
    mine, wanted = _notes(source), _notes(target)
    if source.kind == "O" and not mine:
        return None  # The elements are checked when they are read.
    if target.kind == "T" or wanted.get("vlen") in (str, bytes):
        is_text = source.kind in "SUT" or mine.get("vlen") in (str, bytes)
        return None if is_text else "only strings can be stored as strings"
    if source.kind != "O" or mine.keys() != wanted.keys():
        return "elements without a fixed length need an array of Python objects"
    if "ref" in wanted:
        return None if mine["ref"] is wanted["ref"] else "object references are no region references"
    if mine["vlen"] in (str, bytes):
        return "strings are no arrays of numbers"
    return _difference(np.dtype(mine["vlen"]), np.dtype(wanted["vlen"]))


def _difference_of_strings(source: DType, target: DType) -> str | None:
    if source.kind != target.kind:
        return "HDF5 does not convert numbers to strings or back"
    mine, theirs = h5py.check_string_dtype(source).encoding, h5py.check_string_dtype(target).encoding
    if mine == theirs:
        return None
    return (
        f"HDF5 does not convert {mine.upper()} to {theirs.upper()}; say that they are, in the source: "
        f".astype(h5py.string_dtype({theirs!r}, {source.itemsize}))"
    )


def _difference_of_numbers(source: DType, target: DType) -> str | None:
    if target.kind == "c" != source.kind:
        return "HDF5 does not convert real numbers to complex ones; convert them in the source, .astype(complex)"
    if source.kind == "b" and h5py.check_enum_dtype(target) is not None:
        return "HDF5 matches the names FALSE and TRUE, which the enumeration lacks; convert them with .astype('u1')"
    if np.can_cast(source, target, casting="same_kind"):
        return None
    lost = {"b": "numbers would become truth values", "u": "negative values would be lost"}
    if source.kind == "c":
        return "imaginary parts would be lost"
    return "fractions would be lost" if source.kind == "f" and target.kind != "b" else lost[target.kind]


def is_partial(source: DType, target: DType) -> bool:
    """Return whether the dataset has fields that the source does not have.

    Existing elements keep the values of these fields; new elements get the fill value.

    Examples
    --------
    >>> is_partial(np.dtype([("a", "i4")]), np.dtype([("b", "f8"), ("a", "i2")]))
    True
    """
    source, target = source.base, target.base
    if source == target or source.names is None:
        return False
    target = with_parts(target)
    names = common_fields(source, target)
    return len(names) < len(target.names or ()) or any(is_partial(source[name], target[name]) for name in names)
