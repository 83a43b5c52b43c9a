"""The structure that hdmf has made, copied to a file with ``layout=``.

A file gets its pages when it is created, and their size depends on the metadata, which are known when hdmf has made the
structure.  That is small: the large data are filled in later.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import TargetError
from dask_chunkio.repacking.repack import repack
from dask_chunkio.storage.hdf5.file_layout import FileLayout, LayoutName, measure_file, stream_chunk_count

__all__ = ["copy_to_pages"]

# Strings of a dataset that are read to know their length.
_MOST_STRINGS = 1 << 16


def copy_to_pages(path: str, name: LayoutName, streams: Collection[str] = ()) -> None:
    """Replace a closed file with a copy whose metadata, with those of all chunks to come, are in the first page.

    Parameters
    ----------
    path : str
        The file of a draft whose structure is being made: whoever is killed here begins the draft anew.
    name : str
        The name of the layout.
    streams : collection of str
        The datasets whose length is not known yet.

    Raises
    ------
    ArgumentError
        If HDF5 has no page of that size.
    TargetError
        If the copy cannot be written.
    """
    copy = os.path.join(os.path.dirname(path), f"{uuid.uuid4().hex[:12]}.paged")
    pages = {**_layout(path, name, streams).keywords, "fs_strategy": "PAGE"}
    repack(path, copy, progress=False, scheduler="synchronous", **pages)
    try:
        os.replace(copy, path)
    except OSError as error:
        raise TargetError(f"cannot rename {copy} to {path}: {error.strerror or error}") from error


def _layout(path: str, name: LayoutName, streams: Collection[str]) -> FileLayout:
    with h5py.File(path, "r") as file:
        found = measure_file(file, {one: stream_chunk_count(file[one]) for one in streams if file[one].chunks})
        # The elements that hdmf has written itself are not in the page of the metadata.
        return replace(found, structure_nbytes=found.structure_nbytes - _stored(file)).layout(name)


def _stored(file: h5py.File) -> int:
    """Return the bytes of the elements of all datasets, or less."""
    sizes: dict[int, int] = {}

    def visit(_name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and not found.external:
            sizes[h5py.h5o.get_info(found.id).addr] = _stored_of(found)

    file.visititems(visit)
    return sum(sizes.values())


def _stored_of(dataset: h5py.Dataset) -> int:
    is_compact = dataset.id.get_create_plist().get_layout() == h5py.h5d.COMPACT
    text = h5py.check_string_dtype(dataset.dtype)
    # Strings of any length are in heaps, as which hdmf keeps the specifications of the file.
    has_heap = text is not None and text.length is None and dataset.shape is not None and dataset.size < _MOST_STRINGS
    heap = sum(len(one) for one in np.ravel(dataset[()]).tolist()) if has_heap else 0
    return heap + (0 if is_compact else int(dataset.id.get_storage_size()))
