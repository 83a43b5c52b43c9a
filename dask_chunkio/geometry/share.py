"""Shares: the parts into which independent jobs divide an array, along the edges of its chunks."""

from __future__ import annotations

from dataclasses import dataclass

from dask_chunkio.errors import ArgumentError
from dask_chunkio.geometry.grid import Box, ChunkGrid

__all__ = ["MOST_PARTS", "Share"]

# Damaged side files may name any number; memory and time are taken for each part.
MOST_PARTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Share:
    """One of the parts into which independent jobs divide a write.

    The parts depend on the shape of the array and of its chunks only, so that jobs on different machines, which choose
    different buffers, agree on them.

    Parameters
    ----------
    number : int
        Number of the part, from 0.
    count : int
        Number of all parts.

    Raises
    ------
    ArgumentError
        If there is no such part.

    Examples
    --------
    >>> Share(2, 3).box(ChunkGrid((1000, 64), (100, 64)))
    ((600, 1000), (0, 64))
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_PARTS:
            raise ArgumentError(f"part=({self.number}, {self.count}): there can be 1 to {MOST_PARTS} parts")
        if not 0 <= self.number < self.count:
            raise ArgumentError(
                f"part=({self.number}, {self.count}): the parts of {self.count} jobs have the numbers 0 to "
                f"{self.count - 1}; give part=(number, count)"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def box(self, chunks: ChunkGrid) -> Box:
        """Return the bounds of this part of an array: whole chunks, about as many as in any other part.

        The grid of chunks is halved again and again, across its longest axis.  If there are more parts than chunks,
        some parts are empty.
        """
        cells, number, count = [(0, n) for n in chunks.cells], self.number, self.count
        while count > 1 and cells:
            axis = max(range(len(cells)), key=lambda one: cells[one][1] - cells[one][0])
            start, stop = cells[axis]
            left = count // 2
            middle = start + (stop - start) * left // count
            cells[axis] = (start, middle) if number < left else (middle, stop)
            number, count = (number, left) if number < left else (number - left, count - left)
        spans = zip(cells, chunks.chunk_shape, chunks.shape, strict=True)
        return tuple((min(start * chunk, end), min(stop * chunk, end)) for (start, stop), chunk, end in spans)
