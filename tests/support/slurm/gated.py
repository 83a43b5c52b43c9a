"""A source that waits at a gate, and writes down who reads what."""

import os
import time
from pathlib import Path

import numpy as np

import dask_chunkio as dcio

SHAPE, LAYOUT = (240, 50), {"chunks": (5, 50), "buffer_shape": (10, 50), "compression": "gzip"}
BUFFERS = 24


def data(start=0, stop=SHAPE[0]):
    return (np.arange(start * SHAPE[1], stop * SHAPE[1]) % 1000).astype("i4").reshape(-1, SHAPE[1])


class Gated(dcio.GenericDataChunkIterator):
    """Buffers from `free` on wait until the file `gate` is there."""

    def __init__(self, folder, free):
        self.folder, self.free = str(folder), free
        super().__init__(buffer_shape=LAYOUT["buffer_shape"], chunk_shape=LAYOUT["chunks"])

    def _get_data(self, selection):
        start, stop = selection[0].start, selection[0].stop
        note(self.folder, f"{os.getpid()} {start // 10}")
        while start // 10 >= self.free and not (Path(self.folder) / "gate").exists():
            time.sleep(0.05)
        return data(start, stop)

    def _get_maxshape(self):
        return SHAPE

    def _get_dtype(self):
        return np.dtype("i4")


def note(folder, line):
    with open(Path(folder) / "reads", "a") as file:
        file.write(f"{line}\n")


def open_gate(folder):
    (Path(folder) / "gate").touch()


def reads(folder):
    """(process, buffer) of every read."""
    try:
        lines = (Path(folder) / "reads").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [tuple(map(int, line.split())) for line in lines]


def readers(folder):
    return {process for process, _ in reads(folder)}
