"""Names of dimensions: those of zarr arrays as dimension scales of HDF5, as netCDF-4 has them, and back."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

__all__ = ["STRUCTURE", "Named", "Scales", "dimension_names", "dimensions_by_id", "is_only_dimension", "make_scales"]
__all__ += ["plan_scales"]

# What scales consist of, and what netCDF notes about them.
STRUCTURE = frozenset({"REFERENCE_LIST", "DIMENSION_LIST", "DIMENSION_LABELS", "_Netcdf4Dimid", "_Netcdf4Coordinates"})
_ONLY_DIMENSION = "This is a netCDF dimension but not a netCDF variable."
_DIMID = "_Netcdf4Dimid"


@dataclass(frozen=True, slots=True)
class Named:
    """An array and the names of its dimensions.

    Parameters
    ----------
    path : str
        Absolute path.
    shape : tuple of int
        Its shape, in elements.
    names : tuple of str or None
        A name for each axis, or None where it has none.
    """

    path: str
    shape: tuple[int, ...]
    names: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Scales:
    """The dimension scales of a file.

    Parameters
    ----------
    lengths : mapping
        Absolute path of each scale, and its length.
    coordinates : frozenset of str
        The scales that are arrays; others are dimensions without values.
    attached : mapping
        For each array the path of the scale of each axis; None for an axis that only gets its name as a label.
    """

    lengths: Mapping[str, int]
    coordinates: frozenset[str]
    attached: Mapping[str, tuple[str | None, ...]]


def plan_scales(arrays: Sequence[Named], taken: Collection[str]) -> Scales:
    """Choose the scales of each group.

    A dimension whose name stands for several lengths in its group, or for a group or an array that is no coordinate of
    it, has no scale.

    Parameters
    ----------
    arrays : sequence of Named
        All arrays with names.
    taken : collection of str
        Absolute paths of all arrays and groups.

    Examples
    --------
    >>> found = plan_scales([Named("/t", (3,), ("t",)), Named("/a", (3, 2), ("t", "x"))], {"/t", "/a"})
    >>> dict(found.lengths), set(found.coordinates), found.attached["/a"]
    ({'/t': 3, '/x': 2}, {'/t'}, ('/t', '/x'))
    """
    lengths: dict[str, set[int]] = {}
    for one in arrays:
        for name, length in zip(one.names, one.shape, strict=True):
            if name is not None:
                lengths.setdefault(_beside(one.path, name), set()).add(length)
    own = {one.path for one in arrays if len(one.shape) == 1 and one.names == (posixpath.basename(one.path),)}
    fit = {
        path: min(found)
        for path, found in lengths.items()
        if len(found) == 1 and (path in own or path not in taken) and posixpath.basename(path) not in ("", ".", "..")
    }
    attached = {
        one.path: tuple(
            path if name is not None and (path := _beside(one.path, name)) in fit else None for name in one.names
        )
        for one in arrays
    }
    return Scales(fit, frozenset(own & fit.keys()), attached)


def _beside(path: str, name: str) -> str:
    # A name with a slash would stand for another group.
    return posixpath.join(posixpath.dirname(path), name) if "/" not in name and "\0" not in name else ""


def make_scales(file: h5py.File, arrays: Sequence[Named], scales: Scales) -> None:
    """Create the scales of a file whose arrays exist, and attach them.

    Parameters
    ----------
    file : h5py.File
        The file.
    arrays : sequence of Named
        All arrays with names.
    scales : Scales
        As `plan_scales` returns them.
    """
    for number, (path, length) in enumerate(scales.lengths.items()):
        if path in scales.coordinates:
            file[path].make_scale(posixpath.basename(path))
        else:
            made = file.create_dataset(path, (length,), ">f4", track_times=False)
            made.make_scale(f"{_ONLY_DIMENSION}{length:10d}")
        file[path].attrs[_DIMID] = np.int32(number)
    for one in arrays:
        dataset = file[one.path]
        for axis, (name, scale) in enumerate(zip(one.names, scales.attached[one.path], strict=True)):
            if scale is None and name is not None:
                dataset.dims[axis].label = name
            elif scale is not None and scale != one.path:
                dataset.dims[axis].attach_scale(file[scale])


def is_only_dimension(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset stands for a dimension of netCDF that has no values."""
    return bool(dataset.is_scale) and _text(dataset.attrs.get("NAME")).startswith(_ONLY_DIMENSION)


def dimension_names(dataset: h5py.Dataset, by_id: Mapping[int, str]) -> tuple[str | None, ...]:
    """Return the name of each dimension of a dataset; None where it has none.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset.
    by_id : mapping
        netCDF's numbers of the dimensions of the file, and their names.
    """
    own = posixpath.basename(dataset.name)
    numbers = np.atleast_1d(np.asarray(dataset.attrs.get("_Netcdf4Coordinates", ())))
    if len(numbers) == dataset.ndim and numbers.dtype.kind in "iu" and all(int(n) in by_id for n in numbers):
        return tuple(by_id[int(number)] for number in numbers)
    if dataset.is_scale:
        return (own, *(None,) * (dataset.ndim - 1))[: dataset.ndim]
    return tuple(_axis_name(dataset, axis) for axis in range(dataset.ndim))


def _axis_name(dataset: h5py.Dataset, axis: int) -> str | None:
    dimension: Any = dataset.dims[axis]
    if len(dimension):
        return posixpath.basename(dimension[0].name) or None
    return dimension.label or None


def dimensions_by_id(scales: Sequence[h5py.Dataset]) -> dict[int, str]:
    """Return netCDF's numbers of dimensions, and their names.

    Parameters
    ----------
    scales : sequence of h5py.Dataset
        All dimension scales of a file.
    """
    found = {}
    for one in scales:
        number = np.asarray(one.attrs.get(_DIMID, ()))
        if number.size == 1 and number.dtype.kind in "iu":
            found[int(number.flat[0])] = posixpath.basename(one.name)
    return found


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
