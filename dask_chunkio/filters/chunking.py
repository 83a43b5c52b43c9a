"""Extraction of chunks from a buffer, with conversion and padding."""

from __future__ import annotations

import numpy as np

from dask_chunkio.filters.chunk_format import ChunkFormat, Payload
from dask_chunkio.filters.compatibility import is_partial
from dask_chunkio.filters.conversion import assign, convert
from dask_chunkio.filters.padding import as_bytes
from dask_chunkio.geometry.grid import Array, Selection

__all__ = ["copied", "cut_chunk", "fill_payload", "filled", "holds_fill"]


def copied(data: Array) -> Array:
    """Return a copy that includes the bytes between the fields of compound elements.

    numpy's own copy leaves these bytes uninitialized, so that old contents of the memory would get into the file.
    """
    return as_bytes(data).copy().view(data.dtype)


def cut_chunk(data: Array, start: Selection, chunk: Selection, form: ChunkFormat) -> Array:
    """Extract one chunk from a buffer.

    Parameters
    ----------
    data : numpy.ndarray
        The buffer's elements, in any memory order and any dtype that can be converted.
    start, chunk : tuple of slice
        The selections of the buffer and of the chunk in the array.
    form : ChunkFormat
        How the chunk is stored.

    Returns
    -------
    numpy.ndarray
        The chunk, C-contiguous, with the shape and dtype of the format.  If the array ends inside
        the chunk, the chunk is padded with the fill value.  The result is a view of `data` if possible.
    """
    inside = tuple(slice(c.start - b.start, c.stop - b.start) for c, b in zip(chunk, start, strict=True))
    part = data[inside]
    if part.shape == form.chunk_shape and not is_partial(data.dtype, form.dtype):
        return np.ascontiguousarray(as_bytes(convert(part, form.dtype))).view(form.dtype)
    full = filled(form)
    assign(full[tuple(slice(0, n) for n in part.shape)], part)
    return full


def filled(form: ChunkFormat) -> Array:
    """Return a chunk of fill values, whose padding bytes are zero."""
    full = np.zeros(form.chunk_shape, form.dtype)
    if form.fillvalue is not None:
        as_bytes(full)[...] = as_bytes(np.frombuffer(form.fillvalue, form.dtype))
    return full


def fill_payload(form: ChunkFormat) -> Payload:
    """Return the payload of a chunk of fill values.

    It skips every filter: the mask says that none was applied.
    """
    return Payload(filled(form).tobytes(), (1 << len(form.filters)) - 1, is_fill=True)


def holds_fill(chunk: Array, fill: Payload) -> bool:
    """Return whether a chunk that `cut_chunk` made has the elements of the payload that `fill_payload` made."""
    return bool(chunk.reshape(-1).view(np.uint8).data == fill.data)
