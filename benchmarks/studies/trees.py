"""Writes by one checkout of the package, as another process asks for them: see `benchmarks.studies.paired`.

This file runs alone, with the checkout in PYTHONPATH, and uses public names that all commits have.
Each line of its input is the name of a case; it answers with a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np

import dask_chunkio

__all__ = ["ELEMENTS", "NAMES", "Cases", "main"]

ELEMENTS = 2048
_CHUNKS_OF_A_BUFFER = 16
NAMES = ("gzip 1 + shuffle", "uncompressed", "serial part", "small write")


class Zeros(dask_chunkio.GenericDataChunkIterator):  # type: ignore[misc, unused-ignore]
    """Zeros, in chunks of 4 kB that cost nothing to read."""

    def __init__(self, buffers: int) -> None:
        self._length = buffers * _CHUNKS_OF_A_BUFFER * ELEMENTS
        super().__init__(chunk_shape=(ELEMENTS,), buffer_shape=(_CHUNKS_OF_A_BUFFER * ELEMENTS,))

    def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        return np.zeros(selection[0].stop - selection[0].start, np.int16)

    def _get_maxshape(self) -> tuple[int, ...]:
        return (self._length,)

    def _get_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int16)


class Cases:
    """What is measured, by name.

    Parameters
    ----------
    folder : Path
        Where files are written.
    array, chunks : str, tuple of int
        File with the array of the fast cases, and the shape of its chunks.
    buffers, repeats : int
        Number of commits in the serial part, and of small writes.
    threads : int
        Of the fast cases.
    """

    def __init__(
        self, folder: Path, array: str, *, chunks: tuple[int, ...], buffers: int, repeats: int, threads: int
    ) -> None:
        self._path, self._array, self._chunks = folder / "out.h5", np.load(array), chunks
        self._buffers, self._repeats, self._threads = buffers, repeats, threads
        self._small = np.arange(1000)

    def measure(self, name: str) -> dict[str, float]:
        """Return the wall and the CPU time of a case, in seconds for each of what it counts, and the file's size."""
        times, write = self._case(name)
        wall = cpu = 0.0
        for _ in range(times):
            started, used = time.perf_counter(), time.process_time()
            write()
            cpu += time.process_time() - used
            wall += time.perf_counter() - started
            nbytes = self._path.stat().st_size
            self._path.unlink()
        count = self._buffers if name == "serial part" else times
        return {"wall": wall / count, "CPU": cpu / count, "nbytes": nbytes}

    def _case(self, name: str) -> tuple[int, Callable[[], None]]:
        gzip = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        cases: dict[str, tuple[int, Callable[[], None]]] = {
            "gzip 1 + shuffle": (1, lambda: self._write(self._array, "threads", chunks=self._chunks, **gzip)),
            "uncompressed": (1, lambda: self._write(self._array, "threads", chunks=self._chunks)),
            "serial part": (1, lambda: self._write(Zeros(self._buffers), "synchronous")),
            "small write": (self._repeats, lambda: self._write(self._small, "threads")),
        }
        return cases[name]

    def _write(self, source: Any, scheduler: str, **keywords: Any) -> None:
        with dask.config.set(num_workers=self._threads):
            dask_chunkio.to_hdf5(str(self._path), "/x", source, scheduler=scheduler, progress=False, **keywords)


def main() -> None:
    """Answer until the input ends."""
    options = json.loads(sys.stdin.readline())
    tree, chunks = options.pop("tree"), tuple(options.pop("chunks"))
    if not Path(dask_chunkio.__file__).is_relative_to(tree):
        sys.exit(f"{dask_chunkio.__file__} is no part of {tree}")
    cases = Cases(Path(options.pop("folder")), options.pop("array"), chunks=chunks, **options)
    # Nothing else is to write into the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(cases.measure(line.strip())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
