"""The functions of the tasks of a write: create, read, commit, finish.

They run on workers.  Only this module and the modules that it uses access the target.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from dask_chunkio.dask_compat import (
    is_held,
    leave_threads,
    pauses,
    report,
    scheduler_address,
    spans_hosts,
    transaction_lock,
)
from dask_chunkio.errors import (
    FilterError,
    IntegrityError,
    SourceError,
    TargetBusyError,
    TargetChangedError,
    TargetError,
)
from dask_chunkio.execution.malloc import keep_freed
from dask_chunkio.execution.tracebacks import shortens_tracebacks
from dask_chunkio.filters.chunk_format import ChunkFormat, Encoder, Payload
from dask_chunkio.filters.chunking import copied, cut_chunk, fill_payload, filled, holds_fill
from dask_chunkio.filters.compatibility import is_partial
from dask_chunkio.filters.encoder import DirectEncoder
from dask_chunkio.filters.encoders import encoder_for
from dask_chunkio.filters.variable import storable_elements
from dask_chunkio.geometry.grid import Array, selection_shape
from dask_chunkio.model import Creation, DatasetJob, Receipt, WriteLayout
from dask_chunkio.printable import printable
from dask_chunkio.references.output import require_replaceable
from dask_chunkio.references.write import references_of_write
from dask_chunkio.results import DatasetResult, WriteResult, already_complete
from dask_chunkio.sources.base import Reader, read_checked
from dask_chunkio.storage import session
from dask_chunkio.storage.activity.keepalive import Held, Keepalive
from dask_chunkio.storage.begin import begin
from dask_chunkio.storage.completeness import StoredDataset
from dask_chunkio.storage.finish import finish, finish_part
from dask_chunkio.storage.hdf5.dataset import DatasetSpec
from dask_chunkio.storage.read_lock import reading_alone
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.visible_chunks import Change, Part
from dask_chunkio.storage.writer import Lock, Writer

__all__ = [
    "begin_write",
    "commit_buffer",
    "confirm_complete",
    "create_target",
    "finish_target",
    "nothing_done",
    "read_buffer",
    "receipt_of",
    "write_buffer",
]

logger = logging.getLogger("dask_chunkio")
Result = TypeVar("Result")
# The payloads of a buffer, as its source stores them.
Stored = tuple[Payload, ...]

# Number of attempts to begin a write while other writes begin and end.
_CHANGES = 6


@shortens_tracebacks
def create_target(creation: Creation) -> WriteLayout:
    """Create the file and its datasets; keep them if the same write has created them already.

    If the target is busy and the call waits for it, this task leaves its thread to other tasks, for which it may wait.
    """
    try:
        return _begin_between_changes(creation)
    except TargetBusyError:
        if not creation.target.wait or not leave_threads():
            raise
    return _patiently(creation)


def _patiently(creation: Creation) -> WriteLayout:
    """Retry until the target is free; hold nothing between two attempts."""
    for pause in pauses():
        try:
            return _begin_between_changes(creation)
        except TargetBusyError:
            time.sleep(pause)
    raise AssertionError("pauses never end")


def _begin_between_changes(creation: Creation) -> WriteLayout:
    """Try to begin a write; retry a few times if another write begins or ends at the same moment.

    If the file does not agree with the plan any more, retries do not help: the error of the last attempt is raised.
    """
    for pause in itertools.islice(pauses(), _CHANGES):
        try:
            return begin_write(creation)
        except TargetChangedError:
            time.sleep(pause)
    return begin_write(creation)


@shortens_tracebacks
def begin_write(creation: Creation) -> WriteLayout:
    """Begin a write, in one attempt."""
    target = creation.target.located()
    if target.references:
        require_replaceable(target.references, target.path)
    # Other jobs may run on other hosts.
    if spans_hosts() or target.share is not None:
        target = target.for_several_hosts()
    keepalive = _keepalive(target, creation.key)
    try:
        return _begun(creation, target, keepalive)
    except TargetError:
        keepalive.give_up()
        if not session.is_finished(target):
            raise
        # By a worker that was presumed dead, whose tasks this one repeats (see `_run`).
        return WriteLayout(target, creation.jobs, creation.exclusive, time.time())
    except BaseException:
        keepalive.give_up()
        raise


def _begun(creation: Creation, target: Target, keepalive: Keepalive) -> WriteLayout:
    started = time.time()
    begun = begin(target, creation.specs, creation.exclusive, transaction_lock(target.write_id), keepalive)
    target, layouts = begun.target, begun.made.layouts
    if begun.made.complete:
        keepalive.give_up()
        return WriteLayout(target, creation.jobs, creation.exclusive, started, begun.made.complete)
    for made, job in zip(layouts, creation.jobs, strict=True):
        found = job.of_length(made.shape[0]).layout if job.open_ended else job.layout
        if made != found:
            raise IntegrityError(
                f"{made.name}: HDF5 created it as {made.form} on the worker, but as {job.layout.form} in the process "
                f"that planned the write; use the same version of h5py on both"
            )
    return WriteLayout(target, creation.jobs, creation.exclusive, started, (), keepalive)


def _keepalive(target: Target, key: str) -> Keepalive:
    held = Held(target.folder, target.lock, target.write_id, key, is_held, scheduler_address(), target.lease_seconds)
    return Keepalive(held, has_begun=False)


@shortens_tracebacks
def read_buffer(layout: WriteLayout, dataset: int, buffer: int, reader: Reader) -> Array | Stored | Receipt:
    """Read one buffer, unless it is committed already."""
    place = dataset, buffer
    return _run(layout, place, lambda: _read(layout, place, reader))


@shortens_tracebacks
def commit_buffer(layout: WriteLayout, dataset: int, buffer: int, data: Array | Stored | Receipt) -> Receipt:
    """Encode a buffer and commit it."""
    place = dataset, buffer
    return _run(layout, place, lambda: _commit(layout, place, data, transaction_lock(layout.target.write_id)))


@shortens_tracebacks
def write_buffer(layout: WriteLayout, dataset: int, buffer: int, reader: Reader) -> Receipt:
    """Read, encode and commit a buffer: its whole chain as one task."""
    place = dataset, buffer

    def chain() -> Receipt:
        data = _read(layout, place, reader)
        if isinstance(data, Receipt):
            return data
        return _store(layout, place, data, transaction_lock(layout.target.write_id))

    return _run(layout, place, chain)


def _run(layout: WriteLayout, place: tuple[int, int], part: Callable[[], Result]) -> Result | Receipt:
    """Run a part of the chain of a buffer while the write is in use; return only the receipt if nothing is to be done.

    A worker that was presumed dead may finish a write whose tasks another worker repeats.  The last task examines the
    file.
    """
    if layout.complete:
        return nothing_done(*place)
    try:
        with session.in_use(layout.target, layout.exclusive):
            return part()
    except TargetError:
        if not session.is_finished(layout.target):
            raise
        return receipt_of(layout.jobs, place)


def receipt_of(jobs: Sequence[DatasetJob], place: tuple[int, int]) -> Receipt:
    """Return the receipt of a committed buffer."""
    dataset, buffer = place
    job = jobs[dataset]
    elements = math.prod(selection_shape(job.selection(buffer)))
    return Receipt(dataset, buffer, 1, elements * job.layout.form.dtype.itemsize)


@shortens_tracebacks
def finish_target(
    layout: WriteLayout, receipts: Sequence[Receipt | Sequence[Receipt]], specs: Sequence[DatasetSpec]
) -> WriteResult:
    """Check the whole file, publish it under its name, and return the result of the write.

    `specs` are the specifications from which its datasets were created.

    Raises
    ------
    IntegrityError
        If receipts are missing, or the file does not hold what was committed.
    """
    receipts = _flat(receipts)
    if layout.complete:
        return confirm_complete(layout.target, layout.complete)
    lengths = {receipt.dataset: receipt.length for receipt in receipts if receipt.length is not None}
    jobs = [job.of_length(lengths[n]) if n in lengths else job for n, job in enumerate(layout.jobs)]
    counts = [len(job.buffers) for job in jobs]
    got = [sum(receipt.buffers for receipt in receipts if receipt.dataset == n) for n in range(len(counts))]
    if got != counts:
        raise IntegrityError(f"{layout.target.path}: there are receipts for {got} buffers of {counts}")
    lock = transaction_lock(layout.target.write_id)
    finishes = finish if layout.target.share is None else finish_part
    finished = finishes(layout.target, [job.layout for job in jobs], specs, lock)
    for note in finished.notes:
        logger.warning("%s", printable(f"{layout.target.path}: {note}"))
    datasets = tuple(map(_result, jobs, finished.stored))
    notes = finished.notes
    if layout.target.makes_references and not finished.missing:
        notes += references_of_write(layout.target, finished.places)
    # A part of a dataset may be known by another name, under which its places were remembered.
    are_whole = layout.target.fills and all(job.layout.region is None for job in jobs)
    seconds, places = time.time() - layout.started, finished.places if are_whole else None
    return WriteResult(layout.target.path, datasets, seconds, notes, missing_parts=finished.missing, places=places)


@shortens_tracebacks
def confirm_complete(target: Target, complete: Sequence[StoredDataset]) -> WriteResult:
    """Return the result of a call that has nothing to write; make the references that it asks for."""
    notes = references_of_write(target) if target.makes_references else ()
    return replace(already_complete(target.path, complete), notes=notes)


def _flat(receipts: Sequence[Receipt | Sequence[Receipt]]) -> list[Receipt]:
    """Return a flat list of receipts; a task that commits a block to several datasets returns one for each."""
    return [one for found in receipts for one in ([found] if isinstance(found, Receipt) else found)]


def nothing_done(dataset: int, buffer: int) -> Receipt:
    """Return the receipt for a buffer of a call that has nothing to do."""
    return Receipt(dataset, buffer, 1, 0)


def _result(job: DatasetJob, stored: int) -> DatasetResult:
    layout, region = job.layout, job.layout.region
    chunks = job.chunk_count if layout.is_chunked else 0
    merged = chunks - region.whole_chunks if region is not None and layout.is_chunked else 0
    dtype = layout.form.dtype
    return DatasetResult(layout.name, job.shape, dtype, job.nbytes, stored, len(job.buffers), chunks, merged)


def _read(layout: WriteLayout, place: tuple[int, int], reader: Reader) -> Array | Stored | Receipt:
    dataset, buffer = place
    job = layout.jobs[dataset]
    selection = job.selection(buffer)
    if _writer(layout).is_stored(dataset, job.chunks_of(buffer)):
        return _reported(layout, place)
    dtypes = job.source_dtype, job.layout.form.dtype
    where = job.where(buffer, selection)
    if (stored := job.payloads(reader, buffer)) is not None:
        return stored
    if job.read == "concurrent":
        return read_checked(reader, selection, dtypes, where)
    with reading_alone(layout.target, dataset):
        # Copied, because the user's object may reuse the same memory as soon as the next call runs.
        return copied(read_checked(reader, selection, dtypes, where))


def _commit(layout: WriteLayout, place: tuple[int, int], data: Array | Stored | Receipt, lock: Lock) -> Receipt:
    if isinstance(data, Receipt):
        return data
    if _writer(layout).is_stored(place[0], layout.jobs[place[0]].chunks_of(place[1])):
        return _reported(layout, place)
    return _store(layout, place, data, lock)


def _store(layout: WriteLayout, place: tuple[int, int], data: Array | Stored, lock: Lock) -> Receipt:
    job, writer = layout.jobs[place[0]], _writer(layout)
    if isinstance(data, tuple):
        writer.commit(place, job.layout, job.chunks_of(place[1]), _with_encoded_fill(job, place[1], data), lock)
    elif not job.layout.is_chunked:
        _commit_by_hdf5(writer, job, place, data, lock)
    elif job.layout.region is not None:
        _commit_region(writer, job, place, data, lock)
    else:
        writer.commit(place, job.layout, job.chunks_of(place[1]), _encoded(layout.target, job, place[1], data), lock)
    return _reported(layout, place)


def _encoded(target: Target, job: DatasetJob, buffer: int, data: Array) -> list[Payload]:
    selection, grid, form = job.buffers[buffer], job.layout.chunks, job.layout.form
    with _naming(job, buffer):
        encoder = encoder_for(form, job.options)
        payloads, fill = [], fill_payload(form) if job.is_sparse else None
        for cell in grid.selections(job.chunks_of(buffer)):
            session.require_going(target)
            chunk = cut_chunk(data, selection, cell, form)
            is_fill = fill is not None and holds_fill(chunk, fill)
            payloads.append(_encoded_fill(encoder, form) if is_fill else encoder.encode(chunk))
        return payloads


def _with_encoded_fill(job: DatasetJob, buffer: int, payloads: Stored) -> Stored:
    """Apply the filters to the chunks that a source does not have: what is stored of them may need space."""
    form = job.layout.form
    if not form.filters or not any(one.is_fill for one in payloads):
        return payloads
    with _naming(job, buffer):
        fill = _encoded_fill(encoder_for(form, job.options), form)
    return tuple(fill if one.is_fill else one for one in payloads)


def _encoded_fill(encoder: Encoder, form: ChunkFormat) -> Payload:
    return _cached_fill(form) if isinstance(encoder, DirectEncoder) else _fill_by(encoder, form)


@functools.lru_cache(maxsize=4)
def _cached_fill(form: ChunkFormat) -> Payload:
    return _fill_by(DirectEncoder(form), form)


def _fill_by(encoder: Encoder, form: ChunkFormat) -> Payload:
    made = encoder.encode(filled(form))
    return Payload(bytes(made.data), made.mask, is_fill=True)


@contextlib.contextmanager
def _naming(job: DatasetJob, buffer: int) -> Iterator[None]:
    """Add the dataset, buffer and selection to the message of an error of a filter or of an element."""
    try:
        yield
    except (FilterError, SourceError) as error:
        raise type(error)(f"{job.where(buffer, job.selection(buffer))}: {error}") from error


def _commit_by_hdf5(writer: Writer, job: DatasetJob, place: tuple[int, int], data: Array, lock: Lock) -> None:
    selection, region = job.buffers[place[1]], job.layout.region
    if region is not None:
        selection = region.of_dataset(region.inside(selection))
    with _naming(job, place[1]):
        data = storable_elements(data, job.layout.form.dtype)
    writer.commit_by_hdf5(place, job.chunks_of(place[1]), data, selection, lock)


def _commit_region(writer: Writer, job: DatasetJob, place: tuple[int, int], data: Array, lock: Lock) -> None:
    """Encode the chunks that are replaced completely; the transaction must merge the other chunks."""
    layout, region = job.layout, job.layout.region
    if region is None:
        raise ValueError("not a part of a dataset")
    here = region.inside(job.buffers[place[1]])
    payloads, parts = [], []
    with _naming(job, place[1]):
        encoder, grid = encoder_for(layout.form, job.options), layout.chunks
        keeps_fields = is_partial(data.dtype, layout.form.dtype)
        chunks = job.chunks_of(place[1])
        for chunk, cell in zip(chunks, grid.selections(chunks), strict=True):
            session.require_going(writer.target)
            if region.is_whole(cell) and not keeps_fields:
                payloads.append((chunk, encoder.encode(cut_chunk(data, here, cell, layout.form))))
            else:
                part = region.inside(cell)
                inside = (slice(p.start - h.start, p.stop - h.start) for p, h in zip(part, here, strict=True))
                parts.append(Part(chunk, data[tuple(inside)], part))
        writer.commit_visible(place, layout, Change(payloads, parts, encoder.encode), lock)


def _reported(layout: WriteLayout, place: tuple[int, int]) -> Receipt:
    receipt = receipt_of(layout.jobs, place)
    report(layout.target.write_id, (*place, receipt.nbytes))
    return receipt


def _writer(layout: WriteLayout) -> Writer:
    keep_freed()
    return session.writer_for(layout.target, layout.exclusive)
