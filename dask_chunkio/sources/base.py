"""The interface of sources, and checks of the data that they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

from dask_chunkio.errors import ArgumentError, CastError, ChunkIOError, SourceError
from dask_chunkio.filters.chunk_format import ChunkFormat, Payload
from dask_chunkio.filters.compatibility import refusal
from dask_chunkio.geometry.grid import Array, Selection, Shape, selection_shape

__all__ = ["ReadMode", "Reader", "Shapes", "Source", "StoredReader", "check_read_mode", "read_checked", "read_named"]
__all__ += ["check_buffer", "read_some_checked"]

ReadMode = Literal["concurrent", "serial", "ordered"]


class Reader(Protocol):
    """Protocol of objects that read selections; they can be sent to the process that reads a buffer."""

    def read(self, selection: Selection) -> Array:
        """Return the elements of `selection`, in memory."""
        ...


class StoredReader(Reader, Protocol):
    """Protocol of readers of arrays that are stored in encoded chunks."""

    def payloads(
        self, form: ChunkFormat, shape: Shape, chunks: Sequence[int], *, can_grow: bool = False, is_sparse: bool = False
    ) -> tuple[Payload, ...] | None:
        """Return chunks as they are stored, if an array of this format and shape is stored so; otherwise None.

        `can_grow` says that the dataset may be extended, so that the padding of chunks at its edges becomes visible,
        `is_sparse` that chunks which are not stored may be returned as `Payload.is_fill`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of chunks and buffers that a source recommends.

    Parameters
    ----------
    chunk : tuple of int or None
        The chunk shape that it recommends.
    buffer : tuple of int or None
        The buffer shape that it recommends.
    is_fixed : bool
        Whether the user of the source chose that buffer shape, so that it must be kept.
    block : tuple of int or None
        Shape of the blocks in which it is stored or computed.
    """

    chunk: Shape | None = None
    buffer: Shape | None = None
    is_fixed: bool = False
    block: Shape | None = None


class Source(Reader, Protocol):
    """Protocol of sources: objects with a shape and a dtype that can be read buffer by buffer."""

    @property
    def shape(self) -> Shape:
        """Its shape, in elements."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        ...

    @property
    def shapes(self) -> Shapes:
        """The shapes that it recommends."""
        ...

    @property
    def read_mode(self) -> ReadMode:
        """The read mode that is safe if the user gives none.

        ``"concurrent"``: any selections, from several threads at once.  ``"serial"``: any
        selections, one at a time.  ``"ordered"``: every buffer once, in C order, in one process.
        """
        ...

    def part(self, selection: Selection) -> Reader | None:
        """Return a reader of `selection` to send to another process; None to send the whole source."""
        ...


def check_read_mode(mode: str | None, dataset: str) -> None:
    """Check that a value of `read=` is one of the three read modes, or None.

    Raises
    ------
    ArgumentError
        If it is not; the message names the dataset and the value.
    """
    if mode is not None and mode not in get_args(ReadMode):
        raise ArgumentError(f"{dataset}: read={mode!r} is not one of {', '.join(map(repr, get_args(ReadMode)))}")


def read_checked(
    reader: Reader, selection: Selection, dtypes: tuple[np.dtype[Any], np.dtype[Any]], where: str
) -> Array:
    """Read a selection and check the result.

    Parameters
    ----------
    reader : Reader
        The source to read from.
    selection : tuple of slice
        The selection to read.
    dtypes : tuple of numpy.dtype
        The dtype that the source announced, and the dtype of the dataset.
    where : str
        Dataset, buffer and selection, for messages.

    Raises
    ------
    SourceError
        If the source raises, or returns another shape, or masked or non-numeric elements.
    CastError
        If the source returns a dtype whose values cannot be stored.
    """
    return check_buffer(read_named(reader, selection, where), selection_shape(selection), dtypes, where)


def read_some_checked(
    reader: Reader, selection: Selection, dtypes: tuple[np.dtype[Any], np.dtype[Any]], where: str
) -> Array:
    """Read a selection like `read_checked`, but accept fewer rows if the source has ended."""
    found = read_named(reader, selection, where)
    whole = selection_shape(selection)
    return check_buffer(found, (min(len(found), whole[0]), *whole[1:]), dtypes, where)


def read_named(reader: Reader, selection: Selection, where: str) -> Any:
    """Read a selection; add `where` to the message of an error.

    Raises
    ------
    SourceError
        If the source raises.
    """
    try:
        return reader.read(selection)
    except ChunkIOError:
        raise
    except Exception as error:
        raise SourceError(f"{where}: the source raised {type(error).__name__}: {error}") from error


def check_buffer(found: Any, shape: Shape, dtypes: tuple[np.dtype[Any], np.dtype[Any]], where: str) -> Array:
    """Return `found` as an array if it is valid data of a buffer; otherwise raise like `read_checked`."""
    if isinstance(found, np.ma.MaskedArray) and np.ma.is_masked(found):
        raise SourceError(f"{where}: the source returned masked elements; fill them first, with .filled(value)")
    announced, stored = dtypes
    try:
        data = _as_array(found, shape, announced)
    except (ValueError, TypeError) as error:
        raise SourceError(f"{where}: the source returned a {type(found).__name__}, not an array: {error}") from error
    if data.shape != shape:
        raise SourceError(
            f"{where}: the source returned shape {data.shape} instead of {shape}; return exactly what is selected"
        )
    data = _noted(data, announced)
    if data.dtype not in (announced, stored) and (reason := refusal(data.dtype, stored)) is not None:
        raise CastError(
            f"{where}: the source announced dtype {announced} but returned {data.dtype}, which cannot be stored as "
            f"{stored} ({reason.partition('; ')[0]}); return the dtype that it announces"
        )
    return data


def _as_array(found: Any, shape: Shape, announced: np.dtype[Any]) -> Array:
    if not announced.hasobject:
        return np.asarray(found)
    if shape != () or (isinstance(found, np.ndarray) and (found.dtype, found.shape) == (announced, ())):
        return np.asarray(found, None if isinstance(found, np.ndarray) else announced)
    # The index of an array without axes returns its element, which may be an array.
    single = np.empty((), announced)
    single[()] = found
    return single


def _noted(data: Array, announced: np.dtype[Any]) -> Array:
    """Restore the metadata of h5py in a dtype (an encoding, an enumeration), which scalars and dask lose."""
    is_noted = announced.metadata is not None and not announced.hasobject
    if is_noted and np.can_cast(data.dtype, announced, casting="safe"):
        return data.astype(announced, copy=False).view(announced)
    return data
