import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio


class Numbers(dcio.GenericDataChunkIterator):
    """Numbers that any host can compute."""

    def __init__(self) -> None:
        super().__init__(buffer_shape=(20, 8), chunk_shape=(10, 8))

    def _get_data(self, selection: tuple[slice, ...]) -> NDArray[np.int32]:
        return np.arange(3200, dtype=np.int32).reshape(400, 8)[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        return (400, 8)

    def _get_dtype(self) -> np.dtype[np.int32]:
        return np.dtype(np.int32)
