"""An array in memory, as hdmf reads it; apart, since hdmf need not be installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hdmf.data_utils import GenericDataChunkIterator

__all__ = ["InMemory"]

Array = np.ndarray[Any, np.dtype[Any]]


class InMemory(GenericDataChunkIterator):  # type: ignore[misc]
    """Hands out selections of an array."""

    def __init__(self, array: Array, **keywords: Any) -> None:
        self._array = array
        super().__init__(**keywords)

    def _get_data(self, selection: tuple[slice, ...]) -> Array:
        return self._array[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._array.shape
        return shape

    def _get_dtype(self) -> np.dtype[Any]:
        return self._array.dtype
