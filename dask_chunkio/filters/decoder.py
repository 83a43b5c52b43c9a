"""Pipelines that are undone outside HDF5: the inverse of `dask_chunkio.filters.encoder`.

A payload comes from a file that anybody may have made.  So no step takes more memory than the chunk declares, and each
checks the length of what it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from dask_chunkio.errors import FilterError, IntegrityError
from dask_chunkio.filters.blosc2_frames import NotPlainError
from dask_chunkio.filters.chunk_format import ChunkFormat, Data, Filter, Payload
from dask_chunkio.filters.deflate import DEFLATE, inflate
from dask_chunkio.filters.fletcher32 import FLETCHER32, remove_fletcher32
from dask_chunkio.filters.isolated_decoder import IsolatedDecoder
from dask_chunkio.filters.plugin import PLUGIN_NAMES, require_filter
from dask_chunkio.filters.plugin_inverses import decodes_parts, find_inverse, takes_part
from dask_chunkio.filters.shuffle import SHUFFLE, unshuffle
from dask_chunkio.geometry.grid import Array

__all__ = ["DirectDecoder", "Inverse", "direct_inverses"]


@dataclass(frozen=True, slots=True)
class Inverse:
    """One filter of a pipeline, with the function that undoes it.

    Parameters
    ----------
    filter : Filter
        The filter as HDF5 records it.
    engine : str
        Name of the function, for messages.
    run : callable
        Takes the filter, bytes, and how many bytes the result may have; raises `IntegrityError`, without any name,
        for bytes that the filter cannot have made.
    is_parallel : bool
        Whether several threads may run it at once.
    takes_part : bool
        Whether `run` also takes a slice of the bytes that are needed.
    decodes_parts : bool
        Whether it takes less time for a small part, wherever that is.
    """

    filter: Filter
    engine: str
    run: Callable[..., Data]
    is_parallel: bool = True
    takes_part: bool = False
    decodes_parts: bool = False


class DirectDecoder:
    """A decoder that undoes a pipeline without HDF5 and without the GIL.

    A payload with parts that only a plugin knows is decoded by HDF5, in a separate process.

    Parameters
    ----------
    form : ChunkFormat
        How chunks are stored.

    Raises
    ------
    FilterError
        If only HDF5 can undo one of the filters, or one is missing in this process.

    Examples
    --------
    >>> decoder = DirectDecoder(ChunkFormat((4,), np.dtype("<i2"), ()))
    >>> decoder.decode(Payload(bytes(range(8))))
    array([ 256,  770, 1284, 1798], dtype=int16)
    """

    def __init__(self, form: ChunkFormat) -> None:
        inverses = direct_inverses(form.filters)
        if inverses is None:
            names = ", ".join(step.name for step in form.filters)
            raise FilterError(f"one of the filters {names} can only be undone by HDF5; use decoder_for")
        self._form, self._inverses = form, inverses
        self._unskipped_lengths = self._lengths(0)

    @property
    def name(self) -> str:
        """The engines in the order in which they run."""
        return " > ".join(inverse.engine for inverse in reversed(self._inverses)) or "copying"

    @property
    def is_parallel(self) -> bool:
        """Whether several threads of a process decode chunks at once."""
        return all(inverse.is_parallel for inverse in self._inverses)

    @property
    def most_nbytes(self) -> int:
        """The number of bytes that a payload may have."""
        return self._form.most_payload_nbytes

    @property
    def decodes_parts(self) -> bool:
        """Whether a part of a chunk takes less time than the whole chunk."""
        return not self._inverses or self._inverses[0].decodes_parts

    def decode(self, payload: Payload, needed: slice | None = None) -> Array:
        """Return the chunk of a payload, with the shape and dtype of the format; it may be read-only.

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
        """
        if not payload.nbytes:
            raise IntegrityError("its payload is empty")
        try:
            data = self._undone(payload, needed)
        except NotPlainError:
            return IsolatedDecoder(self._form).decode(payload)
        if len(data) != self._form.nbytes:
            raise IntegrityError(f"its payload holds {len(data)} bytes, and its chunk has {self._form.nbytes}")
        return np.frombuffer(data, self._form.dtype).reshape(self._form.chunk_shape)

    def _undone(self, payload: Payload, needed: slice | None) -> Data:
        data = payload.data
        lengths = self._lengths(payload.mask) if payload.mask else self._unskipped_lengths
        for position in reversed(range(len(self._inverses))):
            if not payload.mask >> position & 1:
                inverse = self._inverses[position]
                # The result of the first filter's inverse is the chunk.
                part = (needed,) if needed is not None and not position and inverse.takes_part else ()
                data = inverse.run(inverse.filter, data, lengths[position], *part)
        return data

    def _lengths(self, mask: int) -> list[int]:
        """Return how many bytes each filter may have been given, and how many the payload may have."""
        lengths = [self._form.nbytes]
        for position, inverse in enumerate(self._inverses):
            is_skipped = mask >> position & 1
            lengths.append(lengths[-1] + (0 if is_skipped else inverse.filter.most_added(self._form.nbytes)))
        return lengths


def direct_inverses(filters: Iterable[Filter]) -> tuple[Inverse, ...] | None:
    """Return the inverses of a pipeline, in the order of the pipeline; None if only HDF5 can undo one of its filters.

    Parameters
    ----------
    filters : iterable of Filter
        The pipeline.

    Raises
    ------
    FilterError
        If a filter is missing on this machine.
    """
    inverses: list[Inverse] = []
    for one in filters:
        inverse = _own_inverse(one) or _plugin_inverse(one)
        if inverse is None:
            return None
        inverses.append(inverse)
    return tuple(inverses)


def _own_inverse(one: Filter) -> Inverse | None:
    own = {DEFLATE: _inflate, SHUFFLE: _unshuffle, FLETCHER32: _remove_fletcher32}
    return Inverse(one, one.name, own[one.code]) if one.code in own else None


def _plugin_inverse(one: Filter) -> Inverse | None:
    require_filter(one.code)
    run = find_inverse(one)
    if run is None:
        return None
    return Inverse(one, f"{PLUGIN_NAMES[one.code]} by its library", run, True, takes_part(one), decodes_parts(one))


def _inflate(_: Filter, data: Data, most: int) -> Data:
    return inflate(data, most)


def _unshuffle(one: Filter, data: Data, most: int) -> Data:  # noqa: ARG001
    # HDF5 sets the options of only the first of two shuffles; the second one fails, and is skipped.
    if len(one.options) != 1 or not one.options[0]:
        raise IntegrityError("its shuffle filter does not say the size of elements")
    return unshuffle(data, one.options[0])


def _remove_fletcher32(_: Filter, data: Data, most: int) -> Data:  # noqa: ARG001
    return remove_fletcher32(data)
