"""What is written in a run: an array on the memory file system, of which slow codecs get a part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.studies import data
from benchmarks.studies.codecs import Codec
from benchmarks.studies.systems import DATASET, Array, Job, Pool

__all__ = ["Workload", "prepare"]


@dataclass(frozen=True, slots=True)
class Workload:
    """Where the array is, and in which chunks it is written; any process can make jobs of it."""

    folder: Path
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the whole array."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def whole(self) -> Array:
        """Read the whole array into memory."""
        array: Array = np.load(self._path)
        return array

    def rows(self, codec: Codec) -> int:
        """Return how many rows a codec gets: whole chunks of them, where there are that many."""
        chunk = self.chunks[0]
        return min(max(round(self.shape[0] * codec.part / chunk), 1) * chunk, self.shape[0])

    def part_nbytes(self, codec: Codec) -> int:
        """Return the size of what a codec gets."""
        return self.nbytes // self.shape[0] * self.rows(codec)

    def job(self, codec: Codec, pool: Pool, whole: Array | None = None) -> Job:
        """Return what a codec gets, from the whole array if that is in memory, else read for it alone."""
        rows = self.rows(codec)
        if pool.client is not None:
            part = np.load(self._path, mmap_mode="r")[:rows]
        elif whole is not None:
            part = whole[:rows]
        else:
            part = np.array(np.load(self._path, mmap_mode="r")[:rows])
        return Job.of(part, self.chunks, str(self._stored(rows)), pool)

    def little(self, job: Job) -> Job:
        """Return the first rows of a job, to warm up with."""
        return Job.of(job.array[: self.chunks[0]], job.chunks, job.stored, job.pool)

    def store(self, whole: Array, codecs: Iterable[Codec]) -> None:
        """Write the uncompressed HDF5 files that some systems read."""
        for rows in {self.rows(codec) for codec in codecs}:
            with h5py.File(self._stored(rows), "w") as file:
                file.create_dataset(DATASET, data=whole[:rows], chunks=self.chunks)

    @property
    def _path(self) -> str:
        return str(self.folder / "array.npy")

    def _stored(self, rows: int) -> Path:
        return self.folder / f"stored-{rows}.h5"


def prepare(folder: Path, kind: str, nbytes: int, chunks: tuple[int, ...] | None) -> Workload:
    """Make the data."""
    array = data.make(kind, nbytes)
    np.save(folder / "array.npy", array)
    return Workload(folder, kind, array.shape, array.dtype, chunks or data.chunk_shape(kind, array))
