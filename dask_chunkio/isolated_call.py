"""Calls of functions of this package in a separate process, in which a damaged file may make HDF5 crash or hang.

The process starts with the first call, imports h5py and numpy (dask only for `repack`), and answers the following calls
in about a millisecond each (`dask_chunkio.isolated_process`).  It ends with this process.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from dask_chunkio import errors
from dask_chunkio.child_pool import ChildPool, ChildProcess, is_sent_by_others, is_time_over
from dask_chunkio.child_process import can_start_children, child_command
from dask_chunkio.errors import IntegrityError, WorkerError
from dask_chunkio.isolated_process import LENGTH, read_exactly

__all__ = ["Answer", "call_isolated", "is_isolated"]

logger = logging.getLogger("dask_chunkio")
# Words and arrays of an answer.
Answer = tuple[Any, Sequence[bytes]]
# Imported before the first call, and once for all workers.
_MODULES = ("dask_chunkio.reading.dataset_record", "dask_chunkio.reading.structure_check")
# Processor time in seconds of a step, beside that for its bytes; its waiting is bounded by ten times as much.
_SECONDS = 10.0
# Each call has one thread: the time of others would count.
_VARIABLES = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "BLOSC_NTHREADS": "1"}
# Seconds in which Python starts: where Python is part of another program, `sys.executable` may be that program.
_START = 120.0
_MOST_IDLE = 2
_REMEDY = "; give isolated=False for files that you trust"


def is_isolated(isolated: bool | None) -> bool:
    """Return whether HDF5 is asked in a separate process.

    Parameters
    ----------
    isolated : bool or None
        What the user wants; None for wherever that is possible.

    Raises
    ------
    WorkerError
        If the user wants it, and this program cannot start Python.
    """
    if isolated is None:
        return can_start_children() and _processes.can_start()
    if isolated and not can_start_children():
        raise WorkerError(
            "this program cannot start Python, which is to read the file in a process of its own; give isolated=False "
            "for files that you trust"
        )
    return isolated


def call_isolated(module: str, arguments: Any, path: str, memory: int) -> Answer:
    """Call ``answer(arguments, steps)`` of a module in a separate process.

    Parameters
    ----------
    module : str
        Its absolute name.
    arguments : object
        What JSON can hold.
    path : str
        The file that is read, for messages.
    memory : int
        How many bytes the call may take.

    Returns
    -------
    object, sequence of bytes
        What JSON can hold, and the content of arrays.

    Raises
    ------
    ChunkIOError
        What the function raised.
    IntegrityError
        If it crashed, or took more time or memory than it may.
    WorkerError
        If the process cannot be started, or was killed.
    """
    request = {"module": module, "arguments": arguments, "seconds": _SECONDS, "memory": memory, "folder": _folder()}
    told = json.dumps(request).encode()
    answer, arrays = _answered(told)
    if "result" in answer:
        return answer["result"], arrays
    if "error" in answer:
        kind = getattr(errors, str(answer["error"]), IntegrityError)
        words = str(answer["message"])
        # What goes wrong with another file, such as a copy for which there is no space, says nothing of this one.
        rest = "; the file is damaged" if issubclass(kind, IntegrityError) else ""
        raise kind(words if path in words else f"{path}: {words}{rest}")
    raise _error_of_crash(path, int(answer["crashed"]), str(answer["where"]))


def _folder() -> str | None:
    """Return the working folder, in which HDF5 looks for files that a file names; None if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _answered(request: bytes) -> Answer:
    """Have a request answered.  Ask once more after a crash, because an earlier file may have caused it."""
    answer: Any = None
    for _ in range(2):
        with _processes.lent() as process:
            answer, arrays = process.ask(request)
        if "crashed" not in answer or is_time_over(answer["crashed"]) or is_sent_by_others(answer["crashed"]):
            break
    return answer, arrays


def _error_of_crash(path: str, code: int, where: str) -> IntegrityError | WorkerError:
    at = f" at {where}" if where else ""
    if is_sent_by_others(code):
        return WorkerError(
            f"the process that reads {path} was ended by signal {-code}{at}; if the system did so for want of memory, "
            f"read it where there is more"
        )
    if is_time_over(code):
        return IntegrityError(
            f"{path}{at}: HDF5 takes more time than any valid file needs; it is damaged, or a link leads to what is no "
            f"file, or the disk does not answer"
        )
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return IntegrityError(f"{path}{at}: HDF5 crashes, with {how}; the file is damaged")


class _Process(ChildProcess):
    """A process that answers one request at a time (`dask_chunkio.isolated_process`)."""

    def __init__(self) -> None:
        command = child_command("dask_chunkio.isolated_process", _MODULES)
        super().__init__(command, _VARIABLES, "read files in a process of its own", _REMEDY)
        try:
            self._require_ready()
        except BaseException:  # Ctrl-C, too: nobody else would end it
            self.end()
            raise

    def _require_ready(self) -> None:
        """Wait until the process has imported what it needs."""
        watch = threading.Timer(_START, self.kill)
        watch.daemon = True
        try:
            watch.start()
            answer, _ = self._answer()
        finally:
            watch.cancel()
        if "crashed" in answer:
            raise WorkerError(
                f"{sys.executable}, which is to read files in a process of its own, ended with {answer['crashed']} as "
                f"it started{_REMEDY}"
            )

    def ask(self, request: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Have a request answered; a process that ends instead has crashed."""
        self.is_sound = False
        try:
            self.send(LENGTH.pack(len(request)) + request)
        except OSError:
            return {"crashed": self.exit_code(), "where": ""}, []
        return self._answer()

    def _answer(self) -> tuple[dict[str, Any], list[bytes]]:
        try:
            answer = json.loads(self._read(LENGTH.unpack(self._read(LENGTH.size))[0]))
            arrays = [self._read(int(length)) for length in answer["lengths"]]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return {"crashed": self.exit_code(), "where": ""}, []
        self.is_sound = True
        return answer, arrays

    def _read(self, nbytes: int) -> bytes:
        found = read_exactly(self.source, nbytes)
        if len(found) < nbytes:
            raise ValueError("the process has ended")
        return found


class _Processes(ChildPool[_Process]):
    """The processes that answer."""

    def __init__(self) -> None:
        super().__init__(_Process, _MOST_IDLE)
        self._is_refused = False

    def can_start(self) -> bool:
        """Return whether a process can be started; once one cannot, no other is tried."""
        if self.idle or self._is_refused:
            return not self._is_refused
        try:
            with self.lent():
                return True
        except WorkerError as error:
            self._is_refused = True
            logger.warning("%s; until then HDF5 reads them in this process", error)
            return False


_processes = _Processes()
_processes.end_with_this_process()
