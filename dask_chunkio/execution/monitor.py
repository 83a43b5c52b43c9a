"""Delivery of the events of a write to its listeners, on any scheduler."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from dask.callbacks import Callback

from dask_chunkio.dask_compat import ProgressReport, listen, progress_topic
from dask_chunkio.events import BufferCommitted, Listener, WriteEvent, WriteFailed, WriteFinished, WriteStarted
from dask_chunkio.execution.progress import logger
from dask_chunkio.model import Receipt
from dask_chunkio.planning.planner import PreparedWrite
from dask_chunkio.planning.resources import Workers
from dask_chunkio.results import WriteResult

__all__ = ["Observed", "observed"]


class Observed:
    """Dispatcher of the events of a write: calls all listeners once for each event, one call at a time.

    A listener that raises is not called again.  Its error is logged and does not end the write.

    Parameters
    ----------
    write : PreparedWrite
        The write.
    listeners : sequence of callable
        The functions to call.
    """

    def __init__(self, write: PreparedWrite, listeners: Sequence[Listener]) -> None:
        self._path, self._jobs = write.target.path, write.jobs
        self._listeners = list(listeners)
        # Reentrant, because a listener may cause another event in the same thread.
        self._lock = threading.RLock()
        self._seen: set[tuple[int, int]] = set()
        self._done = 0

    def started(self) -> None:
        """Report that the tasks are submitted."""
        is_known = not any(job.open_ended for job in self._jobs)
        names = tuple(job.layout.name for job in self._jobs)
        nbytes = sum(job.nbytes for job in self._jobs) if is_known else None
        buffers = sum(len(job.buffers) for job in self._jobs) if is_known else None
        self._tell(WriteStarted(self._path, names, nbytes, buffers))

    def committed(self, word: ProgressReport) -> None:
        """Report a committed buffer, once: a task that runs twice reports its buffer twice."""
        dataset, buffer, nbytes = word
        with self._lock:
            if (dataset, buffer) in self._seen:
                return
            self._seen.add((dataset, buffer))
            self._done += nbytes
            self._tell(BufferCommitted(self._path, self._jobs[dataset].layout.name, buffer, nbytes, self._done))

    def finished(self, result: WriteResult) -> None:
        """Report that all datasets are complete, or the part of this call."""
        sizes = result.nbytes, result.stored_nbytes
        self._tell(WriteFinished(self._path, *sizes, result.seconds, result.missing_parts))

    def failed(self, error: BaseException) -> None:
        """Report the error that ended the write."""
        self._tell(WriteFailed(self._path, error))

    def _tell(self, event: WriteEvent) -> None:
        with self._lock:
            for listener in list(self._listeners):
                try:
                    listener(event)
                except Exception:
                    self._listeners.remove(listener)
                    logger.exception("%r failed on a %s and is not called again", listener, type(event).__name__)


@contextlib.contextmanager
def observed(write: PreparedWrite, listeners: Sequence[Listener]) -> Iterator[Observed]:
    """Report the events of a write to `listeners` while the context is open.

    Parameters
    ----------
    write : PreparedWrite
        The write.
    listeners : sequence of callable
        The functions to call; without listeners, the scheduler is not asked for reports.
    """
    found = Observed(write, listeners)
    found.started()
    with _heard(write, found) if listeners else contextlib.nullcontext():
        try:
            yield found
        except BaseException as error:
            found.failed(error)
            raise


@contextlib.contextmanager
def _heard(write: PreparedWrite, found: Observed) -> Iterator[None]:
    write_id, workers = write.target.write_id, write.workers
    if workers.share_process:
        with listen(write_id, found.committed):
            yield
    elif workers.client is not None:
        with _subscribed(workers, progress_topic(write_id), found):
            yield
    else:
        with Callback(posttask=lambda _key, result, *_: _of_receipt(found, result)):
            yield


@contextlib.contextmanager
def _subscribed(workers: Workers, topic: str, found: Observed) -> Iterator[None]:
    def heard(event: tuple[Any, ProgressReport]) -> None:
        found.committed(event[1])

    workers.client.subscribe_topic(topic, heard)
    try:
        yield
    finally:
        workers.client.unsubscribe_topic(topic)


def _of_receipt(found: Observed, result: object) -> None:
    if isinstance(result, Receipt):
        found.committed((result.dataset, result.last, result.nbytes))
