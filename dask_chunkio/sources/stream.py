"""Streams of DataChunks as sources, such as hdmf's `DataChunkIterator`."""

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

# The assumed size of a stream of unknown length, for the choice of chunks and buffers.
_PRESUMED_NBYTES = 1 << 30
_READ_BEFORE = ". If an earlier call has read the stream, make it anew: it cannot be read twice"


@dataclass(frozen=True, slots=True)
class Announced:
    """Properties of a stream that the user gave, for streams that do not state them.

    Parameters
    ----------
    row_shape : tuple of int or None
        Lengths of all axes except the first.
    dtype : numpy.dtype or None
        Type of its elements.
    may_be_begun : bool
        Whether the first DataChunk may be read to find the properties that are not given.
    """

    row_shape: Shape | None = None
    dtype: np.dtype[Any] | None = None
    may_be_begun: bool = True


def is_stream(value: Any) -> bool:
    """Return whether `value` is an iterator, which returns its items by ``next``."""
    return callable(getattr(value, "__next__", None))


def is_open_ended(source: Source) -> bool:
    """Return whether the length of a source is unknown until the source ends."""
    return isinstance(source, StreamSource) and source.open_ended


class StreamSource:
    """Adapter for iterators that can only return their next DataChunk.

    The DataChunks must come in order along the first axis, and each must have all elements along the other axes.
    Shape and dtype come from the stream (``maxshape``, ``dtype``), from its user, or else from the first DataChunk.

    Parameters
    ----------
    stream : iterator
        Any iterator over DataChunks: hdmf's, or a generator.
    announced : Announced, optional
        Shape and dtype that the user gave.

    Attributes
    ----------
    open_ended : bool
        Whether the number of rows is unknown until the stream ends.

    Raises
    ------
    ArgumentError
        If shape or dtype cannot be found, or only with the first DataChunk, which may not be read.
    ArgumentTypeError
        If the first item is not a DataChunk.
    SourceError
        If the stream raises, or its first DataChunk does not consist of the first rows.

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
        """Return the maxshape and the dtype, preferably those that the stream itself states."""
        maxshape, dtype = getattr(self._stream, "maxshape", None), getattr(self._stream, "dtype", None)
        if maxshape is None and announced.row_shape is not None:
            maxshape = (None, *announced.row_shape)
        dtype = announced.dtype if dtype is None else dtype
        if maxshape is None or dtype is None:
            if not announced.may_be_begun:
                raise ArgumentError(
                    f"a plan would have to read the first DataChunk of this {_name(self._stream)}, which would then be "
                    f"missing in the write; give dtype= and maxshape=(None, ...), or an object that has the "
                    f"attributes dtype and maxshape, and __next__"
                )
            self._rest = self._first()
            maxshape = (None, *self._rest.shape[1:]) if maxshape is None else maxshape
            dtype = self._rest.dtype if dtype is None else dtype
        return maxshape, dtype

    @property
    def shape(self) -> Shape:
        """Its shape, in elements; if its length is unknown, the shape of an array of 1 GiB."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        found: np.dtype[Any] = self._dtype
        return found

    @property
    def shapes(self) -> Shapes:
        """The chunk shape that the stream recommends, if it recommends one."""
        recommend = getattr(self._stream, "recommended_chunk_shape", None)
        chunk = recommend() if recommend is not None else None
        if chunk is None or len(chunk) != len(self.shape):
            return Shapes()
        return Shapes(tuple(max(1, min(int(c), n)) for c, n in zip(chunk, self.shape, strict=True)))

    @property
    def read_mode(self) -> ReadMode:
        """Always ordered."""
        return "ordered"

    def part(self, selection: Selection) -> Reader | None:  # noqa: ARG002
        """Return None: the whole stream is sent."""
        return None

    def read(self, selection: Selection) -> Array:
        """Return the next rows; `selection` must begin at the end of the preceding one.

        If a stream of unknown length ends, the result has fewer rows than `selection`.

        Raises
        ------
        SourceError
            If `selection` begins elsewhere, the stream ends too early, or a DataChunk does not have the next rows.
        ArgumentTypeError
            If an item of the stream is not a DataChunk.
        """
        rows = selection[0]
        if rows.start != self._next_row:
            raise SourceError(f"row {rows.start} of a stream was requested, but its next row is {self._next_row}")
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
                f"{_name(self._stream)} returned a {type(chunk).__name__}, not a DataChunk; yield "
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
