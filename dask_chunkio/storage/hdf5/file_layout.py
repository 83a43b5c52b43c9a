"""Where HDF5 keeps the metadata of a file, and what a reader over a network fetches to open it.

By default the nodes of a chunk index lie between the payloads, wherever the file ended when they were made.  With paged
file space (HDF5 1.10 and later) metadata and payloads do not share pages.  If a page is larger than all metadata of the
file, they are the first page.

The sizes of index nodes follow from the HDF5 File Format Specification 3.0: III.A.1 (version 1 B-tree), VII (chunk
indexes of version 1.10) and III.D (free-space manager).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import h5py

from dask_chunkio.errors import ArgumentError, TargetError
from dask_chunkio.filters.hdf5_encoder import read_filters
from dask_chunkio.storage.hdf5.dataset import DatasetSpec, in_memory, make_dataset

__all__ = ["FileLayout", "LayoutName", "Metadata", "choose_layout", "is_paged", "keep_free_space"]
__all__ += ["measure_file", "measure_specs", "parse_layout", "require_paged", "stream_chunk_count"]

LayoutName = Literal["cloud", "cmip7"]

# HDF5 allows pages from 512 bytes to 1 GiB.
_LEAST_PAGE, _MOST_PAGE = 1 << 16, 1 << 30
# Larger pages are not chosen only to save padding: readers with a page buffer fetch whole pages.
_MOST_FOR_PADDING = 1 << 25
_MOST_PADDING = 0.15
# Superblock extension, headers of the free-space managers, and what HDF5 leaves free between objects.
_SLACK = 1 << 14
# A free section, as HDF5 stores it, twice: while the list is written anew, the old one is not yet free.
_SECTION = 2 * 16
# Number of chunks for which a stream of unknown length gets room.
_STREAM_CHUNKS = 20_000
# Children of a node of a version 1 B-tree (twice istore_k); at least half of them are used, in any order of commits.
_CHILDREN = 64


@dataclass(frozen=True, slots=True)
class FileLayout:
    """The layout with which a file is created.

    Parameters
    ----------
    name : str
        ``"cloud"`` or ``"cmip7"``.
    page_nbytes : int
        Size of a page of the file, in bytes.
    metadata_nbytes : int
        Maximum size of all metadata, in bytes.
    padding : float
        Expected bytes that are left free in the first page and at the ends of others, for each byte of payloads.
    is_estimate : bool
        Whether the number of chunks is not known: the length of a source is unknown until it ends.
    """

    name: LayoutName
    page_nbytes: int
    metadata_nbytes: int
    padding: float = 0.0
    is_estimate: bool = False

    @property
    def keywords(self) -> dict[str, Any]:
        """Keywords of `h5py.File` that create a file with this layout."""
        # A file that does not keep its free space begins new pages each time that it is opened.
        return {"fs_strategy": "page", "fs_page_size": self.page_nbytes, "fs_persist": True}


@dataclass(frozen=True, slots=True)
class _Index:
    """The chunk index of one dataset, and the payloads that it lists."""

    chunks: int
    nbytes: int
    nodes: int
    chunk_nbytes: int
    is_filtered: bool

    def padding(self, page: int) -> float:
        """Return the bytes that stay free at the ends of pages, for each byte of payloads."""
        size = self.chunk_nbytes
        if not self.is_filtered:
            taken = math.ceil(size / page) * page if size >= page else page / (page // size)
            return taken / size - 1
        # The lengths are not known.  On average half a page is left behind a payload, or half a payload in each page.
        sizes = (size, size / 2, size / 4)
        return max(page / 2 / one if one >= page else one / (2 * page - one) for one in sizes)

    def gaps(self, page: int) -> int:
        """Return the number of free sections at the ends of pages, which HDF5 lists among its metadata."""
        if self.chunk_nbytes >= page:
            return self.chunks if self.is_filtered or self.chunk_nbytes % page else 0
        return math.ceil(self.chunks / (page // self.chunk_nbytes))


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of a file that is not written yet.

    Parameters
    ----------
    structure_nbytes : int
        Bytes of groups, object headers and attributes.
    indexes : tuple
        The chunk indexes.
    is_estimate : bool
        As `FileLayout.is_estimate`.
    """

    structure_nbytes: int
    indexes: tuple[_Index, ...]
    is_estimate: bool = False

    @property
    def nbytes(self) -> int:
        """Maximum size of all metadata but for lists of free space, in bytes."""
        return self.structure_nbytes + sum(index.nbytes for index in self.indexes)

    @property
    def nodes(self) -> int:
        """Number of places at which a reader finds metadata, if they lie between the payloads."""
        return 2 + sum(index.nodes for index in self.indexes)

    def layout(self, name: LayoutName) -> FileLayout:
        """Return the layout with the smallest page that holds all metadata and wastes little space.

        Raises
        ------
        ArgumentError
            If HDF5 has no page of that size.
        """
        found: list[FileLayout] = []
        page = _LEAST_PAGE
        while page <= _MOST_PAGE and (not found or page <= _MOST_FOR_PADDING):
            needed = self.nbytes + _SLACK + _SECTION * sum(index.gaps(page) for index in self.indexes)
            if needed <= page:
                found.append(FileLayout(name, page, needed, self._padding(page, needed), self.is_estimate))
                if found[-1].padding <= _MOST_PADDING:
                    return found[-1]
            page *= 2
        if not found:
            chunks = sum(index.chunks for index in self.indexes)
            raise ArgumentError(
                f"layout={name!r}: the metadata of {chunks} chunks take up to {self.nbytes} bytes, more than the "
                f"largest page of HDF5, {_MOST_PAGE} bytes; give larger chunks, or leave layout= out"
            )
        return min(found, key=lambda layout: layout.padding)

    def _padding(self, page: int, needed: int) -> float:
        # Filters are taken to halve what is stored.
        sizes = [index.chunks * index.chunk_nbytes / (1 + index.is_filtered) for index in self.indexes]
        lost = sum(size * index.padding(page) for size, index in zip(sizes, self.indexes, strict=True))
        return (page - needed + lost) / sum(sizes) if any(sizes) else 0.0


def parse_layout(value: Any) -> LayoutName | None:
    """Return the name of a layout, or None.

    Raises
    ------
    ArgumentError
        If there is no such layout; the message names the nearest one.
    """
    names = get_args(LayoutName)
    if value is None or (isinstance(value, str) and value in names):
        return cast(LayoutName | None, value)
    # Imported here: only a mistake needs it.
    import difflib

    near = difflib.get_close_matches(value.lower(), names, 1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ArgumentError(f"layout={value!r} is not one of {', '.join(map(repr, names))}{hint}")


def choose_layout(name: LayoutName, specs: Sequence[DatasetSpec], libver: Any = None) -> FileLayout:
    """Return the layout of a new file for these datasets.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        As `Metadata.layout` and `make_dataset`.
    """
    return measure_specs(specs, libver).layout(name)


def measure_specs(specs: Sequence[DatasetSpec], libver: Any = None) -> Metadata:
    """Return the metadata of a file with these datasets, by creating them in memory.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        As `make_dataset`.
    """
    with in_memory(libver) as file:
        counts = {}
        for spec in specs:
            dataset = make_dataset(file, spec)
            if spec.open_ended and dataset.chunks:
                counts[spec.name] = stream_chunk_count(dataset)
        return measure_file(file, counts)


def stream_chunk_count(dataset: h5py.Dataset) -> int:
    """Return the number of chunks for which a stream of unknown length gets room."""
    shape = (dataset.maxshape[0], *dataset.shape[1:])
    return _STREAM_CHUNKS if shape[0] is None else _count(shape, dataset.chunks)


def _count(shape: Sequence[int], chunks: Sequence[int]) -> int:
    return math.prod(-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True))


def measure_file(file: h5py.File, counts: Mapping[str, int] | None = None) -> Metadata:
    """Return the metadata that a file will have when all chunks of its datasets are written.

    Parameters
    ----------
    file : h5py.File
        A file with all groups, datasets and attributes, but without chunks; it is open for writing.
    counts : mapping of str to int, optional
        Numbers of chunks of datasets whose length is not known, by their names.
    """
    indexes: list[_Index] = []
    is_new = file.id.get_access_plist().get_libver_bounds()[0] >= h5py.h5f.LIBVER_V110

    def visit(_name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.chunks:
            count = (counts or {}).get(found.name)
            indexes.append(_index(found, _count(found.shape, found.chunks) if count is None else count, is_new))

    file.visititems(visit)
    file.flush()
    return Metadata(int(file.id.get_filesize()), tuple(indexes), bool(counts))


def _index(dataset: h5py.Dataset, count: int, is_new: bool) -> _Index:
    chunk = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    is_filtered = bool(read_filters(dataset.id.get_create_plist()))
    nbytes, nodes = (_new_index if is_new else _old_index)(dataset, count, is_filtered)
    return _Index(count, nbytes, nodes, chunk, is_filtered)


def _old_index(dataset: h5py.Dataset, count: int, is_filtered: bool) -> tuple[int, int]:  # noqa: ARG001
    """Return maximum bytes, and expected nodes, of a version 1 B-tree."""
    key = 8 + 8 * (dataset.ndim + 1)
    node = 24 + _CHILDREN * (key + 8) + key
    total, level = 1, count
    while level > 1:
        level = -(-level // (_CHILDREN // 2))
        total += level
    return total * node, -(-count // (_CHILDREN * 9 // 10)) + 1


def _new_index(dataset: h5py.Dataset, count: int, is_filtered: bool) -> tuple[int, int]:
    """Return maximum bytes, and expected nodes, of a fixed array, an extensible array or a version 2 B-tree."""
    # An address, and of a filtered chunk its length and mask.
    element = 8 + (12 if is_filtered else 0)
    unlimited = sum(length is None for length in dataset.maxshape)
    if unlimited == 0:
        # One block, with a checksum for each 1024 elements.
        return 256 + count * element + 8 * (count // 1024), 2
    if unlimited == 1:
        # Blocks whose length doubles, the last of which may be almost empty.
        return (1 << 14) + 2 * count * element, 4 + 2 * count.bit_length()
    record = element + 8 * dataset.ndim
    nodes = 2 + -(-2 * count * record // 2000)
    return (1 << 12) + (nodes + nodes // 8) * 2048, nodes


def is_paged(file: h5py.File) -> bool:
    """Return whether a file has paged file space that it keeps when it is closed."""
    strategy, persist, _ = file.id.get_create_plist().get_file_space_strategy()
    return bool(strategy == h5py.h5f.FSPACE_STRATEGY_PAGE and persist)


def keep_free_space(file: h5py.File) -> None:
    """Have HDF5 keep the list of free space of a file with paged file space, which is open for writing.

    HDF5 (1.14 and 2.0) loses the list if the file is closed without any allocation, or with those of one kind only:
    then the rest of the metadata page is never used again, and metadata are scattered over new pages.  An object
    without a name takes space and frees it.
    """
    if is_paged(file):
        h5py.h5g.create(file.id, None)


def require_paged(file: h5py.File, name: LayoutName, path: str, remedy: str) -> None:
    """Refuse a file that was created without a layout.

    Raises
    ------
    TargetError
        If metadata and payloads share the space of the file.
    """
    if not is_paged(file):
        raise TargetError(f"layout={name!r} is chosen when a file is created, and {path} has none: {remedy}")
