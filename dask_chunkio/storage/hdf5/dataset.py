"""Datasets: created from a specification, and described as HDF5 created them."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import ArgumentError, ArgumentTypeError, ChunkIOError
from dask_chunkio.filters.chunk_format import ChunkFormat
from dask_chunkio.filters.compatibility import check_conversion, exact_words
from dask_chunkio.filters.conversion import convert
from dask_chunkio.filters.hazards import hazard
from dask_chunkio.filters.hdf5_encoder import read_filters, require_filter
from dask_chunkio.filters.padding import is_padded, without_padding
from dask_chunkio.geometry.grid import Box, ChunkGrid, Shape, chunk_grid
from dask_chunkio.geometry.region import Region, parse_region
from dask_chunkio.geometry.sizing import readable_chunk_shape
from dask_chunkio.storage.hdf5.h5py_compat import keeps_partial_chunks_unfiltered
from dask_chunkio.storage.journal.created import CreatedDataset

__all__ = [
    "DatasetLayout",
    "DatasetSpec",
    "describe",
    "describe_filled",
    "describe_made",
    "describe_region",
    "in_memory",
    "is_plain_type",
    "make_dataset",
    "preview",
]
__all__ += ["is_plain_type", "previewed"]

_counter = itertools.count()
# h5py's names for HDF5's constants; only the constants with which h5py was built exist.
_NAMES = {"V18": "v108", "V110": "v110", "V112": "v112", "V114": "v114", "V200": "v200"}
_LIBVERS = [name for constant, name in _NAMES.items() if hasattr(h5py.h5f, f"LIBVER_{constant}")]


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A dataset that is to be created.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    shape : tuple of int
        Shape of the dataset.
    dtype : numpy.dtype
        Type of its elements.
    chunks : tuple of int
        Shape of its chunks; without meaning if `shape` is ``()``.
    options : mapping
        Further keywords of `h5py.Group.create_dataset`.
    attrs : mapping
        Attributes of the dataset.
    source_dtype : numpy.dtype, optional
        Type that the source announces; `dtype` by default.
    there : DatasetLayout, optional
        The existing dataset that is filled, or the part of one that is written; then no dataset is created.
    open_ended : bool
        Whether the length is unknown until the source ends.
    appends : bool
        Whether the dataset is created because there is no existing one to append to.
    box : tuple of tuple of int, optional
        Start and stop along each axis of the part for which this job has the data, where several jobs have data of
        their own.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape
    options: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    source_dtype: np.dtype[Any] | None = None
    there: DatasetLayout | None = None
    open_ended: bool = False
    appends: bool = False
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """A dataset as HDF5 created it.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    shape : tuple of int
        Shape of the dataset in elements; for a region, shape of its window.
    form : ChunkFormat
        How its chunks are stored.
    is_chunked : bool
        False for a dataset that HDF5 itself has to write, such as one without chunks, or with elements of no
        fixed length.
    region : Region, optional
        The region, for a part of an existing dataset.
    maxshape : tuple of int or None, optional
        How far an existing dataset that is filled can grow; None for any other dataset.
    """

    name: str
    shape: Shape
    form: ChunkFormat
    is_chunked: bool = True
    region: Region | None = None
    maxshape: tuple[int | None, ...] | None = None

    @property
    def is_filled(self) -> bool:
        """Whether the dataset existed before the write, in a file that has no readers yet."""
        return self.maxshape is not None

    @property
    def is_new(self) -> bool:
        """Whether the write creates the dataset."""
        return self.region is None and not self.is_filled

    def origins(self, chunks: Sequence[int]) -> list[Shape]:
        """Return the first element of each chunk, as HDF5 addresses it."""
        found = self.chunks.origins(chunks)
        if self.region is None:
            return found
        first = self.region.origin
        return [tuple(at + by for at, by in zip(one, first, strict=True)) for one in found]

    def origin(self, chunk: int) -> Shape:
        """Return the first element of a chunk, as HDF5 addresses it."""
        return self.origins([chunk])[0]

    @property
    def chunks(self) -> ChunkGrid:
        """The grid of its chunks."""
        return chunk_grid(self.shape, self.form.chunk_shape)

    @property
    def nbytes(self) -> int:
        """Size of its elements in bytes."""
        return int(np.prod(self.shape, dtype=object)) * self.form.dtype.itemsize


def make_dataset(file: h5py.File, spec: DatasetSpec) -> h5py.Dataset:
    """Create a dataset, the groups above it, and its attributes.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If h5py refuses a keyword, a dtype or an attribute; the message names the dataset.
    FilterError
        If its filter is not available.
    """
    try:
        dataset = file.create_dataset(spec.name, shape=spec.shape, dtype=spec.dtype, **_keywords(spec))
    except ChunkIOError:
        raise
    except TypeError as error:
        raise ArgumentTypeError(f"{spec.name}: h5py cannot create this dataset: {error}") from error
    except (ValueError, OSError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ArgumentError(f"{spec.name}: h5py cannot create this dataset: {error}") from error
    _refuse_hazard(spec.name, dataset)
    for name, value in spec.attrs.items():
        _set_attribute(dataset, spec, name, value)
    return dataset


def _refuse_hazard(name: str, dataset: h5py.Dataset) -> None:
    chunk_nbytes = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else None
    if (reason := hazard(read_filters(dataset.id.get_create_plist()), dataset.dtype, chunk_nbytes)) is not None:
        raise ArgumentError(f"{name}: {reason}")


def _set_attribute(dataset: h5py.Dataset, spec: DatasetSpec, name: Any, value: Any) -> None:
    where = f"{spec.name}: attribute {name!r}, {_of_type(value)}, cannot be stored"
    try:
        dataset.attrs[name] = value
    except (TypeError, AttributeError) as error:
        raise ArgumentTypeError(
            f"{where}: {error}; an attribute has a str for its name, and a number, a string or an array of them for "
            f"its value: store times as strings, and arrays of strings as lists"
        ) from error
    except (ValueError, OSError, RuntimeError) as error:
        raise ArgumentError(
            f"{where}: {error}; store what is larger than 64 kB as a dataset, or with libver='latest'"
        ) from error


def _of_type(value: Any) -> str:
    kind = getattr(value, "dtype", None)
    return f"a {type(value).__name__}" + (f" of {kind}" if kind is not None else "")


def _keywords(spec: DatasetSpec) -> dict[str, Any]:
    keywords = dict(spec.options)
    compression = keywords.get("compression")
    if isinstance(compression, int) and not isinstance(compression, bool) and compression > 9:
        require_filter(compression)
    if spec.shape:
        keywords["chunks"] = True if 0 in spec.shape and keywords.get("maxshape") is None else spec.chunks
    # (h5py ignores a property list for a dataset without axes.)
    if "fillvalue" in keywords and is_padded(spec.dtype) and spec.shape:
        keywords["dcpl"] = _with_fill(keywords.pop("fillvalue"), spec)
    return keywords


def _with_fill(value: Any, spec: DatasetSpec) -> h5py.h5p.PropDCID:
    """Return a property list whose fill value has zeros as padding; h5py's own copy of a fill value has not."""
    fill = np.asarray(value)
    check_conversion(fill.dtype, spec.dtype, f"{spec.name}, fillvalue")
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_fill_value(without_padding(convert(fill, spec.dtype)))
    return plist


def describe(dataset: h5py.Dataset) -> DatasetLayout:
    """Read the properties of a dataset that decide how its chunks are stored.

    Raises
    ------
    ArgumentTypeError
        If its type has no numpy dtype.
    """
    plist = dataset.id.get_create_plist()
    has_chunks = plist.get_layout() == h5py.h5d.CHUNKED
    is_chunked = has_chunks and is_plain_type(dataset) and not keeps_partial_chunks_unfiltered(plist)
    fill = None
    if is_chunked and plist.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
        fill = _fill_bytes(plist, dataset.dtype)
    chunk_shape = tuple(map(int, dataset.chunks if has_chunks else dataset.shape))
    form = ChunkFormat(chunk_shape, dataset.dtype, read_filters(plist), fill)
    return DatasetLayout(dataset.name, tuple(map(int, dataset.shape)), form, is_chunked)


def _fill_bytes(plist: h5py.h5p.PropDCID, dtype: np.dtype[Any]) -> bytes:
    fill = np.zeros((), dtype)
    plist.get_fill_value(fill)
    # The padding holds whatever was in memory.
    return without_padding(fill).tobytes()


def describe_made(spec: DatasetSpec, layout: DatasetLayout) -> CreatedDataset:
    """Return the journal's description of a dataset, for a call that resumes the write."""
    form = layout.form
    return CreatedDataset(
        spec.name,
        layout.shape,
        form.chunk_shape,
        exact_words(form.dtype),
        exact_words(spec.source_dtype or spec.dtype),
        " > ".join(map(str, form.filters)),
        "" if form.fillvalue is None else form.fillvalue.hex(),
        layout.is_chunked,
        () if layout.region is None else (layout.region.start, layout.region.stop, layout.region.before),
        spec.open_ended,
        layout.is_filled,
    )


def is_plain_type(dataset: h5py.Dataset) -> bool:
    """Return whether elements have the same bytes in memory and in the file; write_direct_chunk accepts any bytes."""
    if dataset.dtype.hasobject:
        return False
    return bool(dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True)))


def preview(specs: Iterable[DatasetSpec], libver: Any = None) -> tuple[DatasetLayout, ...]:
    """Describe datasets as HDF5 would create them, by creating them in memory.

    This finds every mistake in their keywords, and in `libver`, before anything is written.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        As `make_dataset`; also if h5py does not accept `libver`.
    """
    with in_memory(libver) as file:
        return tuple(spec.there or describe(make_dataset(file, spec)) for spec in specs)


@contextlib.contextmanager
def previewed(spec: DatasetSpec) -> Iterator[h5py.Dataset]:
    """Create a dataset in memory, which exists until the end of the context."""
    with in_memory() as file:
        yield make_dataset(file, spec)


def in_memory(libver: Any = None) -> h5py.File:
    """Return a new file in memory.

    Raises
    ------
    ArgumentError
        If h5py does not accept `libver`.
    """
    name = f"dask_chunkio-preview-{next(_counter)}"
    try:
        return h5py.File(name, "w", driver="core", backing_store=False, libver=libver)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise ArgumentError(
            f"libver={libver!r} is not one of h5py's: 'earliest', 'latest', one of "
            f"{', '.join(map(repr, _LIBVERS))}, or a pair of them, the older first"
        ) from error


def describe_region(
    dataset: h5py.Dataset, region: Any, append: Any, source: Shape, begun: tuple[Shape, Shape, Shape] | None = None
) -> DatasetLayout:
    """Describe the part of an existing dataset that is to be written.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset.
    region, append : object
        As `parse_region` takes them.
    source : tuple of int
        Shape of the source.
    begun : tuple of tuple of int, optional
        Start, stop and shape before, if a write of that part was begun: a dataset that is appended to has grown by
        then.

    Raises
    ------
    ArgumentError
        If there is no such part, or nothing can be written to it.
    """
    layout = _describe_existing(dataset)
    shape = layout.shape if begun is None or append is None else begun[2]
    found = parse_region(dataset.name, region, append, source, (shape, dataset.maxshape, layout.form.chunk_shape))
    return replace(layout, shape=found.window, region=found)


def describe_filled(dataset: h5py.Dataset, source: Shape, open_ended: bool = False) -> DatasetLayout:
    """Describe an existing dataset that is to be filled with the whole of a source.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset.
    source : tuple of int
        Shape of the source.
    open_ended : bool
        Whether the length of the source is unknown until it ends.

    Returns
    -------
    DatasetLayout
        The dataset, with the shape that it gets.

    Raises
    ------
    ArgumentError
        If the dataset cannot get the shape of the source, or nothing can be written to it.
    """
    layout = _describe_existing(dataset)
    if open_ended and dataset.chunks is None:
        raise ArgumentError(
            f"{dataset.name} has no chunks and cannot grow, but the stream for it has no known length; create it with "
            f"chunks and maxshape=(None, ...)"
        )
    shape = (*layout.shape[:1], *source[1:]) if open_ended else source
    if shape != layout.shape and not _can_become(dataset, shape):
        raise ArgumentError(
            f"{dataset.name} has the shape {layout.shape} and maxshape {dataset.maxshape}, so a source of the shape "
            f"{shape} does not fill it; create it with the shape of the source, or give region="
        )
    return replace(layout, shape=shape, maxshape=dataset.maxshape)


def _can_become(dataset: h5py.Dataset, shape: Shape) -> bool:
    most = dataset.maxshape
    return len(shape) == len(most) and all(
        old <= new and (bound is None or new <= bound)
        for new, old, bound in zip(shape, dataset.shape, most, strict=True)
    )


def _describe_existing(dataset: h5py.Dataset) -> DatasetLayout:
    """Describe an existing dataset; one without chunks is described with chunks of a size that suits buffers."""
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise ArgumentError(f"{dataset.name} keeps its data in other files; write to those")
    if dataset.shape is None:
        raise ArgumentError(f"{dataset.name} has no elements (an empty dataspace); nothing can be written to it")
    _refuse_hazard(dataset.name, dataset)
    layout = describe(dataset)
    if dataset.chunks is not None or not layout.shape:
        return layout
    chunk_shape = readable_chunk_shape(layout.shape, dataset.dtype.itemsize, None)
    return replace(layout, form=replace(layout.form, chunk_shape=chunk_shape))
