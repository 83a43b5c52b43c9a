"""What is decided before a write begins: datasets, chunks, buffers, and how each source is read."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dask_chunkio.array_blocks import ArrayBlocks, array_blocks
from dask_chunkio.config import Settings, settings
from dask_chunkio.errors import AlignmentError, ArgumentError
from dask_chunkio.filters.compatibility import check_conversion
from dask_chunkio.filters.via_hdf5 import encoder_for
from dask_chunkio.grid import BufferGrid, Shape
from dask_chunkio.plan import DatasetPlan, WritePlan
from dask_chunkio.request import DatasetRequest, parse_filename, parse_requests
from dask_chunkio.sizing import (
    buffer_budget,
    buffer_within,
    format_nbytes,
    projected_nbytes,
    readable_chunk_shape,
    split_buffer,
)
from dask_chunkio.sources.array import ArraySource
from dask_chunkio.sources.iterator import IteratorSource
from dask_chunkio.sources.lazy import LazySource
from dask_chunkio.sources.source import ReadMode, Source
from dask_chunkio.sources.stream import StreamSource, is_open_ended
from dask_chunkio.storage.dataset import DatasetLayout, DatasetSpec, preview
from dask_chunkio.storage.parts import find_parts
from dask_chunkio.storage.target import Target
from dask_chunkio.tasks import Creation, DatasetJob, WriteResult
from dask_chunkio.workers import Workers, require_picklable

__all__ = ["PreparedWrite", "prepare"]


@dataclass(frozen=True, slots=True)
class PreparedWrite:
    """Everything that is decided before a write begins.

    Parameters
    ----------
    target : Target
        The file.
    workers : Workers
        Who runs the tasks.
    sources : tuple of Source
        One for each dataset.
    specs : tuple of DatasetSpec
        What is to be made.
    jobs : tuple of DatasetJob
        How each dataset is written.
    blocks : callable
        Returns those of the dask arrays among the sources; the first call optimizes their graphs.
    """

    target: Target
    workers: Workers
    sources: tuple[Source, ...]
    specs: tuple[DatasetSpec, ...]
    jobs: tuple[DatasetJob, ...]
    blocks: Callable[[], ArrayBlocks] = field(repr=False, compare=False)

    def creation(self, exclusive: bool) -> Creation:
        """Return what the first task makes."""
        return Creation(self.target, self.specs, self.jobs, exclusive)

    @property
    def asks_for_progress(self) -> bool:
        """Whether an iterator was made with ``display_progress=True``."""
        return any(isinstance(source, IteratorSource) and source.display_progress for source in self.sources)

    def plan(
        self, estimates: Sequence[int | None] | None = None, write: Callable[..., WriteResult] | None = None
    ) -> WritePlan:
        """Return what the user may read before the write begins.

        Parameters
        ----------
        estimates : sequence of int or None
            Bytes that the payloads of each dataset are going to have.
        write : callable
            Has it done.
        """
        datasets = tuple(map(_dataset_plan, self.jobs, estimates or [None] * len(self.jobs)))
        workers = self.workers
        held = _projected(datasets, workers.threads_per_worker)
        kept = self.blocks().kept_nbytes(workers.threads)
        advice = _advice(datasets, held, workers) if held > workers.memory_nbytes else ""
        advice = advice or _advice_on_kept(self._lazy_names, held, kept, workers)
        return WritePlan(
            self.target.path,
            datasets,
            workers.kind,
            workers.threads,
            workers.threads_per_worker,
            held,
            workers.memory_nbytes,
            advice,
            kept,
            write,
        )

    @property
    def _lazy_names(self) -> str:
        names = (
            job.layout.name for job, one in zip(self.jobs, self.sources, strict=True) if isinstance(one, LazySource)
        )
        return ", ".join(names)

    def require_fit(self) -> None:
        """Refuse what the workers have no memory for.

        Raises
        ------
        ArgumentError
            With every number, and the buffer shape that would fit.
        """
        if not (planned := self.plan()).fits:
            raise ArgumentError(planned.advice)


def _projected(datasets: Sequence[DatasetPlan], threads: int) -> int:
    """Return the most bytes that the threads of a worker process hold at once."""
    # Not all of them have a buffer at once where there are fewer buffers than threads.
    busy = min(threads, sum(len(dataset.buffers) if not dataset.open_ended else threads for dataset in datasets))
    held = max(projected_nbytes(d.buffer_nbytes, d.chunk_nbytes, busy) for d in datasets)
    return held + max((d.buffer_nbytes for d in datasets if d.read != "concurrent"), default=0)


def _advice(datasets: Sequence[DatasetPlan], held: int, workers: Workers) -> str:
    largest = max(datasets, key=lambda dataset: dataset.buffer_nbytes)
    threads, itemsize = workers.threads_per_worker, max(largest.dtype.itemsize, largest.source_dtype.itemsize)
    words = (
        f"{largest.name}: buffers of {largest.buffers.buffer_shape}, {format_nbytes(largest.buffer_nbytes)}, take up "
        f"to {format_nbytes(held)} in a worker process with {threads} threads, each of which holds a buffer, its "
        f"payloads and a chunk; the workers have {format_nbytes(workers.memory_nbytes)} for it"
    )
    for divisor in (2, 4, 8):
        budget = max(1, workers.memory_nbytes // (divisor * threads))
        shape, chunk = largest.shape, largest.chunks.chunk_shape
        smaller = split_buffer(shape, chunk, largest.buffers.buffer_shape, itemsize, nbytes=budget, count=1)
        other = replace(largest, buffers=BufferGrid(largest.chunks, smaller))
        if (needed := _projected([other], threads)) <= workers.memory_nbytes:
            takes = f"which takes {format_nbytes(needed)}"
            return f"{words}. Give buffer_shape={smaller}, {takes}, or a larger memory_limit"
    return (
        f"{words}, and even one chunk of {format_nbytes(largest.chunk_nbytes)} for each thread does not fit. Give "
        f"smaller chunks=, workers with fewer threads, or a larger memory_limit"
    )


def _advice_on_kept(names: str, held: int, kept: int, workers: Workers) -> str:
    # The workers of a cluster put on disk what does not fit.
    if not kept or workers.kind == "distributed":
        return ""
    room = (workers.memory_nbytes - held) * max(1, workers.threads // workers.threads_per_worker)
    if kept <= room:
        return ""
    return (
        f"{names}: up to {format_nbytes(kept)} of blocks are kept for other tasks that need them, beside what the "
        f"threads hold; there are {format_nbytes(room)} for it. Write what shares blocks in calls of their own (each "
        f"computes them again), give a dask array with other blocks, or a larger memory_limit"
    )


def _dataset_plan(job: DatasetJob, estimated: int | None) -> DatasetPlan:
    form = job.layout.form
    encoder = encoder_for(form, job.options).name if job.layout.is_chunked else "HDF5, one buffer at a time"
    filters = tuple(map(str, form.filters))
    region = job.layout.region
    return DatasetPlan(
        job.layout.name,
        form.dtype,
        job.source_dtype,
        job.buffers,
        filters,
        encoder,
        job.read,
        region,
        job.open_ended,
        job.layout.is_chunked,
        estimated,
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """What sizes are chosen by."""

    workers: Workers
    settings: Settings

    @property
    def buffer_nbytes(self) -> int:
        budget = buffer_budget(self.workers.memory_nbytes, self.workers.threads_per_worker)
        return min(self.settings.buffer_nbytes, budget)

    @property
    def count(self) -> int:
        return self.settings.buffers_per_thread * self.workers.threads


def prepare(
    filename: Any,
    args: tuple[Any, ...],
    encoding: Mapping[str, Mapping[str, Any]] | None,
    keywords: Mapping[str, Any],
    workers: Workers,
    *,
    options: Mapping[str, Any],
    may_begin_streams: bool = True,
) -> PreparedWrite:
    """Decide everything about a write; touches nothing.

    Parameters
    ----------
    filename, args, encoding, keywords : object
        As `to_hdf5` takes them.
    workers : Workers
        Who runs the tasks.
    options : mapping
        Of the `Target`.
    may_begin_streams : bool
        Whether the first DataChunk of a stream may be taken, where nothing else says its shape and dtype.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For anything that cannot be meant.
    """
    scale = _Scale(workers, settings())
    path = parse_filename(filename)
    requests = parse_requests(args, encoding, keywords, may_begin_streams)
    target = Target(path, uuid.uuid4().hex, **options)
    parts = {one.name: (one.region, one.append, one.source.shape) for one in requests if one.is_there}
    there = workers.call(find_parts, target, parts) if parts else {}
    specs = tuple(_spec_of_part(one, there[one.name]) if one.name in there else _spec(one, scale) for one in requests)
    layouts = preview(specs)
    jobs = tuple(_job(request, layout, scale) for request, layout in zip(requests, layouts, strict=True))
    # What is open-ended begins with room for one buffer.
    specs = tuple(
        replace(spec, shape=job.layout.shape) if spec.open_ended else spec
        for spec, job in zip(specs, jobs, strict=True)
    )
    for request in requests:
        _require_portable(request, workers)
    sources = tuple(request.source for request in requests)
    blocks = functools.cache(functools.partial(array_blocks, sources, jobs))
    return PreparedWrite(target, workers, sources, specs, jobs, blocks)


def _spec(request: DatasetRequest, scale: _Scale) -> DatasetSpec:
    source, options, shape = request.source, request.options, request.source.shape
    open_ended = is_open_ended(source)
    if open_ended:
        options = {"maxshape": (None, *shape[1:]), **options}
        most = _most_rows(options)
        shape = shape if most is None else (min(most, shape[0]), *shape[1:])
    check_conversion(source.dtype, request.dtype, request.name)
    chunks = request.chunks or _chunks(source, shape, request.dtype.itemsize, scale.settings.chunk_nbytes)
    return DatasetSpec(
        request.name, shape, request.dtype, chunks, options, request.attrs, source.dtype, open_ended=open_ended
    )


def _chunks(source: Source, shape: Shape, itemsize: int, nbytes: int) -> Shape:
    """Return the chunk shape that a source recommends, within `shape`, or one that suits it."""
    chunk, block = source.shapes.chunk, source.shapes.block
    if chunk is None:
        return readable_chunk_shape(shape, itemsize, block, nbytes)
    return tuple(min(c, max(n, 1)) for c, n in zip(chunk, shape, strict=True))


def _most_rows(options: Mapping[str, Any]) -> int | None:
    maxshape = options.get("maxshape")
    first = maxshape[0] if isinstance(maxshape, (tuple, list)) and maxshape else maxshape
    return int(first) if isinstance(first, (int, np.integer)) and not isinstance(first, bool) else None


def _spec_of_part(request: DatasetRequest, layout: DatasetLayout) -> DatasetSpec:
    source, form = request.source, layout.form
    check_conversion(source.dtype, form.dtype, request.name)
    spec = DatasetSpec(request.name, source.shape, form.dtype, form.chunk_shape, source_dtype=source.dtype)
    return replace(spec, there=layout)


def _job(request: DatasetRequest, layout: DatasetLayout, scale: _Scale) -> DatasetJob:
    source = request.source
    read = _read_mode(request)
    buffer = _buffer_shape(request, layout, scale)
    if isinstance(source, StreamSource):
        buffer = (*buffer[:1], *(max(n, 1) for n in source.shape[1:]))
    try:
        BufferGrid(layout.chunks, buffer)
    except AlignmentError as error:
        raise AlignmentError(f"{request.name}: {error}") from error
    job = DatasetJob(layout, buffer, source.dtype, read, request.options)
    if not is_open_ended(source):
        return job
    most = _most_rows(request.options)
    rows = buffer[0] if most is None else min(most, buffer[0])
    return replace(job.of_length(rows), open_ended=True, most_rows=most)


def _read_mode(request: DatasetRequest) -> ReadMode:
    offered = request.source.read_mode
    wanted: ReadMode = request.read or offered
    if isinstance(request.source, LazySource) and request.read not in (None, "concurrent"):
        raise ArgumentError(
            f"{request.name}: read={request.read!r} does not apply to a dask array, whose own tasks read; "
            f"give lock=True to dask.array.from_array instead"
        )
    if isinstance(request.source, StreamSource) and wanted != "ordered":
        raise ArgumentError(f"{request.name}: a stream can only be read in order; leave read={request.read!r} out")
    return wanted


def _buffer_shape(request: DatasetRequest, layout: DatasetLayout, scale: _Scale) -> Shape:
    """Return the buffer shape that the user chose, or one that suits chunks, memory and threads."""
    if request.buffer_shape is not None:
        return request.buffer_shape
    shapes, chunk = request.source.shapes, layout.form.chunk_shape
    if shapes.buffer is not None and shapes.is_fixed and _fits(layout, shapes.buffer):
        return shapes.buffer
    if isinstance(request.source, LazySource) and shapes.block is not None and _fits(layout, shapes.block):
        return shapes.block
    itemsize = max(request.source.dtype.itemsize, layout.form.dtype.itemsize)
    start = shapes.buffer if shapes.buffer is not None and not shapes.is_fixed else None
    if start is None or not _fits(layout, start):
        start = buffer_within(layout.shape, chunk, itemsize, scale.buffer_nbytes)
    sizes = {"nbytes": scale.buffer_nbytes, "count": scale.count, "threads": scale.workers.threads}
    return split_buffer(layout.shape, chunk, start, itemsize, **sizes)


def _fits(layout: DatasetLayout, buffer: Shape) -> bool:
    try:
        BufferGrid(layout.chunks, buffer)
    except AlignmentError:
        return False
    return True


def _require_portable(request: DatasetRequest, workers: Workers) -> None:
    source = request.source
    if workers.share_process or isinstance(source, LazySource):
        return
    empty = tuple(slice(0, 0) for _ in source.shape)
    # An array in memory is sent in parts, which are plain numpy.
    if not (isinstance(source, ArraySource) and source.part(empty) is not None):
        require_picklable(source, request.name)
