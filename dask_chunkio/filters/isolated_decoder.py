"""A decoder that has HDF5 decode chunks in processes of its own, which a damaged payload may crash.

Each process decodes one chunk at a time for one thread, so that threads decode at once, and is kept for the next chunk.
Its time and memory are bounded by the size of the chunk.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import cast

import numpy as np

from dask_chunkio.child_process import child_command
from dask_chunkio.errors import FilterError, IntegrityError, WorkerError
from dask_chunkio.filters.chunk_format import ChunkFormat, Data, Payload
from dask_chunkio.filters.decoding_messages import ANSWER, CRASHED, DAMAGED, DECODED, MISSING, REQUEST, read_into
from dask_chunkio.filters.plugin import PLUGIN_NAMES, plugin_paths, require_filter
from dask_chunkio.geometry.grid import Array

if sys.platform != "win32":
    import fcntl

__all__ = ["IsolatedDecoder"]

# Each thread that decodes has a core of its own already.
_VARIABLES = {"OMP_NUM_THREADS": "1", "BLOSC_NTHREADS": "1"}
_MOST_PROCESSES = os.cpu_count() or 1
_MOST_WORDS = 1 << 16
_PIPE = 1 << 20
# Seconds in which a process that has closed its output ends.
_PATIENCE = 10
# Signals that somebody else sends.
_NOT_ITS_OWN = frozenset({signal.SIGTERM, signal.SIGINT, *([signal.SIGKILL] if hasattr(signal, "SIGKILL") else [])})
# What the system ends a process by that takes more time than it may.
_TIME_IS_OVER = frozenset(getattr(signal, name, 0) for name in ("SIGPROF", "SIGALRM")) - {0}


class IsolatedDecoder:
    """A decoder for any filter of HDF5, which HDF5 runs in another process.

    Parameters
    ----------
    form : ChunkFormat
        How chunks are stored.

    Raises
    ------
    FilterError
        If a filter is missing in this process.

    Examples
    --------
    >>> from dask_chunkio.filters.chunk_format import Filter
    >>> decoder = IsolatedDecoder(ChunkFormat((4,), np.dtype("<i2"), (Filter(2, 0, (2,), "shuffle"),)))
    >>> decoder.decode(Payload(bytes((1, 2, 3, 4, 0, 0, 0, 1))))
    array([  1,   2,   3, 260], dtype=int16)
    """

    def __init__(self, form: ChunkFormat) -> None:
        for step in form.filters:
            require_filter(step.code)
        self._form = form

    @property
    def name(self) -> str:
        """The names of the filters in the order in which they are undone, with the remark who undoes them."""
        names = (PLUGIN_NAMES.get(step.code, step.name) for step in reversed(self._form.filters))
        return f"{' > '.join(names) or 'copying'} by HDF5, in a process of its own"

    @property
    def is_parallel(self) -> bool:
        """Whether several threads of a process decode chunks at once: always, because each has a process."""
        return True

    @property
    def most_nbytes(self) -> int:
        """The number of bytes that a payload may have."""
        return self._form.most_payload_nbytes

    @property
    def decodes_parts(self) -> bool:
        """Whether a part of a chunk takes less time than the whole chunk: HDF5 decodes all of it."""
        return False

    def decode(self, payload: Payload, needed: slice | None = None) -> Array:  # noqa: ARG002, always all of it
        """Return the chunk of a payload, with the shape and dtype of the format.

        Raises
        ------
        IntegrityError
            If the payload is damaged; the message does not name the chunk.
        FilterError
            If a filter is missing in the process that decodes.
        WorkerError
            If that process cannot be started, or was killed.
        """
        target = np.empty(self._form.nbytes, np.uint8)
        kind, words = _answered(self._request(payload), payload.data, target)
        if kind == DAMAGED:
            raise IntegrityError(words)
        if kind == MISSING:
            raise FilterError(words)
        if kind == CRASHED:
            raise _error_of_crash(int(words))
        return target.view(self._form.dtype).reshape(self._form.chunk_shape)

    def _request(self, payload: Payload) -> bytes:
        filters = [[step.code, step.flags, step.options, step.name] for step in self._form.filters]
        return json.dumps({"filters": filters, "nbytes": self._form.nbytes, "mask": payload.mask}).encode()


def _answered(request: bytes, data: Data, target: Array) -> tuple[int, str]:
    """Have a payload decoded; try again after a crash, in which an earlier payload may have had a part."""
    kind, words = CRASHED, "1"
    for _ in range(2):
        with _processes.lent() as process:
            kind, words = process.ask(request, data, target)
        if kind != CRASHED or -int(words) in _TIME_IS_OVER:
            break
    return kind, words


def _error_of_crash(code: int) -> IntegrityError | WorkerError:
    if -code in _NOT_ITS_OWN:
        return WorkerError(
            f"a process that decodes was ended by signal {-code}; if the system did so for want of memory, decode "
            f"smaller chunks, or fewer at once"
        )
    if -code in _TIME_IS_OVER:
        return IntegrityError("its payload takes more time to decode than any that is valid")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return IntegrityError(f"its payload crashes the filter that decodes it, with {how}")


def _widen(pipe: io.FileIO) -> None:
    """Have a pipe hold a chunk, not the usual 64 KiB, so that two processes change places less often (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # more than this user may have
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


class _Process:
    """A process that decodes one chunk at a time (`dask_chunkio.filters.decoding_process`)."""

    def __init__(self) -> None:
        command = child_command("dask_chunkio.filters.decoding_process", plugin_paths())
        try:
            # In a session of its own: Ctrl-C is for the parent.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                env={**os.environ, **_VARIABLES}, start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise WorkerError(f"cannot start {sys.executable}, which is to decode chunks: {error}") from error
        self._source = cast(io.FileIO, self._process.stdout)
        self._sink = cast(io.FileIO, self._process.stdin)
        self._number = 0
        self.is_sound = True
        for pipe in (self._source, self._sink):
            _widen(pipe)

    def ask(self, request: bytes, data: Data, target: Array) -> tuple[int, str]:
        """Have a payload decoded into `target`; return what came of it, and the words or the exit code for it."""
        self.is_sound, self._number = False, self._number + 1
        try:
            self._write(REQUEST.pack(self._number, len(request), len(data)) + request)
            self._write(data)
            kind, words = self._read(target)
        except (OSError, ValueError):
            return CRASHED, str(self._code())
        self.is_sound = True
        return kind, words

    def _write(self, data: Data) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self._sink.write(rest) or 0 :]

    def _read(self, target: Array) -> tuple[int, str]:
        head = bytearray(ANSWER.size)
        is_whole = read_into(self._source, head)
        number, kind, length = ANSWER.unpack(head)
        words = bytearray(min(length, _MOST_WORDS))
        is_whole = is_whole and read_into(self._source, words)
        if kind == DECODED:
            is_whole = is_whole and read_into(self._source, target.data)
        told = words.decode("utf-8", "replace")
        if not is_whole or number != self._number or length > _MOST_WORDS or kind > CRASHED:
            raise ValueError("the process has ended, or answers another request")
        return kind, str(int(told)) if kind == CRASHED else told

    def _code(self) -> int:
        """Return how the process ended that has closed its output."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_PATIENCE) or 1
        return 1

    def end(self) -> None:
        """End the process and its worker."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL) if hasattr(os, "killpg") else self._process.kill()
        self.close()
        self._process.wait()

    def close(self) -> None:
        """Close the pipes, which ends the process if no other has them."""
        for pipe in (self._source, self._sink):
            with contextlib.suppress(OSError):
                pipe.close()


class _Processes:
    """The processes of this one that decode: each is lent to one thread at a time, and there is one for each core."""

    def __init__(self) -> None:
        self._idle: list[_Process] = []
        self._unlock()

    def _unlock(self) -> None:
        self._lock, self._slots = threading.Lock(), threading.BoundedSemaphore(_MOST_PROCESSES)

    @contextlib.contextmanager
    def lent(self) -> Iterator[_Process]:
        """Lend a process that no other thread has; wait for one while each core has one at work."""
        with self._slots, self._returned() as process:
            yield process

    @contextlib.contextmanager
    def _returned(self) -> Iterator[_Process]:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        process = process or _Process()
        try:
            yield process
        finally:
            if process.is_sound:
                with self._lock:
                    self._idle.append(process)
            else:
                process.end()

    def end(self) -> None:
        """End the idle processes."""
        while self._idle:
            self._idle.pop().end()

    def forget(self) -> None:
        """Leave the processes to the parent, in a child that was forked."""
        self._unlock()
        for process in self._idle:
            process.close()
        self._idle.clear()


_processes = _Processes()
atexit.register(_processes.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_processes.forget)
