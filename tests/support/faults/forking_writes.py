"""A write whose source forks a child that outlives it.

Usage: python -m tests.support.faults.forking_writes HOW OUT.h5 FOLDER, where HOW is os or multiprocessing
"""

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import dask_chunkio as dcio

SHAPE = (400, 10)
DATA = np.arange(SHAPE[0] * SHAPE[1], dtype="i4").reshape(SHAPE)


class Forking(dcio.GenericDataChunkIterator):
    """Forks in the middle, and waits to be killed; read for the second time it does not."""

    def __init__(self, how: str, folder: str | Path) -> None:
        self.how, self.folder = how, Path(folder)
        super().__init__(chunk_shape=(50, 10), buffer_shape=(100, 10))

    def _get_data(self, selection: Any) -> Any:
        if selection[0].start == 200 and not (self.folder / "child").exists():
            if self.how == "multiprocessing":
                multiprocessing.get_context("fork").Process(target=self.live).start()
            elif os.fork() == 0:
                self.live()
            while True:
                time.sleep(0.01)
        return DATA[selection]

    def live(self) -> None:
        (self.folder / "child.part").write_text(f"{os.getpid()}\n")
        (self.folder / "child.part").rename(self.folder / "child")
        while not (self.folder / "end").exists():
            time.sleep(0.01)
        os._exit(0)

    def _get_maxshape(self) -> Any:
        return SHAPE

    def _get_dtype(self) -> Any:
        return DATA.dtype


def write(how: str, path: str | Path, folder: str | Path, **keywords: Any) -> Any:
    return dcio.to_hdf5(path, "/new/x", Forking(how, folder), progress=False, **keywords)


if __name__ == "__main__":
    write(*sys.argv[1:], scheduler="threads")
