"""The seam between a user's array and the writer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

from dask_chunkio.errors import ArgumentError, CastError, ChunkIOError, SourceError
from dask_chunkio.filters.compatibility import refusal
from dask_chunkio.geometry.grid import Array, Selection, Shape, selection_shape

__all__ = ["ReadMode", "Reader", "Shapes", "Source", "check_read_mode", "read_checked", "read_named"]
__all__ += ["check_buffer", "read_some_checked"]

ReadMode = Literal["concurrent", "serial", "ordered"]


class Reader(Protocol):
    """Reads selections; travels to where a buffer is read."""

    def read(self, selection: Selection) -> Array:
        """Return the elements of `selection`, in memory."""
        ...


@dataclass(frozen=True, slots=True)
class Shapes:
    """What a source says of chunks and buffers.

    Parameters
    ----------
    chunk : tuple of int or None
        The chunk shape that it recommends.
    buffer : tuple of int or None
        The buffer shape that it recommends.
    is_fixed : bool
        Whether its user chose that buffer shape, so that it is kept.
    block : tuple of int or None
        Shape of the blocks in which it is stored or computed.
    """

    chunk: Shape | None = None
    buffer: Shape | None = None
    is_fixed: bool = False
    block: Shape | None = None


class Source(Reader, Protocol):
    """Something with a shape and a dtype that can be read buffer by buffer."""

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
        """How it may safely be read if the user does not say otherwise.

        ``"concurrent"``: any selections, from several threads at once.  ``"serial"``: any
        selections, one at a time.  ``"ordered"``: every buffer once, in C order, in one place.
        """
        ...

    def part(self, selection: Selection) -> Reader | None:
        """Return what to send to the place where `selection` is read, if it is less than all."""
        ...


def check_read_mode(mode: str | None, dataset: str) -> None:
    """Refuse a `read=` that is none of the three.

    Raises
    ------
    ArgumentError
        Naming the dataset and the value.
    """
    if mode is not None and mode not in get_args(ReadMode):
        raise ArgumentError(f"{dataset}: read={mode!r} is not one of {', '.join(map(repr, get_args(ReadMode)))}")


def read_checked(
    reader: Reader, selection: Selection, dtypes: tuple[np.dtype[Any], np.dtype[Any]], where: str
) -> Array:
    """Read a selection and check what comes back.

    Parameters
    ----------
    reader : Reader
        What to read from.
    selection : tuple of slice
        What to read.
    dtypes : tuple of numpy.dtype
        What the source had announced, and what is stored.
    where : str
        Dataset, buffer and selection, for messages.

    Raises
    ------
    SourceError
        If the source raises, or returns another shape, or masked or non-numeric elements.
    CastError
        If it returns a dtype whose values cannot be stored.
    """
    return check_buffer(read_named(reader, selection, where), selection_shape(selection), dtypes, where)


def read_some_checked(
    reader: Reader, selection: Selection, dtypes: tuple[np.dtype[Any], np.dtype[Any]], where: str
) -> Array:
    """Read as `read_checked` does what a source has of a selection, which may be fewer rows of it."""
    found = read_named(reader, selection, where)
    whole = selection_shape(selection)
    return check_buffer(found, (min(len(found), whole[0]), *whole[1:]), dtypes, where)


def read_named(reader: Reader, selection: Selection, where: str) -> Any:
    """Read a selection; have an error say where.

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
    """Return `found` as an array, if it is what a buffer has to be; otherwise raise as `read_checked`."""
    if isinstance(found, np.ma.MaskedArray) and np.ma.is_masked(found):
        raise SourceError(f"{where}: the source returned masked elements; fill them first, with .filled(value)")
    announced, stored = dtypes
    try:
        data = _as_array(found, shape, announced)
    except (ValueError, TypeError) as error:
        raise SourceError(f"{where}: the source returned a {type(found).__name__} that is no array: {error}") from error
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
    # Indexing an array without axes takes the element out of it, which may be an array.
    single = np.empty((), announced)
    single[()] = found
    return single


def _noted(data: Array, announced: np.dtype[Any]) -> Array:
    """Return elements with what h5py notes in a dtype (an encoding, an enumeration): scalars and dask lose it."""
    is_noted = announced.metadata is not None and not announced.hasobject
    if is_noted and np.can_cast(data.dtype, announced, casting="safe"):
        return data.astype(announced, copy=False).view(announced)
    return data
