"""The ways to write an array that are compared: ours, dask's, h5py's and hdmf's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np

import dask_chunkio

__all__ = ["BASELINE", "DATASET", "PLAIN", "Job", "Writer", "writers"]

Array = np.ndarray[Any, np.dtype[Any]]
DATASET = "/x"
BASELINE, PLAIN = "dask gzip 4", "h5py uncompressed"

_HDMF_BUFFER_NBYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """What is written, by whom: everything is in memory before the clock starts."""

    array: Array
    chunks: tuple[int, ...]
    lazy: Any

    @classmethod
    def of(cls, array: Array, chunks: tuple[int, ...]) -> Job:
        """Return the job; the dask array is named at random, since hashing the data is not part of a write."""
        return cls(array, chunks, da.from_array(array, chunks=chunks, name=False))


Write = Callable[[str, Job], None]


@dataclass(frozen=True, slots=True)
class Writer:
    """One way to write, with the name of its row."""

    name: str
    write: Write


def writers() -> list[Writer]:
    """Return every writer that can run here."""
    found = [
        Writer("dask_chunkio gzip 4", _ours(_gzip(4))),
        Writer("dask_chunkio gzip 1", _ours(_gzip(1))),
        Writer("dask_chunkio uncompressed", _ours({})),
        Writer(BASELINE, _dask(_gzip(4))),
        Writer("dask uncompressed", _dask({})),
        Writer("h5py gzip 4", _h5py(_gzip(4))),
        Writer(PLAIN, _h5py({})),
    ]
    if importlib.util.find_spec("hdmf"):
        found.append(Writer("hdmf gzip 4", _hdmf(_gzip(4))))
    return found


def _gzip(level: int) -> dict[str, Any]:
    return {"compression": "gzip", "compression_opts": level, "shuffle": True}


def _ours(options: Mapping[str, Any]) -> Write:
    def write(path: str, job: Job) -> None:
        dask_chunkio.to_hdf5(
            path, DATASET, job.array, chunks=job.chunks, scheduler="threads", progress=False, **options
        )

    return write


def _dask(options: Mapping[str, Any]) -> Write:
    def write(path: str, job: Job) -> None:
        with dask.config.set(scheduler="threads"):
            da.to_hdf5(path, DATASET, job.lazy, chunks=job.chunks, **options)

    return write


def _h5py(options: Mapping[str, Any]) -> Write:
    def write(path: str, job: Job) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset(DATASET, data=job.array, chunks=job.chunks, **options)

    return write


def _hdmf(options: Mapping[str, Any]) -> Write:
    def write(path: str, job: Job) -> None:
        from benchmarks.hdmf_iterator import InMemory

        iterator = InMemory(job.array, chunk_shape=job.chunks, buffer_gb=_HDMF_BUFFER_NBYTES / 1e9)
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset(DATASET, job.array.shape, job.array.dtype, chunks=job.chunks, **options)
            for part in iterator:
                dataset[part.selection] = part.data

    return write
