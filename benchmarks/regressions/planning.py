"""What happens before a write begins."""

from __future__ import annotations

from typing import Any

import numpy as np

import dask_chunkio

from .folder import InFolder
from .generated import ELEMENTS, Zeros

__all__ = ["Plan"]

_CHUNKS = 100_000


class Plan(InFolder):
    """A dataset of 100,000 chunks."""

    repeat = (3, 20, 1.0)

    def setup(self) -> None:
        """Make the sources."""
        super().setup()
        self.source = Zeros(_CHUNKS)
        # Touched nowhere: its pages are those of the system, all zero.
        self.array = np.zeros((_CHUNKS, ELEMENTS), np.int16)
        self.buffers = Zeros(_CHUNKS, buffer_shape=(10 * ELEMENTS,))

    def time_plan_of_an_iterator(self) -> Any:
        """Plan from an iterator."""
        return dask_chunkio.plan(self.path, "/x", self.source, scheduler="threads")

    def time_plan_of_an_array(self) -> Any:
        """Plan from an array, of which a few chunks are encoded to estimate the size of the file."""
        return dask_chunkio.plan(
            self.path, "/x", self.array, chunks=(1, ELEMENTS), compression="gzip", scheduler="threads"
        )

    def time_graph_of_10_000_buffers(self) -> Any:
        """Make the graph, and do not compute it."""
        return dask_chunkio.to_hdf5(self.path, "/x", self.buffers, scheduler="threads", progress=False, compute=False)
