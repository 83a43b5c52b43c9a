"""What references say about a file: groups and zarr arrays, and where the chunks of the arrays are in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import Array, Shape
from dask_chunkio.references.elements import dtype_words, fill_words

__all__ = ["ArrayReferences", "ChunkTable", "FileReferences", "GroupReferences", "Unsupported"]


class Unsupported(Exception):  # noqa: N818, never leaves this package
    """Why references cannot describe a dataset."""


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """The chunks of an array that are stored in the file; all other chunks read as the fill value.

    Parameters
    ----------
    numbers : numpy.ndarray
        Number of each chunk in its grid, in C order.
    offsets, lengths : numpy.ndarray
        Where its bytes are in the file.
    """

    numbers: Array
    offsets: Array
    lengths: Array

    @classmethod
    def empty(cls) -> ChunkTable:
        """Return the table of an array without stored chunks."""
        return cls(*(np.zeros(0, np.int64) for _ in range(3)))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> ChunkTable:
        return ChunkTable(self.numbers[rows], self.offsets[rows], self.lengths[rows])


@dataclass(frozen=True, slots=True)
class ArrayReferences:
    """A dataset as an array of zarr, version 2.

    Parameters
    ----------
    name : str
        Path in the file, without a slash at its start.
    shape, chunk_shape : tuple of int
        Shape of the array, and of each chunk.
    dtype : numpy.dtype
        Type of the stored elements; ``object`` for strings of variable length.
    fill : numpy.ndarray or None
        One element, that of chunks which are not stored; None if there are none of them.
    codecs : tuple of dict
        Configurations of numcodecs, in the order in which they are applied to a chunk.
    dimensions : tuple of str
        One name for each axis.
    attributes : mapping
        Values that JSON can hold.
    table : ChunkTable
        The chunks in the file.
    inlined : mapping of int to bytes
        Chunks that the references contain themselves, by their numbers.
    is_masked : bool
        Whether `fill` stands for missing data: the dataset has an attribute ``_FillValue``.
    """

    name: str
    shape: Shape
    chunk_shape: Shape
    dtype: np.dtype[Any]
    fill: Array | None
    codecs: tuple[dict[str, Any], ...]
    dimensions: tuple[str, ...]
    attributes: Mapping[str, Any]
    table: ChunkTable = field(default_factory=ChunkTable.empty)
    inlined: Mapping[int, bytes] = field(default_factory=dict)
    is_masked: bool = False

    @property
    def cells(self) -> Shape:
        """Number of chunks along each axis."""
        return tuple(math.ceil(n / c) for n, c in zip(self.shape, self.chunk_shape, strict=True))

    def zarray(self) -> dict[str, Any]:
        """Return the content of ``.zarray``, with the keys that kerchunk writes."""
        return {
            "shape": list(self.shape),
            "chunks": list(self.chunk_shape),
            "dtype": dtype_words(self.dtype),
            "fill_value": None if self.fill is None else fill_words(self.fill),
            "order": "C",
            "filters": list(self.codecs) or None,
            "dimension_separator": ".",
            "compressor": None,
            "zarr_format": 2,
        }

    def zattrs(self) -> dict[str, Any]:
        """Return the content of ``.zattrs``."""
        return {**self.attributes, "_ARRAY_DIMENSIONS": list(self.dimensions)}


@dataclass(frozen=True, slots=True)
class GroupReferences:
    """A group; `name` is its path without a slash at its start, empty for the root."""

    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FileReferences:
    """All groups and arrays of one file.

    Parameters
    ----------
    url : str
        Where readers find the file.
    groups : tuple of GroupReferences
        The root group first.
    arrays : tuple of ArrayReferences
        The datasets.
    left_out : tuple of str
        One line for each dataset or attribute that is not contained, with the reason.
    """

    url: str
    groups: tuple[GroupReferences, ...]
    arrays: tuple[ArrayReferences, ...]
    left_out: tuple[str, ...] = ()

    @property
    def chunk_count(self) -> int:
        """Number of all chunks, inlined ones too."""
        return sum(len(array.table) + len(array.inlined) for array in self.arrays)

    def metadata(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of zarr, by their keys."""
        found: dict[str, dict[str, Any]] = {}
        for group in self.groups:
            found[_key(group.name, ".zgroup")] = {"zarr_format": 2}
            found[_key(group.name, ".zattrs")] = dict(group.attributes)
        for array in self.arrays:
            found[_key(array.name, ".zarray")] = array.zarray()
            found[_key(array.name, ".zattrs")] = array.zattrs()
        return found


def _key(name: str, file: str) -> str:
    return f"{name}/{file}" if name else file
