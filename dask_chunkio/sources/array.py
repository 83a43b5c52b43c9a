"""Sources that are read by indexing: numpy arrays, memory maps, h5py datasets, zarr arrays and similar objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentTypeError, PicklingError
from dask_chunkio.filters.chunk_format import ChunkFormat, Payload
from dask_chunkio.filters.plugin import require_decoder
from dask_chunkio.geometry.grid import Array, Selection, Shape
from dask_chunkio.reading.array import Hdf5Array
from dask_chunkio.reading.stored_array import index_dataset
from dask_chunkio.sources.base import Reader, ReadMode, Shapes
from dask_chunkio.sources.missing_codec import require_codecs
from dask_chunkio.sources.zarr_chunks import zarr_form, zarr_payloads
from dask_chunkio.sources.zarr_codecs import ZarrForm

__all__ = ["ArraySource", "is_array_like"]

# The packages whose arrays allow reads from several threads at once.
_CONCURRENT = ("numpy", "h5py", "zarr", "xarray", "tensorstore", "dask_chunkio")

# The drivers of h5py that read a file by its name.
_OF_FILES = ("sec2", "stdio", "direct")


def is_array_like(value: Any) -> bool:
    """Return whether `value` has a shape and a dtype and supports indexing."""
    return all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__"))


class ArraySource:
    """Adapter for any object with ``shape``, ``dtype`` and ``__getitem__``.

    In the process that made it, the adapter reads from the object itself.  To other processes it
    sends a memory map as file name and offset, and of an array in memory only the part that is read there.
    A dataset of an h5py file that is open for reading is read, in all processes, without HDF5's lock.

    Parameters
    ----------
    array : array-like
        The object to read.

    Raises
    ------
    ArgumentTypeError
        If its dtype is not one of numpy's.
    FilterError
        If it is an h5py dataset whose filter plugin is missing, or a zarr array whose codec is missing.

    Examples
    --------
    >>> source = ArraySource(np.arange(6).reshape(2, 3))
    >>> source.read((slice(0, 1), slice(1, 3)))
    array([[1, 2]])
    """

    def __init__(self, array: Any) -> None:
        self._array = _in_parallel(array)
        self._shape = tuple(int(length) for length in array.shape)
        try:
            self._dtype = np.dtype(array.dtype)
        except TypeError as error:
            raise ArgumentTypeError(
                f"the source's dtype {array.dtype!r} is not one of numpy's; give the "
                f"array that its .to_numpy() or .numpy() returns"
            ) from error
        self._zarr: ZarrForm | None = None
        if _is_h5py(array):
            require_decoder(array)
        elif _package(array) == "zarr":
            require_codecs(array)
            self._zarr = zarr_form(array)

    @property
    def shape(self) -> Shape:
        """Its shape, in elements."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        dtype: np.dtype[Any] = self._dtype
        return dtype

    @property
    def shapes(self) -> Shapes:
        """The shape of its own chunks, if it is stored in chunks."""
        block = getattr(self._array, "chunks", None)
        if not isinstance(block, tuple) or len(block) != len(self.shape):
            return Shapes()
        return Shapes(block=block if all(isinstance(length, int) for length in block) else None)

    @property
    def read_mode(self) -> ReadMode:
        """Concurrent for arrays of packages that are known to allow it, otherwise serial."""
        return "concurrent" if _package(self._array) in _CONCURRENT else "serial"

    @property
    def is_sparse(self) -> bool:
        """Whether the array leaves out chunks that hold nothing but its fill value."""
        return _package(self._array) == "zarr"

    @property
    def file_name(self) -> str | None:
        """The name of its HDF5 file, if it is an h5py dataset."""
        if isinstance(self._array, Hdf5Array):
            return self._array.filename
        return os.path.realpath(self._array.file.filename) if _is_h5py(self._array) else None

    def read(self, selection: Selection) -> Any:
        """Return the elements of `selection`."""
        found = self._array[selection]
        # The element of an array without axes may be an array itself.
        return found if self._dtype.hasobject and not self._shape else np.asanyarray(found)

    def payloads(
        self, form: ChunkFormat, shape: Shape, chunks: Sequence[int], *, can_grow: bool = False, is_sparse: bool = False
    ) -> tuple[Payload, ...] | None:
        """Return chunks as they are stored, if an array of this format and shape is stored so; otherwise None."""
        if shape != self._shape:
            return None
        if self._zarr is not None:
            return zarr_payloads(self._array, self._zarr, form, chunks, can_grow=can_grow, is_sparse=is_sparse)
        return self._array.payloads(form, chunks) if isinstance(self._array, Hdf5Array) else None

    def part(self, selection: Selection) -> Reader | None:
        """Return the selected part of an array in memory; None for other arrays, which are small to send."""
        return _InMemory(self._array[(*selection, ...)]) if _is_in_memory(self._array) else None

    def __getstate__(self) -> dict[str, Any]:
        state = {"_shape": self._shape, "_dtype": self._dtype, "_zarr": self._zarr}
        return {"_array": _portable(self._array), **state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


@dataclass(frozen=True, slots=True)
class _InMemory:
    """One selection of an array in memory: a view in this process, pickled as its elements."""

    data: Array

    def read(self, selection: Selection) -> Array:  # noqa: ARG002
        return self.data

    def __reduce__(self) -> tuple[Any, ...]:
        # numpy pickles a view of compound elements without the bytes between their fields: the unpickled array
        # would have uninitialized memory there.
        if self.data.dtype.names is None:
            return _InMemory, (self.data,)
        raw = np.asarray(self.data.view(f"V{self.data.dtype.itemsize}"), order="C")
        return _InMemory, (raw.view(self.data.dtype),)


@dataclass(frozen=True, slots=True)
class _MappedFile:
    """A memory map, described by its file name; opened for each read."""

    filename: str
    offset: int
    strides: tuple[int, ...]
    shape: Shape
    dtype: np.dtype[Any]

    def __getitem__(self, selection: Selection) -> Array:
        file = np.memmap(self.filename, np.uint8, mode="r")
        return np.ndarray(self.shape, self.dtype, file, self.offset, self.strides)[selection]


def _package(array: Any) -> str:
    return type(array).__module__.partition(".")[0]


def _is_h5py(array: Any) -> bool:
    return _package(array) == "h5py" and hasattr(array, "file")


def _root(array: Array) -> np.memmap[Any, Any] | None:
    """Return the memory map of which `array` is a view, if the file has the same contents as the array."""
    base: Any = array
    root = None
    while isinstance(base, np.ndarray):
        root = base if isinstance(base, np.memmap) else root
        base = base.base
    # A subclass may have more than its memory, such as a mask or a unit.
    is_plain = type(array) in (np.ndarray, np.memmap)
    is_private = root is None or root.filename is None or root.mode == "c"
    return root if is_plain and not is_private else None


def _is_in_memory(array: Any) -> bool:
    return isinstance(array, np.ndarray) and _root(array) is None


def _portable(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array if (root := _root(array)) is None else _mapped(array, root)
    return _refuse_open(array) if _is_h5py(array) else array


def _mapped(array: Array, root: np.memmap[Any, Any]) -> _MappedFile:
    root.flush()
    offset = root.offset + _address(array) - _address(root)
    return _MappedFile(os.path.abspath(str(root.filename)), offset, array.strides, array.shape, array.dtype)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _in_parallel(array: Any) -> Any:
    """Return a dataset of h5py as an array that is read without HDF5's lock, if its file is read only."""
    if not _is_h5py(array) or array.name is None or array.shape is None:
        return array
    file = array.file
    if file.mode != "r" or file.driver not in _OF_FILES or not _is_at_its_name(file):
        return array
    return Hdf5Array(index_dataset(os.path.realpath(file.filename), array.name), threads=1)


def _is_at_its_name(file: Any) -> bool:
    """Return whether the name of an open file still stands for it: another program may have replaced or removed it."""
    if file.driver == "stdio":  # its handle is no descriptor
        return os.path.exists(file.filename)
    try:
        mine, named = os.fstat(file.id.get_vfd_handle()), os.stat(file.filename)
    except (OSError, NotImplementedError, TypeError, ValueError, RuntimeError):
        return False
    return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)


def _refuse_open(dataset: Any) -> Any:
    """Explain why a dataset of h5py cannot be read in another process."""
    file = dataset.file
    name = os.path.abspath(file.filename)
    if file.mode != "r":
        raise PicklingError(
            f"{name} is open for writing in this process, so that no other process can read {dataset.name} from it; "
            f"open it with mode 'r', or use scheduler='threads'"
        )
    if file.driver in _OF_FILES and not _is_at_its_name(file):
        raise PicklingError(
            f"{name} was replaced or removed since this process has opened it, so that no other process can read "
            f"{dataset.name} from it; open it again, or use scheduler='threads'"
        )
    raise PicklingError(
        f"dataset {dataset.name} of {file.filename} cannot be read in another process, since the file is opened "
        f"with driver {file.driver!r}; open it as an ordinary file, or use scheduler='threads'"
    )
