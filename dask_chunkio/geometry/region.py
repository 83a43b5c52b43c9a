"""A region of an existing dataset, in coordinates relative to its chunks.

::

    dataset    0 ─────────┬─────────────────────────────┬────── extent
    window                origin (first of a chunk)      stop
    region                    start ────────────────────►stop

A write numbers chunks and buffers within the *window*: from the first chunk that overlaps the region
to the end of the region.  The first chunks may begin before the region, and the last chunks may end after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dask_chunkio.errors import AlignmentError, ArgumentError, ArgumentTypeError
from dask_chunkio.geometry.grid import ChunkGrid, Selection, Shape

__all__ = ["Region", "growing_axis", "parse_region"]


@dataclass(frozen=True, slots=True)
class Region:
    """The part of a dataset that a write writes.

    Parameters
    ----------
    start, stop : tuple of int
        The region, in elements of the dataset.
    before, extent : tuple of int
        Shape of the dataset before the write, and after it.
    chunk_shape : tuple of int
        Shape of its chunks.

    Examples
    --------
    >>> region = Region((3,), (12,), (20,), (20,), (5,))
    >>> region.origin, region.window
    ((0,), (12,))
    >>> region.of_source((slice(0, 5),)), region.of_source((slice(10, 12),))
    ((slice(0, 2, None),), (slice(7, 9, None),))
    >>> region.is_whole((slice(0, 5),)), region.is_whole((slice(5, 10),))
    (False, True)
    """

    start: Shape
    stop: Shape
    before: Shape
    extent: Shape
    chunk_shape: Shape

    @property
    def shape(self) -> Shape:
        """Shape of the region, equal to that of the source."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def origin(self) -> Shape:
        """Position of the first element of the first chunk that overlaps the region."""
        return tuple(start // chunk * chunk for start, chunk in zip(self.start, self.chunk_shape, strict=True))

    @property
    def window(self) -> Shape:
        """Shape of the window, from `origin` to `stop`."""
        if 0 in self.shape:
            return self.shape
        return tuple(stop - origin for stop, origin in zip(self.stop, self.origin, strict=True))

    @property
    def _lead(self) -> Shape:
        return tuple(start - origin for start, origin in zip(self.start, self.origin, strict=True))

    def inside(self, selection: Selection) -> Selection:
        """Clip a selection of the window to the region."""
        return tuple(
            slice(max(axis.start, lead), max(axis.stop, lead)) for axis, lead in zip(selection, self._lead, strict=True)
        )

    def of_source(self, selection: Selection) -> Selection:
        """Convert a selection of the window to a selection of the source."""
        clipped = zip(self.inside(selection), self._lead, strict=True)
        return tuple(slice(axis.start - lead, axis.stop - lead) for axis, lead in clipped)

    def of_dataset(self, selection: Selection) -> Selection:
        """Convert a selection of the window to a selection of the dataset."""
        pairs = zip(selection, self.origin, strict=True)
        return tuple(slice(axis.start + origin, axis.stop + origin) for axis, origin in pairs)

    def is_whole(self, chunk: Selection) -> bool:
        """Return whether the region contains all elements of the dataset in a chunk of the window."""
        rows = zip(chunk, self._lead, self.origin, self.extent, self.chunk_shape, strict=True)
        return all(
            axis.start >= lead and axis.stop == min(axis.start + length, extent - origin)
            for axis, lead, origin, extent, length in rows
        )

    @property
    def whole_chunks(self) -> int:
        """Number of chunks that the region covers completely, so that their old contents need not be read."""
        counts = []
        for axis, length in enumerate(self.chunk_shape):
            grid = ChunkGrid(self.window[axis : axis + 1], (length,))
            start, stop, before, extent = ((at[axis],) for at in (self.start, self.stop, self.before, self.extent))
            one = Region(start, stop, before, extent, (length,))
            ends = {*range(min(2, len(grid))), *range(max(0, len(grid) - 2), len(grid))}
            counts.append(len(grid) - sum(not one.is_whole(grid[number]) for number in ends))
        return math.prod(counts)

    def __str__(self) -> str:
        ranges = ", ".join(f"{start}:{stop}" for start, stop in zip(self.start, self.stop, strict=True))
        return f"[{ranges}] of {self.extent}"


def parse_region(
    name: str, region: Any, append: Any, source: Shape, dataset: tuple[Shape, tuple[int | None, ...], Shape]
) -> Region:
    """Convert the arguments ``region`` and ``append`` of a user to a region.

    Parameters
    ----------
    name : str
        Name of the dataset, for messages.
    region : slice, Ellipsis or tuple of these
        The index in ``dataset[region] = source``, without steps.
    append : bool or int
        Instead of `region`: True to write after the end along the only axis that can grow, or the axis.
    source : tuple of int
        Shape of the source.
    dataset : tuple
        Shape, maximum shape (None for an unlimited axis) and chunk shape of the dataset.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If there is no such region; the message names the axis.
    AlignmentError
        If the shape of the source differs from that of the region; the message names the axis.
    """
    shape, _, chunk_shape = dataset
    if len(source) != len(shape):
        raise AlignmentError(f"{name} has {len(shape)} axes, the source {len(source)}; reshape the source")
    if append is not None and append is not False:
        return _behind(name, append, source, dataset)
    ranges = [_range(name, axis, one, shape[axis]) for axis, one in enumerate(_each_axis(name, region, len(shape)))]
    for axis, ((start, stop), length) in enumerate(zip(ranges, source, strict=True)):
        if stop - start != length:
            raise AlignmentError(
                f"{name}: region {start}:{stop} along axis {axis} has {stop - start} elements, the source {length}"
            )
    starts, stops = tuple(start for start, _ in ranges), tuple(stop for _, stop in ranges)
    return Region(starts, stops, shape, shape, chunk_shape)


def _each_axis(name: str, region: Any, ndim: int) -> tuple[Any, ...]:
    parts = region if isinstance(region, tuple) else (region,)
    if sum(part is Ellipsis for part in parts) > 1:
        raise ArgumentError(f"{name}: region={region!r} has more than one ellipsis")
    # Arrays compare element by element: `in` and `index` would fail on one.
    if not any(part is Ellipsis for part in parts):
        parts = (*parts, Ellipsis)
    at = next(number for number, part in enumerate(parts) if part is Ellipsis)
    missing = ndim - len(parts) + 1
    if missing < 0:
        raise ArgumentError(f"{name}: region={region!r} has more axes than the dataset, which has {ndim}")
    return (*parts[:at], *[slice(None)] * missing, *parts[at + 1 :])


def _range(name: str, axis: int, part: Any, length: int) -> tuple[int, int]:
    if not isinstance(part, slice):
        raise ArgumentTypeError(f"{name}: region is {part!r} along axis {axis}; give a slice, such as 3:4 for 3")
    try:
        start, stop, step = part.indices(length)
    except TypeError as error:
        raise ArgumentTypeError(f"{name}: region is {part!r} along axis {axis}; its ends are whole numbers") from error
    if step != 1:
        raise ArgumentError(f"{name}: region has a step of {step} along axis {axis}; write a region without steps")
    if part.stop is not None and part.stop > length:
        raise ArgumentError(
            f"{name}: region ends at {part.stop} along axis {axis}, the dataset at {length}; "
            f"append=True writes after its end"
        )
    return start, max(start, stop)


def _behind(name: str, append: Any, source: Shape, dataset: tuple[Shape, tuple[int | None, ...], Shape]) -> Region:
    shape, maxshape, chunk_shape = dataset
    axis = growing_axis(name, append, maxshape, shape)
    for other, (length, wanted) in enumerate(zip(source, shape, strict=True)):
        if other != axis and length != wanted:
            raise AlignmentError(f"{name} is {wanted} along axis {other}, the source {length}; only axis {axis} grows")
    extent = tuple(length + source[axis] * (at == axis) for at, length in enumerate(shape))
    most = maxshape[axis]
    if most is not None and extent[axis] > most:
        raise ArgumentError(
            f"{name} can grow to {most} along axis {axis}, and would be {extent[axis]} long; append less, or copy it "
            f"to a dataset with a larger maxshape and append to that"
        )
    start = tuple(length * (at == axis) for at, length in enumerate(shape))
    return Region(start, extent, shape, extent, chunk_shape)


def growing_axis(name: str, append: Any, maxshape: tuple[int | None, ...], shape: Shape) -> int:
    """Return the axis that ``append`` names in a dataset of that shape.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If there is no such axis, or ``append=True`` is ambiguous.
    """
    if append is not True:
        if not isinstance(append, int) or not -len(maxshape) <= append < len(maxshape):
            raise ArgumentTypeError(f"{name}: append={append!r} is neither True nor one of {len(maxshape)} axes")
        return append % len(maxshape)
    axes = [axis for axis, length in enumerate(maxshape) if length is None]
    if len(axes) != 1:
        raise ArgumentError(f"{name}: append=True, but {_unclear_axis(axes, maxshape, shape)}")
    return axes[0]


def _unclear_axis(endless: list[int], maxshape: tuple[int | None, ...], shape: Shape) -> str:
    """Return the reason why ``append=True`` does not determine an axis, and what to give instead, for a message."""
    if endless:
        return f"axes {endless} can all grow without end; say which is meant, as append={endless[0]}"
    ends = [axis for axis, (most, length) in enumerate(zip(maxshape, shape, strict=True)) if (most or 0) > length]
    if ends:
        return f"no axis can grow without end; say which of axes {ends} is meant, as append={ends[0]}"
    return (
        "no axis can grow. Only a dataset that was made with maxshape=(None, ...) can: copy this one to such a "
        "dataset, or write into its existing part with region="
    )
