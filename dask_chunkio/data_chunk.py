"""What an iterator yields: values, and the place in the array where they belong."""

from __future__ import annotations

import copy
import operator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dask_chunkio.errors import ArgumentTypeError
from dask_chunkio.geometry.grid import Shape

__all__ = ["DataChunk"]


class DataChunk:
    """A piece of an array, and where in the array it belongs.

    Attributes that a DataChunk does not have are those of its data, so that it can stand
    where an array is read.

    Parameters
    ----------
    data : numpy.ndarray, optional
        The values.
    selection : tuple of slice, slice or int, optional
        Where they belong.

    Raises
    ------
    ArgumentTypeError
        If `data` is no numpy array.

    Examples
    --------
    >>> chunk = DataChunk(np.zeros((2, 3), "int16"), (slice(4, 6), slice(0, 3)))
    >>> len(chunk), chunk.dtype, chunk.shape, chunk.get_min_bounds()
    (2, dtype('int16'), (2, 3), (6, 3))
    """

    def __init__(self, data: npt.NDArray[Any] | None = None, selection: Any = None) -> None:
        if data is not None and not isinstance(data, np.ndarray):
            raise ArgumentTypeError(
                f"data is of type {type(data).__name__}; a DataChunk holds a numpy.ndarray; use numpy.asarray"
            )
        self.data: Any = data
        self.selection = selection

    def __len__(self) -> int:
        return 0 if self.data is None else len(self.data)

    def __repr__(self) -> str:
        return f"DataChunk(data={self.data!r}, selection={self.selection!r})"

    def __getattr__(self, name: str) -> Any:
        # A copy or an unpickled object is asked for attributes before it has any: looking
        # for `data` through `self.data` there would never end.
        if name in ("data", "selection"):
            raise AttributeError(name)
        return getattr(self.data, name)

    # All three are looked up on the instance too, where the data's own would be found.
    def __copy__(self) -> Self:
        return type(self)(self.data, self.selection)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(copy.deepcopy(self.data, memo), copy.deepcopy(self.selection, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data, self.selection)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the values."""
        dtype: np.dtype[Any] = self.data.dtype
        return dtype

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """Return a new DataChunk at the same selection, with the data cast to `dtype`."""
        return type(self)(self.data.astype(dtype), self.selection)

    def get_min_bounds(self) -> Shape:
        """Return the smallest shape of a dataset that holds the selection.

        Raises
        ------
        ArgumentTypeError
            If the selection is no int, slice, or tuple of them.
        """
        axes = self.selection if isinstance(self.selection, tuple) else (self.selection,)
        return tuple(self._min_bound(axis) for axis in axes)

    def _min_bound(self, axis: Any) -> int:
        if isinstance(axis, slice):
            return axis.stop or 0
        try:
            return operator.index(axis) + 1
        except TypeError:
            raise ArgumentTypeError(
                f"selection {self.selection!r} has no bounds; use an int, a slice, or a tuple of ints and slices"
            ) from None
