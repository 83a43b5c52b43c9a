"""The process that answers `dask_chunkio.isolated_call`: whatever it reads may make it crash or hang.

A worker that crashes, takes more time or memory than it may, or has met damage, is replaced
(`dask_chunkio.forked_worker`).

Each message is the length of its words (JSON), the words, and the arrays of which they give the lengths.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import struct
import sys
from collections.abc import Sequence
from typing import Any

from dask_chunkio.errors import ChunkIOError
from dask_chunkio.forked_worker import INPUT_ENDED, ForkedWorker, bound_memory, bound_time, restore_signals

__all__ = ["LENGTH", "Steps", "main", "read_exactly"]

LENGTH = struct.Struct("<Q")
_MOST_NAME = 2000
# Bytes that the slowest step takes in a second of the processor's time.
_NBYTES_A_SECOND = 1 << 20
_PIECE = 1 << 20


def main() -> None:
    """Import the modules that the only argument names, and answer requests until standard input ends."""
    restore_signals()
    for name in json.loads(sys.argv[1]):
        importlib.import_module(name)
    worker = _Worker()
    worker.answer({"result": "ready"})
    worker.run()


class Steps:
    """The steps of an answer: each has a bound of time, and a name by which an error tells where it has ended.

    Parameters
    ----------
    memory : memoryview
        Memory that a worker shares with its parent, for the name.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory, self._seconds = memory, 0.0

    @property
    def name(self) -> str:
        """The name of the last step."""
        length = min(LENGTH.unpack_from(self._memory)[0], _MOST_NAME)
        return bytes(self._memory[LENGTH.size : LENGTH.size + length]).decode("utf-8", "replace")

    def begin(self, name: str, nbytes: int = 0) -> None:
        """Begin a step.

        Parameters
        ----------
        name : str
            The object that is read, or written.
        nbytes : int
            How many bytes that takes.
        """
        told = name.encode("utf-8", "surrogateescape")[:_MOST_NAME]
        self._memory[LENGTH.size : LENGTH.size + len(told)] = told
        LENGTH.pack_into(self._memory, 0, len(told))
        bound_time(self._seconds + nbytes / _NBYTES_A_SECOND)

    def start(self, seconds: float, nbytes: int) -> None:
        """Begin an answer.

        Parameters
        ----------
        seconds : float
            Processor time that a step takes at most, beside that for its bytes.
        nbytes : int
            Memory that the answer may take.
        """
        self._seconds = seconds
        bound_memory(nbytes)
        self.begin("")

    def end(self) -> None:
        """Wait for the next request for as long as it takes."""
        bound_time(0)


class _Worker(ForkedWorker):
    """Answers requests; at which step it is, is in the memory that it shares with its parent."""

    def __init__(self) -> None:
        super().__init__(LENGTH.size + _MOST_NAME)
        self.steps = Steps(self.memory)

    def serve(self) -> int:
        """Answer requests until one meets damage, or the input ends; return a code for the end."""
        while True:
            self.waits()
            head = read_exactly(self.source, 1)
            self.reads()
            rest = head and read_exactly(self.source, LENGTH.size - 1)
            request = rest and read_exactly(self.source, LENGTH.unpack(head + rest)[0])
            if not request:
                return INPUT_ENDED
            self.works()
            if not self._answered(json.loads(request)):
                return 0

    def answer_crash(self, code: int) -> None:
        """Say at which step the worker ended."""
        self.answer({"crashed": code, "where": self.steps.name})

    def _answered(self, request: dict[str, Any]) -> bool:
        """Answer a request; return whether nothing was wrong."""
        self.steps.start(request["seconds"], request["memory"])
        with contextlib.suppress(OSError, TypeError):
            os.chdir(request["folder"])
        try:
            module = importlib.import_module(request["module"])
            words, arrays = module.answer(request["arguments"], self.steps)
        except ChunkIOError as error:
            self.answer({"error": type(error).__name__, "message": str(error)})
        except MemoryError:
            self.answer(
                {"error": "IntegrityError", "message": self._where("takes more memory than any valid file needs")}
            )
        except Exception as error:  # h5py raises many kinds for damaged metadata
            told = f"cannot be read ({type(error).__name__}: {error})"
            self.answer({"error": "IntegrityError", "message": self._where(told)})
        else:
            self.answer({"result": words}, arrays)
            return True
        return False

    def _where(self, words: str) -> str:
        return f"{self.steps.name or 'it'} {words}"

    def answer(self, words: dict[str, Any], arrays: Sequence[Any] = ()) -> None:
        """Write the answer to the request that is at work; whoever reads it may take any time."""
        self.steps.end()
        parts = [memoryview(one).cast("B") for one in arrays]
        told = json.dumps({**words, "lengths": [len(part) for part in parts]}).encode()
        self.write(memoryview(LENGTH.pack(len(told)) + told), *parts)


def read_exactly(source: io.FileIO, nbytes: int) -> bytes:
    """Return the next bytes of a pipe; none if it ends before.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryFile(buffering=0) as file:
    ...     read_exactly(file, 1)
    b''
    """
    found = bytearray()
    while len(found) < nbytes:
        piece = source.read(min(nbytes - len(found), _PIECE))
        if not piece:
            return b""
        found += piece
    return bytes(found)
