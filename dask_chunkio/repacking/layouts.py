"""The creation properties of a dataset in the copy, and the way its elements get there."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import h5py

from dask_chunkio.errors import ArgumentError, FilterError
from dask_chunkio.filters.chunk_format import Filter
from dask_chunkio.filters.hazards import hazard
from dask_chunkio.filters.hdf5_encoder import read_filters
from dask_chunkio.filters.plugin import require_decoder
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.geometry.sizing import readable_chunk_shape
from dask_chunkio.repacking.elements import Elements, is_sparse
from dask_chunkio.repacking.rules import FilterChoice, LayoutChoice, Wanted
from dask_chunkio.storage.chunk_index import count_stored
from dask_chunkio.storage.hdf5.h5py_compat import keeps_partial_chunks_unfiltered

__all__ = ["Described", "Plan", "as_it_is", "describe", "file_in_memory", "is_large", "planned", "try_to_make"]

Way = Literal["whole", "elements", "filled", "empty"]
# HDF5's limit for a dataset in the header of its object.
_MOST_COMPACT = (1 << 16) - 512
# Smaller datasets are rewritten by HDF5 while the structure is made: for these, a task costs more than the work.
_LEAST_FILLED = 1 << 20
# Larger ones that stay as they are go through tasks, too: in parallel, with a bar, and resumed if they are cut off.
LEAST_COPIED = 64 << 20
# Tasks hold a chunk in each thread.
_MOST_COPIED_CHUNK = 16 << 20
_ALL_FILTERS = 0
_numbers = itertools.count()
_DEFLATE, _SHUFFLE, _FLETCHER32, _SZIP, _SCALEOFFSET = 1, 2, 3, 4, 6


@dataclass(frozen=True, slots=True)
class Described:
    """A dataset of the file.

    Parameters
    ----------
    name : str
        Its path.
    dataset : h5py.h5d.DatasetID
        The dataset.
    properties : h5py.h5p.PropDCID
        Its creation properties.
    kind : h5py.h5t.TypeID
        Its type.
    elements : Elements
        Its type in memory.
    shape : tuple of int or None
        Its shape; None for one without elements (an empty dataspace).
    chunks : tuple of int or None
        Shape of its chunks.
    """

    name: str
    dataset: Any
    properties: Any
    kind: Any
    elements: Elements
    shape: Shape | None
    chunks: Shape | None

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, in memory."""
        return 0 if self.shape is None else math.prod(self.shape) * self.elements.nbytes

    @property
    def keeps_elements_elsewhere(self) -> bool:
        """Whether its elements are in other files."""
        properties = self.properties
        return bool(properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count())


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one dataset.

    Parameters
    ----------
    way : str
        ``"whole"``: HDF5 copies the object with its payloads as they are; ``"elements"``: HDF5 reads and writes its
        elements; ``"filled"``: it is made empty, and filled in parallel; ``"empty"``: it has nothing to copy.
    properties : h5py.h5p.PropDCID
        Its creation properties in the copy.
    is_fixed : bool
        Whether it can no longer grow.
    notes : tuple of str
        What was asked for and cannot be done.
    """

    way: Way
    properties: Any
    is_fixed: bool = False
    notes: tuple[str, ...] = ()


def describe(name: str, dataset: Any, kind: Any, elements: Elements) -> Described:
    """Describe a dataset of the file."""
    properties, space = dataset.get_create_plist(), dataset.get_space()
    is_empty = space.get_simple_extent_type() == h5py.h5s.NULL
    shape = None if is_empty else tuple(map(int, space.get_simple_extent_dims()))
    chunks = tuple(map(int, properties.get_chunk())) if properties.get_layout() == h5py.h5d.CHUNKED else None
    return Described(name, dataset, properties, kind, elements, shape, chunks)


def planned(found: Described, wanted: Wanted, minimum: int, chunk_nbytes: int, memory: Any) -> Plan:
    """Decide what becomes of a dataset.

    Parameters
    ----------
    found : Described
        The dataset.
    wanted : Wanted
        What the rules say.
    minimum : int
        As `Rules.minimum`.
    chunk_nbytes : int
        Size of a chunk whose shape is not given.
    memory : h5py.h5f.FileID
        A file in memory, in which datasets are made for a trial.

    Raises
    ------
    ArgumentError
        If what a pattern asks for cannot be done.
    """
    if (reason := _refusal(found, wanted)) is not None:
        notes = (f"{found.name} {reason}, and keeps its filters and its layout",) if wanted.is_named else ()
        return as_it_is(found, notes)
    if not wanted or found.nbytes < minimum:
        return as_it_is(found)
    try:
        properties, is_fixed = _changed(found, wanted, chunk_nbytes)
        _filters_if_possible(found, properties, is_fixed, memory)
    except (ValueError, OSError, RuntimeError, TypeError) as error:
        words = f"{found.name}: {error}"
        if wanted.is_named:
            raise ArgumentError(f"{words}; it was named in filters= or layouts=") from error
        return as_it_is(found, (f"{words}; it keeps its filters and its layout",))
    if not is_fixed and _is_alike(found.properties, properties):
        return as_it_is(found)
    return Plan(_way_of_change(found, properties), properties, is_fixed)


def _refusal(found: Described, wanted: Wanted) -> str | None:
    """Return why neither filters nor layout of a dataset change."""
    if not wanted:
        return None
    if found.shape is None or found.shape == ():
        return "has no axes"
    if found.keeps_elements_elsewhere:
        return "keeps its elements in other files or datasets"
    if found.kind.get_class() == h5py.h5t.REFERENCE:
        return "holds references"
    return None


def as_it_is(found: Described, notes: tuple[str, ...] = ()) -> Plan:
    """Return the plan for a dataset whose filters and layout stay."""
    return Plan(_way_as_it_is(found), found.properties, notes=notes)


def is_large(dataset: Any) -> bool:
    """Return whether a dataset takes so much of the file that tasks copy it, even if it stays as it is."""
    return bool(dataset.get_storage_size() >= LEAST_COPIED)


def _way_as_it_is(found: Described) -> Way:
    """Return how a dataset is copied whose properties stay."""
    if is_large(found.dataset) and _has_numbers(found) and _has_payloads_to_copy(found):
        return "filled"
    # HDF5 copies neither references, nor elements of variable length, nor what has a named type as they have to be.
    if found.elements.part is None and not found.kind.committed():
        return "whole"
    return "empty" if _has_nothing(found) or found.keeps_elements_elsewhere else "elements"


def _has_nothing(found: Described) -> bool:
    if not found.nbytes:
        return True
    return bool(found.dataset.get_space_status() == h5py.h5d.SPACE_STATUS_NOT_ALLOCATED)


def _way_of_change(found: Described, properties: Any) -> Way:
    if _has_nothing(found):
        return "empty"
    if found.nbytes < _LEAST_FILLED or not _has_numbers(found):
        return "elements"
    # To fill all chunks of such a dataset would make a file without bounds.
    if found.chunks is not None and is_sparse(found.dataset, found.shape or (), found.chunks):
        return "elements"
    return "filled" if properties.get_layout() != h5py.h5d.COMPACT else "elements"


def _has_numbers(found: Described) -> bool:
    """Return whether tasks can read and write its elements: numpy has their type, and a text is its name."""
    if found.elements.part is not None or not _is_text(found.name):
        return False
    return found.kind.get_class() not in (h5py.h5t.ARRAY, h5py.h5t.OPAQUE) and _is_of_numpy(found.kind)


def _has_payloads_to_copy(found: Described) -> bool:
    """Return whether tasks copy its chunks as they are stored, and the dataset stays what it is.

    A task fills all chunks of its buffer, so that none may be missing.  HDF5 fills chunks that are allocated early when
    the dataset is made, and stores partial chunks without filters where neither masks nor h5py show it.  Without
    chunks, tasks would have HDF5 write the elements, one buffer at a time, in ten times the time of its own copy.
    """
    properties, shape = found.properties, found.shape
    if found.chunks is None or shape is None or properties.get_alloc_time() == h5py.h5d.ALLOC_TIME_EARLY:
        return False
    chunk_nbytes = math.prod(found.chunks) * found.elements.nbytes
    if chunk_nbytes > _MOST_COPIED_CHUNK or keeps_partial_chunks_unfiltered(properties):
        return False
    count = math.prod(-(-n // c) for n, c in zip(shape, found.chunks, strict=True))
    return count_stored(h5py.Dataset(found.dataset)) == count and _is_made_alike(found)


def _is_made_alike(found: Described) -> bool:
    """Return whether HDF5, given its properties, makes a dataset with just the same filters; it may lack one."""
    try:
        require_decoder(h5py.Dataset(found.dataset))
        found_again = _filters_if_possible(found, found.properties, is_fixed=False, memory=file_in_memory())
        return found_again == read_filters(found.properties)
    except (FilterError, ValueError, OSError, RuntimeError, TypeError):
        return False


def _is_text(name: str) -> bool:
    return name.isprintable() and "//" not in name and "/./" not in f"{name}/"


def _is_of_numpy(kind: Any) -> bool:
    """Return whether numpy's elements of a type have the same bytes as in the file."""
    try:
        return bool(kind.equal(h5py.h5t.py_create(kind.dtype, logical=True)))
    except (TypeError, ValueError, KeyError):
        return False


def _changed(found: Described, wanted: Wanted, chunk_nbytes: int) -> tuple[Any, bool]:
    """Return the new properties, and whether the dataset can no longer grow."""
    properties, layout = found.properties.copy(), wanted.layout
    if wanted.filters is not None or (layout is not None and layout.kind != "chunked"):
        properties.remove_filter(_ALL_FILTERS)
    if layout is not None and layout.kind != "chunked":
        return _without_chunks(found, properties, layout)
    if layout is not None:
        properties.set_chunk(_chunks(found, layout))
    elif wanted.filters and found.chunks is None:
        properties.set_chunk(readable_chunk_shape(found.shape or (), found.elements.nbytes, None, chunk_nbytes))
    for one in wanted.filters or ():
        _apply(properties, one)
    return properties, False


def _chunks(found: Described, layout: LayoutChoice) -> Shape:
    shape = found.shape or ()
    if len(layout.chunks) != len(shape):
        raise ValueError(f"chunks {layout.chunks} have {len(layout.chunks)} axes, and it has the shape {shape}")
    most = found.dataset.get_space().get_simple_extent_dims(True)
    for axis, (chunk, bound) in enumerate(zip(layout.chunks, most, strict=True)):
        if bound not in (None, h5py.h5s.UNLIMITED) and chunk > bound:
            raise ValueError(f"chunks {layout.chunks} are longer than its {bound} elements along axis {axis}")
    if math.prod(layout.chunks) * found.elements.nbytes >= 1 << 32:
        raise ValueError(f"chunks {layout.chunks} have 4 GiB or more, which HDF5 does not store")
    return layout.chunks


def _without_chunks(found: Described, properties: Any, layout: LayoutChoice) -> tuple[Any, bool]:
    if layout.kind == "compact":
        if found.nbytes > _MOST_COMPACT:
            raise ValueError(f"it has {found.nbytes} bytes, and a compact dataset at most {_MOST_COMPACT}")
        properties.set_layout(h5py.h5d.COMPACT)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    else:
        properties.set_layout(h5py.h5d.CONTIGUOUS)
    most = tuple(found.dataset.get_space().get_simple_extent_dims(True))
    return properties, most != found.shape


def _apply(properties: Any, one: FilterChoice) -> None:
    if one.code == _DEFLATE:
        properties.set_deflate(*one.options)
    elif one.code == _SHUFFLE:
        properties.set_shuffle()
    elif one.code == _FLETCHER32:
        properties.set_fletcher32()
    elif one.code == _SZIP:
        properties.set_szip(*one.options)
    elif one.code == _SCALEOFFSET:
        properties.set_scaleoffset(*one.options)
    else:
        properties.set_filter(one.code, one.flags, one.options)


def _filters_if_possible(found: Described, properties: Any, is_fixed: bool, memory: Any) -> tuple[Filter, ...]:
    """Return the filters with which HDF5 makes the dataset; refuse what it cannot make, or what ends the process."""
    steps = read_filters(try_to_make(memory, found, properties, is_fixed).get_create_plist())
    chunks = properties.get_chunk() if properties.get_layout() == h5py.h5d.CHUNKED else None
    if steps and _has_dtype(found.kind):
        nbytes = None if chunks is None else math.prod(chunks) * found.elements.nbytes
        if (reason := hazard(steps, found.kind.dtype, nbytes)) is not None:
            raise ValueError(reason)
    return steps


def file_in_memory() -> Any:
    """Return a new file in memory, which ends with the last reference to it."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(1 << 16, False)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    return h5py.h5f.create(b"dask_chunkio-repack-%d" % next(_numbers), h5py.h5f.ACC_TRUNC, fapl=access)


def try_to_make(memory: Any, found: Described, properties: Any, is_fixed: bool) -> Any:
    """Make an empty dataset without a name; nothing is allocated for it, however large it is.

    Parameters
    ----------
    memory : h5py.h5f.FileID
        As `file_in_memory` returns it.
    found : Described
        The dataset of the file.
    properties : h5py.h5p.PropDCID
        Creation properties.
    is_fixed : bool
        Whether it cannot grow.

    Raises
    ------
    ValueError, OSError, RuntimeError, TypeError
        If HDF5 cannot make it.
    """
    trial = properties.copy()
    if trial.get_layout() != h5py.h5d.COMPACT:
        is_chunked = trial.get_layout() == h5py.h5d.CHUNKED
        trial.set_alloc_time(h5py.h5d.ALLOC_TIME_INCR if is_chunked else h5py.h5d.ALLOC_TIME_LATE)
    space = found.dataset.get_space()
    if is_fixed:
        space.set_extent_simple(found.shape, found.shape)
    return h5py.h5d.create(memory, None, found.elements.kind, space, trial)


def _has_dtype(kind: Any) -> bool:
    try:
        return kind.dtype is not None
    except (TypeError, ValueError, KeyError):
        return False


def _is_alike(one: Any, other: Any) -> bool:
    """Return whether payloads made with one property list are those of the other."""
    if one.get_layout() != other.get_layout():
        return False
    if one.get_layout() != h5py.h5d.CHUNKED:
        return True
    return bool(one.get_chunk() == other.get_chunk()) and _pipeline(one) == _pipeline(other)


def _pipeline(properties: Any) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return the filters, without what shuffle notes in a dataset that is made."""
    steps = read_filters(properties)
    return [(one.code, one.flags, () if one.code == _SHUFFLE else one.options) for one in steps]
