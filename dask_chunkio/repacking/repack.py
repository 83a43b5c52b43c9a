"""The public function `repack`, from top to bottom."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py

from dask_chunkio.config import settings
from dask_chunkio.drafts import Draft, is_published, require_made_from
from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.events import Listener
from dask_chunkio.execution.tracebacks import shortens_tracebacks
from dask_chunkio.filters.hdf5_encoder import require_filter
from dask_chunkio.isolated_call import is_isolated
from dask_chunkio.paths import local_path
from dask_chunkio.repacking.command_words import command_of
from dask_chunkio.repacking.new_file import parse_file_options
from dask_chunkio.repacking.patterns import Selection
from dask_chunkio.repacking.results import RepackResult
from dask_chunkio.repacking.rules import Rules, parse_rules, parse_texts
from dask_chunkio.repacking.structure_process import Decided, Request, compare, make_structure, survey
from dask_chunkio.storage.hdf5.raw_access import require_raw_access
from dask_chunkio.storage.journal.draft_manifest import DraftMode, DraftPurpose
from dask_chunkio.storage.preconditions import opened_to_look
from dask_chunkio.storage.target import Durability, Target
from dask_chunkio.validation import check_flag

__all__ = ["repack", "source_of"]


@dataclass(slots=True)
class _Job:
    """All that was asked for, and what became of it."""

    request: Request
    path: str
    rules: Rules
    run: Mapping[str, Any]
    # How the draft is made, as options of the command.
    making: Mapping[str, Any] = field(default_factory=dict)
    decided: Decided = field(default_factory=Decided)

    @property
    def source(self) -> str:
        """Absolute path of the file."""
        return self.request.source

    @property
    def words(self) -> str:
        """What decides what is written, for a draft that is resumed."""
        found = os.stat(self.source)
        version = f"{found.st_size} bytes, inode {found.st_ino}, modified at {found.st_mtime_ns} ns"
        return f"{self.source} ({version}), by {self.rules}, {self.request.selection}, {self.request.options}"

    @property
    def purpose(self) -> DraftPurpose:
        """What a draft says that it is made for."""
        command = command_of(
            self.source,
            self.path,
            rules=self.rules,
            selection=self.request.selection,
            options=self.request.options,
            others=self.making,
        )
        return DraftPurpose("repack", self.source, time.time(), command)


@shortens_tracebacks
def repack(
    input: Any,  # noqa: A002
    output: Any = None,
    *,
    filters: str | Sequence[str] = (),
    layouts: str | Sequence[str] = (),
    minimum: int = 0,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    in_place: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    libver: str | tuple[str, str] | None = None,
    fs_strategy: str | None = None,
    fs_persist: bool | None = None,
    fs_threshold: int | None = None,
    fs_page_size: int | None = None,
    user_block: int | None = None,
    user_block_file: str | os.PathLike[str] | None = None,
    meta_block_size: int | None = None,
    wait: bool | None = None,
    durability: Durability | None = None,
    scheduler: Any = None,
    memory_limit: int | str | None = None,
    progress: bool | None = None,
    callback: Listener | None = None,
    compute_kwargs: Mapping[str, Any] | None = None,
    isolated: bool | None = None,
) -> RepackResult:
    """Copy a whole HDF5 file with other chunks and filters, in parallel.

    Everything that the file holds is copied, with its properties: groups, links, attributes, named types,
    references, dimension scales.  Chunks and filters change as the rules say.

    Parameters
    ----------
    input : str or path-like
        The file to copy; it is only read.
    output : str or path-like, optional
        The new file.  It appears under this name only when it is complete.
    filters : sequence of str
        Values of h5repack's option ``-f``: ``"GZIP=4"`` for all datasets, ``"/a,/b:SHUF"`` for some, ``"NONE"`` to
        remove filters.  The names may be patterns: ``*`` stands for any characters of one name, ``**`` for any names.
        What names a dataset replaces what is for all.
    layouts : sequence of str
        Values of h5repack's option ``-l``: ``"CHUNK=10x20"``, ``"/a:CONTI"``, ``"COMPA"``.
    minimum : int
        Datasets of fewer bytes keep their filters and layout.
    include, exclude : sequence of str
        Patterns of the objects that are copied, and of those that are left out, each with all below it.
    in_place : bool
        Replace the file itself, when the copy is complete; `output` is left out.
    overwrite : bool
        Replace an existing `output`.
    resume : bool
        Go on with a repack that was interrupted; the file and the other arguments must be the same.
    verify : bool
        Compare the copy with the file before it gets its name.
    dry_run : bool
        Write nothing; estimate the sizes.
    libver : str or tuple of str, optional
        Version bounds of the file format.  By default the oldest that `input` may have been made with.
    fs_strategy, fs_persist, fs_threshold, fs_page_size : optional
        How the file manages its space, as h5repack's ``-S``, ``-P``, ``-T`` and ``-G``; by default as in `input`.
    user_block : int, optional
        Size of the user block, in bytes; by default as in `input`, or the smallest for `user_block_file`.
    user_block_file : str or path-like, optional
        A file whose bytes become the user block, if `input` has none.
    meta_block_size : int, optional
        Size, in bytes, of the blocks in which space for metadata is allocated while the structure is made, as in
        `h5py.File`; by default HDF5's, 2048.
    wait, durability, scheduler, memory_limit, progress, callback, compute_kwargs
        Same as in `to_hdf5`.
    isolated : bool, optional
        As `open_array` takes it: whether another process makes the structure of the copy, and compares it, because a
        damaged file may make HDF5 crash or hang.

    Returns
    -------
    RepackResult
        What was done.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used, or what a rule asks of a dataset that it names cannot be done.
    IntegrityError
        If `input` is damaged, crashes HDF5, or holds what cannot be copied; or `verify` has found a difference.
    TargetError
        If `output` cannot be written.
    WorkerError
        If the process that makes the structure was killed; or cannot be started, with ``isolated=True``.

    See Also
    --------
    draft : makes files in the same steps, with any structure.

    Examples
    --------
    >>> import os, tempfile
    >>> import h5py
    >>> folder = tempfile.mkdtemp()
    >>> with h5py.File(os.path.join(folder, "old.h5"), "w") as file:
    ...     file["x"] = [1] * 1_000_000
    >>> result = repack(os.path.join(folder, "old.h5"), os.path.join(folder, "new.h5"), filters=["SHUF", "GZIP=4"])
    >>> result.nbytes_before > 50 * result.nbytes_after
    True
    """
    require_raw_access()
    for name, flag in (("in_place", in_place), ("overwrite", overwrite), ("verify", verify), ("dry_run", dry_run)):
        check_flag(name, flag)
    check_flag("isolated", isolated)
    source, path = _paths(input, output, in_place, dry_run)
    run = {"scheduler": scheduler, "memory_limit": memory_limit, "progress": progress, "callback": callback}
    options = parse_file_options(
        libver=libver,
        fs_strategy=fs_strategy,
        fs_persist=fs_persist,
        fs_threshold=fs_threshold,
        fs_page_size=fs_page_size,
        user_block=user_block,
        user_block_file=user_block_file,
        meta_block_size=meta_block_size,
    )
    filters, layouts = parse_texts("filters", filters), parse_texts("layouts", layouts)
    rules = parse_rules(filters, layouts, _minimum(minimum))
    for code in rules.codes:
        require_filter(code)
    selection = Selection(_patterns("include", include), _patterns("exclude", exclude))
    request = Request(
        source, filters, layouts, minimum, selection, options, settings().chunk_nbytes, is_isolated(isolated)
    )
    making = {"in_place": in_place, "overwrite": overwrite, "verify": verify, "durability": durability}
    making["no_isolation"] = isolated is False
    job = _Job(request, path, rules, {**run, "compute_kwargs": compute_kwargs}, making)
    if dry_run:
        return _estimated(job)
    mode: DraftMode = "w" if in_place or overwrite else "x"
    return _repacked(job, Draft(path, mode=mode, resume=resume, wait=wait, durability=durability), verify)


def source_of(dataset: h5py.Dataset) -> Any:
    """Return the source from which a dataset of the copy is filled: that of the file, which HDF5 decodes."""
    return dataset


def _repacked(job: _Job, draft: Draft, verifies: bool) -> RepackResult:
    """Make the copy in a draft, and publish it."""
    started, before = time.monotonic(), os.stat(job.source).st_size
    with draft:
        # A process that was cut off just after it had given the file its name has done everything.
        if not is_published(draft):
            _make(job, draft, verifies)
    datasets = job.decided.results(job.path)
    after, seconds = os.stat(job.path).st_size, time.monotonic() - started
    counts, notes = job.decided.counts or {}, job.decided.notes
    return RepackResult(job.source, job.path, before, after, counts, datasets, seconds, notes, verified=verifies)


def _make(job: _Job, draft: Draft, verifies: bool) -> None:
    """Make the structure of the copy, fill its datasets, and compare it with the file."""
    require_made_from(draft, job.words, job.purpose)
    job.decided = make_structure(job.request, draft.path) if draft.is_new else survey(job.request)
    if filled := job.decided.filled:
        # These datasets could be opened in the other process.
        with opened_to_look(Target(job.source, "")) as source:
            draft.fill({name: source_of(source[name]) for name in filled}, **job.run)
    if verifies:
        compare(job.request, draft.path)


def _estimated(job: _Job) -> RepackResult:
    """Say what a repack would do."""
    started, before = time.monotonic(), os.stat(job.source).st_size
    found = survey(job.request, estimates=True)
    saved = sum(one.stored_before - one.stored_after for one in found.datasets if one.stored_after is not None)
    seconds = time.monotonic() - started
    return RepackResult(
        job.source, job.path, before, before - saved, {}, found.datasets, seconds, found.notes, dry_run=True
    )


def _paths(source: Any, output: Any, in_place: bool, dry_run: bool) -> tuple[str, str]:
    """Return the absolute paths of the file and of the copy."""
    old = os.path.realpath(local_path("input", source))
    if not os.path.isfile(old):
        raise ArgumentError(f"there is no file {old}; give the HDF5 file that is to be copied")
    if not h5py.is_hdf5(old):
        raise ArgumentError(f"{old} is not an HDF5 file, or its first bytes are damaged")
    if in_place:
        if output is not None:
            raise ArgumentError(f"in_place=True replaces {old}, and there is an output, too; leave one of them out")
        return old, old
    if output is None:
        if not dry_run:
            raise ArgumentError(
                "output is missing; give the name of the new file, or in_place=True to replace the file"
            )
        return old, old
    new = os.path.abspath(local_path("output", output))
    if os.path.realpath(new) == old or (os.path.exists(new) and os.path.samefile(new, old)):
        raise ArgumentError(f"{new} is the file to copy; give another name, or in_place=True to replace it")
    return old, os.path.realpath(new) if os.path.islink(new) else new


def _minimum(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ArgumentTypeError(f"minimum={value!r} is not a whole number of bytes")
    return value


def _patterns(name: str, values: Any) -> tuple[str, ...]:
    found = parse_texts(name, values, "'/raw/*'")
    if strange := [one for one in found if not one.strip("/")]:
        raise ArgumentTypeError(f"{name}= has {strange[0]!r}; give paths or patterns such as '/raw/*'")
    return found
