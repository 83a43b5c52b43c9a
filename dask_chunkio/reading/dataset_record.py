"""What HDF5 says of a dataset: type, shape, and where its data are; asked in this process, or in one of its own.

The metadata of a damaged file may make HDF5 crash or hang (`dask_chunkio.isolated_call`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import ChunkIOError, IntegrityError, TargetChangedError, TargetError
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter
from dask_chunkio.filters.plugin import add_plugin_paths, filters_of, plugin_paths, require_decoders
from dask_chunkio.geometry.grid import Array, Selection, Shape, chunk_grid, selection_shape
from dask_chunkio.isolated_call import call_isolated
from dask_chunkio.isolated_process import Steps
from dask_chunkio.reading.chunk_table import ChunkTable, read_chunk_table
from dask_chunkio.reading.file_state import FileState, opened, require_not_written_here
from dask_chunkio.storage.filesystem.io import memory_nbytes
from dask_chunkio.storage.hdf5.dataset import describe, is_plain_type

__all__ = [
    "DatasetRecord",
    "answer",
    "ask_for_elements",
    "ask_for_record",
    "memory_for",
    "read_elements",
    "read_record",
]
__all__ += ["require_alike"]

# How many times a file is looked at again that changes meanwhile.
_ATTEMPTS = 5
# The memory that HDF5 may take for any file, and for each byte of it.
_MEMORY, _FOR_A_BYTE = 1 << 30, 16
_COLUMNS = (("numbers", np.int64), ("offsets", np.uint64), ("nbytes", np.uint32), ("masks", np.uint32))
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, ArithmeticError, MemoryError, SystemError)


@dataclass(frozen=True, slots=True, eq=False)
class DatasetRecord:
    """A dataset, and where its data are.

    Parameters
    ----------
    path, name : str
        Absolute paths of the file and of the dataset in it.
    shape : tuple of int
        Its shape, in elements.
    dtype : numpy.dtype
        Type of its elements.
    chunks : tuple of int or None
        Shape of its chunks; None if it has none.
    state : FileState
        The file when HDF5 was asked.
    filters : tuple of tuple
        Number and name of each of its filters.
    form : ChunkFormat or None
        How its chunks are stored; None if HDF5 has to read the dataset.
    table : ChunkTable or None
        The places of its chunks.
    offset : int or None
        The first byte of a dataset without chunks.
    is_null : bool
        Whether it has no elements, not even one: an empty dataspace.
    """

    path: str
    name: str
    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape | None
    state: FileState
    filters: tuple[tuple[int, str], ...]
    form: ChunkFormat | None = None
    table: ChunkTable | None = None
    offset: int | None = None
    is_null: bool = False


# In the process that has the file open


def read_record(path: str, name: str, locking: bool | None = None) -> DatasetRecord:
    """Ask HDF5 in this process for the record of a dataset.

    Raises
    ------
    TargetError
        If there is no such file or dataset, or it cannot be read.
    IntegrityError
        If its metadata are damaged.
    """
    state = FileState.of(path)
    for _ in range(_ATTEMPTS):
        with opened(path, locking) as file:
            dataset = _dataset(file, path, name)
            owner, own_name = os.path.realpath(dataset.file.filename), dataset.name
            is_own = os.path.samefile(owner, path)
            found = _described(dataset, path, name, state) if is_own else None
        if found is None:
            # The name is an external link.
            return read_record(owner, own_name, locking)
        # Only a file that is not locked can change meanwhile.
        if (now := FileState.of(path)) == state:
            return found
        state = now
    raise TargetChangedError(f"{path} changes all the time; read it when nothing is written to it")


def _described(dataset: h5py.Dataset, path: str, name: str, state: FileState) -> DatasetRecord:
    try:
        shape, is_null = tuple(map(int, dataset.shape or ())), dataset.shape is None
        filters = tuple(filters_of(dataset))
        found = DatasetRecord(path, dataset.name, shape, dataset.dtype, dataset.chunks, state, filters, is_null=is_null)
        return found if is_null else _placed(found, dataset)
    except IntegrityError as error:
        raise IntegrityError(f"{path}, {name}: {error}") from error
    except _UNREADABLE as error:
        if isinstance(error, ChunkIOError):
            raise
        raise IntegrityError(f"{path}, {name}: its metadata cannot be read ({error})") from error


def _placed(found: DatasetRecord, dataset: h5py.Dataset) -> DatasetRecord:
    """Add where the data are, if they can be read without HDF5."""
    layout, plist = describe(dataset), dataset.id.get_create_plist()
    if (
        plist.get_layout() == h5py.h5d.CONTIGUOUS
        and not plist.get_external_count()
        and is_plain_type(dataset)
        and dataset.size
    ):
        return replace(found, offset=_require_inside(found, dataset.id.get_offset()))
    if layout.is_chunked:
        table = read_chunk_table(dataset, found.state.nbytes)
        return found if table is None else replace(found, form=layout.form, table=table)
    return found


def _require_inside(found: DatasetRecord, offset: int | None) -> int | None:
    nbytes = math.prod(found.shape) * found.dtype.itemsize
    if offset is not None and offset + nbytes > found.state.nbytes:
        raise IntegrityError(f"it has {nbytes} bytes from {offset} on, and the whole file {found.state.nbytes}")
    return offset


def _dataset(file: h5py.File, path: str, name: str) -> h5py.Dataset:
    try:
        found = file[name]
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        raise TargetError(f"{path} has no dataset {name}: {error}") from error
    if not isinstance(found, h5py.Dataset):
        raise TargetError(f"{path}: {name} is a {type(found).__name__.lower()}, not a dataset")
    return found


def read_elements(record: DatasetRecord, selection: Selection, locking: bool | None = None) -> Array:
    """Have HDF5 read elements in this process.

    Parameters
    ----------
    record : DatasetRecord
        The dataset.
    selection : tuple of slice
        For each axis a slice with a start and a stop.
    locking : bool, optional
        As `h5py.File` takes it.

    Raises
    ------
    TargetChangedError
        If the dataset has another shape or type by now.
    FilterError
        If a plugin is missing.
    IntegrityError
        If HDF5 cannot read it.
    """
    with opened(record.path, locking) as file:
        dataset = _dataset(file, record.path, record.name)
        require_alike(record, tuple(dataset.shape or ()), dataset.dtype)
        require_decoders(dataset.name, record.filters)
        try:
            return np.asarray(dataset[selection], None if record.dtype.hasobject else record.dtype)
        except _UNREADABLE as error:
            raise IntegrityError(
                f"{record.path}, {record.name}: HDF5 cannot read it ({error}); it is damaged, or its data are in "
                f"another file that is not there"
            ) from error


def require_alike(record: DatasetRecord, shape: Shape, dtype: np.dtype[Any]) -> None:
    """Make sure that a dataset still has the elements that it had; one that has grown has.

    Raises
    ------
    TargetChangedError
        If it has not.
    """
    is_there = len(shape) == len(record.shape) and all(n >= m for n, m in zip(shape, record.shape, strict=True))
    if not is_there or dtype != record.dtype:
        raise TargetChangedError(
            f"{record.path}, {record.name}: it had the shape {record.shape} and the dtype {record.dtype}, and has "
            f"{shape} and {dtype} now; open it again"
        )


# From one process to the other


def ask_for_record(path: str, name: str, locking: bool | None = None) -> DatasetRecord:
    """Ask HDF5 in a separate process for the record of a dataset.

    Raises
    ------
    ChunkIOError
        As `read_record` and `dask_chunkio.isolated_call.call_isolated`.
    """
    require_not_written_here(path)
    asked = {"path": path, "name": name, "locking": locking, "plugins": plugin_paths()}
    found, columns = call_isolated(__name__, asked, path, memory_for(path))
    record = _from_words(found, columns)
    require_not_written_here(record.path)
    return record


def ask_for_elements(record: DatasetRecord, selection: Selection, locking: bool | None = None) -> Array | None:
    """Have HDF5 read elements in a separate process.

    Returns
    -------
    numpy.ndarray or None
        None if another process cannot give them away, such as references; it has read them without a crash.

    Raises
    ------
    ChunkIOError
        As `read_elements` and `dask_chunkio.isolated_call.call_isolated`.
    """
    require_not_written_here(record.path)
    nbytes = math.prod(selection_shape(selection)) * record.dtype.itemsize
    asked = {
        "record": _in_words(record),
        "selection": [[axis.start, axis.stop] for axis in selection],
        "locking": locking,
        "plugins": plugin_paths(),
    }
    found, arrays = call_isolated(__name__, asked, record.path, memory_for(record.path) + 4 * nbytes)
    if found is None:
        return None
    shape = tuple(found["shape"])
    if not found["is_text"]:
        dtype = np.dtype(found["dtype"]) if found["dtype"] else record.dtype
        return np.frombuffer(bytearray(arrays[0]), dtype).reshape(shape)
    return _texts(arrays[0], np.frombuffer(arrays[1], np.uint64), shape)


def memory_for(path: str) -> int:
    """Return the memory that HDF5 may take to read the metadata of a file, in bytes."""
    size = os.stat(path).st_size if os.path.exists(path) else 0
    return min(_MEMORY + _FOR_A_BYTE * size, memory_nbytes())


def answer(asked: Any, steps: Steps) -> tuple[Any, Sequence[Any]]:
    """Answer `ask_for_record` or `ask_for_elements`."""
    known = plugin_paths()
    add_plugin_paths(path for path in asked["plugins"] if path not in known)
    if "record" in asked:
        record = _from_words(asked["record"], ())
        selection = tuple(slice(start, stop) for start, stop in asked["selection"])
        nbytes = math.prod(selection_shape(selection)) * record.dtype.itemsize
        steps.begin(record.name, nbytes + record.state.nbytes)
        return _elements(read_elements(record, selection, asked["locking"]), record)
    path = asked["path"]
    steps.begin(asked["name"], os.stat(path).st_size if os.path.exists(path) else 0)
    record = read_record(path, asked["name"], asked["locking"])
    return _in_words(record), [] if record.table is None else [getattr(record.table, name) for name, _ in _COLUMNS]


def _elements(found: Array, record: DatasetRecord) -> tuple[Any, Sequence[Any]]:
    is_text = found.dtype.hasobject and h5py.check_string_dtype(record.dtype) is not None
    if found.dtype.hasobject and not is_text:
        return None, ()
    words = {"shape": found.shape, "is_text": is_text}
    if is_text:
        texts = found.ravel().tolist()
        return words, [b"".join(texts), np.array([len(text) for text in texts], np.uint64)]
    words["dtype"] = None if found.dtype == record.dtype else found.dtype.str
    return words, [np.ascontiguousarray(found).reshape(-1).view(np.uint8)] if found.size else [b""]


def _texts(joined: bytes, lengths: Array, shape: Shape) -> Array:
    ends = np.cumsum(lengths).tolist()
    found = np.empty(len(ends), object)
    found[:] = [joined[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
    return found.reshape(shape)


def _in_words(record: DatasetRecord) -> dict[str, Any]:
    form = record.form
    return {
        "path": record.path,
        "name": record.name,
        "shape": record.shape,
        "type": h5py.h5t.py_create(record.dtype, logical=True).encode().hex(),
        "chunks": record.chunks,
        "state": astuple(record.state),
        "filters": record.filters,
        "offset": record.offset,
        "is_null": record.is_null,
        "form": None if form is None else [form.chunk_shape, [astuple(one) for one in form.filters]],
        "fill": None if form is None or form.fillvalue is None else form.fillvalue.hex(),
    }


def _from_words(words: Any, columns: Sequence[bytes]) -> DatasetRecord:
    dtype = h5py.h5t.decode(bytes.fromhex(words["type"])).dtype
    record = DatasetRecord(
        words["path"],
        words["name"],
        tuple(words["shape"]),
        dtype,
        None if words["chunks"] is None else tuple(words["chunks"]),
        FileState(*words["state"]),
        tuple((code, name) for code, name in words["filters"]),
        offset=words["offset"],
        is_null=words["is_null"],
    )
    if words["form"] is None or not columns:
        _require_inside(record, record.offset)
        return record
    fill = None if words["fill"] is None else bytes.fromhex(words["fill"])
    shape, filters = words["form"]
    steps = tuple(Filter(code, flags, tuple(options), name) for code, flags, options, name in filters)
    table = ChunkTable(*(np.frombuffer(data, dtype) for data, (_, dtype) in zip(columns, _COLUMNS, strict=True)))
    return _checked(replace(record, form=ChunkFormat(tuple(shape), dtype, steps, fill), table=table), table)


def _checked(record: DatasetRecord, table: ChunkTable) -> DatasetRecord:
    """Make sure once more that all chunks are in the grid and in the file: the other process may have been crashing."""
    count, size = len(chunk_grid(record.shape, record.chunks or ())), np.uint64(record.state.nbytes)
    is_sorted = bool((table.numbers[1:] > table.numbers[:-1]).all())
    is_inside = not len(table) or (table.numbers[0] >= 0 and int(table.numbers[-1]) < count)
    if not is_sorted or not is_inside or (table.nbytes > size).any() or (table.offsets > size - table.nbytes).any():
        raise IntegrityError(f"{record.path}, {record.name}: its index of chunks is damaged")
    return record
