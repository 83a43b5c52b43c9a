"""The elements of a dataset or an attribute, copied by HDF5 in pieces of limited size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import ArgumentError, IntegrityError
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.geometry.sizing import buffer_within
from dask_chunkio.repacking.references import Part, References, special_part
from dask_chunkio.storage.chunk_index import count_stored, list_stored
from dask_chunkio.storage.hdf5.raw_access import read_elements, reclaim, write_elements

__all__ = ["Elements", "Slab", "copy_elements", "elements_of", "is_sparse", "memory_of", "slabs"]

# The most that is read at once, unless one chunk, or one element, has more.
_SLAB_NBYTES = 8 << 20
_MOST_CHUNK_NBYTES = 1 << 30
_MOST_ITEM_NBYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Elements:
    """The type of elements in memory.

    Parameters
    ----------
    kind : h5py.h5t.TypeID
        The type.
    nbytes : int
        Bytes of one element.
    part : Part or None
        What in it is more than plain bytes.
    """

    kind: Any
    nbytes: int
    part: Part | None


@dataclass(frozen=True, slots=True)
class Slab:
    """A part of a dataset: its selection, and a dataspace in memory."""

    selected: Any
    memory: Any
    count: int


def elements_of(kind: Any, where: str) -> Elements:
    """Return the type in memory of elements that have a type in the file.

    Raises
    ------
    IntegrityError
        If they cannot be copied.
    """
    memory = kind.copy()
    nbytes = memory.get_size()
    if nbytes > _MOST_ITEM_NBYTES:
        raise IntegrityError(f"{where}: one element has {nbytes} bytes, and {_MOST_ITEM_NBYTES} is the most")
    return Elements(memory, nbytes, special_part(memory, where))


@contextmanager
def memory_of(elements: Elements, space: Any, count: int) -> Iterator[int]:
    """Allocate memory for elements, filled with zeros, and return its address; free what HDF5 allocates for them."""
    memory = np.zeros(max(1, count * elements.nbytes), np.uint8)
    address = memory.__array_interface__["data"][0]
    try:
        yield address
    finally:
        if elements.part is not None and count:
            reclaim(elements.kind, space, address)


def slabs(dataset: Any, chunk: Shape | None, nbytes: int, where: str) -> Iterator[Slab]:
    """Yield the parts in which a dataset is read.

    Parameters
    ----------
    dataset : h5py.h5d.DatasetID
        The dataset.
    chunk : tuple of int or None
        Shape of its chunks.
    nbytes : int
        Bytes of one element.
    where : str
        Its name, for messages.

    Raises
    ------
    ArgumentError
        If a chunk is too large to be decoded.
    """
    space = dataset.get_space()
    if space.get_simple_extent_type() != h5py.h5s.SIMPLE:
        yield Slab(space, h5py.h5s.create(h5py.h5s.SCALAR), 1)
        return
    shape = tuple(map(int, space.get_simple_extent_dims()))
    if 0 in shape:
        return
    if chunk is not None and math.prod(chunk) * nbytes > _MOST_CHUNK_NBYTES:
        raise ArgumentError(
            f"{where}: its chunks {chunk} have more than {_MOST_CHUNK_NBYTES} bytes each, and have to be decoded as a "
            f"whole; keep its filters and its chunks, or leave it out with exclude="
        )
    for start, count in _boxes(dataset, shape, chunk, nbytes):
        space.select_hyperslab(start, count)
        yield Slab(space, h5py.h5s.create_simple(count), math.prod(count))


def _boxes(dataset: Any, shape: Shape, chunk: Shape | None, nbytes: int) -> Iterator[tuple[Shape, Shape]]:
    """Yield start and shape of the parts in which a dataset is read."""
    if chunk is not None and is_sparse(dataset, shape, chunk):
        # The declared shape may be larger than any disk.
        for start in sorted(map(tuple, list_stored(h5py.Dataset(dataset)).origins.tolist())):
            if all(0 <= at < n for at, n in zip(start, shape, strict=True)):
                yield start, tuple(min(c, n - at) for c, n, at in zip(chunk, shape, start, strict=True))
        return
    within = tuple(min(c, n) for c, n in zip(chunk, shape, strict=True)) if chunk else (1,) * len(shape)
    step = tuple(min(s, n) for s, n in zip(buffer_within(shape, within, nbytes, _SLAB_NBYTES), shape, strict=True))
    for start in itertools.product(*(range(0, n, s) for n, s in zip(shape, step, strict=True))):
        yield start, tuple(min(s, n - at) for s, n, at in zip(step, shape, start, strict=True))


def is_sparse(dataset: Any, shape: Shape, chunk: Shape) -> bool:
    """Return whether less than half of the chunks of a dataset have space in the file."""
    total = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    return 2 * count_stored(h5py.Dataset(dataset)) < total


def copy_elements(source: Any, target: Any, references: References, chunk: Shape | None, where: str) -> None:
    """Copy all elements of a dataset.

    Parameters
    ----------
    source, target : h5py.h5d.DatasetID
        The dataset, and its copy.
    references : References
        Maps references.
    chunk : tuple of int or None
        Shape of the chunks of the dataset.
    where : str
        Its name, for messages.

    Raises
    ------
    MissingObjectError
        If they refer to an object that is not copied yet.
    ArgumentError
        As `slabs`.
    """
    elements = elements_of(source.get_type(), where)
    for slab in slabs(source, chunk, elements.nbytes, where):
        with memory_of(elements, slab.memory, slab.count) as address:
            read_elements(source, elements.kind, slab.memory, slab.selected, address)
            if elements.part is not None:
                references.map(elements.part, source, address, slab.count, elements.nbytes)
            write_elements(target, elements.kind, slab.memory, slab.selected, address)
