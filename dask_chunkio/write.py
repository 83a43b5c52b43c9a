"""`to_hdf5` and `plan`: from what the user asks for to a whole file."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, overload

import dask.base
from dask.delayed import Delayed

from dask_chunkio.endings import errors_of_workers, interrupts_stop, kept_is_named
from dask_chunkio.errors import (
    AlignmentError,
    ArgumentError,
)
from dask_chunkio.filters.cut import check_cast
from dask_chunkio.filters.via_hdf5 import encoder_for
from dask_chunkio.graph import build_graph
from dask_chunkio.grid import BufferGrid, Shape
from dask_chunkio.plan import DatasetPlan, WritePlan
from dask_chunkio.progress import progress_bar, wants_progress
from dask_chunkio.request import DatasetRequest, parse_filename, parse_requests
from dask_chunkio.sizing import (
    buffer_budget,
    buffer_within,
    projected_nbytes,
    readable_chunk_shape,
    split_buffer,
)
from dask_chunkio.sources.array import ArraySource
from dask_chunkio.sources.iterator import IteratorSource
from dask_chunkio.sources.lazy import LazySource
from dask_chunkio.sources.source import ReadMode, Source
from dask_chunkio.sources.stream import StreamSource
from dask_chunkio.storage.dataset import DatasetLayout, DatasetSpec, preview
from dask_chunkio.storage.parts import find_parts
from dask_chunkio.storage.target import Durability, Target
from dask_chunkio.storage.writers import end
from dask_chunkio.tasks import Creation, DatasetJob, WriteResult
from dask_chunkio.workers import Workers, find_workers, refuse_import_by_spawn, require_picklable

__all__ = ["command_line", "plan", "to_hdf5"]

_BUFFER_NBYTES = 64 << 20
# Kept beside the file, so that `dask-chunkio resume` can go on.
command_line: ContextVar[tuple[str, ...]] = ContextVar("command_line", default=())
_BUFFERS_PER_THREAD = 4


@overload
def to_hdf5(filename: Any, *args: Any, compute: Literal[True] = True, **keywords: Any) -> WriteResult: ...


@overload
def to_hdf5(filename: Any, *args: Any, compute: Literal[False], **keywords: Any) -> Delayed: ...


def to_hdf5(
    filename: Any,
    *args: Any,
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    wait: bool = False,
    durability: Durability = "process",
    libver: str | tuple[str, str] | None = None,
    compute: bool = True,
    scheduler: Any = None,
    memory_limit: int | str | None = None,
    progress: bool | None = None,
    fuse: bool = True,
    compute_kwargs: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> WriteResult | Delayed:
    """Write arrays to an HDF5 file, in parallel.

    Parameters
    ----------
    filename : str or path-like
        The file.  It appears under this name when it is whole, and not before.
    *args : str and source, or mapping of str to source
        ``"/x", source`` or ``{"/x": a, "/y": b}``.  A source is a `GenericDataChunkIterator`
        (ours or hdmf's), a dask array, or anything with ``shape``, ``dtype`` and ``__getitem__``.
    encoding : mapping, optional
        Keywords for single datasets: ``{"/x": {"compression": "gzip"}}``.
    overwrite : bool
        Replace datasets that are there, and nothing else.  By default a dataset that is there
        is an error; a file that is there gains the new ones.
    resume : bool
        Go on with a write of this file that was cut off, if there is one; the arguments must
        be those with which it was begun, except for ``scheduler``, ``memory_limit`` and ``buffer_shape``.
    wait : bool
        Where another call is writing this file, or another program has it open, wait instead of
        raising.
    durability : str
        What a committed buffer survives: ``"process"`` for the death of any process,
        ``"power"`` for that of the machine too, which waits for the disk at each commit.
    libver : str or tuple of str, optional
        File format, as `h5py.File` takes it.
    compute : bool
        False to return a `Delayed` that touches nothing until it is computed.
    scheduler : str, callable, Client or Executor, optional
        As dask takes it; by default the current `Client`, or else threads.
    memory_limit : int or str, optional
        What one worker process may take in all, in bytes or as in ``"600MB"``: buffers that nobody gave
        a shape are split until what its threads hold fits.  By default the limit that the cluster's
        workers have, or half of the memory that is free, shared by local processes.
    progress : bool, optional
        Show a bar; by default where standard error is a terminal.
    fuse : bool
        False to leave read and commit of a buffer as two tasks, to look at them on the dashboard.
    compute_kwargs : mapping, optional
        Further keywords for `dask.compute`, such as ``retries``.
    **keywords
        For all datasets: ``chunks`` (a tuple, or True to have them chosen), ``buffer_shape``,
        ``dtype``, ``attrs``, ``read`` (``"concurrent"``, ``"serial"`` or ``"ordered"``), and those
        of `h5py.Group.create_dataset`: ``compression``, ``compression_opts``, ``shuffle``,
        ``fletcher32``, ``scaleoffset``, ``fillvalue``, ``maxshape``, ``track_times``,
        ``track_order``, ``fill_time``, ``allow_unknown_filter``.  For a dataset that is there:
        ``region`` (what stands in ``dataset[region] = source``) or ``append`` (True, or an axis), and
        ``buffer_shape`` and ``read``; the dataset's own properties are kept.

    Returns
    -------
    WriteResult or Delayed
        What was written, or the write to come.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used; nothing is touched.
    TargetError
        If the file cannot be written there.
    SourceError, CastError
        If a source raises, or returns something else than it announced.

    See Also
    --------
    plan : what a write with the same arguments will do.
    dask.array.to_hdf5 : the same signature, for threads only.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "out.h5")
    >>> result = to_hdf5(path, "/x", np.arange(1000), compression="gzip", shuffle=True)
    >>> result.nbytes, result.stored_nbytes < result.nbytes
    (8000, True)
    """
    refuse_import_by_spawn()
    options = _target_options(overwrite, resume, wait, durability, libver)
    workers = find_workers(scheduler, memory_limit)
    write = _prepare(filename, args, encoding, keywords, workers, options=options)
    if not compute:
        return build_graph(write.creation(exclusive=False), write.sources, fuse)
    return _computed(write, scheduler, progress, fuse, compute_kwargs)


def _computed(
    write: _Write, scheduler: Any, progress: bool | None, fuse: bool, compute_kwargs: Mapping[str, Any] | None
) -> WriteResult:
    delayed = build_graph(write.creation(exclusive=write.workers.share_process), write.sources, fuse)
    bar = progress if progress is not None else True if write.asks_for_progress else None
    with kept_is_named(write.target), errors_of_workers(), _shown(write, wants_progress(bar)):
        stopping = contextlib.nullcontext() if write.workers.share_process else interrupts_stop(write.target)
        try:
            with stopping:
                (result,) = dask.base.compute(delayed, scheduler=scheduler, **(compute_kwargs or {}))
        finally:
            end(write.target.write_id)
    finished: WriteResult = result
    return finished


def plan(
    filename: Any,
    *args: Any,
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    libver: str | tuple[str, str] | None = None,
    scheduler: Any = None,
    memory_limit: int | str | None = None,
    **keywords: Any,
) -> WritePlan:
    """Say what `to_hdf5` would do with the same arguments; touches nothing.

    Returns
    -------
    WritePlan
        Grids, encoders and projected memory; print it to read it.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        As `to_hdf5` would.

    Examples
    --------
    >>> import numpy as np
    >>> planned = plan("out.h5", "/x", np.zeros((1000, 64), "i2"), chunks=(100, 64), compression="gzip")
    >>> planned.datasets[0].encoder
    'deflate(4) by libdeflate 4'
    """
    for keyword in ("compute", "progress", "fuse", "compute_kwargs", "resume", "wait", "durability"):
        keywords.pop(keyword, None)
    options = _target_options(overwrite, False, False, "process", libver)
    workers = find_workers(scheduler, memory_limit)
    return _prepare(filename, args, encoding, keywords, workers, options=options).plan()


@dataclass(frozen=True, slots=True)
class _Write:
    """Everything that is decided before a write begins."""

    target: Target
    workers: Workers
    sources: tuple[Source, ...]
    specs: tuple[DatasetSpec, ...]
    jobs: tuple[DatasetJob, ...]

    def creation(self, exclusive: bool) -> Creation:
        return Creation(self.target, self.specs, self.jobs, exclusive)

    @property
    def asks_for_progress(self) -> bool:
        return any(isinstance(source, IteratorSource) and source.display_progress for source in self.sources)

    def plan(self) -> WritePlan:
        datasets = tuple(map(_dataset_plan, self.jobs))
        threads = self.workers.threads_per_worker
        held = max(projected_nbytes(d.buffer_nbytes, d.chunk_nbytes, threads) for d in datasets)
        copied = max((d.buffer_nbytes for d in datasets if d.read != "concurrent"), default=0)
        return WritePlan(
            self.target.path,
            datasets,
            self.workers.kind,
            self.workers.threads,
            threads,
            held + copied,
            self.workers.memory_nbytes,
        )


def _dataset_plan(job: DatasetJob) -> DatasetPlan:
    form = job.layout.form
    encoder = encoder_for(form, job.options).name if job.layout.is_chunked else "HDF5, one buffer at a time"
    filters = tuple(map(str, form.filters))
    region = job.layout.region
    return DatasetPlan(job.layout.name, form.dtype, job.source_dtype, job.buffers, filters, encoder, job.read, region)


def _prepare(
    filename: Any,
    args: tuple[Any, ...],
    encoding: Mapping[str, Mapping[str, Any]] | None,
    keywords: Mapping[str, Any],
    workers: Workers,
    *,
    options: Mapping[str, Any],
) -> _Write:
    path = parse_filename(filename)
    requests = parse_requests(args, encoding, keywords)
    target = Target(path, uuid.uuid4().hex, **options)
    there = find_parts(
        target, {one.name: (one.region, one.append, one.source.shape) for one in requests if one.is_there}
    )
    specs = tuple(_spec_of_part(one, there[one.name]) if one.name in there else _spec(one) for one in requests)
    layouts = preview(specs)
    jobs = tuple(_job(request, layout, workers) for request, layout in zip(requests, layouts, strict=True))
    for request in requests:
        _require_portable(request, workers)
    return _Write(target, workers, tuple(request.source for request in requests), specs, jobs)


def _target_options(overwrite: bool, resume: bool, wait: bool, durability: str, libver: Any) -> dict[str, Any]:
    if durability not in get_args(Durability):
        raise ArgumentError(f"durability={durability!r} is none of {', '.join(map(repr, get_args(Durability)))}")
    return {
        "overwrite": overwrite,
        "resume": resume,
        "wait": wait,
        "durability": durability,
        "libver": libver,
        "command": command_line.get(),
    }


def _spec(request: DatasetRequest) -> DatasetSpec:
    source = request.source
    chunks = request.chunks or source.shapes.chunk
    if chunks is None:
        chunks = readable_chunk_shape(source.shape, request.dtype.itemsize, source.shapes.block)
    check_cast(source.dtype, request.dtype, request.name)
    return DatasetSpec(request.name, source.shape, request.dtype, chunks, request.options, request.attrs, source.dtype)


def _spec_of_part(request: DatasetRequest, layout: DatasetLayout) -> DatasetSpec:
    source, form = request.source, layout.form
    check_cast(source.dtype, form.dtype, request.name)
    spec = DatasetSpec(request.name, source.shape, form.dtype, form.chunk_shape, source_dtype=source.dtype)
    return replace(spec, there=layout)


def _job(request: DatasetRequest, layout: DatasetLayout, workers: Workers) -> DatasetJob:
    source = request.source
    read = _read_mode(request)
    buffer = _buffer_shape(request, layout, workers)
    if isinstance(source, StreamSource):
        buffer = (*buffer[:1], *(max(n, 1) for n in source.shape[1:]))
    try:
        BufferGrid(layout.chunks, buffer)
    except AlignmentError as error:
        raise AlignmentError(f"{request.name}: {error}") from error
    return DatasetJob(layout, buffer, source.dtype, read, request.options)


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


def _buffer_shape(request: DatasetRequest, layout: DatasetLayout, workers: Workers) -> Shape:
    """Return the buffer shape that the user chose, or one that suits chunks, memory and threads."""
    if request.buffer_shape is not None:
        return request.buffer_shape
    shapes, chunk = request.source.shapes, layout.form.chunk_shape
    if shapes.buffer is not None and shapes.is_fixed and _fits(layout, shapes.buffer):
        return shapes.buffer
    if isinstance(request.source, LazySource) and shapes.block is not None and _fits(layout, shapes.block):
        return shapes.block
    itemsize = max(request.source.dtype.itemsize, layout.form.dtype.itemsize)
    budget = min(_BUFFER_NBYTES, buffer_budget(workers.memory_nbytes, workers.threads_per_worker))
    start = shapes.buffer if shapes.buffer is not None and not shapes.is_fixed else None
    if start is None or not _fits(layout, start):
        start = buffer_within(layout.shape, chunk, itemsize, budget)
    count = _BUFFERS_PER_THREAD * workers.threads
    return split_buffer(layout.shape, chunk, start, itemsize, nbytes=budget, count=count)


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


@contextlib.contextmanager
def _shown(write: _Write, show: bool) -> Iterator[None]:
    if not show:
        yield
        return
    nbytes = sum(job.layout.nbytes for job in write.jobs)
    label = write.jobs[0].layout.name if len(write.jobs) == 1 else f"{len(write.jobs)} datasets"
    with progress_bar(write.target.write_id, nbytes, label, write.workers):
        yield
