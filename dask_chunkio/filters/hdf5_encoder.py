"""An encoder for any filter of HDF5, which HDF5 itself runs on a file in memory.

The payloads are exact for every filter.  A process encodes one chunk at a time, because HDF5 has one lock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import FilterError
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.encoder import direct_steps
from dask_chunkio.filters.plugin import PLUGIN_NAMES, require_filter
from dask_chunkio.geometry.grid import Array

__all__ = ["Hdf5Encoder", "read_filters", "require_filter", "runs_outside_hdf5"]

_numbers = itertools.count()
# The keywords of a dataset that determine how its chunks are stored.
_OF_CHUNKS = frozenset(
    {"allow_unknown_filter", "compression", "compression_opts", "fillvalue", "fletcher32", "scaleoffset", "shuffle"}
)


def read_filters(plist: h5py.h5p.PropDCID) -> tuple[Filter, ...]:
    """Read the pipeline from a dataset's creation property list."""
    found = (plist.get_filter(position) for position in range(plist.get_nfilters()))
    return tuple(Filter(code, flags, tuple(options), _name(code, name)) for code, flags, options, name in found)


def runs_outside_hdf5(plist: h5py.h5p.PropDCID) -> bool:
    """Return whether chunks with the pipeline of a dataset are encoded in parallel, without HDF5.

    Raises
    ------
    FilterError
        If a filter is missing on this machine.
    """
    return direct_steps(read_filters(plist)) is not None


def _name(code: int, name: bytes | str) -> str:
    # The name that a plugin gives itself can be a whole sentence.
    given = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    return PLUGIN_NAMES.get(code, given)


class Hdf5Encoder:
    """An encoder that writes each chunk to a dataset of one chunk in memory.

    Parameters
    ----------
    form : ChunkFormat
        How chunks are stored.
    options : mapping
        The keywords with which the dataset was created; empty for an existing dataset, whose
        recorded pipeline is used.  That pipeline is not always enough: some plugins add
        options each time a dataset is created with them.

    Raises
    ------
    FilterError
        If a filter is missing in this process, or would get other options than in the dataset.
    """

    def __init__(self, form: ChunkFormat, options: Mapping[str, Any]) -> None:
        self._form = form
        self._options = {name: value for name, value in options.items() if name in _OF_CHUNKS}
        for step in form.filters:
            require_filter(step.code)
        made = self._made(self._by_options) if self._options else ()
        self._dataset = self._by_options
        if made != form.filters:
            self._dataset = self._by_record
            made = self._made(self._by_record)
        if made != form.filters:
            raise FilterError(
                f"the pipeline {[str(f) for f in form.filters]} of the dataset becomes {[str(f) for f in made]} "
                f"for a single chunk; this filter cannot be run chunk by chunk"
            )

    @property
    def name(self) -> str:
        """The names of the filters, with the remark that HDF5 runs them."""
        names = (PLUGIN_NAMES.get(step.code, step.name) for step in self._form.filters)
        return " > ".join(names) + " by HDF5, one at a time"

    @property
    def is_parallel(self) -> bool:
        """Whether several threads of a process encode chunks at once: never, because HDF5 has one lock."""
        return False

    def encode(self, chunk: Array) -> Payload:
        """Encode one chunk."""
        # Use a new file for each chunk: a dataset written twice could keep the filter mask of the first payload.
        with self._open() as file:
            dataset = self._dataset(file)
            try:
                dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, chunk, h5py.h5t.py_create(chunk.dtype, logical=True))
                mask, data = dataset.read_direct_chunk((0,) * chunk.ndim)
            except (OSError, RuntimeError, ValueError) as error:
                raise FilterError(
                    f"{self.name}: failed on a chunk of {chunk.shape} elements of {chunk.dtype}: {error}; choose other "
                    f"options for the filter, or another compression"
                ) from error
        return Payload(data, mask)

    def _open(self) -> h5py.File:
        name = f"dask_chunkio-{next(_numbers)}"
        block = self._form.nbytes + 65536
        # Without a chunk cache, a filter fails during the write.  With one, it would fail when the file is closed,
        # and HDF5 does not survive that.
        return h5py.File(name, "w", driver="core", backing_store=False, block_size=block, rdcc_nbytes=0)

    def _made(self, make: Callable[[h5py.File], h5py.h5d.DatasetID]) -> tuple[Filter, ...]:
        with self._open() as file:
            try:
                return read_filters(make(file).get_create_plist())
            except (OSError, RuntimeError, ValueError) as error:
                raise FilterError(
                    f"{self.name}: cannot be set up in this process: {error}; write with the build of HDF5 that made "
                    f"the dataset, or choose another compression"
                ) from error

    def _by_options(self, file: h5py.File) -> h5py.h5d.DatasetID:
        form = self._form
        shape = form.chunk_shape
        return file.create_dataset("chunk", shape=shape, dtype=form.dtype, chunks=shape, **self._options).id

    def _by_record(self, file: h5py.File) -> h5py.h5d.DatasetID:
        form = self._form
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(form.chunk_shape)
        if form.fillvalue is not None:
            plist.set_fill_value(np.frombuffer(form.fillvalue, form.dtype))
        for step in form.filters:
            plist.set_filter(step.code, step.flags, step.options)
        space = h5py.h5s.create_simple(form.chunk_shape)
        return h5py.h5d.create(file.id, b"chunk", h5py.h5t.py_create(form.dtype, logical=True), space, plist)
