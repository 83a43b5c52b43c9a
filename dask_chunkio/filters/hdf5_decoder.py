"""A decoder for any filter of HDF5, which HDF5 itself runs on a file in memory.

HDF5 and its plugins may crash on a damaged payload, or never end.  So `decoder_for` has them run in a process of
their own (`dask_chunkio.filters.isolated_decoder`); `Hdf5Decoder` is what runs there.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5f, h5p, h5s, h5t, h5z

from dask_chunkio.errors import FilterError, IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.filter_class import CLASS_VERSION, FilterClass, FilterFunction
from dask_chunkio.filters.plugin import PLUGIN_NAMES, require_filter
from dask_chunkio.geometry.grid import Array

__all__ = ["Hdf5Decoder"]

# HDF5 keeps the numbers from 256 to 511 for filters that are never in a file of anybody else's.
_LENGTH_CHECK = 511
# A pipeline has at most 32 filters, and the check of the length is one of them.
_MOST_FILTERS = 31
_numbers = itertools.count()


class Hdf5Decoder:
    """A decoder that has HDF5 read each payload from a dataset of one chunk in memory.

    HDF5 may crash on a damaged payload.

    Parameters
    ----------
    form : ChunkFormat
        How chunks are stored.

    Raises
    ------
    FilterError
        If a filter is missing in this process, or HDF5 cannot record the pipeline.

    Examples
    --------
    >>> decoder = Hdf5Decoder(ChunkFormat((4,), np.dtype("<i2"), (Filter(2, 0, (2,), "shuffle"),)))
    >>> decoder.decode(Payload(bytes((1, 2, 3, 4, 0, 0, 0, 1))))
    array([  1,   2,   3, 260], dtype=int16)
    """

    def __init__(self, form: ChunkFormat) -> None:
        for step in form.filters:
            require_filter(step.code)
        self._form = form
        self._image = _image(form)

    @property
    def name(self) -> str:
        """The names of the filters in the order in which they are undone, with the remark that HDF5 undoes them."""
        return f"{_words(self._form)} by HDF5, one at a time"

    @property
    def is_parallel(self) -> bool:
        """Whether several threads of a process decode chunks at once: never, because HDF5 has one lock."""
        return False

    @property
    def most_nbytes(self) -> int:
        """The number of bytes that a payload may have."""
        return self._form.most_payload_nbytes

    @property
    def decodes_parts(self) -> bool:
        """Whether a part of a chunk takes less time than the whole chunk: HDF5 decodes all of it."""
        return False

    def decode(self, payload: Payload, needed: slice | None = None) -> Array:  # noqa: ARG002, always all of it
        """Return the chunk of a payload, with the shape and dtype of the format.

        Raises
        ------
        IntegrityError
            If the payload is damaged; the message does not name the chunk.
        """
        target = np.empty(self._form.nbytes, np.uint8)
        mask = (payload.mask & (1 << len(self._form.filters)) - 1) << 1
        # A new file for each chunk: a dataset written twice could keep the filter mask of the first payload.
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_fapl_core(len(self._image) + payload.nbytes, 0)
        access.set_file_image(self._image)
        file = h5f.open(_name(), h5f.ACC_RDWR, access)
        try:
            # The dataset is opened twice: HDF5 remembers while it is open that there was no chunk, and no mask.
            h5d.open(file, b"chunk").write_direct_chunk((0,), payload.data, mask)
            h5d.open(file, b"chunk").read(h5s.ALL, h5s.ALL, target, h5t.NATIVE_UINT8)
        except (OSError, RuntimeError, ValueError) as error:
            raise IntegrityError(f"its payload cannot be decoded: {error}") from error
        finally:
            file.close()
        return target.view(self._form.dtype).reshape(self._form.chunk_shape)


def _words(form: ChunkFormat) -> str:
    """Return the names of the filters of a pipeline in the order in which they are undone."""
    return " > ".join(PLUGIN_NAMES.get(step.code, step.name) for step in reversed(form.filters)) or "copying"


def _image(form: ChunkFormat) -> bytes:
    """Return a file in memory with a dataset of one chunk of bytes, whose pipeline is recorded as it is in `form`.

    To create the dataset with its own filters would have some of them change their options.  So it is created with
    deflate, which takes any, and the numbers of the filters are replaced.
    """
    if len(form.filters) > _MOST_FILTERS:
        raise FilterError(f"a pipeline of {len(form.filters)} filters cannot be decoded; the most are {_MOST_FILTERS}")
    _register_length_check()
    check = Filter(_LENGTH_CHECK, 0, (form.nbytes & 0xFFFFFFFF, form.nbytes >> 32), "length")
    steps = (check, *form.filters)
    plist = h5p.create(h5p.DATASET_CREATE)
    try:
        plist.set_chunk((form.nbytes,))
        for step in steps:
            plist.set_filter(h5z.FILTER_DEFLATE, step.flags & 0xFF, step.options)
        with h5py.File(_name(), "w", driver="core", backing_store=False, libver=("earliest", "v108")) as file:
            h5d.create(file.id, b"chunk", h5t.NATIVE_UINT8, h5s.create_simple((form.nbytes,)), plist)
            file.flush()
            image: bytes = file.id.get_file_image()
    except (OSError, RuntimeError, ValueError) as error:
        raise FilterError(
            f"HDF5 cannot record the pipeline {_words(form)}: {error}; read the dataset by h5py"
        ) from error
    recorded = b"".join(_record(step, h5z.FILTER_DEFLATE) for step in steps)
    if image.count(recorded) != 1:
        raise FilterError(f"HDF5 records the pipeline {_words(form)} in another way; read it by h5py")
    return image.replace(recorded, b"".join(_record(step, step.code) for step in steps))


def _name() -> bytes:
    # HDF5 takes two files of one name for one file.
    return b"dask_chunkio-decoded-%d" % next(_numbers)


def _record(step: Filter, code: int) -> bytes:
    """Return how a filter is recorded with the name of deflate, in version 1 of the message."""
    head = struct.pack("<4H8s", code, 8, step.flags & 0xFF, len(step.options), b"deflate")
    return head + struct.pack(f"<{len(step.options)}I", *step.options) + bytes(4 * (len(step.options) % 2))


def _check_length(flags: int, count: int, options: Any, nbytes: int, _: Any, __: Any) -> int:  # noqa: ARG001
    return nbytes if count == 2 and nbytes == options[0] | options[1] << 32 else 0


# HDF5 keeps a pointer to the function.
_function = FilterFunction(_check_length)


def _register_length_check() -> None:
    """Register a filter that fails if what it gets does not have the length of the chunk.

    HDF5 reads memory that nobody has written, or beyond its end, where a filter returns less.
    """
    if h5z.filter_avail(_LENGTH_CHECK):
        return
    description = FilterClass(CLASS_VERSION, _LENGTH_CHECK, 1, 1, b"length", None, None, _function)
    if ctypes.PyDLL(h5z.__file__).H5Zregister(ctypes.byref(description)) < 0:
        raise FilterError("HDF5 does not take a filter that checks the length of chunks; read the dataset by h5py")
