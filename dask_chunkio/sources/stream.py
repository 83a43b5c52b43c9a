"""Sources that hand out DataChunks in their own order of reading, such as hdmf's `DataChunkIterator`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError, SourceError
from dask_chunkio.grid import Array, Selection, Shape
from dask_chunkio.sources.source import Reader, ReadMode, Shapes

__all__ = ["StreamSource", "is_stream"]


def is_stream(value: Any) -> bool:
    """Say whether `value` hands out DataChunks with ``next``."""
    return callable(getattr(value, "__next__", None)) and all(hasattr(value, name) for name in ("maxshape", "dtype"))


class StreamSource:
    """Adapter for iterators that can only be asked for their next DataChunk.

    DataChunks have to come in order along the first axis, each with all of the others.

    Parameters
    ----------
    stream : AbstractDataChunkIterator
        Any object with hdmf's methods.

    Raises
    ------
    ArgumentError
        If its shape or dtype is not known before it is read.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        shape = stream.maxshape
        if shape is None or any(length is None for length in shape) or stream.dtype is None:
            raise ArgumentError(
                f"{type(stream).__name__} has maxshape {shape} and dtype {stream.dtype}; a stream whose end is not "
                f"known cannot be written yet: give it maxshape= and dtype="
            )
        self._shape = tuple(int(length) for length in shape)
        self._rest: Array | None = None
        self._next_row = 0

    @property
    def shape(self) -> Shape:
        """Its shape, in elements."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        found: np.dtype[Any] = np.dtype(self._stream.dtype)
        return found

    @property
    def shapes(self) -> Shapes:
        """No more than a hint: its recommended chunks."""
        chunk = self._stream.recommended_chunk_shape()
        if chunk is None or len(chunk) != len(self.shape):
            return Shapes()
        return Shapes(tuple(max(1, min(int(c), n)) for c, n in zip(chunk, self.shape, strict=True)))

    @property
    def read_mode(self) -> ReadMode:
        """In order, always."""
        return "ordered"

    def part(self, selection: Selection) -> Reader | None:  # noqa: ARG002
        """Return nothing less than the stream itself."""
        return None

    def read(self, selection: Selection) -> Array:
        """Return the next rows; `selection` has to begin where the last one ended."""
        rows = selection[0]
        if rows.start != self._next_row:
            raise SourceError(f"a stream was asked for row {rows.start}, but stands at row {self._next_row}")
        parts: list[Array] = []
        while self._next_row < rows.stop:
            parts.append(self._take(rows.stop - self._next_row))
            self._next_row += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _take(self, wanted: int) -> Array:
        data = self._rest if self._rest is not None else self._advance()
        self._rest = data[wanted:] if len(data) > wanted else None
        return data[:wanted]

    def _advance(self) -> Array:
        try:
            chunk = next(self._stream)
        except StopIteration:
            raise SourceError(f"the stream ended at row {self._next_row} of {self._shape[0]}") from None
        data = np.asarray(chunk.data)
        rows = chunk.selection[0] if isinstance(chunk.selection, tuple) else chunk.selection
        start = rows.start if isinstance(rows, slice) else rows
        if start != self._next_row or data.shape[1:] != self._shape[1:]:
            raise SourceError(
                f"the stream returned {data.shape} at {chunk.selection}; whole rows from {self._next_row} on are needed"
            )
        return data
