"""Any filter that HDF5 has, run by HDF5 itself on a file in memory.

Exact for every filter, one chunk at a time in a process: HDF5 has one lock.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import h5py

from dask_chunkio.errors import FilterError
from dask_chunkio.filters.pipeline import ChunkFormat, DirectEncoder, Encoder, Filter, Payload, direct_filters
from dask_chunkio.grid import Array

__all__ = ["Hdf5Encoder", "encoder_for", "read_filters", "require_filter"]

_numbers = itertools.count()
# What decides how a chunk is stored, of all that a dataset is made with.
_OF_CHUNKS = frozenset(
    {"allow_unknown_filter", "compression", "compression_opts", "fillvalue", "fletcher32", "scaleoffset", "shuffle"}
)


def encoder_for(form: ChunkFormat, options: Mapping[str, Any]) -> Encoder:
    """Return the encoder for chunks of a dataset.

    Parameters
    ----------
    form : ChunkFormat
        How its chunks are stored.
    options : mapping
        The keywords of `h5py.Group.create_dataset` that it was made with.

    Raises
    ------
    FilterError
        If a filter is missing on this machine.
    """
    if all(step.code in direct_filters() for step in form.filters):
        return DirectEncoder(form)
    return Hdf5Encoder(form, options)


def require_filter(code: int) -> None:
    """Make sure that HDF5 can run a filter here, loading hdf5plugin's if they are installed.

    Raises
    ------
    FilterError
        If the filter is not available.
    """
    if h5py.h5z.filter_avail(code) or _load_plugins(code):
        return
    raise FilterError(
        f"HDF5 filter {code} is not available in this process; install the package that brings it "
        f"(for most: pip install hdf5plugin) where the workers run, or choose another compression"
    )


def _load_plugins(code: int) -> bool:
    try:
        import hdf5plugin  # noqa: F401  (importing registers its filters)
    except ImportError:
        return False
    return bool(h5py.h5z.filter_avail(code))


def read_filters(plist: h5py.h5p.PropDCID) -> tuple[Filter, ...]:
    """Read the pipeline from a dataset's creation property list."""
    found = (plist.get_filter(position) for position in range(plist.get_nfilters()))
    return tuple(Filter(code, flags, tuple(options), _name(name)) for code, flags, options, name in found)


def _name(name: bytes | str) -> str:
    return name.decode("ascii", "replace") if isinstance(name, bytes) else name


class Hdf5Encoder:
    """Encodes by writing each chunk into a dataset of one chunk in memory.

    Parameters
    ----------
    form : ChunkFormat
        How chunks are stored.
    options : mapping
        The keywords that the dataset was made with; empty for one that was there.  The recorded pipeline
        is not enough: some plugins (bitshuffle) add to their options each time a dataset is made with them.

    Raises
    ------
    FilterError
        If a filter is missing here, or would not be set up as it is in the dataset.
    """

    def __init__(self, form: ChunkFormat, options: Mapping[str, Any]) -> None:
        self._form = form
        self._options = {name: value for name, value in options.items() if name in _OF_CHUNKS}
        for step in form.filters:
            require_filter(step.code)
        with self._open() as file:
            made = read_filters(self._dataset(file).get_create_plist())
        if made != form.filters:
            raise FilterError(
                f"the pipeline {[str(f) for f in form.filters]} of the dataset becomes {[str(f) for f in made]} "
                f"for a single chunk; this filter cannot be run chunk by chunk"
            )

    @property
    def name(self) -> str:
        """The filters, and that HDF5 runs them."""
        return " > ".join(step.name for step in self._form.filters) + " by HDF5"

    def encode(self, chunk: Array) -> Payload:
        """Encode one chunk."""
        # A new file for each: a dataset written twice could keep the filter mask of the first payload.
        with self._open() as file:
            dataset = self._dataset(file)
            try:
                dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, chunk, h5py.h5t.py_create(chunk.dtype, logical=True))
                mask, data = dataset.read_direct_chunk((0,) * chunk.ndim)
            except (OSError, RuntimeError, ValueError) as error:
                raise FilterError(f"HDF5's {self.name} failed on a chunk: {error}") from error
        return Payload(data, mask)

    def _open(self) -> h5py.File:
        name = f"dask_chunkio-{next(_numbers)}"
        block = self._form.nbytes + 65536
        return h5py.File(name, "w", driver="core", backing_store=False, block_size=block)

    def _dataset(self, file: h5py.File) -> h5py.h5d.DatasetID:
        form = self._form
        shape = form.chunk_shape
        if not self._options:
            return _twin(file, form)
        return file.create_dataset("chunk", shape=shape, dtype=form.dtype, chunks=shape, **self._options).id


def _twin(file: h5py.File, form: ChunkFormat) -> h5py.h5d.DatasetID:
    """Make a dataset of one chunk with the pipeline as it is recorded."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(form.chunk_shape)
    plist.set_fill_value(form.fill)
    for step in form.filters:
        plist.set_filter(step.code, step.flags, step.options)
    space, kind = h5py.h5s.create_simple(form.chunk_shape), h5py.h5t.py_create(form.dtype, logical=True)
    return h5py.h5d.create(file.id, b"chunk", kind, space, plist)
