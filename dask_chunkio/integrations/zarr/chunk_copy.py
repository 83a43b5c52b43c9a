"""Chunks of an HDF5 file, written as they are stored to the folder of a zarr array."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dask_chunkio.errors import IntegrityError, TargetError
from dask_chunkio.geometry.grid import ChunkGrid, Shape
from dask_chunkio.reading.chunk_table import ChunkTable
from dask_chunkio.sources.zarr_codecs import ZarrForm, is_readable_payload
from dask_chunkio.storage.filesystem.io import pread_into

__all__ = ["ChunkCopy"]


@dataclass(frozen=True, slots=True, eq=False)
class ChunkCopy:
    """Copies chunks of one dataset; several threads may do so at once.

    Parameters
    ----------
    descriptor : int
        Descriptor of the HDF5 file.
    where : str
        The file and the dataset, for messages.
    folder : str
        Folder of the zarr array.
    form : ZarrForm
        How the chunks are stored, in both.
    table : ChunkTable
        Where they are in the file.
    grid : ChunkGrid
        The grid of the chunks.
    key : callable
        Returns the path of a chunk in the folder, from its position in the grid.
    """

    descriptor: int
    where: str
    folder: str
    form: ZarrForm
    table: ChunkTable
    grid: ChunkGrid
    key: Callable[[Shape], str]

    def copy_all(self, numbers: Sequence[int]) -> list[int]:
        """Copy chunks; return the numbers of those that need not be encoded.

        Parameters
        ----------
        numbers : sequence of int
            Their numbers, in C order of the grid.

        Raises
        ------
        IntegrityError, TargetError
            As `copy`.
        """
        return [number for number in numbers if self.copy(number)]

    def copy(self, number: int) -> bool:
        """Copy a chunk.

        Parameters
        ----------
        number : int
            Its number, in C order of the grid.

        Returns
        -------
        bool
            False if it has to be encoded: it was never written, skips a filter, or zarr may not be able to decode it.

        Raises
        ------
        IntegrityError
            If it cannot be what the filters make; the message names it.
        TargetError
            If it cannot be written.
        """
        place = self.table.find(number)
        if place is None or place.mask:
            return False
        try:
            if place.nbytes > self.form.most_nbytes:
                raise IntegrityError(f"it has {place.nbytes} bytes, and {self.form.most_nbytes} at most can be right")
            data = np.empty(place.nbytes, np.uint8).data
            if pread_into(self.descriptor, data, place.offset) < place.nbytes:
                raise IntegrityError("the file ends before it does")
            if not is_readable_payload(self.form, data):
                return False
        except IntegrityError as error:
            raise IntegrityError(
                f"{self.where}: the chunk at {self.grid.origin(number)} ({place.nbytes} bytes from {place.offset} "
                f"on) is damaged: {error}"
            ) from error
        self._write(os.path.join(self.folder, *self.key(self.grid.index(number)).split("/")), data)
        return True

    def _write(self, path: str, data: memoryview) -> None:
        try:
            try:
                _write_file(path, data)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                _write_file(path, data)
        except OSError as error:
            raise TargetError(f"cannot write {path}: {error.strerror}") from error


def _write_file(path: str, data: memoryview) -> None:
    with open(path, "wb", buffering=0) as file:
        done = 0
        while done < len(data):
            done += file.write(data[done:]) or 0
