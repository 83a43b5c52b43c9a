"""Whole writes: what a call costs once, gzip on threads, a worker process, many small commits."""

from __future__ import annotations

import atexit
import functools
from typing import Any

import dask
import h5py
import numpy as np
from distributed import Client, LocalCluster

import dask_chunkio

from .folder import InFolder
from .generated import ELEMENTS, Zeros

__all__ = ["Gzip", "ManyCommits", "Small", "WorkerProcess"]


class _Writes(InFolder):
    """Base of writes of one dataset to a new file."""

    # `setup` makes a new folder before each sample, so that a sample is one write.
    number = 1
    repeat = (3, 20, 1.0)
    warmup_time = 0.1

    def _write(self, path: str, source: Any, scheduler: Any = "threads", **keywords: Any) -> None:
        with dask.config.set(num_workers=2):
            dask_chunkio.to_hdf5(path, "/x", source, scheduler=scheduler, progress=False, **keywords)


class Small(_Writes):
    """A write of 8 kB: what each call costs."""

    def setup(self) -> None:
        """Make the array, and a file that holds another one."""
        super().setup()
        self.array = np.arange(1000)
        self.existing = str(self.folder / "existing.h5")
        with h5py.File(self.existing, "w") as file:
            file["old"] = self.array

    def time_new_file(self) -> None:
        """Write a new file."""
        self._write(self.path, self.array)

    def time_existing_file(self) -> None:
        """Write into the other file."""
        self._write(self.existing, self.array)


class Gzip(_Writes):
    """32 MB of noise, on two threads."""

    def setup(self) -> None:
        """Make the array."""
        super().setup()
        self.array = np.random.default_rng(0).normal(0, 20, (65_536, 256)).astype(np.int16)

    def time_shuffle_gzip_1(self) -> None:
        """Write with the fastest gzip."""
        self._write(self.path, self.array, chunks=(2048, 256), compression="gzip", compression_opts=1, shuffle=True)

    def time_uncompressed(self) -> None:
        """Write without a filter."""
        self._write(self.path, self.array, chunks=(2048, 256))


class ManyCommits(_Writes):
    """Chunks of 4 kB, uncompressed: the cost of commits, one after the other."""

    def time_200_buffers_of_16_chunks(self) -> None:
        """Write with one thread."""
        self._write(self.path, Zeros(3200, buffer_shape=(16 * ELEMENTS,)), "synchronous")


class WorkerProcess(_Writes):
    """Through a `LocalCluster` of one worker process."""

    def setup(self) -> None:
        """Start the cluster before the first sample."""
        super().setup()
        self.client = _client()
        # An array, as the worker finds no module of this folder.
        self.array = np.zeros(50 * 16 * ELEMENTS, np.int16)

    def time_50_buffers(self) -> None:
        """Write 50 buffers of 16 chunks."""
        shapes = {"chunks": (ELEMENTS,), "buffer_shape": (16 * ELEMENTS,)}
        self._write(self.path, self.array, self.client, **shapes)


@functools.cache
def _client() -> Client:
    """Return a client that lasts as long as this process, which asv starts for each benchmark."""
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    client = Client(cluster, set_as_default=False)
    # `atexit` runs in reverse: distributed closes what is left as well, but later and with warnings.
    atexit.register(cluster.close)
    atexit.register(client.close)
    return client
