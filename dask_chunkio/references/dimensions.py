"""Names of dimensions, from dimension scales and the conventions of netCDF-4."""

from __future__ import annotations

from typing import Any

import h5py

from dask_chunkio.geometry.grid import Shape

__all__ = ["PhonyDimensions", "dimensions_of", "is_mere_dimension"]

# The beginning of the attribute NAME of a scale that stands for a dimension without a variable.
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"


class PhonyDimensions:
    """Names of the axes without scales in one group: ``phony_dim_0``, ``phony_dim_1`` and so on, as kerchunk has them.

    Where kerchunk gives one name to two lengths, which xarray refuses, the second one gets a name of its own.

    Examples
    --------
    >>> phony = PhonyDimensions()
    >>> phony.named((5, 3), [None, None]), phony.named((7, 3), [None, None]), phony.named((5, 5), ["x", None])
    (('phony_dim_0', 'phony_dim_1'), ('phony_dim_2', 'phony_dim_1'), ('x', 'phony_dim_0'))
    """

    def __init__(self) -> None:
        self._lengths: dict[str, int] = {}

    def named(self, shape: Shape, names: list[str | None]) -> tuple[str, ...]:
        """Return names for all axes; `names` has those that are known."""
        found = list(names)
        for axis, length in enumerate(shape):
            if found[axis] is None:
                found[axis] = self._free(axis, length, found)
        return tuple(str(name) for name in found)

    def _free(self, axis: int, length: int, used: list[str | None]) -> str:
        for number in (axis, *range(len(self._lengths) + len(used) + 1)):
            name = f"phony_dim_{number}"
            if name not in used and self._lengths.setdefault(name, length) == length:
                return name
        raise AssertionError("one of these names is free")


def is_mere_dimension(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset is only the dimension of a netCDF file, which has no variable of that name."""
    if not h5py.h5ds.is_scale(dataset.id):
        return False
    name = dataset.attrs.get("NAME", b"")
    name = name.encode("utf-8", "replace") if isinstance(name, str) else bytes(name)
    return name.startswith(_NO_VARIABLE)


def dimensions_of(dataset: h5py.Dataset) -> list[str | None]:
    """Return the name of the dimension of each axis; None where there is no scale.

    The name is the last part of the path of the scale, as in netCDF.  kerchunk gives the whole path, with which xarray
    does not find the coordinates of a group.
    """
    rank = len(dataset.shape)
    is_scale = bool(h5py.h5ds.is_scale(dataset.id))
    if is_scale and rank > 1:
        return _of_coordinate(dataset)
    if is_scale:
        return [_last(dataset.name)] * rank
    paths = [_scale_path(dataset, axis) for axis in range(rank)]
    return _names(paths)


def _names(paths: list[str | None]) -> list[str | None]:
    names = [None if path is None else _last(path) for path in paths]
    known = {path: name for path, name in zip(paths, names, strict=True) if path is not None}
    # Two scales of one name in different groups.
    if len(set(known.values())) < len(known):
        return [None if path is None else path.lstrip("/") for path in paths]
    return names


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _scale_path(dataset: h5py.Dataset, axis: int) -> str | None:
    scales = dataset.dims[axis]
    if not len(scales):
        return None
    name = scales[0].name
    return None if name is None else str(name)


def _of_coordinate(dataset: h5py.Dataset) -> list[str | None]:
    """Return the dimensions of a coordinate variable of several axes: netCDF notes their numbers."""
    numbers = dataset.attrs.get("_Netcdf4Coordinates")
    rank = len(dataset.shape)
    if numbers is None or len(numbers) != rank:
        return [_last(dataset.name), *[None] * (rank - 1)]
    names = _numbered(dataset.parent)
    return [names.get(int(number)) for number in numbers]


def _numbered(group: h5py.Group) -> dict[int, str]:
    """Return the names of the dimensions in a group and in those above it, by netCDF's numbers."""
    found: dict[int, str] = {}
    while True:
        for name in group:
            number = _dimension_number(group, name)
            if number is not None:
                found.setdefault(number, name)
        if group.name in ("/", None):
            return found
        group = group.parent


def _dimension_number(group: h5py.Group, name: str) -> int | None:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    found: Any = group[name]
    if not isinstance(found, h5py.Dataset) or not h5py.h5ds.is_scale(found.id):
        return None
    number = found.attrs.get("_Netcdf4Dimid")
    return None if number is None else int(number)
