"""The decisions before a write begins: datasets, chunks, buffers, and the read mode of each source."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dask.utils import format_bytes

from dask_chunkio.config import settings
from dask_chunkio.errors import AlignmentError, ArgumentError
from dask_chunkio.filters.compatibility import holds_references
from dask_chunkio.filters.encoders import encoder_for
from dask_chunkio.geometry.grid import Box, BufferGrid, Shape
from dask_chunkio.geometry.share import Share
from dask_chunkio.geometry.sizing import buffer_within, projected_nbytes, split_buffer
from dask_chunkio.model import Creation, DatasetJob
from dask_chunkio.planning.array_blocks import ArrayBlocks, array_blocks
from dask_chunkio.planning.layout import check_cmip7, require_new, specs_for_cmip7
from dask_chunkio.planning.plan import DatasetPlan, NetworkOpening, WritePlan
from dask_chunkio.planning.request import DatasetRequest, parse_requests
from dask_chunkio.planning.resources import Workers, require_picklable
from dask_chunkio.planning.share import require_shareable
from dask_chunkio.planning.specs import Scale, most_rows, spec_of, spec_of_part, wanted_of
from dask_chunkio.references.check import output_problem, reference_words, require_referable
from dask_chunkio.results import WriteResult
from dask_chunkio.sources.array import ArraySource
from dask_chunkio.sources.base import ReadMode, Source
from dask_chunkio.sources.dask_array import DaskArraySource
from dask_chunkio.sources.iterator import IteratorSource
from dask_chunkio.sources.stream import StreamSource, is_open_ended
from dask_chunkio.storage.completeness import StoredDataset
from dask_chunkio.storage.filesystem.locks import HAS_LOCKS
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec, preview
from dask_chunkio.storage.hdf5.file_layout import LayoutName, choose_layout, measure_specs
from dask_chunkio.storage.preconditions import is_complete, target_problem
from dask_chunkio.storage.regions import Parts, resolve_regions
from dask_chunkio.storage.target import Target

__all__ = ["PreparedWrite", "prepare"]


@dataclass(frozen=True, slots=True)
class PreparedWrite:
    """All decisions about a write that has not begun yet.

    Parameters
    ----------
    target : Target
        The file.
    workers : Workers
        The workers that run the tasks.
    sources : tuple of Source
        One source for each dataset.
    specs : tuple of DatasetSpec
        The datasets to create or to write into.
    jobs : tuple of DatasetJob
        How each dataset is written.
    blocks : callable
        Returns the blocks of the dask arrays among the sources; the first call optimizes their graphs.
    complete : tuple of StoredDataset
        The existing datasets, if the token of the call is stored already; `specs` and `jobs` are then empty.
    """

    target: Target
    workers: Workers
    sources: tuple[Source, ...]
    specs: tuple[DatasetSpec, ...]
    jobs: tuple[DatasetJob, ...]
    blocks: Callable[[], ArrayBlocks] = field(repr=False, compare=False)
    complete: tuple[StoredDataset, ...] = ()
    _again: Callable[[], PreparedWrite] | None = field(default=None, repr=False, compare=False)

    def again(self) -> PreparedWrite:
        """Prepare the write again, after another write has changed the file."""
        return self if self._again is None else self._again()

    def creation(self, exclusive: bool) -> Creation:
        """Return the file and the datasets that the first task creates."""
        return Creation(self.target, self.specs, self.jobs, exclusive and self.target.share is None)

    @property
    def asks_for_progress(self) -> bool:
        """Whether an iterator was made with ``display_progress=True``."""
        return any(isinstance(source, IteratorSource) and source.display_progress for source in self.sources)

    def plan(
        self,
        kept_nbytes: Callable[[PreparedWrite], int],
        estimates: Sequence[int | None] | None = None,
        write: Callable[..., WriteResult] | None = None,
        looks: bool = False,
    ) -> WritePlan:
        """Return the description of the write for the user.

        Parameters
        ----------
        kept_nbytes : callable
            Estimates the maximum memory of blocks that are kept for later tasks.
        estimates : sequence of int or None
            Estimated size of the payloads of each dataset, in bytes.
        write : callable
            Executes the write.
        looks : bool
            Whether to check that the target can be written.
        """
        datasets = tuple(map(_dataset_plan, self.jobs, self.sources, estimates or [None] * len(self.jobs)))
        workers = self.workers
        if self.complete:
            return self._plan_of_nothing(write)
        problem = workers.call(target_problem, self.target, self.specs) if looks else ""
        if looks and not problem and self.target.references:
            problem = workers.call(output_problem, self.target)
        if looks and not problem and workers.call(is_complete, self.target, self.specs):
            return self._plan_of_nothing(write)
        held = _projected(datasets, workers.threads_per_worker)
        kept = kept_nbytes(self)
        advice = _advice(datasets, held, workers) if held > workers.memory_nbytes else ""
        advice = advice or _advice_on_kept(self.lazy_names, held, kept, workers)
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
            problem,
            opening=self._opening() if looks else None,
            references=reference_words(self.target, [job.layout for job in self.jobs]),
            _write=write,
        )

    def _opening(self) -> NetworkOpening | None:
        layout, is_new = self.target.layout, all(spec.there is None for spec in self.specs)
        if layout is not None:
            form = layout.name, layout.page_nbytes, layout.padding, layout.is_estimate
            return NetworkOpening(1, layout.metadata_nbytes, *form)
        if not is_new:
            return None
        metadata = measure_specs(self.specs, self.target.libver)
        return NetworkOpening(metadata.nodes, metadata.nbytes, is_estimate=metadata.is_estimate)

    def _plan_of_nothing(self, write: Callable[..., WriteResult] | None) -> WritePlan:
        at, workers = self.target.path, self.workers
        counts = (workers.threads, workers.threads_per_worker, 0, workers.memory_nbytes)
        return WritePlan(at, (), workers.kind, *counts, already_complete=True, _write=write)

    @property
    def lazy_names(self) -> str:
        """Names of the datasets whose sources are dask arrays."""
        names = (
            job.layout.name
            for job, one in zip(self.jobs, self.sources, strict=True)
            if isinstance(one, DaskArraySource)
        )
        return ", ".join(names)

    def require_fit(self, kept_nbytes: Callable[[PreparedWrite], int]) -> None:
        """Refuse a write for which the workers have not enough memory.

        Parameters
        ----------
        kept_nbytes : callable
            Same as in `plan`.

        Raises
        ------
        ArgumentError
            If the memory does not suffice; the message has all numbers, and a buffer shape that would fit.
        """
        if advice := self.plan(kept_nbytes).advice:
            raise ArgumentError(advice)


def _projected(datasets: Sequence[DatasetPlan], threads: int) -> int:
    """Return the maximum memory that the threads of a worker process hold at once, in bytes."""
    # If there are fewer buffers than threads, only some of the threads hold a buffer.
    busy = min(threads, sum(len(dataset.buffers) if not dataset.open_ended else threads for dataset in datasets))
    held = max(projected_nbytes(d.buffer_nbytes, d.chunk_nbytes, busy) for d in datasets)
    return held + max((d.buffer_nbytes for d in datasets if d.read != "concurrent"), default=0)


def _advice(datasets: Sequence[DatasetPlan], held: int, workers: Workers) -> str:
    largest = max(datasets, key=lambda dataset: dataset.buffer_nbytes)
    threads, itemsize = workers.threads_per_worker, max(largest.dtype.itemsize, largest.source_dtype.itemsize)
    words = (
        f"{largest.name}: buffers of {largest.buffers.buffer_shape}, {format_bytes(largest.buffer_nbytes)}, take up "
        f"to {format_bytes(held)} in a worker process with {threads} threads, each of which holds a buffer, its "
        f"payloads and a chunk; the workers have {format_bytes(workers.memory_nbytes)} for it"
    )
    for divisor in (2, 4, 8):
        budget = max(1, workers.memory_nbytes // (divisor * threads))
        shape, chunk = largest.shape, largest.chunks.chunk_shape
        smaller = split_buffer(shape, chunk, largest.buffers.buffer_shape, itemsize, nbytes=budget, count=1)
        other = replace(largest, buffers=BufferGrid(largest.chunks, smaller))
        if (needed := _projected([other], threads)) <= workers.memory_nbytes:
            takes = f"which takes {format_bytes(needed)}"
            return f"{words}. Give buffer_shape={smaller}, {takes}, or a larger memory_limit"
    return (
        f"{words}, and even one chunk of {format_bytes(largest.chunk_nbytes)} for each thread does not fit. Give "
        f"smaller chunks=, workers with fewer threads, or a larger memory_limit"
    )


def _advice_on_kept(names: str, held: int, kept: int, workers: Workers) -> str:
    # The workers of a cluster spill blocks that do not fit to disk.
    if not kept or workers.kind == "distributed":
        return ""
    room = (workers.memory_nbytes - held) * max(1, workers.threads // workers.threads_per_worker)
    if kept <= room:
        return ""
    return (
        f"{names}: up to {format_bytes(kept)} of blocks are kept for other tasks that need them, in addition to the "
        f"data of the threads; there are {format_bytes(room)} for them. Write arrays that share blocks in separate "
        f"calls (each computes the blocks again), give a dask array with other blocks, or a larger memory_limit"
    )


def _dataset_plan(job: DatasetJob, source: Source, estimated: int | None) -> DatasetPlan:
    form = job.layout.form
    how = "copying of the chunks as they are stored" if job.copies(source) else ""
    encoder = encoder_for(form, job.options) if job.layout.is_chunked else None
    filters = tuple(map(str, form.filters))
    region = job.layout.region
    return DatasetPlan(
        job.layout.name,
        form.dtype,
        job.source_dtype,
        job.buffers,
        filters,
        "HDF5, one buffer at a time" if encoder is None else how or encoder.name,
        job.read,
        region,
        job.open_ended,
        job.layout.is_chunked,
        estimated,
        encoder is not None and (bool(how) or encoder.is_parallel),
    )


def prepare(
    target: Target,
    args: tuple[Any, ...],
    encoding: Mapping[str, Mapping[str, Any]] | None,
    keywords: Mapping[str, Any],
    workers: Workers,
    *,
    layout: LayoutName | None = None,
    may_begin_streams: bool = True,
    touches: bool = True,
) -> PreparedWrite:
    """Prepare a write: make all decisions about it.

    Parameters
    ----------
    target : Target
        The file to write.
    args, encoding, keywords : object
        Same as in `to_hdf5`.
    workers : Workers
        The workers that run the tasks.
    layout : str, optional
        Same as in `to_hdf5`.
    may_begin_streams : bool
        Whether the first DataChunk of a stream may be read, if no argument gives its shape and dtype.
    touches : bool
        Whether the call may recover or remove what an interrupted write left, when it looks for an existing dataset.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is invalid.
    """
    requests = parse_requests(args, encoding, keywords, may_begin_streams and target.share is None)
    _require_locks(workers, target)
    require_shareable(target, requests)
    _require_token(target, requests)
    for request in requests:
        _require_portable(request, workers)
    if layout is not None and not target.fills:
        require_new(requests, layout)
    return _prepared(target, requests, workers, layout, touches)


def _prepared(
    target: Target,
    requests: Sequence[DatasetRequest],
    workers: Workers,
    layout: LayoutName | None,
    touches: bool = True,
) -> PreparedWrite:
    """Make the decisions that depend on the existing file."""
    scale = Scale(workers, settings())
    new = {one.name: spec_of(one, scale) for one in requests if one.region is None}
    new = specs_for_cmip7(requests, new) if layout == "cmip7" else new
    asks = [one for one in requests if one.may_be_there or target.fills]
    in_parts = target.fills and target.share is not None
    wanted = {one.name: wanted_of(one, new.get(one.name), target.fills, in_parts) for one in asks}
    names = tuple(one.name for one in requests)
    parts = workers.call(resolve_regions, target, names, wanted, touches) if wanted else Parts()
    sources = tuple(one.source for one in requests)
    again = functools.partial(_prepared, target, requests, workers, layout)
    if parts.complete:
        blocks = functools.cache(functools.partial(array_blocks, (), ()))
        return PreparedWrite(target, workers, sources, (), (), blocks, parts.complete, again)
    there = parts.layouts
    specs = tuple(spec_of_part(one, there[one.name]) if one.name in there else new[one.name] for one in requests)
    layouts = preview(specs, target.libver)
    if layout == "cmip7":
        check_cmip7(layouts, specs)
    if layout is not None and not target.fills:
        target = replace(target, layout=choose_layout(layout, specs, target.libver))
    if target.references:
        require_referable(layouts)
    boxes = (spec.box or _box_of(target.share, layout) for spec, layout in zip(specs, layouts, strict=True))
    jobs = tuple(_job(*one, scale) for one in zip(requests, specs, layouts, boxes, strict=True))
    # An open-ended dataset starts with the length of one buffer.
    specs = tuple(
        _of_first_length(spec, job.layout) if spec.open_ended else spec for spec, job in zip(specs, jobs, strict=True)
    )
    blocks = functools.cache(functools.partial(array_blocks, sources, jobs))
    return PreparedWrite(target, workers, sources, specs, jobs, blocks, (), again)


def _of_first_length(spec: DatasetSpec, layout: DatasetLayout) -> DatasetSpec:
    return replace(spec, shape=layout.shape, there=None if spec.there is None else layout)


def _require_locks(workers: Workers, target: Target) -> None:
    """Refuse several processes on a system whose files have no locks that processes respect."""
    if not HAS_LOCKS and target.share is not None:
        raise ArgumentError("this system has no locks between processes, so part= could damage the file; leave it out")
    if not HAS_LOCKS and not workers.share_process:
        raise ArgumentError(
            f"this system has no locks between processes, so scheduler={workers.kind!r} could damage the file; use "
            f"scheduler='threads'"
        )


def _require_token(target: Target, requests: Sequence[DatasetRequest]) -> None:
    """Refuse a resumed append without a token: it cannot be distinguished from a second append of the same data."""
    appended = [one.name for one in requests if one.append is not None]
    if appended and target.resume and target.token is None:
        raise ArgumentError(
            f"{', '.join(appended)}: append= with resume=True needs a token, as two appends cannot be told apart by "
            f"their arguments; give token='...', any string that no other append to this dataset has"
        )


def _box_of(share: Share | None, layout: DatasetLayout) -> Box | None:
    return None if share is None else share.box(layout.chunks)


def _job(
    request: DatasetRequest, spec: DatasetSpec, layout: DatasetLayout, box: Box | None, scale: Scale
) -> DatasetJob:
    source = request.source
    read = _read_mode(request)
    buffer = _buffer_shape(request, layout, scale, box)
    if isinstance(source, StreamSource):
        buffer = (*buffer[:1], *(max(n, 1) for n in source.shape[1:]))
    try:
        BufferGrid(layout.chunks, buffer, box)
    except AlignmentError as error:
        raise AlignmentError(f"{request.name}: {error}") from error
    options = {"maxshape": layout.maxshape} if layout.is_filled else request.options
    job = DatasetJob(layout, buffer, source.dtype, read, options, box=box, has_own_data=spec.box is not None)
    job = replace(job, is_sparse=layout.is_filled and getattr(source, "is_sparse", False))
    if not is_open_ended(source):
        return job
    most = most_rows(options)
    rows = buffer[0] if most is None else min(most, buffer[0])
    return replace(job.of_length(rows), open_ended=True, most_rows=most)


def _read_mode(request: DatasetRequest) -> ReadMode:
    offered = request.source.read_mode
    wanted: ReadMode = request.read or offered
    if isinstance(request.source, DaskArraySource) and request.read not in (None, "concurrent"):
        raise ArgumentError(
            f"{request.name}: read={request.read!r} does not apply to a dask array, whose own tasks read; "
            f"give lock=True to dask.array.from_array instead"
        )
    if isinstance(request.source, StreamSource) and wanted != "ordered":
        raise ArgumentError(f"{request.name}: a stream can only be read in order; leave read={request.read!r} out")
    return wanted


def _buffer_shape(request: DatasetRequest, layout: DatasetLayout, scale: Scale, box: Box | None) -> Shape:
    """Return the buffer shape that the user chose, or a buffer shape that suits chunks, memory and threads."""
    if request.buffer_shape is not None:
        return request.buffer_shape
    shapes, chunk = request.source.shapes, layout.form.chunk_shape
    shape = layout.shape if box is None else tuple(stop - start for start, stop in box)
    if shapes.buffer is not None and shapes.is_fixed and _fits(layout, shapes.buffer):
        return shapes.buffer
    if isinstance(request.source, DaskArraySource) and shapes.block is not None and _fits(layout, shapes.block):
        return shapes.block
    itemsize = max(request.source.dtype.itemsize, layout.form.dtype.itemsize)
    start = shapes.buffer if shapes.buffer is not None and not shapes.is_fixed else None
    if start is None or not _fits(layout, start):
        start = buffer_within(shape, chunk, itemsize, scale.buffer_nbytes)
    sizes = {"nbytes": scale.buffer_nbytes, "count": scale.count, "threads": scale.workers.threads}
    return split_buffer(shape, chunk, start, itemsize, **sizes)


def _fits(layout: DatasetLayout, buffer: Shape) -> bool:
    try:
        BufferGrid(layout.chunks, buffer)
    except AlignmentError:
        return False
    return True


def _require_portable(request: DatasetRequest, workers: Workers) -> None:
    source = request.source
    if workers.share_process or isinstance(source, DaskArraySource):
        return
    empty = tuple(slice(0, 0) for _ in source.shape)
    # An array in memory is sent in parts, which are plain numpy arrays and need no check.
    if not (isinstance(source, ArraySource) and source.part(empty) is not None):
        require_picklable(source, request.name)
    elif holds_references(source.dtype):
        require_picklable(source.part(tuple(slice(0, length) for length in source.shape)), request.name)
