"""Chunks of zarr arrays as they are stored, read from any store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dask_chunkio.errors import IntegrityError, SourceError
from dask_chunkio.filters.chunk_format import ChunkFormat, Payload
from dask_chunkio.filters.chunking import fill_payload
from dask_chunkio.geometry.grid import ChunkGrid
from dask_chunkio.sources.zarr_codecs import ZarrForm, form_of_metadata, is_readable_payload

__all__ = ["zarr_form", "zarr_payloads"]


def zarr_form(array: Any) -> ZarrForm | None:
    """Return how HDF5 would store the chunks of a zarr array; None if it cannot, or this is not an array of zarr 3.

    Parameters
    ----------
    array : zarr.Array
        The array, of format 2 or 3.
    """
    metadata: Any = getattr(array, "metadata", None)
    if not hasattr(metadata, "to_dict") or not hasattr(array, "store_path"):
        return None
    try:
        return form_of_metadata(metadata.to_dict(), np.dtype(array.dtype))
    except (KeyError, TypeError, ValueError, AttributeError):
        # Of an extension of zarr: its chunks are left to zarr.
        return None


def zarr_payloads(
    array: Any, stored: ZarrForm, form: ChunkFormat, chunks: Sequence[int], *, can_grow: bool, is_sparse: bool = False
) -> tuple[Payload, ...] | None:
    """Return chunks of a zarr array as they are stored, if that is how a format stores them; otherwise None.

    Parameters
    ----------
    array : zarr.Array
        The array.
    stored : ZarrForm
        How it is stored.
    form : ChunkFormat
        The format in which the chunks are wanted.
    chunks : sequence of int
        Their numbers in C order of the grid.
    can_grow : bool
        Whether the padding of chunks at the edges may become visible; an array that has shrunk has old elements there.
    is_sparse : bool
        Whether chunks that are not stored may be returned as `Payload.is_fill`.

    Raises
    ------
    IntegrityError
        If a chunk cannot be what its codecs make; the message names it.
    SourceError
        If the store raises.
    """
    if not stored.is_stored_as(form):
        return None
    grid = ChunkGrid(tuple(array.shape), stored.chunk_shape)
    origins = grid.origins(list(chunks))
    if can_grow and any(
        at + length > most
        for origin in origins
        for at, length, most in zip(origin, stored.chunk_shape, grid.shape, strict=True)
    ):
        return None
    found, fill = [], fill_payload(form) if is_sparse and chunks and _has_fill_of(array, form) else None
    for origin, data in zip(origins, _stored(array, stored, origins), strict=True):
        if data is None and fill is not None:
            found.append(fill)
        elif data is None or not _checked(array, stored, origin, data):
            return None
        else:
            found.append(Payload(data))
    return tuple(found)


def _has_fill_of(array: Any, form: ChunkFormat) -> bool:
    """Return whether chunks that are not stored read the same in both."""
    value, wanted = array.metadata.fill_value, form.fillvalue or bytes(form.dtype.itemsize)
    if value is None:
        # Only format 2 has none; zarr reads zeros.
        return not any(wanted)
    try:
        return np.asarray(value).astype(form.dtype).tobytes() == wanted
    except (TypeError, ValueError, OverflowError):
        return False


def _checked(array: Any, stored: ZarrForm, origin: tuple[int, ...], data: memoryview) -> bool:
    try:
        return is_readable_payload(stored, data)
    except IntegrityError as error:
        raise IntegrityError(f"{array.store_path}: the chunk at {origin} is damaged: {error}") from error


def _stored(array: Any, stored: ZarrForm, origins: Iterable[tuple[int, ...]]) -> list[memoryview | None]:
    """Read chunks, but not more of each than can be right, and one byte."""
    cells = [tuple(at // n for at, n in zip(origin, stored.chunk_shape, strict=True)) for origin in origins]
    if not cells:
        return []
    # The array is zarr's: importing these costs nothing.
    from zarr.abc.store import RangeByteRequest
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    places = [array.store_path / array.metadata.encode_chunk_key(cell) for cell in cells]
    most, prototype = RangeByteRequest(0, stored.most_nbytes + 1), default_buffer_prototype()

    async def read_all() -> list[Any]:
        return await asyncio.gather(*(one.get(prototype=prototype, byte_range=most) for one in places))

    try:
        found = sync(read_all())
    except Exception as error:
        raise SourceError(f"{array.store_path}: cannot read its chunks: {type(error).__name__}: {error}") from error
    return [None if one is None else memoryview(one.to_bytes()) for one in found]
