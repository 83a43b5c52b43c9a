"""Input files of the command line: npy, raw binary, HDF5 and zarr."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import h5py
import numpy as np

from dask_chunkio.cli.locations import Location
from dask_chunkio.errors import ArgumentError, SourceError
from dask_chunkio.sources.missing_codec import missing_codec

__all__ = ["RawLayout", "SourceArray", "count_zarr_arrays", "open_source"]

_NPY_MAGIC = b"\x93NUMPY"
_NPZ_MAGIC = b"PK\x03\x04"
_QUOTED = re.compile(r"""(?<=['"])[^'"]+(?=['"])""")


@dataclass(frozen=True, slots=True)
class RawLayout:
    """The description of a raw binary file that the user gives.

    Parameters
    ----------
    dtype : numpy.dtype or None
        Type of its elements.
    shape : tuple of int or None
        Its shape, in elements; one length may be -1, to find it from the size of the file.
    offset : int
        Bytes before the first element.
    """

    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] | None = None
    offset: int = 0

    @property
    def is_given(self) -> bool:
        """Whether the user gave any part of the description."""
        return self.dtype is not None or self.shape is not None or self.offset != 0


@dataclass(frozen=True, slots=True)
class SourceArray:
    """An opened array and its name.

    Parameters
    ----------
    array : array-like
        The array to read.
    name : str
        Name of the dataset, or of the file without its suffix.
    """

    array: Any
    name: str


@contextlib.contextmanager
def open_source(location: Location, raw: RawLayout) -> Iterator[SourceArray]:
    """Open an array while the context is open, without reading its elements.

    Parameters
    ----------
    location : Location
        The file, and the path in it.
    raw : RawLayout
        The description of a raw binary file.

    Raises
    ------
    ArgumentError
        If the file is raw binary and `raw` is incomplete, or the file has another format and `raw` is given.
    SourceError
        If the file cannot be read, or does not hold exactly one such array.
    FilterError
        If the file is a zarr array whose codec is missing.
    """
    kind = _kind(location.file)
    if raw.is_given and kind != "raw binary":
        raise ArgumentError(
            f"{location.file} is {kind}, which has its own dtype and shape; leave --dtype, --shape and --offset out"
        )
    if location.path is not None and kind in ("raw binary", "npy"):
        raise ArgumentError(f"{location.file} is {kind} and has no paths in it; leave {location.path} out")
    stem = PurePath(location.file).stem
    if kind == "npy":
        yield SourceArray(_open_npy(location.file), stem)
    elif kind == "raw binary":
        yield SourceArray(_open_raw(location.file, raw), stem)
    elif kind == "zarr":
        path, array = _open_zarr(location)
        yield SourceArray(array, PurePath(path).name or stem)
    else:
        with _opened_hdf5(location.file) as file:
            dataset = _find_dataset(file, location)
            yield SourceArray(dataset, PurePath(dataset.name).name)


def _kind(name: str) -> str:
    if "://" in name or os.path.isdir(name) or name.endswith(".zarr.zip"):
        return "zarr"
    try:
        with open(name, "rb") as file:
            start = file.read(len(_NPY_MAGIC))
    except FileNotFoundError as error:
        raise SourceError(f"there is no file {name}") from error
    except OSError as error:
        raise SourceError(f"cannot read {name}: {error.strerror}") from error
    if start == _NPY_MAGIC:
        return "npy"
    if h5py.is_hdf5(name):
        return "HDF5"
    if start.startswith(_NPZ_MAGIC) and name.endswith(".npz"):
        raise SourceError(f"{name} is an archive of arrays; load what you need and save it as .npy")
    return "raw binary"


def _open_npy(name: str) -> Any:
    try:
        return np.load(name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read {name}: {error}") from error


def _open_raw(name: str, raw: RawLayout) -> Any:
    if raw.dtype is None or raw.shape is None:
        raise ArgumentError(
            f"{name} is neither npy, HDF5 nor zarr; to read it as raw binary give --dtype and --shape, "
            f"for example --dtype int16 --shape -1,64"
        )
    if raw.dtype.hasobject or not raw.dtype.itemsize:
        raise ArgumentError(f"--dtype {raw.dtype} has no fixed length, and cannot be read from a raw binary file")
    found = os.path.getsize(name)
    shape = _whole_shape(name, raw.dtype, raw, found)
    nbytes = math.prod(shape) * raw.dtype.itemsize
    if raw.offset + nbytes != found:
        after = f" after an offset of {raw.offset}" if raw.offset else ""
        raise SourceError(
            f"{name}: shape {_words(shape)} of {raw.dtype}{after} requires {raw.offset + nbytes} bytes, "
            f"but the file has {found}; check --shape, --dtype and --offset"
        )
    if nbytes == 0:  # an empty file cannot be mapped
        return np.empty(shape, raw.dtype)
    return np.memmap(name, raw.dtype, "r", raw.offset, shape)


def _whole_shape(name: str, dtype: np.dtype[Any], raw: RawLayout, nbytes: int) -> tuple[int, ...]:
    """Return the shape, with -1 replaced by the length that the file has."""
    shape = raw.shape or ()
    if -1 not in shape:
        return shape
    cell = math.prod(length for length in shape if length != -1) * dtype.itemsize
    rest = nbytes - raw.offset
    if not cell or rest < 0 or rest % cell:
        after = f" after an offset of {raw.offset}" if raw.offset else ""
        raise SourceError(
            f"{name}: shape {_words(shape)} of {dtype}{after} requires a multiple of {cell} bytes, "
            f"but the file has {rest}; check --shape, --dtype and --offset"
        )
    return tuple(rest // cell if length == -1 else length for length in shape)


def _words(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


@contextlib.contextmanager
def _opened_hdf5(name: str) -> Iterator[h5py.File]:
    try:
        file = h5py.File(name, "r")
    except OSError as error:
        raise SourceError(f"cannot read {name}: {error}") from error
    with file:
        yield file


def _find_dataset(file: h5py.File, location: Location) -> h5py.Dataset:
    wanted = location.path or "/"
    try:
        found = file[wanted]
    except (KeyError, ValueError) as error:
        raise SourceError(_choose(f"{location.file} has no {wanted}", location, _datasets(file))) from error
    if isinstance(found, h5py.Dataset):
        return found
    inside = _datasets(found) if isinstance(found, h5py.Group) else {}
    return found[_the_only_one(location, inside)]


def _datasets(group: h5py.Group) -> dict[str, str]:
    """Return the absolute names of all datasets below `group`, with their shapes and dtypes as text."""
    datasets: dict[str, str] = {}

    def note(_: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            datasets[found.name] = f"{found.shape} {found.dtype}"

    group.visititems(note)
    return datasets


def _the_only_one(location: Location, arrays: Mapping[str, str]) -> str:
    where = f"{location.file}{f':{location.path}' if location.path not in (None, '/') else ''}"
    if not arrays:
        raise SourceError(f"{where} holds no datasets")
    if len(arrays) > 1:
        raise SourceError(_choose(f"{where} holds {len(arrays)} datasets", location, arrays))
    return next(iter(arrays))


def _choose(what: str, location: Location, arrays: Mapping[str, str]) -> str:
    if not arrays:
        return f"{what}, nor any other dataset"
    listed = ", ".join(f"{name} {words}" for name, words in list(arrays.items())[:8])
    more = f" and {len(arrays) - 8} more" if len(arrays) > 8 else ""
    return f"{what}; choose one of its datasets, as {location.file}:{next(iter(arrays))}. They are {listed}{more}"


def _open_zarr(location: Location) -> tuple[str, Any]:
    opened = _zarr_opener()(location.file)
    found = opened
    if (wanted := location.path) not in (None, "/"):
        try:
            found = opened[str(wanted).strip("/")]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            _refuse_missing_codec(str(location), error)
            raise SourceError(_choose(f"{location.file} has no {wanted}", location, _arrays(opened))) from error
    if hasattr(found, "dtype"):
        return str(found.path), found
    name = _the_only_one(location, _arrays(found))
    return name, opened[name.strip("/")]


def _zarr_opener() -> Callable[[str], Any]:
    try:
        zarr = importlib.import_module("zarr")
    except ImportError as error:
        raise SourceError("reading zarr needs the package zarr: pip install zarr") from error

    def opened(name: str) -> Any:
        # A store may raise any exception: for missing files, for missing packages for a URL, or of its own.
        try:
            is_zip = name.endswith(".zip") and os.path.isfile(name)
            return zarr.open(zarr.storage.ZipStore(name, mode="r") if is_zip else name, mode="r")
        except Exception as error:
            _refuse_missing_codec(name, error)
            what = "the folder " if os.path.isdir(name) else ""
            raise SourceError(
                f"cannot read {what}{name} as zarr: {type(error).__name__}: {str(error) or 'no reason given'}"
            ) from error

    return opened


def _refuse_missing_codec(where: str, error: Exception) -> None:
    # Both numcodecs and zarr have an error of this name; what their messages quote first, once or twice, is the codec.
    if type(error).__name__ == "UnknownCodecError":
        quoted = _QUOTED.search(str(error))
        raise missing_codec(where, quoted[0] if quoted else str(error)) from error


def count_zarr_arrays(name: str) -> int | None:
    """Return how many arrays the group at the root of a zarr store holds; None for any other file or an array.

    Parameters
    ----------
    name : str
        The file, or the folder or URL of a store.

    Raises
    ------
    SourceError
        If there is no such file, or it cannot be read.
    """
    if _kind(name) != "zarr":
        return None
    found = _zarr_opener()(name)
    return None if hasattr(found, "dtype") else len(_arrays(found))


def _arrays(group: Any) -> dict[str, str]:
    if not hasattr(group, "members"):
        return {}
    members = group.members(max_depth=None)
    return {found.name: f"{found.shape} {found.dtype}" for _, found in members if hasattr(found, "dtype")}
