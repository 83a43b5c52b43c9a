"""A source whose buffers wait at gates, and a proxy whose connections can be cut."""

import contextlib
import os
import socket
import threading
from pathlib import Path

import numpy as np

import dask_chunkio as dcio

BUFFER = (10, 40)


class ManyGates(dcio.GenericDataChunkIterator):
    """`gates` times, buffers wait until the next file is there: that something happens in their midst."""

    def __init__(self, folder, buffers, gates):
        self.folder, self.buffers, self.gates = str(folder), buffers, gates
        super().__init__(buffer_shape=BUFFER, chunk_shape=(5, 20))

    def _get_data(self, selection):
        buffer = selection[0].start // BUFFER[0]
        with open(Path(self.folder) / "reads", "a") as file:
            file.write(f"{os.getpid()} {buffer}\n")
        gate = Path(self.folder) / f"gate-{buffer * self.gates // self.buffers}"
        while not gate.exists():
            pass
        return data(self.buffers)[selection]

    def _get_maxshape(self):
        return (self.buffers * BUFFER[0], BUFFER[1])

    def _get_dtype(self):
        return np.dtype("i4")


def data(buffers):
    return np.arange(buffers * BUFFER[0] * BUFFER[1], dtype="i4").reshape(-1, BUFFER[1])


def open_gate(folder, number):
    (Path(folder) / f"gate-{number}").touch()


def reads(folder):
    """(process, buffer) of every read."""
    with contextlib.suppress(FileNotFoundError):
        return [tuple(map(int, line.split())) for line in (Path(folder) / "reads").read_text().splitlines()]
    return []


class Proxy:
    """Stands between a scheduler and its workers, on the loopback address."""

    def __init__(self, port):
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open, self._is_cut, self._lock = [], False, threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """End every connection, and let none begin."""
        with self._lock:
            self._is_cut = True
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._open.clear()

    def restore(self):
        with self._lock:
            self._is_cut = False

    def close(self):
        self.cut()
        self._listening.close()

    def _accept(self):
        while True:
            try:
                here, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                if self._is_cut:
                    here.close()
                    continue
                there = socket.create_connection(("127.0.0.1", self._to))
                self._open += (here, there)
            for ends in ((here, there), (there, here)):
                threading.Thread(target=_carry, args=ends, daemon=True).start()


def _carry(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
