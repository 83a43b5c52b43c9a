"""A dataset: made from a specification, described as HDF5 made it, checked at the end."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import ArgumentError, ArgumentTypeError, ChunkIOError
from dask_chunkio.filters.pipeline import ChunkFormat
from dask_chunkio.filters.via_hdf5 import read_filters, require_filter
from dask_chunkio.grid import ChunkGrid, Shape, chunk_grid
from dask_chunkio.storage.journal import CreatedDataset, Entries

__all__ = ["DatasetLayout", "DatasetSpec", "describe", "describe_made", "index_differs", "make_dataset", "preview"]

_counter = itertools.count()


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A dataset that is to be made.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    shape : tuple of int
        Its shape.
    dtype : numpy.dtype
        Its type.
    chunks : tuple of int
        Shape of its chunks; without meaning where `shape` is ``()``.
    options : mapping
        Further keywords of `h5py.Group.create_dataset`.
    attrs : mapping
        Its attributes.
    source_dtype : numpy.dtype, optional
        What the source announces; `dtype` by default.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape
    options: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    source_dtype: np.dtype[Any] | None = None


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """A dataset as HDF5 made it.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    shape : tuple of int
        Its shape, in elements.
    form : ChunkFormat
        How its chunks are stored.
    is_chunked : bool
        False for a dataset without axes, which HDF5 stores in one piece.
    """

    name: str
    shape: Shape
    form: ChunkFormat
    is_chunked: bool = True

    @property
    def chunks(self) -> ChunkGrid:
        """The grid of its chunks."""
        return chunk_grid(self.shape, self.form.chunk_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return int(np.prod(self.shape, dtype=object)) * self.form.dtype.itemsize


def make_dataset(file: h5py.File, spec: DatasetSpec) -> h5py.Dataset:
    """Create a dataset, the groups above it, and its attributes.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If h5py refuses a keyword, a dtype or an attribute; the message names the dataset.
    FilterError
        If its filter is missing here.
    """
    try:
        dataset = file.create_dataset(spec.name, shape=spec.shape, dtype=spec.dtype, **_keywords(spec))
        for name, value in spec.attrs.items():
            dataset.attrs[name] = value
    except ChunkIOError:
        raise
    except TypeError as error:
        raise ArgumentTypeError(f"{spec.name}: h5py cannot create this dataset: {error}") from error
    except (ValueError, OSError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ArgumentError(f"{spec.name}: h5py cannot create this dataset: {error}") from error
    return dataset


def _keywords(spec: DatasetSpec) -> dict[str, Any]:
    keywords = dict(spec.options)
    compression = keywords.get("compression")
    if isinstance(compression, int) and not isinstance(compression, bool) and compression > 9:
        require_filter(compression)
    if spec.shape:
        keywords["chunks"] = True if 0 in spec.shape and keywords.get("maxshape") is None else spec.chunks
    return keywords


def describe(dataset: h5py.Dataset) -> DatasetLayout:
    """Read from a dataset everything that decides how its chunks are stored.

    Raises
    ------
    ArgumentTypeError
        If elements of its type cannot be encoded outside HDF5.
    """
    plist = dataset.id.get_create_plist()
    is_chunked = plist.get_layout() == h5py.h5d.CHUNKED
    _require_plain_type(dataset)
    fill = None
    if plist.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
        fill = np.asarray(dataset.fillvalue, dataset.dtype).tobytes()
    chunk_shape = tuple(map(int, dataset.chunks)) if is_chunked else tuple(map(int, dataset.shape))
    form = ChunkFormat(chunk_shape, dataset.dtype, read_filters(plist), fill)
    return DatasetLayout(dataset.name, tuple(map(int, dataset.shape)), form, is_chunked)


def describe_made(spec: DatasetSpec, layout: DatasetLayout) -> CreatedDataset:
    """Return what the journal says of a dataset, for whoever resumes the write."""
    form = layout.form
    return CreatedDataset(
        spec.name,
        layout.shape,
        form.chunk_shape,
        str(form.dtype),
        str(spec.source_dtype or spec.dtype),
        " > ".join(map(str, form.filters)),
        "" if form.fillvalue is None else form.fillvalue.hex(),
        layout.is_chunked,
    )


def _require_plain_type(dataset: h5py.Dataset) -> None:
    # write_direct_chunk takes any bytes without a look at their type; so the bytes of this dtype must be the file's.
    if dataset.dtype.hasobject:
        raise ArgumentTypeError(
            f"{dataset.name}: strings of variable length, references and Python objects have no fixed length and "
            f"cannot be written in chunks yet; use a type of fixed length, such as 'S16'"
        )
    stored = dataset.id.get_type()
    if not stored.equal(h5py.h5t.py_create(dataset.dtype, logical=True)):
        raise ArgumentTypeError(f"{dataset.name}: dtype {dataset.dtype} is stored in a form that numpy does not have")


def preview(specs: Iterable[DatasetSpec]) -> tuple[DatasetLayout, ...]:
    """Describe datasets as they would be made, by making them in memory.

    Finds every mistake in their keywords before anything is written.
    """
    name = f"dask_chunkio-preview-{next(_counter)}"
    with h5py.File(name, "w", driver="core", backing_store=False) as file:
        return tuple(describe(make_dataset(file, spec)) for spec in specs)


def index_differs(dataset: h5py.Dataset, layout: DatasetLayout, table: Entries) -> str | None:
    """Compare HDF5's index of chunks with the journal, chunk by chunk.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset.
    layout : DatasetLayout
        As it was made.
    table : numpy.ndarray
        What the journal says of every chunk: ``offset``, ``nbytes``, ``mask``, ``state``.

    Returns
    -------
    str or None
        The first difference, in words.
    """
    if not layout.is_chunked or not len(layout.chunks):
        return None
    grid = layout.chunks
    infos: list[Any] = []
    dataset.id.chunk_iter(infos.append)
    cells = np.array([info.chunk_offset for info in infos], np.int64).reshape(-1, len(grid.shape))
    cells //= np.array(grid.chunk_shape, np.int64)
    inside = (cells < np.array(grid.cells, np.int64)).all(axis=1)
    numbers = np.ravel_multi_index(tuple(cells[inside].T), grid.cells)
    places = [(info.byte_offset, info.size, 0, info.filter_mask, 1) for info in infos]
    indexed = np.zeros(len(grid), table.dtype)
    indexed[numbers] = np.array(places, table.dtype)[inside]
    held = table["state"] != 0
    fields = ("offset", "nbytes", "mask")
    differs = np.any([(indexed[name] != table[name]) & held for name in fields], axis=0) | (indexed["state"] != held)
    if differs.any():
        chunk = int(np.argmax(differs))
        return f"{layout.name}: HDF5's index and the journal disagree on the chunk at {grid.origin(chunk)}"
    return f"{layout.name}: HDF5's index has chunks outside the dataset" if not inside.all() else None
