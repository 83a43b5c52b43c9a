"""The lock of a source that is read one buffer at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import open_side_file
from dask_chunkio.storage.filesystem.locks import locked
from dask_chunkio.storage.target import Target

__all__ = ["reading_alone"]


@contextlib.contextmanager
def reading_alone(target: Target, dataset: int) -> Iterator[None]:
    """Keep other readers of the source of a dataset waiting, in all threads and processes that access the folder.

    Parameters
    ----------
    target : Target
        The write.
    dataset : int
        Number of the dataset in the write.
    """
    path = os.path.join(target.folder, f"read-{dataset}")
    descriptor = open_side_file(path)
    try:
        with locked(descriptor, path):
            yield
    finally:
        close_descriptor(descriptor)
