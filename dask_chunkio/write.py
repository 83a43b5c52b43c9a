"""The public functions `to_hdf5` and `plan`: from the arguments of the user to a complete file."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack, cast, get_args, overload

import dask
import dask.base
from dask.delayed import Delayed, delayed

from dask_chunkio.config import settings
from dask_chunkio.dask_compat import find_get
from dask_chunkio.errors import ArgumentError, ArgumentTypeError, TargetBusyError, TargetChangedError
from dask_chunkio.events import Listener
from dask_chunkio.execution.graph import build_graph, kept_nbytes
from dask_chunkio.execution.interrupts import Interrupts, interruptible
from dask_chunkio.execution.monitor import observed
from dask_chunkio.execution.progress import ProgressBar, ProgressLog, logger, wants_progress
from dask_chunkio.execution.retries import patiently, retry_while_progressing
from dask_chunkio.execution.supervise import add_resume_note, errors_of_arrays, errors_of_workers, withdraw
from dask_chunkio.execution.tasks import begin_write, confirm_complete
from dask_chunkio.execution.threads import Threads
from dask_chunkio.execution.tracebacks import shortens_tracebacks
from dask_chunkio.keywords import DatasetKeywords, PlanKeywords, WriteKeywords
from dask_chunkio.model import WriteLayout
from dask_chunkio.planning.estimate import estimated_nbytes
from dask_chunkio.planning.plan import WritePlan
from dask_chunkio.planning.planner import PreparedWrite, prepare
from dask_chunkio.planning.request import parse_filename
from dask_chunkio.planning.resources import Workers, find_workers, refuse_import_by_spawn
from dask_chunkio.planning.share import parse_part
from dask_chunkio.references.output import parse_output, parse_url
from dask_chunkio.results import WriteResult
from dask_chunkio.storage.completeness import StoredDataset
from dask_chunkio.storage.hdf5.file_layout import FileLayout, LayoutName, parse_layout
from dask_chunkio.storage.session import end, release, wait_for_others
from dask_chunkio.storage.target import Durability, Target
from dask_chunkio.validation import check_flag, check_type

__all__ = ["RunArguments", "delay_write", "layout_of_new_file", "plan", "run_write", "to_hdf5"]

# Number of attempts to plan a write, without a pause, while other writes change the file.
_CHANGES = 20
_NOT_OF_A_PLAN = PlanKeywords.__annotations__.keys() - DatasetKeywords.__annotations__.keys()


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The arguments of a write that do not describe its datasets.

    Parameters
    ----------
    encoding, overwrite, resume, token, part, wait, durability, libver, layout, references, references_url
        Same as in `to_hdf5`.
    scheduler, memory_limit, progress, callback, fuse, compute_kwargs
        Same as in `to_hdf5`.
    command : tuple of str
        The arguments of the command line.  The write stores them beside the file, so that `dask-chunkio resume` can
        resume it.
    fill : int or None
        Same as `Target.fill`.
    """

    encoding: Mapping[str, DatasetKeywords] | None = None
    overwrite: bool = False
    resume: bool = False
    token: str | None = None
    part: Any = None
    wait: bool | None = None
    durability: Durability | None = None
    libver: str | tuple[str, str] | None = None
    layout: LayoutName | None = None
    references: Any = None
    references_url: Any = None
    scheduler: Any = None
    memory_limit: int | str | None = None
    progress: bool | None = None
    callback: Listener | None = None
    fuse: bool = True
    compute_kwargs: Mapping[str, Any] | None = None
    command: tuple[str, ...] = ()
    fill: int | None = None


@overload
def to_hdf5(
    filename: Any, *args: Any, compute: Literal[True] = True, **keywords: Unpack[WriteKeywords]
) -> WriteResult: ...


@overload
def to_hdf5(filename: Any, *args: Any, compute: Literal[False], **keywords: Unpack[WriteKeywords]) -> Delayed: ...


@shortens_tracebacks
def to_hdf5(
    filename: Any,
    *args: Any,
    encoding: Mapping[str, DatasetKeywords] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    token: str | None = None,
    part: tuple[int, int] | Literal["slurm"] | None = None,
    wait: bool | None = None,
    durability: Durability | None = None,
    libver: str | tuple[str, str] | None = None,
    layout: LayoutName | None = None,
    references: str | os.PathLike[str] | None = None,
    references_url: str | None = None,
    compute: bool = True,
    scheduler: Any = None,
    memory_limit: int | str | None = None,
    progress: bool | None = None,
    callback: Listener | None = None,
    fuse: bool = True,
    compute_kwargs: Mapping[str, Any] | None = None,
    **keywords: Unpack[DatasetKeywords],
) -> WriteResult | Delayed:
    """Write arrays to an HDF5 file, in parallel.

    Parameters
    ----------
    filename : str or path-like
        The file.  It appears under this name only when it is complete.
    *args : str and source, or mapping of str to source
        ``"/x", source`` or ``{"/x": a, "/y": b}``.  A source is a `GenericDataChunkIterator`
        (ours or hdmf's), a dask array, or any object with ``shape``, ``dtype`` and ``__getitem__``.
    encoding : mapping, optional
        Keywords for single datasets: ``{"/x": {"compression": "gzip"}}``.
    overwrite : bool
        Replace existing datasets of the same names; keep everything else in the file.  By default an existing
        dataset of the same name is an error, and new datasets are added to an existing file.
    resume : bool
        Resume an interrupted write of this file, if there is one.  The arguments must be those of the
        interrupted call, except for ``scheduler``, ``memory_limit`` and ``buffer_shape``.
        If all datasets of the call are complete already, the call changes nothing, and the result says
        ``already_complete``: the same call can be repeated.  ``append`` requires a `token` for that; without
        one it is refused.  Without a token, ``region`` and ``overwrite`` write again.
    token : str, optional
        Any string that distinguishes this call from all other calls that write its datasets.  The call stores it
        with each dataset, in the attribute ``dask_chunkio_tokens``, when the datasets become complete.  A call
        whose token is stored already is complete, with or without ``resume=True``.
    part : tuple of int, optional
        ``(number, count)``: write only one of `count` parts, numbered from 0; ``"slurm"`` takes both from the
        environment of a Slurm job array.  Independent jobs, on any hosts and in any order, make the same call with
        different numbers.  The first one makes the file, and whichever commits the last part gives it its name.  A job
        that was interrupted makes the same call again.  All jobs need the same arguments for the datasets, and
        a file system whose locks reach all hosts.  What the sources hold is not compared: give the jobs of one run
        a `token` of their own.
    wait : bool
        If another call is writing this file, or another program has it open, wait without a time limit
        instead of raising.  By default ``chunkio.wait`` of dask's configuration, which is False, and True with
        `part`.
    durability : str
        The failure that a committed buffer survives: ``"process"`` for the death of any process,
        ``"power"`` for a failure of the machine too.  ``"power"`` waits for the disk at each commit.  By default
        ``chunkio.durability`` of dask's configuration, which is ``"process"``.
    libver : str or tuple of str, optional
        Version bounds of the file format, as in `h5py.File`.
    layout : str, optional
        Layout of a new file.  ``"cloud"`` keeps all metadata in one page at the beginning of the file, so that a reader
        over a network fetches them at once.  ``"cmip7"`` is the same, with chunks of at least 4 MiB and the time
        coordinate in one chunk, as the archive of CMIP7 asks for.  HDF5 1.10 and later read such files.  By default
        metadata lie between the data.
    references : str or path-like, optional
        Name of references to the chunks of the file, which this call makes when the file is complete: ``out.json`` or
        ``out.parquet``, as in `write_references`.  The datasets of the call must have filters that readers of
        references know; other datasets of the file that cannot be read through references are left out, and
        `WriteResult.notes` names them.
    references_url : str, optional
        Where readers of the references find the file; as ``url`` of `write_references`.
    compute : bool
        If False, return a `Delayed`, which writes nothing until it is computed.
    scheduler : str, callable, Client or Executor, optional
        Same as in dask; by default the current `Client`, or threads if there is none.
    memory_limit : int or str, optional
        Total memory that one worker process may use, in bytes or as in ``"600MB"``.  Buffers whose shape is not
        given are split until the buffers of all threads of a process fit.  By default the limit of the cluster's
        workers, or four fifths of the free memory, shared by local processes.  A write that does not
        fit is refused, with a buffer shape that would fit.
    progress : bool, optional
        Show a progress bar; by default on a terminal and in a notebook.
    callback : callable, optional
        Function that is called with each event: `WriteStarted`, `BufferCommitted`, `WriteFinished` or
        `WriteFailed`.  The calls come one at a time, possibly from different threads.
    fuse : bool
        If False, keep the read and the commit of a buffer as two tasks, to see them on the dashboard.
    compute_kwargs : mapping, optional
        Further keywords for `dask.compute`, such as ``retries``.
    **keywords
        For all datasets: ``chunks`` (a tuple, or True for a choice by the library), ``buffer_shape``,
        ``dtype``, ``attrs``, ``read`` (``"concurrent"``, ``"serial"`` or ``"ordered"``), and those
        of `h5py.Group.create_dataset`: ``compression``, ``compression_opts``, ``shuffle``,
        ``fletcher32``, ``scaleoffset``, ``fillvalue``, ``maxshape``, ``track_times``,
        ``track_order``, ``fill_time``, ``allow_unknown_filter``.  For an existing dataset:
        ``region`` (the index in ``dataset[region] = source``), ``buffer_shape`` and ``read``; the
        dataset keeps its own properties.  ``append`` (True, or an axis) writes after the end of a dataset, or
        creates a dataset that can grow; keywords for a new dataset must agree with an existing one.

    Returns
    -------
    WriteResult or Delayed
        The result of the write; with ``compute=False``, the write itself, not yet started.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used; the file is not changed.
    TargetError
        If the file cannot be written there.
    SourceError, CastError
        If a source raises, or returns something other than it announced.

    See Also
    --------
    plan : describes what a write with the same arguments will do.
    dask.array.to_hdf5 : has the same signature, for threads only.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "out.h5")
    >>> result = to_hdf5(path, "/x", np.arange(1000), compression="gzip", shuffle=True)
    >>> result.nbytes, result.stored_nbytes < result.nbytes
    (8000, True)
    """
    run = RunArguments(
        encoding=encoding,
        overwrite=overwrite,
        resume=resume,
        token=token,
        part=part,
        wait=wait,
        durability=durability,
        libver=libver,
        layout=layout,
        references=references,
        references_url=references_url,
        scheduler=scheduler,
        memory_limit=memory_limit,
        progress=progress,
        callback=callback,
        fuse=fuse,
        compute_kwargs=compute_kwargs,
    )
    check_flag("compute", compute)
    return (run_write if compute else delay_write)(filename, args, keywords, run)


def run_write(filename: Any, args: tuple[Any, ...], keywords: DatasetKeywords, run: RunArguments) -> WriteResult:
    """Write arrays; see `to_hdf5`."""
    workers, prepared, waits = _preparation(filename, args, keywords, run)
    if workers.is_asynchronous:
        raise ArgumentError(
            "the client belongs to an event loop, in which this call cannot wait for it; use compute=False, and "
            "'await client.compute(...)' with its result"
        )
    interrupts = Interrupts(str(filename))

    def written() -> WriteResult:
        write = patiently(prepared, waits, interrupts.sleep)
        begun = patiently(functools.partial(_begun, write), waits, interrupts.sleep)
        if begun.complete:
            return begun.write.workers.call(confirm_complete, begun.write.target, begun.complete)
        compute = functools.partial(_compute, workers, run.scheduler, run.compute_kwargs or {}, interrupts)
        return _computed(begun, _listeners(begun.write, run.progress, run.callback), run.fuse, compute, interrupts)

    return interruptible(interrupts, written, aside=workers.kind in ("threads", "processes", "distributed"))


def delay_write(filename: Any, args: tuple[Any, ...], keywords: DatasetKeywords, run: RunArguments) -> Delayed:
    """Return a write that is not yet started; see `to_hdf5`."""
    _, prepared, waits = _preparation(filename, args, keywords, run)
    write = patiently(prepared, waits)
    if write.complete:
        found: Delayed = delayed(confirm_complete)(write.target, write.complete)
        return found
    return build_graph(write.creation(exclusive=False), write.sources, run.fuse)


def layout_of_new_file(
    filename: Any, args: tuple[Any, ...], keywords: DatasetKeywords, run: RunArguments
) -> FileLayout | None:
    """Return the layout of a file that a write would create; nothing is written, and no source is read."""
    _check(run)
    workers = _workers(run.scheduler, run.memory_limit)
    target = _target(filename, replace(run, part=None, fill=None))
    prepared = prepare(target, args, run.encoding, keywords, workers, layout=run.layout, may_begin_streams=False)
    return prepared.target.layout


def _preparation(
    filename: Any, args: tuple[Any, ...], keywords: DatasetKeywords, run: RunArguments
) -> tuple[Workers, Callable[[], PreparedWrite], bool]:
    """Return the workers, a function that prepares the write, and whether the write waits for a busy target."""
    refuse_import_by_spawn()
    _check(run)
    target = _target(filename, run)
    workers = _workers(run.scheduler, run.memory_limit)
    prepared = functools.partial(prepare, target, args, run.encoding, keywords, workers, layout=run.layout)
    return workers, prepared, target.wait


def _check(run: RunArguments) -> None:
    if run.callback is not None and not callable(run.callback):
        raise ArgumentTypeError(f"callback={run.callback!r} is not callable; give a function of one event")
    for name in ("fuse", "progress", "overwrite", "resume", "wait"):
        check_flag(name, getattr(run, name))
    if run.token is not None and (not isinstance(run.token, str) or not run.token):
        raise ArgumentTypeError(f"token={run.token!r} is not a string with at least one character")
    parse_layout(run.layout)
    is_mapping = isinstance(run.compute_kwargs, Mapping | None)
    check_type("compute_kwargs", run.compute_kwargs, is_mapping, "a mapping of keywords of dask.compute")


@dataclass(frozen=True, slots=True)
class _Begun:
    """A write that has begun but has not run any task, or a write that has nothing to do."""

    write: PreparedWrite
    complete: tuple[StoredDataset, ...] = ()
    # This object keeps the write alive.
    layout: WriteLayout | None = None


def _begun(write: PreparedWrite) -> _Begun:
    """Begin a write on the machine that has its files; all checks that can refuse it run before any data are read."""
    for _ in range(_CHANGES):
        if write.complete:
            return _Begun(write, write.complete)
        write.require_fit(kept_nbytes)
        try:
            layout = _layout(write)
        except TargetChangedError:
            write = write.again()
        else:
            return _Begun(write, layout.complete, layout)
    raise TargetBusyError(f"other writes change {write.target.path} again and again; wait for them (wait=True)")


def _layout(write: PreparedWrite) -> WriteLayout:
    """Create the file and its datasets, on the machine that has the files."""
    workers = write.workers
    layout = workers.call(begin_write, write.creation(exclusive=workers.share_process))
    if workers.client is None and not workers.share_process:
        # Other processes do the work and open the files themselves.
        release(write.target.write_id)
    return layout


def _listeners(write: PreparedWrite, progress: bool | None, callback: Listener | None) -> list[Listener]:
    found: list[Listener] = [] if callback is None else [callback]
    chosen = settings()
    if progress is None:
        progress = True if write.asks_for_progress else chosen.progress
    if wants_progress(progress):
        found.append(ProgressBar())
    if logger.isEnabledFor(logging.INFO):
        found.append(ProgressLog(chosen.log_seconds))
    return found


def _computed(
    begun: _Begun, listeners: Sequence[Listener], fuse: bool, compute: Callable[[Delayed], Any], interrupts: Interrupts
) -> WriteResult:
    write = begun.write
    with add_resume_note(write.target), interrupts.heard():
        try:
            interrupts.begun(write.target, in_processes=not write.workers.share_process)
            share_process = write.workers.share_process
            layout = begun.layout if share_process else None
            graph = build_graph(write.creation(share_process), write.sources, fuse, write.blocks(), layout)
            with errors_of_workers(), observed(write, listeners) as told:
                with errors_of_arrays(write.lazy_names):
                    finished: WriteResult = retry_while_progressing(write, functools.partial(compute, graph))
                end(write.target.write_id)
                told.finished(finished)
        except BaseException:
            end(write.target.write_id)
            if interrupts.is_pressed and not write.workers.share_process:
                # Must come after `end`: otherwise this process would wait for its own locks.
                wait_for_others(write.target)
            withdraw(write)
            raise
    return finished


def _compute(
    workers: Workers, scheduler: Any, keywords: Mapping[str, Any], interrupts: Interrupts, graph: Delayed
) -> Any:
    """Compute the graph of a write; Ctrl-C ends the computation."""
    chosen = find_get(scheduler) if workers.client is None else scheduler
    compute = functools.partial(dask.base.compute, graph, scheduler=chosen, **keywords)
    if workers.client is None:
        with interrupts.between_tasks(), _own_threads(workers, keywords) as own:
            return compute(**own)[0]
    if not interrupts.is_aside:
        return compute()[0]
    # Same as `dask.compute`, but with a future that Ctrl-C can release: this ends unneeded tasks and the wait.
    future = compute(sync=False)[0]
    try:
        with interrupts.given_up_by(future.release):
            return future.result()
    finally:
        future.release()


@contextlib.contextmanager
def _own_threads(workers: Workers, keywords: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Provide threads that the process does not wait for at its exit, unless the user has chosen other threads."""
    pool = keywords.get("pool") or dask.config.get("pool", None)
    if workers.kind != "threads" or pool is not None:
        yield {}
        return
    threads = Threads(keywords.get("num_workers") or workers.threads, "dask_chunkio")
    try:
        yield {"pool": threads}
    finally:
        # Without waiting: a thread may compute blocks of a source for a long time.
        threads.shutdown(wait=False)


@shortens_tracebacks
def plan(
    filename: Any,
    *args: Any,
    encoding: Mapping[str, DatasetKeywords] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    token: str | None = None,
    part: tuple[int, int] | Literal["slurm"] | None = None,
    libver: str | tuple[str, str] | None = None,
    layout: LayoutName | None = None,
    references: str | os.PathLike[str] | None = None,
    references_url: str | None = None,
    scheduler: Any = None,
    memory_limit: int | str | None = None,
    sample: int | None = None,
    **keywords: Unpack[PlanKeywords],
) -> WritePlan:
    r"""Describe what `to_hdf5` would do with the same arguments, without writing anything.

    Parameters
    ----------
    filename, \*args, encoding, overwrite, resume, token, part, libver, layout, \*\*keywords
        Same as in `to_hdf5`.
    references, references_url, scheduler, memory_limit
        Same as in `to_hdf5`.
    sample : int, optional
        Number of chunks of each dataset that this call reads and encodes to estimate the stored size.  By default
        3, but 0 for dask arrays, which would have to be computed, and for sources that are read in order.

    Returns
    -------
    WritePlan
        Grids, encoders, projected memory and stored size.  Print the plan to read it, and call its
        ``write()`` to execute it.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        Same as in `to_hdf5`, except for a write that does not fit into memory and a target that cannot be written:
        the plan reports these two.
    TargetError
        If the region of a dataset to be written does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> planned = plan("out.h5", "/x", np.zeros((1000, 64), "i2"), chunks=(100, 64), compression="gzip")
    >>> planned.datasets[0].encoder
    'deflate(4) by libdeflate 4'
    """
    mine: dict[str, Any] = {"encoding": encoding, "overwrite": overwrite, "resume": resume, "token": token}
    mine |= {"part": part, "libver": libver, "layout": layout}
    mine |= {"references": references, "references_url": references_url}
    own = {"scheduler": scheduler, "memory_limit": memory_limit}
    write = functools.partial(to_hdf5, filename, *args, **mine, **own, **keywords)
    run = RunArguments(**mine, wait=False)
    _check(run)
    asked = {keyword: value for keyword, value in keywords.items() if keyword not in _NOT_OF_A_PLAN}
    target, workers = _target(filename, run), _workers(scheduler, memory_limit)
    prepared = prepare(target, args, encoding, asked, workers, layout=layout, may_begin_streams=False, touches=False)
    estimates = tuple(map(functools.partial(estimated_nbytes, sample), prepared.jobs, prepared.sources))
    return prepared.plan(kept_nbytes, estimates, write, looks=True)


def _workers(scheduler: Any, memory_limit: int | str | None) -> Workers:
    return find_workers(scheduler, settings().memory_limit if memory_limit is None else memory_limit)


def _target(filename: Any, run: RunArguments) -> Target:
    chosen = settings()
    durability = chosen.durability if run.durability is None else run.durability
    if durability not in get_args(Durability):
        raise ArgumentError(f"durability={durability!r} is not one of {', '.join(map(repr, get_args(Durability)))}")
    share = parse_part(run.part)
    return Target(
        parse_filename(filename),
        uuid.uuid4().hex,
        overwrite=run.overwrite,
        libver=run.libver,
        # A job that is run again goes on with its part.
        resume=run.resume or share is not None,
        wait=(chosen.wait or share is not None) if run.wait is None else run.wait,
        durability=cast(Durability, durability),
        command=run.command,
        token=run.token,
        share=share,
        lease_seconds=chosen.lease_seconds,
        fill=run.fill,
        references="" if run.references is None else parse_output("references", run.references),
        references_url=parse_url(run.references_url) or "",
    )
