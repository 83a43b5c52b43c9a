"""Grids of chunks and buffers: an array is split into chunks, and chunks are combined into buffers.

Both grids consist of integers only, are frozen, and allow random access: cell ``k`` is computed from
its number, in C order.  Nothing is stored for a single cell.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dask_chunkio.errors import AlignmentError, ArgumentError

__all__ = ["Array", "Box", "BufferGrid", "ChunkGrid", "Selection", "Shape", "buffer_grid", "chunk_grid"]
__all__ += ["selection_shape"]

Shape = tuple[int, ...]
Selection = tuple[slice, ...]
# Start and stop along each axis; a selection that can be a key.
Box = tuple[tuple[int, int], ...]
Array = np.ndarray[Any, np.dtype[Any]]


def selection_shape(selection: Selection) -> Shape:
    """Return the shape of a selection.

    Examples
    --------
    >>> selection_shape((slice(2, 5), slice(0, 1)))
    (3, 1)
    """
    return tuple(axis.stop - axis.start for axis in selection)


def _check_same_rank(what: str, cell: Shape, shape: Shape) -> None:
    if len(cell) != len(shape):
        raise AlignmentError(
            f"{what} {cell} has {len(cell)} axes, but the array of shape {shape} has {len(shape)}; "
            f"give one length for each axis of the array"
        )


def _check_positive(what: str, cell: Shape) -> None:
    for axis, length in enumerate(cell):
        if length < 1:
            raise AlignmentError(f"{what} {cell} is {length} along axis {axis}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """An array split into chunks of one shape; the array clips the chunks at its upper edges.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array, in elements; may have axes of length 0, or no axes at all.
    chunk_shape : tuple of int
        Shape of a chunk, in elements, at least 1 along each axis.  It may exceed the array,
        as HDF5 allows if an axis can grow.

    Raises
    ------
    AlignmentError
        If the two differ in rank, or a chunk has no elements.

    Examples
    --------
    >>> grid = ChunkGrid((5, 4), (2, 4))
    >>> len(grid), grid.cells
    (3, (3, 1))
    >>> grid[2]
    (slice(4, 5, None), slice(0, 4, None))
    """

    shape: Shape
    chunk_shape: Shape
    cells: Shape = field(init=False, repr=False, compare=False)
    """Number of chunks along each axis."""

    def __post_init__(self) -> None:
        _check_same_rank("chunk shape", self.chunk_shape, self.shape)
        _check_positive("chunk shape", self.chunk_shape)
        for axis, length in enumerate(self.shape):
            if length < 0:
                raise ArgumentError(f"shape {self.shape} is {length} along axis {axis}; lengths are 0 or more")
        # Stored, because it is needed several times for each of very many chunks.
        cells = tuple(-(-n // c) for n, c in zip(self.shape, self.chunk_shape, strict=True))
        object.__setattr__(self, "cells", cells)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return math.prod(self.cells)

    def __getitem__(self, number: int) -> Selection:
        """Return the selection of chunk `number`, clipped to the array."""
        origin = self.origin(number)
        return tuple(
            slice(start, min(start + length, end))
            for start, length, end in zip(origin, self.chunk_shape, self.shape, strict=True)
        )

    def __iter__(self) -> Iterator[Selection]:
        return (self[number] for number in range(len(self)))

    def selections(self, numbers: Sequence[int]) -> list[Selection]:
        """Return the selection of each of many chunks, clipped to the array; faster than one call for each.

        Raises
        ------
        IndexError
            If there is no such chunk.

        Examples
        --------
        >>> ChunkGrid((5, 4), (2, 4)).selections([0, 2])
        [(slice(0, 2, None), slice(0, 4, None)), (slice(4, 5, None), slice(0, 4, None))]
        """
        lengths = tuple(zip(self.chunk_shape, self.shape, strict=True))
        return [
            tuple([slice(at, min(at + n, end)) for at, (n, end) in zip(origin, lengths, strict=True)])
            for origin in self.origins(numbers)
        ]

    def index(self, number: int) -> Shape:
        """Return the position of chunk `number` in the grid, along each axis.

        Raises
        ------
        IndexError
            If there is no such chunk.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"chunk {number} of a grid of {len(self)} chunks")
        reverse = []
        for cells in reversed(self.cells):
            number, along = divmod(number, cells)
            reverse.append(along)
        return tuple(reversed(reverse))

    def number(self, index: Shape) -> int:
        """Return the number of the chunk at position `index`: the inverse of `index`."""
        number = 0
        for along, cells in zip(index, self.cells, strict=True):
            number = number * cells + along
        return number

    def numbers_in(self, box: Box) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Return the numbers of the chunks that a box touches, in C order.

        Examples
        --------
        >>> ChunkGrid((5, 4), (2, 2)).numbers_in(((2, 5), (0, 2)))
        array([2, 4])
        """
        spans = [np.arange(start // n, -(-stop // n)) for (start, stop), n in zip(box, self.chunk_shape, strict=True)]
        if not spans:
            return np.zeros(1, np.intp)
        return np.ravel_multi_index(tuple(np.meshgrid(*spans, indexing="ij")), self.cells).ravel()

    def origin(self, number: int) -> Shape:
        """Return the position of the first element of chunk `number`: the address of the chunk in HDF5."""
        return tuple(i * c for i, c in zip(self.index(number), self.chunk_shape, strict=True))

    def origins(self, numbers: Sequence[int]) -> list[Shape]:
        """Return the `origin` of each of many chunks; faster than one call for each.

        Raises
        ------
        IndexError
            If there is no such chunk.
        """
        if not self.shape:
            return [self.origin(number) for number in numbers]
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(self):
            raise IndexError(f"chunks {min(numbers)} to {max(numbers)} of a grid of {len(self)} chunks")
        along = np.unravel_index(np.asarray(numbers, np.intp), self.cells)
        firsts = [(index * length).tolist() for index, length in zip(along, self.chunk_shape, strict=True)]
        return list(zip(*firsts, strict=True))


@functools.lru_cache(maxsize=256)
def chunk_grid(shape: Shape, chunk_shape: Shape) -> ChunkGrid:
    """Return the `ChunkGrid`; cached, because the same grids are needed often."""
    return ChunkGrid(shape, chunk_shape)


@functools.lru_cache(maxsize=256)
def buffer_grid(chunks: ChunkGrid, buffer_shape: Shape, box: Box | None = None) -> BufferGrid:
    """Return the `BufferGrid`; cached like `chunk_grid`."""
    return BufferGrid(chunks, buffer_shape, box)


@dataclass(frozen=True, slots=True)
class BufferGrid:
    """An array split into buffers of whole chunks; only the upper edges of the array may clip a chunk.

    Parameters
    ----------
    chunks : ChunkGrid
        The chunks of the array.
    buffer_shape : tuple of int
        Shape of a buffer, in elements: along each axis a multiple of the chunk, or at least
        the whole axis.
    box : tuple of tuple of int, optional
        Start and stop along each axis of the part that the buffers cover, whole chunks; by default the whole array.

    Raises
    ------
    AlignmentError
        If a buffer would split a chunk; the message names the axis.

    Examples
    --------
    >>> buffers = BufferGrid(ChunkGrid((10, 4), (2, 4)), (4, 4))
    >>> len(buffers)
    3
    >>> buffers[2]
    (slice(8, 10, None), slice(0, 4, None))
    >>> list(buffers.chunk_numbers(1))
    [2, 3]
    """

    chunks: ChunkGrid
    buffer_shape: Shape
    box: Box | None = None

    def __post_init__(self) -> None:
        _check_same_rank("buffer shape", self.buffer_shape, self.chunks.shape)
        _check_positive("buffer shape", self.buffer_shape)
        rows = zip(self.buffer_shape, self.chunks.chunk_shape, self.shape, strict=True)
        for axis, (buffer, chunk, length) in enumerate(rows):
            if buffer % chunk and buffer < length:
                raise AlignmentError(
                    f"buffer shape {self.buffer_shape} is {buffer} along axis {axis}, neither a multiple of the "
                    f"chunk's {chunk} nor the whole axis of {length}; chunks would be cut. Use a multiple of {chunk}"
                )

    @property
    def shape(self) -> Shape:
        """Shape of what the buffers cover."""
        return self.chunks.shape if self.box is None else tuple(stop - start for start, stop in self.box)

    @property
    def cells(self) -> Shape:
        """Number of buffers along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.buffer_shape, strict=True))

    def __len__(self) -> int:
        return math.prod(self.cells)

    def __getitem__(self, number: int) -> Selection:
        """Return the selection of buffer `number`, clipped to the array."""
        found = self._as_grid()[number]
        if self.box is None:
            return found
        return tuple(
            slice(along.start + start, along.stop + start) for along, (start, _) in zip(found, self.box, strict=True)
        )

    def __iter__(self) -> Iterator[Selection]:
        return map(self.__getitem__, range(len(self)))

    def chunk_numbers(self, number: int) -> Iterator[int]:
        """Return the numbers of the chunks in buffer `number`, in C order."""
        spans = (
            range(axis.start // chunk, -(-axis.stop // chunk))
            for axis, chunk in zip(self[number], self.chunks.chunk_shape, strict=True)
        )
        return (self.chunks.number(index) for index in itertools.product(*spans))

    def _as_grid(self) -> ChunkGrid:
        return chunk_grid(self.shape, self.buffer_shape)
