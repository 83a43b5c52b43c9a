"""Processes that answer requests by a forked worker, which a request may make crash or hang.

A worker that crashes, takes more time or memory than it may, or has met damage, is replaced, in milliseconds: what it
wrote beyond its memory must not show in other answers.  The process ends, and with it the worker, when nobody has the
other end of its standard input open any more.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import select
import signal
import struct
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from dask_chunkio.child_process import reserve_output
from dask_chunkio.process_limits import limit_memory, write_no_core

if sys.platform != "win32":
    import resource

__all__ = ["INPUT_ENDED", "ForkedWorker", "bound_memory", "bound_time", "restore_signals"]

# States of a worker.  If it ends while it reads or writes, the message boundaries in the pipe are lost.
_WAITS, _READS, _WORKS, _WRITES = range(4)
_STATE = struct.Struct("<Q")
# How many times as long as its processor time a worker may wait, for a busy machine, or a pipe in place of a file.
_PATIENCE = 10

INPUT_ENDED = 3
"""What `ForkedWorker.serve` returns at the end of the input."""


class ForkedWorker(ABC):
    """Serves requests from standard input; what it does is in memory that it shares with its parent.

    Parameters
    ----------
    nbytes : int
        Memory that it shares beside that, `memory`.
    """

    def __init__(self, nbytes: int) -> None:
        self.source, self._target = io.FileIO(0), _reserved_output()
        shared = mmap.mmap(-1, _STATE.size + nbytes)
        self._state, self.memory = memoryview(shared)[: _STATE.size], memoryview(shared)[_STATE.size :]

    @abstractmethod
    def serve(self) -> int:
        """Answer requests until one meets damage, or the input ends; return a code for the end."""

    @abstractmethod
    def answer_crash(self, code: int) -> None:
        """Answer, in the parent, the request at which a worker ended with an exit code."""

    def run(self) -> None:
        """Answer requests until the input ends, by one worker after another."""
        if not hasattr(os, "fork"):
            while self.serve() != INPUT_ENDED:
                pass
            return
        while True:
            code, state = self._ended(), _STATE.unpack(self._state)[0]
            if state == _WORKS:  # whatever the code is: a library may call exit(0)
                self.answer_crash(code)
            elif code == INPUT_ENDED or state != _WAITS:
                return

    def waits(self) -> None:
        """Note that it waits for a request."""
        _STATE.pack_into(self._state, 0, _WAITS)

    def reads(self) -> None:
        """Note that it reads a request."""
        _STATE.pack_into(self._state, 0, _READS)

    def works(self) -> None:
        """Note that it works."""
        _STATE.pack_into(self._state, 0, _WORKS)

    def write(self, *parts: memoryview) -> None:
        """Write an answer, and wait for the next request."""
        _STATE.pack_into(self._state, 0, _WRITES)
        for part in parts:
            rest = part
            while rest:
                rest = rest[self._target.write(rest) or 0 :]
        self.waits()

    def _ended(self) -> int:
        """Have a worker serve in a forked process, and return how that ended; kill it when nobody can ask any more."""
        ends = os.pipe()
        reader, writer = io.FileIO(ends[0]), io.FileIO(ends[1], "w")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                reader.close()
                code = self.serve()
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


def restore_signals() -> None:
    """Undo what the parent ignores or blocks: what takes too long has to be ended, and its end to be noticed."""
    if sys.platform == "win32":
        return
    for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def bound_time(seconds: float) -> None:
    """End this process if it takes so much processor time from now on, or waits ten times as long; 0 for no bound."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE * seconds)


def bound_memory(nbytes: int) -> None:
    """Refuse this process more memory than it has, and `nbytes` more."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError, ValueError):  # macOS does not tell, and does not bound
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        limit_memory(used + nbytes)


def _reserved_output() -> io.FileIO:
    """Reserve standard output for answers, and write no core files of crashes."""
    write_no_core()
    return io.FileIO(reserve_output(), "w")
