"""A decoder that has HDF5 decode chunks in processes of its own, which a damaged payload may crash.

Each process decodes one chunk at a time for one thread, so that threads decode at once, and is kept for the next chunk.
Its time and memory are bounded by the size of the chunk.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

import numpy as np

from dask_chunkio.child_pool import ChildPool, ChildProcess, is_sent_by_others, is_time_over
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
        if kind != CRASHED or is_time_over(int(words)):
            break
    return kind, words


def _error_of_crash(code: int) -> IntegrityError | WorkerError:
    if is_sent_by_others(code):
        return WorkerError(
            f"a process that decodes was ended by signal {-code}; if the system did so for want of memory, decode "
            f"smaller chunks, or fewer at once"
        )
    if is_time_over(code):
        return IntegrityError("its payload takes more time to decode than any that is valid")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return IntegrityError(f"its payload crashes the filter that decodes it, with {how}")


def _widen(pipe: io.FileIO) -> None:
    """Have a pipe hold a chunk, not the usual 64 KiB, so that two processes change places less often (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # more than this user may have
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


class _Process(ChildProcess):
    """A process that decodes one chunk at a time (`dask_chunkio.filters.decoding_process`)."""

    def __init__(self) -> None:
        command = child_command("dask_chunkio.filters.decoding_process", plugin_paths())
        super().__init__(command, _VARIABLES, "decode chunks")
        self._number = 0
        for pipe in (self.source, self.sink):
            _widen(pipe)

    def ask(self, request: bytes, data: Data, target: Array) -> tuple[int, str]:
        """Have a payload decoded into `target`; return what came of it, and the words or the exit code for it."""
        self.is_sound, self._number = False, self._number + 1
        try:
            self.send(REQUEST.pack(self._number, len(request), len(data)) + request)
            self.send(data)
            kind, words = self._read(target)
        except (OSError, ValueError):
            return CRASHED, str(self.exit_code())
        self.is_sound = True
        return kind, words

    def _read(self, target: Array) -> tuple[int, str]:
        head = bytearray(ANSWER.size)
        is_whole = read_into(self.source, head)
        number, kind, length = ANSWER.unpack(head)
        words = bytearray(min(length, _MOST_WORDS))
        is_whole = is_whole and read_into(self.source, words)
        if kind == DECODED:
            is_whole = is_whole and read_into(self.source, target.data)
        told = words.decode("utf-8", "replace")
        if not is_whole or number != self._number or length > _MOST_WORDS or kind > CRASHED:
            raise ValueError("the process has ended, or answers another request")
        return kind, str(int(told)) if kind == CRASHED else told


def _new_pool() -> ChildPool[_Process]:
    """Return a pool with a process for each core."""
    return ChildPool(_Process, most_idle=_MOST_PROCESSES, most=_MOST_PROCESSES)


_processes = _new_pool()
_processes.end_with_this_process()
