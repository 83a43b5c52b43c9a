"""Drafts: any library makes the structure of a file, its datasets are filled in parallel, and it appears at once."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self, Unpack, get_args

from dask_chunkio.config import settings
from dask_chunkio.errors import ArgumentError, TargetError
from dask_chunkio.events import Listener
from dask_chunkio.execution.retries import patiently
from dask_chunkio.execution.tracebacks import shortens_tracebacks
from dask_chunkio.geometry.share import Share
from dask_chunkio.keywords import DatasetKeywords
from dask_chunkio.planning.request import describe_fill, parse_filename, parse_names
from dask_chunkio.planning.share import parse_part
from dask_chunkio.printable import printable
from dask_chunkio.references.of_draft import DraftReferences
from dask_chunkio.results import WriteResult, already_complete
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.drafts.begin import hold_draft
from dask_chunkio.storage.drafts.file import complete_structure, describe_datasets
from dask_chunkio.storage.drafts.held_draft import HeldDraft
from dask_chunkio.storage.drafts.publish import is_recorded_whole, publish_draft, record_fill
from dask_chunkio.storage.hdf5.file_layout import LayoutName, parse_layout
from dask_chunkio.storage.journal.draft_manifest import DraftMode, DraftPurpose
from dask_chunkio.storage.target import Durability
from dask_chunkio.validation import check_choice, check_flag
from dask_chunkio.write import RunArguments, layout_of_new_file, run_write

__all__ = ["Draft", "draft", "is_published", "require_made_from"]


def draft(
    filename: Any,
    *,
    mode: Literal["x", "w", "a"] = "x",
    resume: bool = False,
    part: tuple[int, int] | Literal["slurm"] | None = None,
    wait: bool | None = None,
    durability: Durability | None = None,
    layout: LayoutName | None = None,
    references: str | os.PathLike[str] | None = None,
    references_url: str | None = None,
) -> Draft:
    """Make an HDF5 file in three steps: its structure, by any library; its data, in parallel; its name, at the end.

    Parameters
    ----------
    filename : str or path-like
        The file.  It appears under this name, or changes, only when the draft is published.
    mode : str
        As in `h5py.File`: ``"x"`` for a new file, ``"w"`` for a new file that replaces an existing one, ``"a"`` for
        changes of an existing file, which are made to a copy of it.
    resume : bool
        Go on with an interrupted draft of this file, if there is one.  If it was cut off while its structure was made,
        it begins anew.
    part : tuple of int, optional
        ``(number, count)``, or ``"slurm"``, as in `to_hdf5`: independent jobs run the same script with different
        numbers.  The first one makes the structure, each one fills its part in one call of `Draft.fill`, and the last
        one to leave publishes.  A job that was interrupted is run again.  Jobs that have data of their own also give
        ``region`` to `Draft.fill`.
    wait : bool, optional
        If another process holds the draft, wait instead of raising.  By default ``chunkio.wait`` of dask's
        configuration, and True with `part`.
    durability : str, optional
        Same as in `to_hdf5`.
    layout : str, optional
        Same as in `to_hdf5`, with a page for the datasets of the first `Draft.fill`, which creates the file.  If
        another library creates it, as the structure, it must have paged file space.  Not with ``mode="a"``.
    references, references_url : optional
        Same as in `to_hdf5`, of all datasets of the file; made when it has its name.  Those that cannot be read through
        references are left out with a warning in the log, except for those of `Draft.fill`, which refuses them.

    Returns
    -------
    Draft
        To be used in a ``with`` statement.  The end of the block publishes the draft; an exception keeps it.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.

    See Also
    --------
    to_hdf5 : makes the structure itself.
    discard : removes an interrupted draft.

    Examples
    --------
    >>> import os, tempfile
    >>> import h5py
    >>> import numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "out.h5")
    >>> with draft(path) as new:
    ...     with h5py.File(new.path, "w") as file:
    ...         x = file.create_dataset("x", (1000,), "f8", chunks=(100,), compression="gzip")
    ...         x.attrs["unit"] = "V"
    ...     result = new.fill("/x", np.arange(1000.0))
    >>> with h5py.File(path) as file:
    ...     float(file["x"][999]), file["x"].attrs["unit"]
    (999.0, 'V')
    """
    return Draft(
        filename,
        mode=mode,
        resume=resume,
        part=part,
        wait=wait,
        durability=durability,
        layout=layout,
        references=references,
        references_url=references_url,
    )


class Draft:
    """A file that is made in a folder beside its final name; see `draft`.

    Without a ``with`` statement, call `open` first, and `publish` or `keep` at the end.

    Parameters
    ----------
    filename, mode, resume, part, wait, durability, layout, references, references_url
        Same as in `draft`.
    """

    def __init__(
        self,
        filename: Any,
        *,
        mode: DraftMode = "x",
        resume: bool = False,
        part: Any = None,
        wait: bool | None = None,
        durability: Durability | None = None,
        layout: LayoutName | None = None,
        references: Any = None,
        references_url: Any = None,
    ) -> None:
        check_choice("mode", mode, get_args(DraftMode))
        check_choice("durability", durability, (None, *get_args(Durability)))
        check_flag("resume", resume)
        check_flag("wait", wait)
        self._paths = DraftPaths(parse_filename(filename))
        self._mode: DraftMode = mode
        self._references = DraftReferences(references, references_url)
        self._share = parse_part(part)
        # A job that is run again goes on with its part, and waits for the one that makes the structure.
        self._resume = resume or part is not None
        self._wait = True if wait is None and part is not None else wait
        new, more = _layout_of_new(layout, mode), self._references.keywords
        self._run = RunArguments(
            resume=True, part=self._share, wait=self._wait, durability=durability, layout=new, **more
        )
        self._held: HeldDraft | None = None
        self._fills, self._filling = 0, threading.Lock()

    def __repr__(self) -> str:
        return f"<Draft of {self.filename}: {'closed' if self._held is None else self._held.manifest.state}>"

    @property
    def filename(self) -> str:
        """Absolute path of the final name."""
        return self._paths.path

    @property
    def path(self) -> str:
        """Absolute path of the hidden file, which has the same base name; make the structure there, and close it."""
        # A draft that was cut off just after it was published has its file under the final name.
        return self._paths.file if self._held is None else self._held.file

    @property
    def is_new(self) -> bool:
        """Whether the structure is still to be made: True until the first `fill`, or `publish`, of an open draft."""
        return self._require_open().manifest.state == "structure"

    @shortens_tracebacks
    def open(self) -> Self:
        """Begin the draft, or go on with one; nobody else can open it until it is closed.

        Returns
        -------
        Draft
            This object.

        Raises
        ------
        TargetError
            If the name is taken; another process holds the draft, or has the existing file open; there is an
            interrupted draft, without ``resume=True``, or an unfinished write; or the file cannot be written there.
        ArgumentError
            If the interrupted draft has another mode.
        IntegrityError
            If what an interrupted fill has left is damaged.
        """
        if self._held is not None:
            raise TargetError(f"the draft of {self.filename} is open already")
        self._references.require_replaceable(self.filename)
        chosen = settings()
        parts = 0 if self._share is None else self._share.count
        hold = functools.partial(hold_draft, self.filename, self._mode, self._resume, chosen.lease_seconds, parts)
        self._held, self._fills = patiently(hold, chosen.wait if self._wait is None else self._wait), 0
        return self

    @shortens_tracebacks
    def fill(
        self,
        *args: Any,
        encoding: Mapping[str, DatasetKeywords] | None = None,
        scheduler: Any = None,
        memory_limit: int | str | None = None,
        progress: bool | None = None,
        callback: Listener | None = None,
        fuse: bool = True,
        compute_kwargs: Mapping[str, Any] | None = None,
        **keywords: Unpack[DatasetKeywords],
    ) -> WriteResult:
        """Write datasets in parallel, as `to_hdf5` does.

        A dataset of the structure keeps its chunks, type, filters, fill value and attributes.  If its ``maxshape``
        allows, it is extended to the shape of its source.  Other datasets are created.  The first call says that the
        structure is complete.  A resumed script repeats its calls: complete ones write nothing.

        Parameters
        ----------
        *args, encoding, scheduler, memory_limit, progress, callback, fuse, compute_kwargs
            Same as in `to_hdf5`.
        **keywords
            Same as in `to_hdf5`, except for ``append``; where a dataset exists, they must agree with it.  In a draft in
            parts, ``region`` says that the source is only the region of this job, which consists of whole chunks.

        Returns
        -------
        WriteResult
            The result of this call.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If an argument cannot be used, or a source does not fit its dataset.
        TargetError
            If the file is not there or not closed, or cannot be written.
        SourceError, CastError
            If a source raises, or returns something other than it announced.
        """
        _refuse_append(encoding, keywords)
        run = replace(
            self._run,
            encoding=encoding,
            scheduler=scheduler,
            memory_limit=memory_limit,
            progress=progress,
            callback=callback,
            fuse=fuse,
            compute_kwargs=compute_kwargs,
        )
        # Fills are numbered: a resumed script makes the same ones, in the same order.
        with self._filling:
            result = _filled_and_noted(self._require_open(), self._references, self._fills, args, keywords, run)
            self._fills += 1
        return replace(result, path=self.filename)

    @shortens_tracebacks
    def publish(self) -> None:
        """Give the file its final name, durably, and remove the folder of the draft.

        Of several jobs, the last one to leave a draft that is whole does so.

        Raises
        ------
        TargetError
            If there is no file, it is open, a fill is not finished, or another program has created or changed the
            file of the final name; the draft stays open.  If the references of a published file cannot be written.
        """
        held = self._require_open()
        complete_structure(held, layout=self._run.layout)
        try:
            _publish(held, self._share, self._references)
        finally:
            if held.is_published:
                self.keep()
        self.keep()

    def keep(self) -> None:
        """Close the draft without publishing it; a draft whose structure is not complete is removed."""
        held, self._held = self._held, None
        if held is not None:
            (held.remove if held.manifest.state == "structure" else held.let_go)()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            try:
                self.publish()
            except BaseException as failed:
                self._keep_after(failed)
                raise
        else:
            self._keep_after(error)

    def _keep_after(self, error: BaseException) -> None:
        held = self._held
        is_kept = held is not None and not held.is_published and not self.is_new
        self.keep()
        if held is not None and is_kept:
            error.add_note(_kept_note(self._paths, held.manifest.purpose))

    def _require_open(self) -> HeldDraft:
        if self._held is None:
            raise TargetError(
                f"the draft of {self.filename} is not open; use 'with dask_chunkio.draft(...) as draft:', or open()"
            )
        return self._held


def _layout_of_new(layout: Any, mode: DraftMode) -> LayoutName | None:
    found = parse_layout(layout)
    if found is not None and mode == "a":
        raise ArgumentError(
            f"layout={layout!r} is chosen when a file is created, and mode='a' changes an existing one, which keeps "
            f"its layout; leave it out"
        )
    return found


def is_published(draft: Draft) -> bool:
    """Return whether the file of an open draft has its name, as an earlier process was cut off just after that."""
    return draft._require_open().is_published


def require_made_from(draft: Draft, words: str, purpose: DraftPurpose | None = None) -> None:
    """Record what an open draft is made of, or make sure that an earlier process has said the same.

    Parameters
    ----------
    draft : Draft
        The draft.
    words : str
        Names and versions of the inputs, and whatever else decides what is written.
    purpose : DraftPurpose, optional
        What the draft is made for: `dask_chunkio.status` says it.

    Raises
    ------
    ArgumentError
        If the draft was begun with other words.
    TargetError
        If they cannot be recorded.
    """
    held = draft._require_open()
    if held.manifest.state == "structure":
        held.save(replace(held.manifest, made_from=words, purpose=purpose))
    elif held.manifest.made_from != words:
        raise ArgumentError(
            f"the draft of {draft.filename} was begun from {held.manifest.made_from or 'something else'}, and this is "
            f"{words}; go on with the same, or discard the draft with dask_chunkio.discard({draft.filename!r})"
        )


def _publish(held: HeldDraft, share: Share | None, references: DraftReferences) -> None:
    if share is None or (is_recorded_whole(held) and held.take_alone()):
        known = references.known(held.file)
        publish_draft(held, lambda: references.write(held.paths.path, known))


def _filled_and_noted(held: HeldDraft, references: DraftReferences, number: int, args: Any, *more: Any) -> WriteResult:
    """Fill datasets, and note where their chunks are."""
    references.before_fill(held.file, parse_names(args))
    result = _filled(held, number, args, *more)
    references.after_fill(held.file, result.places)
    return replace(result, places=None)


def _filled(
    held: HeldDraft, number: int, args: tuple[Any, ...], keywords: DatasetKeywords, run: RunArguments
) -> WriteResult:
    """Fill datasets, unless an earlier process has done it."""
    words = describe_fill(args, run.encoding, keywords, run.part is not None)
    durability = settings().durability if run.durability is None else run.durability
    chosen = functools.partial(layout_of_new_file, held.paths.file, args, keywords, run)
    complete_structure(held, True, durability == "power", run.layout, chosen)
    if number < len(held.manifest.fills):
        return _filled_before(held, number, words, parse_names(args))
    if held.is_published:
        raise ArgumentError(
            f"{held.paths.path} was published by an earlier run of this script, which made {number} fills; make the "
            f"same calls, or a new draft without resume=True"
        )
    if number and run.part is not None:
        raise ArgumentError("part= needs all datasets in one call of fill: other jobs may not run yet")
    result = run_write(held.paths.file, args, keywords, replace(run, fill=number))
    if result.is_whole:
        record_fill(held, number, words)
    return result


def _filled_before(held: HeldDraft, number: int, words: tuple[str, ...], names: tuple[str, ...]) -> WriteResult:
    """Return the result of a fill that an earlier process has completed."""
    filename, done = held.paths.path, held.manifest.fills[number]
    if done != words:
        raise ArgumentError(
            f"fill number {number + 1} of the draft of {filename} wrote {', '.join(done)}, not {', '.join(words)}; "
            f"make the same calls again, or discard the draft with dask_chunkio.discard({filename!r})"
        )
    return already_complete(filename, describe_datasets(held.file, names))


def _kept_note(paths: DraftPaths, purpose: DraftPurpose | None) -> str:
    again = "the same script and draft(..., resume=True)" if purpose is None else purpose.words_to_go_on
    return printable(
        f"{paths.path} was not written. Its draft is kept in {paths.folder}: go on with {again}, or remove it with "
        f"dask_chunkio.discard({paths.path!r})."
    )


def _refuse_append(encoding: Mapping[str, DatasetKeywords] | None, keywords: DatasetKeywords) -> None:
    of_each = encoding.values() if isinstance(encoding, Mapping) else ()
    given = [one for one in (keywords, *of_each) if isinstance(one, Mapping)]
    if any(one.get("append") is not None and one.get("append") is not False for one in given):
        raise ArgumentError(
            "append= does not go with a draft, in which a call that was interrupted is repeated; extend the dataset "
            "in the structure, and give region="
        )
