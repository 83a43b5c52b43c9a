"""The process that answers `dask_chunkio.isolated_call`: whatever it reads may make it crash or hang.

It forks a worker, which reads requests from standard input and writes answers to standard output.  A worker that
crashes, takes more time or memory than it may, or has met damage, is replaced, in milliseconds.  The process ends, and
with it the worker, when nobody has the other end of its standard input open any more.

Each message is the length of its words (JSON), the words, and the arrays of which they give the lengths.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import mmap
import os
import select
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dask_chunkio.child_process import reserve_output
from dask_chunkio.errors import ChunkIOError

if sys.platform != "win32":
    import resource

__all__ = ["LENGTH", "Steps", "main", "read_exactly"]

LENGTH = struct.Struct("<Q")
# States of a worker.  If it ends while it reads or writes, the message boundaries in the pipe are lost.
_WAITS, _READS, _WORKS, _WRITES = range(4)
_INPUT_ENDED = 3
_STATE = struct.Struct("<QQ")
_MOST_NAME = 2000
# Bytes that the slowest step takes in a second of the processor's time, and how many times as long it may wait.
_NBYTES_A_SECOND, _PATIENCE = 1 << 20, 10
_PIECE = 1 << 20


def main() -> None:
    """Import the modules that the only argument names, and answer requests until standard input ends."""
    _restore_signals()
    for name in json.loads(sys.argv[1]):
        importlib.import_module(name)
    worker = _Worker(io.FileIO(0), _reserved_output())
    worker.answer({"result": "ready"})
    if not hasattr(os, "fork"):
        while worker.serve() != _INPUT_ENDED:
            pass
        return
    while True:
        code = _ended(worker)
        if worker.state == _WORKS:  # whatever the code is: a library may call exit(0)
            worker.answer({"crashed": code, "where": worker.steps.name})
        elif code == _INPUT_ENDED or worker.state != _WAITS:
            return


def _restore_signals() -> None:
    """Undo what the parent ignores or blocks: what takes too long has to be ended, and its end to be noticed."""
    if sys.platform == "win32":
        return
    for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _reserved_output() -> io.FileIO:
    """Reserve standard output for answers, and write no core files of crashes."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    return io.FileIO(reserve_output(), "w")


def _ended(worker: _Worker) -> int:
    """Have a worker serve in a forked process, and return how that ended; kill it when this process's parent ends."""
    ends = os.pipe()
    reader, writer = io.FileIO(ends[0]), io.FileIO(ends[1], "w")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            reader.close()
            code = worker.serve()
        finally:
            os._exit(code)
    writer.close()
    # The pipe ends with the worker, whatever ends it; standard input with the last one who could ask.
    waiting = select.poll()
    waiting.register(reader, select.POLLHUP)
    waiting.register(0, 0)
    if reader.fileno() not in dict(waiting.poll()):
        os.kill(child, signal.SIGKILL)
    reader.close()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Steps:
    """The steps of an answer: each has a bound of time, and a name by which an error tells where it has ended.

    Parameters
    ----------
    memory : mmap.mmap
        Memory that a worker shares with its parent, for the name.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory, self._seconds = memory, 0.0

    @property
    def name(self) -> str:
        """The name of the last step."""
        length = min(_STATE.unpack_from(self._memory)[1], _MOST_NAME)
        return self._memory[_STATE.size : _STATE.size + length].decode("utf-8", "replace")

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
        self._memory[_STATE.size : _STATE.size + len(told)] = told
        _STATE.pack_into(self._memory, 0, _STATE.unpack_from(self._memory)[0], len(told))
        self._bound(self._seconds + nbytes / _NBYTES_A_SECOND)

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
        _bound_memory(nbytes)
        self.begin("")

    def end(self) -> None:
        """Wait for the next request for as long as it takes."""
        self._bound(0)

    def _bound(self, seconds: float) -> None:
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_PROF, seconds)
            # A pipe or a device in place of a file keeps a process waiting, without processor time.
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE * seconds)


def _bound_memory(nbytes: int) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError, ValueError):  # macOS does not tell, and does not bound
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        end = used + nbytes
        resource.setrlimit(resource.RLIMIT_AS, (end if most == resource.RLIM_INFINITY else min(end, most), most))


class _Worker:
    """Answers requests; what it does is in memory that it shares with its parent."""

    def __init__(self, source: io.FileIO, target: io.FileIO) -> None:
        self._source, self._target = source, target
        self._memory = mmap.mmap(-1, _STATE.size + _MOST_NAME)
        self.steps = Steps(self._memory)

    @property
    def state(self) -> int:
        """What it does, or did as it ended."""
        return int(_STATE.unpack_from(self._memory)[0])

    def _does(self, state: int) -> None:
        _STATE.pack_into(self._memory, 0, state, _STATE.unpack_from(self._memory)[1])

    def serve(self) -> int:
        """Answer requests until one meets damage, or the input ends; return a code for the end."""
        while True:
            self._does(_WAITS)
            head = read_exactly(self._source, 1)
            self._does(_READS)
            rest = head and read_exactly(self._source, LENGTH.size - 1)
            request = rest and read_exactly(self._source, LENGTH.unpack(head + rest)[0])
            if not request:
                return _INPUT_ENDED
            self._does(_WORKS)
            if not self._answered(json.loads(request)):
                return 0

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
        self._does(_WRITES)
        for part in (memoryview(LENGTH.pack(len(told)) + told), *parts):
            self._write(part)
        self._does(_WAITS)

    def _write(self, rest: memoryview) -> None:
        while rest:
            rest = rest[self._target.write(rest) or 0 :]


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
