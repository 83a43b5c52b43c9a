"""Sources that hand out DataChunks in their own order of reading, such as hdmf's `DataChunkIterator`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError, ArgumentTypeError, SourceError
from dask_chunkio.geometry.grid import Array, Selection, Shape
from dask_chunkio.sources.base import Reader, ReadMode, Shapes, Source
from dask_chunkio.sources.rows import whole_rows

__all__ = ["Announced", "StreamSource", "is_open_ended", "is_stream"]

# So much of a stream whose end is not known is taken for its size, where chunks and buffers are chosen.
_PRESUMED_NBYTES = 1 << 30
_READ_BEFORE = ". If an earlier call has read the stream, make it anew: it cannot be read twice"


@dataclass(frozen=True, slots=True)
class Announced:
    """What a user says of a stream, in place of the stream itself.

    Parameters
    ----------
    row_shape : tuple of int or None
        Lengths of all axes but the first.
    dtype : numpy.dtype or None
        Type of its elements.
    may_be_begun : bool
        Whether its first DataChunk may be taken to find out the rest.
    """

    row_shape: Shape | None = None
    dtype: np.dtype[Any] | None = None
    may_be_begun: bool = True


def is_stream(value: Any) -> bool:
    """Say whether `value` hands out what it has with ``next``."""
    return callable(getattr(value, "__next__", None))


def is_open_ended(source: Source) -> bool:
    """Say whether the length of a source is known only when it has ended."""
    return isinstance(source, StreamSource) and source.open_ended


class StreamSource:
    """Adapter for iterators that can only be asked for their next DataChunk.

    DataChunks have to come in order along the first axis, each with all of the others.  What
    neither the stream says of itself (``maxshape``, ``dtype``) nor its user is taken from its first one.

    Parameters
    ----------
    stream : iterator
        Any iterator over DataChunks: hdmf's, or a generator.
    announced : Announced, optional
        What its user says of it.

    Attributes
    ----------
    open_ended : bool
        Whether its number of rows is known only when it has ended.

    Raises
    ------
    ArgumentError
        If its shape or dtype cannot be known, or only by taking its first DataChunk where that is to be left.
    ArgumentTypeError
        If it hands out something else.

    Examples
    --------
    >>> from dask_chunkio import DataChunk
    >>> source = StreamSource(DataChunk(np.full(3, row), row) for row in range(4))
    >>> source.open_ended, source.shape[1:]
    (True, (3,))
    >>> source.read(np.s_[0:9, 0:3]).shape
    (4, 3)
    """

    def __init__(self, stream: Any, announced: Announced | None = None) -> None:
        self._stream = stream
        self._rest: Array | None = None
        self._next_row = 0
        maxshape, dtype = self._said(announced or Announced())
        if not len(maxshape) or None in maxshape[1:]:
            raise ArgumentError(
                f"{_name(stream)} has maxshape {maxshape}; only the length of the first axis may be unknown"
            )
        self._dtype = np.dtype(dtype)
        self.open_ended = maxshape[0] is None
        row_nbytes = self._dtype.itemsize * math.prod(map(int, maxshape[1:]))
        rows = max(1, _PRESUMED_NBYTES // max(1, row_nbytes)) if self.open_ended else maxshape[0]
        self._shape = tuple(map(int, (rows, *maxshape[1:])))

    def _said(self, announced: Announced) -> tuple[Any, Any]:
        """Return the maxshape and the dtype, of the stream itself if it says them."""
        maxshape, dtype = getattr(self._stream, "maxshape", None), getattr(self._stream, "dtype", None)
        if maxshape is None and announced.row_shape is not None:
            maxshape = (None, *announced.row_shape)
        dtype = announced.dtype if dtype is None else dtype
        if maxshape is None or dtype is None:
            if not announced.may_be_begun:
                raise ArgumentError(
                    f"a plan would have to take the first DataChunk away from this {_name(self._stream)}, which cannot "
                    f"be put back; say what is in it, with dtype= and maxshape=(None, ...), or give an object that has "
                    f"the attributes dtype and maxshape, and __next__"
                )
            self._rest = self._first()
            maxshape = (None, *self._rest.shape[1:]) if maxshape is None else maxshape
            dtype = self._rest.dtype if dtype is None else dtype
        return maxshape, dtype

    @property
    def shape(self) -> Shape:
        """Its shape, in elements; where its length is not known, a GiB's."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        found: np.dtype[Any] = self._dtype
        return found

    @property
    def shapes(self) -> Shapes:
        """No more than a hint: its recommended chunks."""
        recommend = getattr(self._stream, "recommended_chunk_shape", None)
        chunk = recommend() if recommend is not None else None
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
        """Return the next rows; `selection` has to begin where the last one ended.

        Of a stream whose end was not known, fewer where it has ended.
        """
        rows = selection[0]
        if rows.start != self._next_row:
            raise SourceError(f"a stream was asked for row {rows.start}, but stands at row {self._next_row}")
        parts: list[Array] = []
        while self._next_row < rows.stop:
            part = self._take(rows.stop - self._next_row)
            if part is None:
                break
            parts.append(part)
            self._next_row += len(part)
        if not parts:
            return np.empty((0, *self._shape[1:]), self._dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _take(self, wanted: int) -> Array | None:
        data = self._rest if self._rest is not None else self._advance()
        if data is None:
            return None
        self._rest = data[wanted:] if len(data) > wanted else None
        return data[:wanted]

    def _advance(self) -> Array | None:
        try:
            chunk = next(self._stream)
        except StopIteration:
            if self.open_ended:
                return None
            hint = "" if self._next_row else _READ_BEFORE
            raise SourceError(f"the stream ended at row {self._next_row} of {self._shape[0]}{hint}") from None
        return self._rows(chunk, self._shape[1:])

    def _first(self) -> Array:
        try:
            chunk = next(self._stream)
        except StopIteration:
            raise ArgumentError(
                f"{_name(self._stream)} ended before its first DataChunk, so that its shape and dtype are not known; "
                f"give dtype= and maxshape=(None, ...), or write an empty array{_READ_BEFORE}"
            ) from None
        except Exception as error:
            raise SourceError(f"{_name(self._stream)} raised {type(error).__name__}: {error}") from error
        return self._rows(chunk, None)

    def _rows(self, chunk: Any, others: Shape | None) -> Array:
        """Return the elements of a DataChunk, if they are the next whole rows."""
        if not (hasattr(chunk, "data") and hasattr(chunk, "selection")):
            raise ArgumentTypeError(
                f"{_name(self._stream)} handed out a {type(chunk).__name__}, not a DataChunk; yield "
                f"dask_chunkio.DataChunk(data, selection)"
            )
        data = np.asarray(chunk.data)
        try:
            return whole_rows(data, chunk.selection, self._next_row, others)
        except ValueError as error:
            hint = "" if self._next_row else _READ_BEFORE
            raise SourceError(
                f"the stream returned {data.shape} at {chunk.selection}; whole rows from {self._next_row} on are "
                f"needed, but {error}{hint}"
            ) from None


def _name(stream: Any) -> str:
    return type(stream).__name__
