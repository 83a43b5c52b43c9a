"""The format of stored chunks, and the protocols of encoders that make them and of decoders that undo them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dask_chunkio.filters.fletcher32 import FLETCHER32
from dask_chunkio.filters.shuffle import SHUFFLE
from dask_chunkio.geometry.grid import Array, Shape

__all__ = ["ChunkFormat", "Data", "Decoder", "Encoder", "Filter", "Payload", "most_added"]

Data = bytes | memoryview
_OPTIONAL = 1
_CHECKSUM = 4
# A filter that gains nothing may lengthen its input: by a header, and a part of it.  No filter of HDF5 doubles it.
_HEADER = 64 << 10


def most_added(code: int, chunk_nbytes: int) -> int:
    """Return how many bytes a filter can add in the pipeline of a chunk, however many filters that has.

    Examples
    --------
    >>> most_added(FLETCHER32, 100)
    4
    """
    if code == SHUFFLE:
        return 0
    return _CHECKSUM if code == FLETCHER32 else chunk_nbytes + _HEADER


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of a pipeline, as HDF5 records it in the dataset.

    Parameters
    ----------
    code : int
        HDF5's identifier, such as 1 for deflate.
    flags : int
        HDF5's flags; bit 0 says that the filter is optional.
    options : tuple of int
        HDF5's ``cd_values``, after the filter's own ``set_local``.
    name : str
        HDF5's name for it.
    """

    code: int
    flags: int
    options: tuple[int, ...]
    name: str

    @property
    def is_optional(self) -> bool:
        """Whether a chunk on which it fails is stored without it."""
        return bool(self.flags & _OPTIONAL)

    def most_added(self, chunk_nbytes: int) -> int:
        """Return how many bytes the filter can add in the pipeline of a chunk, however many filters that has."""
        return most_added(self.code, chunk_nbytes)

    def __str__(self) -> str:
        options = "" if self.code in (SHUFFLE, FLETCHER32) else ",".join(map(str, self.options))
        return f"{self.name}({options})" if options else self.name


@dataclass(frozen=True, slots=True)
class ChunkFormat:
    """All properties that determine how a chunk of one dataset is stored.

    Parameters
    ----------
    chunk_shape : tuple of int
        Shape of every chunk, in elements.
    dtype : numpy.dtype
        Type of the elements in the file.
    filters : tuple of Filter
        The pipeline, in the order in which it is applied to a chunk.
    fillvalue : bytes or None
        One element, with which chunks at the upper edges are padded; None stands for zeros, HDF5's default.
    """

    chunk_shape: Shape
    dtype: np.dtype[Any]
    filters: tuple[Filter, ...]
    fillvalue: bytes | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of an unfiltered chunk."""
        return math.prod(self.chunk_shape) * self.dtype.itemsize

    @property
    def most_payload_nbytes(self) -> int:
        """The number of bytes that a payload may have."""
        return self.nbytes + sum(step.most_added(self.nbytes) for step in self.filters)


@dataclass(frozen=True, slots=True)
class Payload:
    """The stored bytes of a chunk, and the mask of the filters that were skipped.

    Bit ``k`` of the mask stands for position ``k`` of the pipeline.
    """

    data: Data
    mask: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the payload."""
        return len(self.data)


class Encoder(Protocol):
    """Protocol of encoders, which make the payload of one chunk; several threads may call one encoder at once."""

    @property
    def name(self) -> str:
        """The name that `plan` shows."""
        ...

    @property
    def is_parallel(self) -> bool:
        """Whether several threads of a process encode chunks at once."""
        ...

    def encode(self, chunk: Array) -> Payload:
        """Encode `chunk`, which must be C-contiguous and have exactly the shape and dtype of the format."""
        ...


class Decoder(Protocol):
    """Protocol of decoders, which undo the payload of one chunk; several threads may call one decoder at once."""

    @property
    def name(self) -> str:
        """The engines in the order in which they run."""
        ...

    @property
    def is_parallel(self) -> bool:
        """Whether several threads of a process decode chunks at once."""
        ...

    @property
    def most_nbytes(self) -> int:
        """The number of bytes that a payload may have."""
        ...

    @property
    def decodes_parts(self) -> bool:
        """Whether a part of a chunk takes less time than the whole chunk."""
        ...

    def decode(self, payload: Payload, needed: slice | None = None) -> Array:
        """Return the chunk of `payload` with the shape and dtype of the format; it may be read-only.

        Parameters
        ----------
        payload : Payload
            The chunk as it is stored.
        needed : slice, optional
            The bytes of the chunk that are needed; the others of the result may be anything.

        Raises
        ------
        IntegrityError
            If the payload is damaged; the message does not name the chunk.
        FilterError
            If a filter is missing where the payload is decoded.
        """
        ...
