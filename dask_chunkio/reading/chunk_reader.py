"""Reads payloads of an open file, and decodes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat, Payload
from dask_chunkio.filters.decoders import decoder_for
from dask_chunkio.filters.scratch import empty
from dask_chunkio.geometry.grid import Array, ChunkGrid
from dask_chunkio.reading.chunk_table import ChunkTable, Place
from dask_chunkio.storage.filesystem.io import pread_into

__all__ = ["ChunkReader"]

Result = TypeVar("Result")


class ChunkReader:
    """The chunks of a dataset in an open file; several threads may read at once.

    Parameters
    ----------
    descriptor : int
        Descriptor of the file.
    where : str
        The file and the dataset, for messages.
    grid : ChunkGrid
        The grid of the chunks.
    form : ChunkFormat
        How they are stored.
    table : ChunkTable
        Where they are.
    """

    def __init__(self, descriptor: int, where: str, grid: ChunkGrid, form: ChunkFormat, table: ChunkTable) -> None:
        self.grid, self.form, self.table = grid, form, table
        self._descriptor, self._where = descriptor, where
        self._decoder = decoder_for(form)

    @property
    def decodes_parts(self) -> bool:
        """Whether a part of a chunk takes less time than the whole chunk."""
        return self._decoder.decodes_parts

    @property
    def fill(self) -> Any:
        """The element that chunks have which were never written."""
        fill = self.form.fillvalue
        return (np.zeros(1, self.form.dtype) if fill is None else np.frombuffer(fill, self.form.dtype))[0]

    def read(self, number: int, needed: slice | None = None) -> Array | None:
        """Return a chunk, with the shape and the dtype of the format; None if it was never written.

        Parameters
        ----------
        number : int
            Number of the chunk in the grid.
        needed : slice, optional
            The bytes of the chunk that are needed; the others of the result may be anything.

        Raises
        ------
        IntegrityError
            If it is damaged; the message names the chunk and its place.
        """
        if (place := self.table.find(number)) is None:
            return None
        return self._named(number, place, lambda place: self.decode(place, needed))

    def _named(self, number: int, place: Place, function: Callable[[Place], Result]) -> Result:
        """Add the name of a chunk to the message of an error."""
        try:
            return function(place)
        except IntegrityError as error:
            raise IntegrityError(
                f"{self._where}: the chunk at {self.grid.origin(number)} ({place.nbytes} bytes from {place.offset} on) "
                f"is damaged: {error}"
            ) from error

    def payloads(self, numbers: Sequence[int]) -> tuple[Payload, ...] | None:
        """Return chunks as they are stored; None if one was never written.

        Raises
        ------
        IntegrityError
            If one cannot be what its filters make; the message names the chunk.
        """
        found: list[Payload] = []
        for number in numbers:
            if (place := self.table.find(number)) is None:
                return None
            found.append(self._named(number, place, self._stored))
        return tuple(found)

    def decode(self, place: Place, needed: slice | None = None) -> Array:
        """Return the chunk that is stored at a place; `needed` as in `read`.

        Raises
        ------
        IntegrityError
            If it is damaged; the message does not name it.
        """
        part = None if self.form.filters or place.nbytes != self.form.nbytes else needed
        return self._decoder.decode(self._stored(place, part), needed)

    def _stored(self, place: Place, part: slice | None = None) -> Payload:
        if place.nbytes > self._decoder.most_nbytes:
            raise IntegrityError(f"it has {place.nbytes} bytes, and {self._decoder.most_nbytes} at most can be right")
        payload, part = empty(place.nbytes).data, part or slice(0, place.nbytes)
        if pread_into(self._descriptor, payload[part], place.offset + part.start) < part.stop - part.start:
            raise IntegrityError("the file ends before it does")
        return Payload(payload, place.mask)
