"""A write that was cut off: what its journal says, and to go on with it."""

from __future__ import annotations

import contextlib
import os

import dask_chunkio

from .folder import InFolder
from .generated import ELEMENTS, Zeros

__all__ = ["Resume"]

_CHUNKS = 3200


class Resume(InFolder):
    """3200 chunks in 200 buffers, of which the last could not be read."""

    # Each sample needs the folder as it was: asv calls `setup` before each.
    number = 1
    repeat = (3, 10, 1.0)
    warmup_time = 0

    def setup(self) -> None:
        """Write until the source fails."""
        super().setup()
        source = Zeros(_CHUNKS, fails_at=_CHUNKS - 1, buffer_shape=(16 * ELEMENTS,))
        with contextlib.suppress(Exception):
            dask_chunkio.to_hdf5(self.path, "/x", source, scheduler="synchronous", progress=False)
        if not os.path.isdir(self.path + ".writing"):
            raise RuntimeError("the write did not end where its source failed")

    def time_status(self) -> None:
        """Replay the journal of the write."""
        dask_chunkio.status(self.path)

    def time_resume(self) -> None:
        """Replay the journal, write the last buffer and finish the file."""
        source = Zeros(_CHUNKS, buffer_shape=(16 * ELEMENTS,))
        dask_chunkio.to_hdf5(self.path, "/x", source, scheduler="synchronous", progress=False, resume=True)
