"""The systems that are compared: ours and others, one small function each."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np

import dask_chunkio
from benchmarks.studies.codecs import Codec

__all__ = ["DATASET", "OURS", "OURS_FROM_FILE", "SYSTEMS", "Job", "Pool", "System", "file_nbytes", "missing", "remove"]

Array = np.ndarray[Any, np.dtype[Any]]
DATASET = "/x"
OURS, OURS_FROM_FILE = "dask_chunkio", "dask_chunkio from HDF5"

_HDMF_BUFFER_NBYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Pool:
    """Who works: threads of this process, or those of a client."""

    threads: int
    client: Any = None

    @property
    def scheduler(self) -> Any:
        """As dask takes it."""
        return self.client or "threads"


@dataclass(frozen=True, slots=True)
class Job:
    """What is written, by whom: everything is made before the clock starts."""

    array: Array
    chunks: tuple[int, ...]
    lazy: Any
    stored: str
    pool: Pool

    @classmethod
    def of(cls, array: Array, chunks: tuple[int, ...], stored: str, pool: Pool) -> Job:
        """Return the job.

        The dask array is named at random, since hashing the data is not part of a write.  Its blocks are the chunks.
        """
        source: Array | Mapped = array
        # Workers of a client read the file themselves.
        if pool.client is not None and isinstance(array, np.memmap):
            source = Mapped(str(array.filename), array.shape, array.dtype)
        return cls(array, chunks, da.from_array(source, chunks=chunks, name=False), stored, pool)


@dataclass(frozen=True, slots=True)
class Mapped:
    """The first rows of an array in a file, which travel by name: dask would send a numpy memory map whole."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def __getitem__(self, selection: Any) -> Array:
        return np.asarray(np.load(self.path, mmap_mode="r")[: self.shape[0]][selection])


@dataclass(frozen=True, slots=True)
class System:
    """One program that writes arrays.

    Parameters
    ----------
    write : callable
        Write a job to a path with a codec.
    knows : callable
        Whether it has a codec.
    needs : str
        The package or program that has to be installed.
    makes_zarr : bool
        Whether it writes a folder in zarr's format, and not an HDF5 file.
    """

    write: Callable[[str, Job, Codec], None]
    knows: Callable[[Codec], bool]
    needs: str = "h5py"
    makes_zarr: bool = False


def _is_in_hdf5(codec: Codec) -> bool:  # noqa: ARG001
    return True


def _is_in_zarr(codec: Codec) -> bool:
    return codec.zarr is not None


def _is_in_h5repack(codec: Codec) -> bool:
    return codec.h5repack is not None


def _by_us(path: str, job: Job, codec: Codec) -> None:
    _ours(path, job.array, job, codec)


def _by_us_from_file(path: str, job: Job, codec: Codec) -> None:
    with h5py.File(job.stored, "r") as file:
        _ours(path, file[DATASET], job, codec)


def _ours(path: str, source: Any, job: Job, codec: Codec) -> None:
    dask_chunkio.to_hdf5(
        path, DATASET, source, chunks=job.chunks, scheduler=job.pool.scheduler, progress=False, **codec.h5py
    )


def _by_h5py(path: str, job: Job, codec: Codec) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(DATASET, data=job.array, chunks=job.chunks, **codec.h5py)


def _by_dask(path: str, job: Job, codec: Codec) -> None:
    # It fails on any client.
    with dask.config.set(scheduler="threads"):
        da.to_hdf5(path, DATASET, job.lazy, chunks=job.chunks, **codec.h5py)


def _by_hdmf(path: str, job: Job, codec: Codec) -> None:
    from benchmarks.studies.hdmf_iterator import InMemory

    iterator = InMemory(job.array, chunk_shape=job.chunks, buffer_gb=_HDMF_BUFFER_NBYTES / 1e9)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(DATASET, job.array.shape, job.array.dtype, chunks=job.chunks, **codec.h5py)
        for part in iterator:
            dataset[part.selection] = part.data


def _by_zarr(path: str, job: Job, codec: Codec) -> None:
    import zarr

    array = job.array
    with (
        zarr.config.set({"threading.max_workers": job.pool.threads}),
        dask.config.set(scheduler=job.pool.scheduler),
    ):
        target = zarr.create_array(
            path,
            shape=array.shape,
            chunks=job.chunks,
            dtype=array.dtype,
            compressors=codec.zarr_codecs(array.itemsize) or None,
            filters=None,
        )
        da.to_zarr(job.lazy, target)


def _by_tensorstore(path: str, job: Job, codec: Codec) -> None:
    import tensorstore

    array, limit = job.array, {"limit": job.pool.threads}
    metadata = {
        "shape": array.shape,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": job.chunks}},
        "data_type": array.dtype.name,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            *(codec.zarr_codecs(array.itemsize) or ()),
        ],
    }
    target = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}, "metadata": metadata},
        create=True,
        context=tensorstore.Context({"data_copy_concurrency": limit, "file_io_concurrency": limit}),
    ).result()
    target.write(array).result()


def _by_h5repack(path: str, job: Job, codec: Codec) -> None:
    subprocess.run(["h5repack", *(codec.h5repack or ()), job.stored, path], check=True, capture_output=True)


SYSTEMS: dict[str, System] = {
    OURS: System(_by_us, _is_in_hdf5),
    "h5py": System(_by_h5py, _is_in_hdf5),
    "dask.to_hdf5": System(_by_dask, _is_in_hdf5),
    "hdmf": System(_by_hdmf, _is_in_hdf5, needs="hdmf"),
    "dask to zarr": System(_by_zarr, _is_in_zarr, needs="zarr", makes_zarr=True),
    "tensorstore": System(_by_tensorstore, _is_in_zarr, needs="tensorstore", makes_zarr=True),
    "h5repack": System(_by_h5repack, _is_in_h5repack, needs="h5repack"),
    OURS_FROM_FILE: System(_by_us_from_file, _is_in_h5repack, needs="h5repack"),
}


def missing(system: System) -> bool:
    """Say whether what it needs is not installed here."""
    return not (shutil.which(system.needs) or importlib.util.find_spec(system.needs))


def file_nbytes(path: Path) -> int:
    """Return the size of what a system wrote, a file or a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def remove(path: Path) -> None:
    """Delete what a system wrote."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
