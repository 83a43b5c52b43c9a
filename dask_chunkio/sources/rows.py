"""Interpretation of the selection of a DataChunk: the position of its elements in the dataset."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import Array, Shape

__all__ = ["whole_rows"]


def whole_rows(data: Array, selection: Any, row: int, others: Shape | None) -> Array:
    """Return the elements of a DataChunk as rows, if the selection selects whole rows from `row` on.

    Parameters
    ----------
    data : numpy.ndarray
        The elements.
    selection : int, slice, Ellipsis, or tuple of them
        The position of the elements, as in ``dataset[selection] = data``: an int removes its axis.
    row : int
        The number of the next row.
    others : tuple of int or None
        Lengths of the dataset along its other axes; None to use those of `data`.

    Raises
    ------
    ValueError
        If the selection selects something else; the message says what.

    Examples
    --------
    >>> whole_rows(np.zeros((4, 5)), 7, 7, None).shape
    (1, 4, 5)
    >>> whole_rows(np.zeros((2, 4, 5)), np.s_[7:9, ..., 0:5], 7, (4, 5)).shape
    (2, 4, 5)
    """
    first, *rest = _axes(selection, data.ndim, None if others is None else len(others) + 1)
    if isinstance(first, int):
        # h5py accepts a row with or without the axis that the int removes.
        data = data[None] if others is None or data.ndim == len(others) else data
        first = slice(first, first + 1)
    if not data.ndim:
        raise ValueError("a scalar is not a row")
    if others is not None and data.shape[1:] != others:
        raise ValueError(f"a row of this dataset has the shape {others}")
    # A slice may end after the last row of the data, as in numpy.  If more rows follow, their selection says where.
    _require_range(first, 0, row, row + len(data))
    for axis, (part, length) in enumerate(zip(_slices(rest), data.shape[1:], strict=True), 1):
        _require_range(part, axis, 0, length)
    return data


def _slices(parts: list[slice | int]) -> list[slice]:
    found = [part for part in parts if isinstance(part, slice)]
    if len(found) < len(parts):
        axis, part = next((axis, part) for axis, part in enumerate(parts, 1) if isinstance(part, int))
        raise ValueError(f"the selection takes only {part} along axis {axis}")
    return found


def _axes(selection: Any, data_ndim: int, ndim: int | None) -> list[slice | int]:
    """Return the selection along each axis, as slices and ints."""
    parts = [_part(part) for part in (selection if isinstance(selection, tuple) else (selection,))]
    if parts.count(Ellipsis) > 1:
        raise ValueError("the selection has more than one ellipsis")
    at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    before, behind = parts[:at], parts[at + 1 :]
    if ndim is None:
        ndim = max(1, data_ndim + sum(isinstance(part, int) for part in parts))
    missing = ndim - len(before) - len(behind)
    if missing < 0:
        raise ValueError(f"the selection has {len(before) + len(behind)} axes, the dataset {ndim}")
    return [*before, *[slice(None)] * missing, *behind]


def _part(part: Any) -> Any:
    if part is Ellipsis:
        return part
    try:
        if isinstance(part, slice):
            return slice(*(end if end is None else operator.index(end) for end in (part.start, part.stop, part.step)))
        if not isinstance(part, bool | np.bool_):
            return operator.index(part)
    except TypeError:
        pass
    raise ValueError(f"the selection has {part!r}, which is neither an int nor a slice of ints")


def _require_range(part: slice, axis: int, start: int, stop: int) -> None:
    if part.step == 0 or part.indices(stop) != (start, stop, 1):
        words = ":".join("" if end is None else str(end) for end in (part.start, part.stop))
        raise ValueError(f"the selection is {words} along axis {axis}, where the data are {start}:{stop}")
