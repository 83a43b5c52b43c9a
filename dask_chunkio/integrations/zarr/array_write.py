"""The chunks of one dataset of HDF5, copied or encoded into a zarr array."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import ChunkIOError, IntegrityError, SourceError, TargetError
from dask_chunkio.geometry.grid import ChunkGrid, Selection
from dask_chunkio.geometry.sizing import buffer_within
from dask_chunkio.integrations.zarr.chunk_copy import ChunkCopy
from dask_chunkio.integrations.zarr.elements import Fill, own_text
from dask_chunkio.reading.array import Hdf5Array
from dask_chunkio.reading.block_reader import processors
from dask_chunkio.reading.chunk_table import ChunkTable, read_chunk_table
from dask_chunkio.reading.stored_array import index_dataset
from dask_chunkio.sources.zarr_codecs import Codec, ZarrForm
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import open_to_read

__all__ = ["Planned", "write_array"]

_BLOCK_NBYTES = 8 << 20
# Chunks that one call of a thread copies.
_BATCH = 64
_TEXT_ITEMSIZE = 16


@dataclass(frozen=True, slots=True)
class Planned:
    """A dataset, and the array that is made for it.

    Parameters
    ----------
    path : str
        Absolute path of the array.
    dataset : h5py.Dataset
        The dataset.
    element_type : numpy.dtype or type
        Type of the elements of the array; `str` for strings of any length.
    chunks : tuple of int
        Shape of its chunks.
    codecs : tuple of Codec
        What encodes them.
    names : tuple of str or None
        Names of its dimensions.
    attributes : mapping
        Its attributes.
    fill : Fill
        Its fill value.
    is_copied : bool
        Whether chunks are copied as they are stored.
    """

    path: str
    dataset: h5py.Dataset
    element_type: Any
    chunks: tuple[int, ...]
    codecs: tuple[Codec, ...]
    names: tuple[str | None, ...]
    attributes: Mapping[str, Any]
    fill: Fill
    is_copied: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the elements; that of objects for strings of any length."""
        return np.dtype(object) if self.element_type is str else np.dtype(self.element_type)


def write_array(
    source: str, store: str, one: Planned, array: Any, threads: int | None = None, *, isolated: bool = False
) -> None:
    """Write all chunks of an array.

    Parameters
    ----------
    source : str
        Absolute path of the HDF5 file.
    store : str
        Folder of the store.
    one : Planned
        What is written.
    array : zarr.Array
        The array, without chunks.
    threads : int, optional
        Number of threads; by default as many as this process has processors.
    isolated : bool
        As `index_dataset` takes it.

    Raises
    ------
    SourceError, IntegrityError
        If the dataset cannot be read.
    TargetError
        If a chunk cannot be written.
    """
    shape = tuple(one.dataset.shape)
    if 0 in shape:
        return
    with ThreadPoolExecutor(threads or processors(), "dask_chunkio-convert") as pool:
        if not shape:
            _encode(_reader(one, isolated), one, array, [()], pool)
            return
        table = _table(source, one) if one.dataset.chunks else None
        if table is None:
            if one.fill.is_that_of_hdf5 and _is_never_written(one.dataset):
                return
            itemsize = one.dtype.itemsize if one.element_type is not str else _TEXT_ITEMSIZE
            block = buffer_within(shape, one.chunks, itemsize, _BLOCK_NBYTES)
            _encode(_reader(one, isolated), one, array, ChunkGrid(shape, block), pool)
            return
        grid = ChunkGrid(shape, one.chunks)
        left = set(range(len(grid))) if not one.fill.is_that_of_hdf5 else set(table.numbers.tolist())
        if one.is_copied:
            left -= _copied(source, store, one, array, (table, grid, pool))
        if (text := own_text(one.dataset) if one.element_type is str else None) is not None:
            # HDF5 2.0 refuses to read such chunks of a file that is open for reading.
            missing = left.difference(table.numbers.tolist())
            left -= missing
            _encode(lambda _: text, one, array, (grid[number] for number in sorted(missing)), pool)
        if left:
            selections = (grid[number] for number in sorted(left))
            _encode(_reader(one, isolated), one, array, selections, pool)


def _table(source: str, one: Planned) -> ChunkTable | None:
    try:
        return read_chunk_table(one.dataset, os.path.getsize(source))
    except IntegrityError as error:
        raise IntegrityError(f"{source}, {one.path}: {error}") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise IntegrityError(f"{source}, {one.path}: HDF5 cannot read its index of chunks ({error})") from error


def _is_never_written(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset without chunks has no element but its fill value."""
    plist = dataset.id.get_create_plist()
    is_own = plist.get_layout() == h5py.h5d.CONTIGUOUS and not plist.get_external_count()
    return bool(is_own and not dataset.id.get_storage_size())


def _copied(
    source: str, store: str, one: Planned, array: Any, where: tuple[ChunkTable, ChunkGrid, Executor]
) -> set[int]:
    """Copy the chunks for which that is possible, and return their numbers."""
    table, grid, pool = where
    numbers = table.numbers.tolist()
    descriptor = open_to_read(source)
    try:
        form = ZarrForm(one.chunks, one.dtype, one.codecs)
        folder, key = os.path.join(store, *one.path.strip("/").split("/")), array.metadata.encode_chunk_key
        copy = ChunkCopy(descriptor, f"{source}, {one.dataset.name}", folder, form, table, grid, key)
        batches = [numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH)]
        return set(itertools.chain.from_iterable(pool.map(copy.copy_all, batches)))
    finally:
        close_descriptor(descriptor)


def _encode(
    read: Callable[[Selection], Any], one: Planned, array: Any, selections: Iterable[Selection], pool: Executor
) -> None:
    def encode(selection: Selection) -> None:
        data = _named(one, lambda: read(selection))
        try:
            array[selection] = data
        except OSError as error:
            raise TargetError(f"cannot write {array.store_path}: {error}") from error

    for _ in pool.map(encode, selections):
        pass


def _named(one: Planned, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ChunkIOError:
        raise
    except UnicodeDecodeError as error:
        raise SourceError(f"{one.path}: a string is not UTF-8 ({error}), which zarr cannot store") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise SourceError(f"{one.path}: HDF5 cannot read it: {error}") from error


def _reader(one: Planned, isolated: bool) -> Callable[[Selection], Any]:
    dataset = one.dataset
    if one.element_type is str:
        texts = dataset.asstr()
        return lambda selection: texts[selection]
    if not dataset.shape:
        return lambda selection: np.asarray(dataset[selection], one.dtype)
    found = index_dataset(dataset.file.filename, dataset.name, isolated=isolated)
    direct: Any = Hdf5Array(found, threads=1) if found.is_direct or isolated else dataset

    def read(selection: Selection) -> Any:
        data = np.asarray(direct[selection])
        return data if data.dtype == one.dtype else data.astype(one.dtype)

    return read
