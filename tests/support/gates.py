"""A source whose buffers wait at gates, and that notes which process reads which buffer."""

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from tests.support.notes import note, notes

BUFFER = (10, 50)


class Gated(dcio.GenericDataChunkIterator):
    """Numbers; something can be done in the midst of their write.

    Parameters
    ----------
    folder : path
        Where gates and notes are files.
    buffers : int
        How many.
    free : int
        How many at the beginning wait for no gate.
    gates : int
        In so many parts the others wait, each at a gate.
    chunk_shape : tuple of int
        Of the chunks.
    """

    def __init__(
        self, folder: str | Path, buffers: int, *, free: int = 0, gates: int = 1, chunk_shape: tuple[int, ...] = (5, 25)
    ) -> None:
        self.folder, self.buffers, self.free, self.gates = str(folder), buffers, free, gates
        super().__init__(buffer_shape=BUFFER, chunk_shape=chunk_shape)

    def _get_data(self, selection: tuple[slice, ...]) -> NDArray[np.int32]:
        buffer = selection[0].start // BUFFER[0]
        note(Path(self.folder, "reads"), os.getpid(), buffer)
        if buffer >= self.free:
            gate = gate_of(self.folder, (buffer - self.free) * self.gates // (self.buffers - self.free))
            while not gate.exists():
                time.sleep(0.01)
        return data(self.buffers)[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        return (self.buffers * BUFFER[0], BUFFER[1])

    def _get_dtype(self) -> np.dtype[np.int32]:
        return np.dtype(np.int32)


def data(buffers: int) -> NDArray[np.int32]:
    return np.arange(buffers * BUFFER[0] * BUFFER[1], dtype=np.int32).reshape(-1, BUFFER[1])


def gate_of(folder: str | Path, number: int) -> Path:
    return Path(folder, f"gate-{number}")


def open_gate(folder: str | Path, number: int = 0) -> None:
    gate_of(folder, number).touch()


def reads(folder: str | Path) -> list[tuple[int, int]]:
    """Return (process, buffer) of every read."""
    return notes(Path(folder, "reads"))


def readers(folder: str | Path) -> set[int]:
    return {process for process, _ in reads(folder)}
