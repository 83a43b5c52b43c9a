"""The sequence of the selections of an iterator's buffers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dask_chunkio.geometry.grid import BufferGrid, Selection

__all__ = ["BufferSelections"]


class BufferSelections:
    """The selections of all buffers, in C order.

    A loop over the object, or `list`, always covers all selections, and can be repeated.  ``next``
    advances `position`, which no other operation changes.

    Parameters
    ----------
    buffers : BufferGrid
        The buffers of the array.

    Attributes
    ----------
    buffers : BufferGrid
        The buffers of the array.
    position : int
        Number of the buffer whose selection ``next`` returns; 0 again in a copy.

    Examples
    --------
    >>> from dask_chunkio.geometry.grid import ChunkGrid
    >>> selections = BufferSelections(BufferGrid(ChunkGrid((5,), (2,)), (4,)))
    >>> next(selections)
    (slice(0, 4, None),)
    >>> len(list(selections)), selections.position
    (2, 1)
    """

    def __init__(self, buffers: BufferGrid) -> None:
        self.buffers = buffers
        self.position = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.buffers,)

    def __len__(self) -> int:
        return len(self.buffers)

    def __getitem__(self, number: int) -> Selection:
        return self.buffers[number]

    def __iter__(self) -> Iterator[Selection]:
        return iter(self.buffers)

    def __next__(self) -> Selection:
        if self.position >= len(self):
            raise StopIteration
        self.position += 1
        return self.buffers[self.position - 1]
