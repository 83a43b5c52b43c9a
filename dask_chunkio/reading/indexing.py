"""numpy's indexing, split into the block that has to be read and an index of that block, which numpy itself applies."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import Array, Shape

__all__ = ["Wanted", "read_indexed", "read_outer", "runs"]

# Along each axis, the indices that are wanted: a slice without a step, or ascending integers.
Wanted = tuple[slice | Array, ...]
ReadBlock = Callable[[Wanted], Array]

# A block that holds so many times as many elements as are wanted is read in groups of points.
_MOST_WASTE = 4


@dataclass(frozen=True, slots=True)
class _Item:
    """One item of an index, and the axis of the array that it is applied to; None for a new axis and an ellipsis."""

    value: Any
    axis: int | None

    @property
    def is_array(self) -> bool:
        return isinstance(self.value, np.ndarray)


def read_indexed(index: Any, shape: Shape, chunks: Shape, read: ReadBlock) -> Any:
    """Return what numpy returns for an array of this shape and an index.

    Parameters
    ----------
    index : object
        Integers, slices, an ellipsis, new axes, and arrays of integers or booleans, as numpy takes them.
    shape, chunks : tuple of int
        Shape of the array and of its chunks.
    read : callable
        Returns the elements that are wanted along each axis.

    Raises
    ------
    IndexError
        If numpy would raise it.
    """
    items = _items(index, shape)
    arrays = [item for item in items if item.is_array and item.value.ndim]
    if len(arrays) > 1 and _is_wasteful([item.value for item in arrays]):
        return _read_points(items, shape, chunks, read)
    wanted, inside = _split(items, shape)
    return read(wanted)[inside]


def read_outer(index: Any, shape: Shape, read: ReadBlock) -> Any:
    """Return the elements at all combinations of the indices along each axis, as zarr's and xarray's outer indexing.

    Parameters
    ----------
    index : tuple
        For each axis an integer, a slice or a one-dimensional array of integers.
    shape, read : tuple of int, callable
        As `read_indexed` takes them.
    """
    wanted, inside = _split(_items(index, shape), shape)
    found: Any = read(wanted)
    # From the last axis on: an integer removes its axis.
    for axis in reversed(range(len(inside))):
        found = found[(slice(None),) * axis + (inside[axis],)]
    return found


def _items(index: Any, shape: Shape) -> list[_Item]:
    """Return the items of an index, one for each axis of the array; masks become integers.

    An ellipsis stays, although nothing is left for it: numpy returns an array with it, and a number without.
    """
    given = [_as_item(item) for item in (index if isinstance(index, tuple) else (index,))]
    used = sum(map(_axes_of, given))
    if used > len(shape):
        raise IndexError(f"too many indices: the array has {len(shape)} axes, and {used} were indexed")
    ellipses = sum(item is Ellipsis for item in given)
    if ellipses > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    at = next((number for number, item in enumerate(given, 1) if item is Ellipsis), len(given))
    given[at:at] = [slice(None)] * (len(shape) - used)
    items: list[_Item] = []
    axis = 0
    for item in given:
        if item is None or item is Ellipsis:
            items.append(_Item(item, None))
        elif isinstance(item, np.ndarray) and item.dtype == bool:
            if item.shape != shape[axis : axis + item.ndim]:
                raise IndexError(f"a boolean index of the shape {item.shape} does not fit an array of {shape}")
            items += [_Item(found, axis + number) for number, found in enumerate(item.nonzero())]
            axis += item.ndim
        else:
            items.append(_Item(_within(item, shape[axis], axis), axis))
            axis += 1
    return items


def _as_item(item: Any) -> Any:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, (bool, np.bool_)) or (isinstance(item, np.ndarray) and item.dtype == bool and not item.ndim):
        raise IndexError("a single boolean is no index here; use numpy's indexing on the array that [...] returns")
    if isinstance(item, (list, tuple, np.ndarray)) or hasattr(item, "__array__"):
        found = np.asarray(item)
        if not found.size and found.dtype.kind == "f" and not isinstance(item, np.ndarray):
            found = found.astype(np.intp)
        if found.dtype.kind not in "iub":
            raise IndexError("arrays used as indices must be of integer (or boolean) type")
        return found if found.dtype == bool else found.astype(np.intp)
    try:
        return np.asarray(operator.index(item), np.intp)
    except TypeError:
        raise IndexError(
            f"{item!r} is no index: only integers, slices, an ellipsis, None and arrays of integers or booleans are"
        ) from None


def _axes_of(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    return item.ndim if isinstance(item, np.ndarray) and item.dtype == bool else 1


def _within(item: Any, length: int, axis: int) -> Any:
    if isinstance(item, slice):
        return item
    if item.size and not (-length <= item.min() and item.max() < length):
        worst = item.min() if item.min() < -length else item.max()
        raise IndexError(f"index {worst} is out of bounds for axis {axis} with size {length}")
    return np.where(item < 0, item + length, item)


def _is_wasteful(arrays: Sequence[Array]) -> bool:
    try:
        points = np.broadcast(*arrays).size
    except ValueError:
        shapes = " ".join(str(array.shape) for array in arrays)
        raise IndexError(f"indexing arrays could not be broadcast together with shapes {shapes}") from None
    return math.prod(len(np.unique(array)) for array in arrays) > _MOST_WASTE * max(points, 1)


def _split(items: Sequence[_Item], shape: Shape) -> tuple[Wanted, tuple[Any, ...]]:
    """Return what is wanted along each axis, and the index of the block that holds just that."""
    wanted: list[slice | Array] = []
    inside: list[Any] = []
    for item in items:
        if item.axis is None:
            inside.append(item.value)
        elif isinstance(item.value, slice):
            along, rest = _split_slice(item.value, shape[item.axis])
            wanted.append(along)
            inside.append(rest)
        elif not item.value.ndim:
            at = int(item.value)
            wanted.append(slice(at, at + 1))
            inside.append(0)
        else:
            found, numbers = np.unique(item.value, return_inverse=True)
            wanted.append(found)
            inside.append(numbers.reshape(item.value.shape))
    return tuple(wanted), tuple(inside)


def _split_slice(item: slice, length: int) -> tuple[slice | Array, slice]:
    steps = range(length)[item]
    if not steps:
        return slice(0, 0), slice(None)
    if steps.step < 0:
        steps, order = steps[::-1], slice(None, None, -1)
    else:
        order = slice(None)
    return slice(steps[0], steps[-1] + 1) if steps.step == 1 else np.arange(steps[0], steps[-1] + 1, steps.step), order


def _read_points(items: Sequence[_Item], shape: Shape, chunks: Shape, read: ReadBlock) -> Any:
    """Read scattered points: those of a chunk at a time."""
    arrays = [number for number, item in enumerate(items) if item.is_array]
    points = np.broadcast_arrays(*(items[number].value for number in arrays))
    flat = [one.reshape(-1) for one in points]
    lengths = [chunks[axis] for number in arrays if (axis := items[number].axis) is not None]
    cells = np.stack([one // length for one, length in zip(flat, lengths, strict=True)])
    _, groups = np.unique(cells, axis=1, return_inverse=True)
    position = _position(items, arrays)
    found: Array | None = None
    for members in _members(groups.reshape(-1)):
        chosen = list(items)
        for number, one in zip(arrays, flat, strict=True):
            chosen[number] = _Item(one[members], items[number].axis)
        wanted, inside = _split(chosen, shape)
        part = read(wanted)[inside]
        if found is None:
            found = np.empty((*part.shape[:position], len(groups.reshape(-1)), *part.shape[position + 1 :]), part.dtype)
        found[(slice(None),) * position + (members,)] = part
    if found is None:
        raise ValueError("no points")
    return found.reshape((*found.shape[:position], *points[0].shape, *found.shape[position + 1 :]))


def _members(groups: Array) -> Iterator[Array]:
    """Yield the positions of the points of each group."""
    order = np.argsort(groups, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def _position(items: Sequence[_Item], arrays: Sequence[int]) -> int:
    """Return which axis of the result the arrays make: the first, unless they stand side by side."""
    is_apart = list(arrays) != list(range(arrays[0], arrays[-1] + 1))
    return 0 if is_apart else sum(item.value is not Ellipsis for item in items[: arrays[0]])


def runs(wanted: slice | Array, chunk: int) -> Iterator[tuple[slice, slice | Array]]:
    """Yield slices that hold all wanted indices of an axis, without chunks that hold none, and the indices in each.

    Examples
    --------
    >>> list(runs(np.array([1, 2, 40]), 10))
    [(slice(1, 3, None), array([0, 1])), (slice(40, 41, None), array([0]))]
    """
    if isinstance(wanted, slice):
        yield wanted, slice(None)
        return
    for run in np.split(wanted, np.flatnonzero(np.diff(wanted // chunk) > 1) + 1):
        if len(run):
            yield slice(int(run[0]), int(run[-1]) + 1), run - run[0]
