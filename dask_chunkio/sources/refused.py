"""Objects that users often give instead of an array but that cannot be written, with advice what to give instead."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

__all__ = ["why_refused"]

_WITH_UNITS = ("astropy", "pint", "unyt")


def why_refused(value: Any) -> str | None:
    """Return why a value cannot be written as it is, as text for a message; None if no rule refuses it.

    Examples
    --------
    >>> why_refused("data.npy")
    "a file is not opened here; give numpy.load(path, mmap_mode='r'), or a dataset of an open h5py.File"
    >>> why_refused([1, 2]) is None
    True
    """
    return next((words for is_so, words in _RULES if is_so(value)), None)


def _package(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _block(value: Any) -> Any:
    """Return a sample block of a dask array; any other value unchanged."""
    return getattr(value, "_meta", value)


def _is_table(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "dtypes")


def _has_unit(value: Any) -> bool:
    return _package(value) in _WITH_UNITS and (hasattr(value, "unit") or hasattr(value, "units"))


_RULES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda value: isinstance(value, type), "it is a class; give an object of it"),
    (
        lambda value: isinstance(value, (str, bytes, os.PathLike)),
        "a file is not opened here; give numpy.load(path, mmap_mode='r'), or a dataset of an open h5py.File",
    ),
    (
        lambda value: _package(value) == "h5py" and not value,
        "its file is closed; keep the h5py.File open until to_hdf5 has returned",
    ),
    (
        lambda value: _package(value) == "h5py" and hasattr(value, "create_dataset"),
        "it is a group; give one of its datasets",
    ),
    (_is_table, "a table has no single dtype; give its columns one by one, or .to_records(index=False)"),
    (
        lambda value: hasattr(type(_block(value)), "todense"),
        "a sparse array cannot be stored as one; give a dense one (.toarray(), .todense()), or its parts",
    ),
    (
        lambda value: _has_unit(_block(value)),
        "its unit would be lost; give its numbers (.value, .magnitude), and the unit in attrs=",
    ),
)
