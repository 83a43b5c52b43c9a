"""From a buffer to chunks: cut out, cast and padded."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_chunkio.errors import CastError
from dask_chunkio.filters.pipeline import ChunkFormat
from dask_chunkio.grid import Array, Selection

__all__ = ["cast", "check_cast", "copied", "cut_chunk", "filled", "needs_cast"]


def check_cast(source: np.dtype[Any], target: np.dtype[Any], dataset: str) -> None:
    """Refuse a cast that numpy's ``same_kind`` rule refuses.

    Raises
    ------
    CastError
        Naming the dataset and both dtypes.
    """
    if not np.can_cast(source, target, casting="same_kind"):
        raise CastError(
            f"{dataset}: values of dtype {source} cannot be stored as {target} under numpy's 'same_kind' rule; "
            f"convert them in the source, or give a dtype= that holds them"
        )


def needs_cast(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Say whether bytes of `source` differ from bytes of `target` (byte order counts)."""
    return source != target


def cast(data: Array, dtype: np.dtype[Any]) -> Array:
    """Return `data` as `dtype`, as HDF5 converts: integers out of range become the nearest.

    Examples
    --------
    >>> cast(np.array([-5, 300, 7]), np.dtype("u1"))
    array([  0, 255,   7], dtype=uint8)
    """
    if not needs_cast(data.dtype, dtype):
        return data
    if data.dtype.kind in "iu" and dtype.kind in "iu":
        data = _clip(data, dtype)
    if dtype.names is not None:
        found = np.zeros(data.shape, dtype)
        found[...] = data
        return found
    with np.errstate(over="ignore"):
        return data.astype(dtype)


def copied(data: Array) -> Array:
    """Return a copy, the bytes between the fields of compound elements included.

    numpy's own copy leaves there what was in memory before: it would get into the file.
    """
    return _as_bytes(data).copy().view(data.dtype)


def _as_bytes(data: Array) -> Array:
    return data if data.dtype.names is None else data.view(f"V{data.dtype.itemsize}")


def _clip(data: Array, dtype: np.dtype[Any]) -> Array:
    source, target = np.iinfo(data.dtype), np.iinfo(dtype)
    low, high = max(source.min, target.min), min(source.max, target.max)
    if (low, high) == (source.min, source.max):
        return data
    return np.clip(data, data.dtype.type(low), data.dtype.type(high))


def cut_chunk(data: Array, start: Selection, chunk: Selection, form: ChunkFormat) -> Array:
    """Cut one chunk out of a buffer.

    Parameters
    ----------
    data : numpy.ndarray
        The buffer's elements, in any memory order and any dtype that can be cast.
    start, chunk : tuple of slice
        What the buffer and the chunk select from the array.
    form : ChunkFormat
        How the chunk is stored.

    Returns
    -------
    numpy.ndarray
        C-contiguous, of the format's shape and dtype; padded with the fill value where the
        array ends inside the chunk.  A view of `data` where that is possible.
    """
    inside = tuple(slice(c.start - b.start, c.stop - b.start) for c, b in zip(chunk, start, strict=True))
    part = _as_bytes(cast(data[inside], form.dtype))
    if part.shape == form.chunk_shape:
        return np.ascontiguousarray(part).view(form.dtype)
    full = filled(form)
    _as_bytes(full)[tuple(slice(0, n) for n in part.shape)] = part
    return full


def filled(form: ChunkFormat) -> Array:
    """Return a chunk of fill values."""
    full = np.zeros(form.chunk_shape, form.dtype)
    if form.fillvalue is not None:
        _as_bytes(full)[...] = _as_bytes(np.frombuffer(form.fillvalue, form.dtype))
    return full
