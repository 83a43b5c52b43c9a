"""The task that writes a source in order: one thread reads, other threads encode and commit."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace

from dask_chunkio.dask_compat import transaction_lock, worker_threads
from dask_chunkio.errors import SourceError
from dask_chunkio.execution.tasks import commit_buffer
from dask_chunkio.execution.threads import Threads
from dask_chunkio.filters.chunking import copied
from dask_chunkio.geometry.grid import Array
from dask_chunkio.model import Receipt, WriteLayout
from dask_chunkio.sources.base import Reader, read_checked, read_some_checked
from dask_chunkio.storage import session
from dask_chunkio.storage.extent import extend

__all__ = ["write_in_order"]

# The items that the reader yields: the present layout, the number of the buffer, its elements.
_Read = tuple[WriteLayout, int, Array]


def write_in_order(layout: WriteLayout, dataset: int, reader: Reader) -> Receipt:
    """Read all buffers in order, in this thread; encode and commit them in other threads.

    While this thread reads one buffer, each other thread holds at most one.  If the length of the source is
    unknown, the dataset is extended to twice its length whenever it is full, and truncated at the end.
    """
    if layout.complete:
        job = layout.jobs[dataset]
        return Receipt(
            dataset, len(job.buffers) - 1, len(job.buffers), 0, job.layout.shape[0] if job.open_ended else None
        )
    threads = max(2, worker_threads(os.cpu_count() or 2))
    running: deque[Future[Receipt]] = deque()
    read = _read_to_the_end if layout.jobs[dataset].open_ended else _read_all
    with (
        session.in_use(layout.target, layout.exclusive),
        Threads(threads, "dask_chunkio-encode") as pool,
    ):
        last = layout
        for last, buffer, data in read(layout, dataset, reader):
            if len(running) == threads:
                running.popleft().result()
            if data.size:
                running.append(pool.submit(commit_buffer, last, dataset, buffer, data))
            del data
            session.require_going(layout.target)
        for future in running:
            future.result()
    job = last.jobs[dataset]
    length = job.layout.shape[0] if job.open_ended else None
    return Receipt(dataset, len(job.buffers) - 1, len(job.buffers), job.layout.nbytes, length)


def _read_all(layout: WriteLayout, dataset: int, reader: Reader) -> Iterator[_Read]:
    job = layout.jobs[dataset]
    dtypes = job.source_dtype, job.layout.form.dtype
    for buffer in range(len(job.buffers)):
        selection = job.selection(buffer)
        # Copied, because the user's object may reuse the same memory in its next call.
        yield layout, buffer, copied(read_checked(reader, selection, dtypes, job.where(buffer, selection)))


def _read_to_the_end(layout: WriteLayout, dataset: int, reader: Reader) -> Iterator[_Read]:
    """Read until the source returns fewer rows than a buffer has, or none."""
    job = layout.jobs[dataset]
    dtypes, wanted = (job.source_dtype, job.layout.form.dtype), job.buffer_shape[0]
    rest = tuple(slice(0, n) for n in job.layout.shape[1:])
    buffer, start, ended = 0, 0, False
    while not ended:
        selection = (slice(start, start + wanted), *rest)
        where = job.where(buffer, selection)
        data = copied(read_some_checked(reader, selection, dtypes, where))
        stop, ended = start + len(data), len(data) < wanted
        if job.most_rows is not None and stop > job.most_rows:
            raise SourceError(f"{where}: the stream has more rows than maxshape= allows, {job.most_rows}")
        if ended or stop > layout.jobs[dataset].layout.shape[0]:
            layout = _extended(layout, dataset, stop, ended)
        yield layout, buffer, data
        buffer, start = buffer + 1, stop


def _extended(layout: WriteLayout, dataset: int, stop: int, ended: bool) -> WriteLayout:
    """Extend the dataset to more than `stop` rows; at the end of the source, set its final length."""
    job = layout.jobs[dataset]
    length = stop
    if not ended:
        length = max(stop, 2 * job.layout.shape[0])
        length = length if job.most_rows is None else min(length, job.most_rows)
    transactions = session.writer_for(layout.target, layout.exclusive).transactions
    lock = transaction_lock(layout.target.write_id)
    extended = extend(transactions, dataset, job.layout, length, lock, ended=ended)
    jobs = list(layout.jobs)
    jobs[dataset] = replace(job, layout=extended)
    return replace(layout, jobs=tuple(jobs))
