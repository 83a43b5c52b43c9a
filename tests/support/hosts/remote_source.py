from typing import Any

import numpy as np

import dask_chunkio as dcio


class Numbers(dcio.GenericDataChunkIterator):
    """Numbers that any host can compute."""

    def __init__(self) -> None:
        super().__init__(buffer_shape=(20, 8), chunk_shape=(10, 8))

    def _get_data(self, selection: Any) -> Any:
        return np.arange(3200, dtype="i4").reshape(400, 8)[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        return (400, 8)

    def _get_dtype(self) -> Any:
        return np.dtype("i4")
