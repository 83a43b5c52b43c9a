"""The progress of an unfinished write, as its side files record it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dask_chunkio.errors import ChunkIOError
from dask_chunkio.paths import local_path
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.filesystem.side_folder import is_left
from dask_chunkio.storage.journal.draft_manifest import DraftManifest, DraftPurpose, read_draft
from dask_chunkio.storage.journal.journal import HELD, Journal, read_journal
from dask_chunkio.storage.journal.manifest import read_manifest, require_real_folder
from dask_chunkio.storage.journal.owner import Owner
from dask_chunkio.storage.journal.part import PartState, missing_parts
from dask_chunkio.storage.store_folder import UnfinishedStore, find_unfinished_store
from dask_chunkio.storage.take_over import last_sign
from dask_chunkio.storage.target import Target

__all__ = ["DatasetState", "UnfinishedWrite", "status"]


@dataclass(frozen=True, slots=True)
class DatasetState:
    """The progress of one dataset of an unfinished write.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    shape : tuple of int
        Shape of the dataset, in elements.
    dtype : str
        Type of its elements.
    committed, chunks : int
        Number of its committed chunks, and of all its chunks.
    stored_nbytes : int
        Bytes of the committed payloads.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    committed: int
    chunks: int
    stored_nbytes: int


@dataclass(frozen=True, slots=True)
class UnfinishedWrite:
    """A write that is running, or was interrupted, as its side files describe it.

    Parameters
    ----------
    path : str
        The file to write.
    folder : str
        The folder of the side files.
    mode : str
        ``"new"`` for a file that is being created, ``"existing"`` for datasets that are being added to a file,
        ``"draft"`` for a draft, ``"store"`` for a zarr store that `convert` makes.
    running : bool
        Whether the file is being written now, on any host: a process holds the graph of the write, though it may be
        busy upstream of the write.
    owners : tuple of Owner
        The call that began it, and the calls that resumed it, with host, process and time.
    datasets : tuple of DatasetState
        Progress of each dataset.
    last_commit : datetime.datetime or None
        Time at which a buffer was committed last, in UTC; None if none was.
    log_nbytes : int
        Bytes of an interrupted transaction, which the next transaction applies or drops.
    finished : bool
        Whether everything is written, and only the folder is left to be removed.
    command : tuple of str
        Arguments of the command line that began it; empty for a script.
    command_folder : str
        Working directory of that command.
    last_alive : datetime.datetime or None
        Time at which the process that writes it was last seen alive, in UTC; None if unknown.
    part_count : int
        Number of the parts among which independent jobs divide the write; 0 for a write of one call.
    parts : tuple of PartState
        The parts that jobs have begun, in the order of their numbers.
    draft : DraftManifest or None
        How far a draft is; the other fields describe the fill that is not finished.
    store : DraftPurpose or None
        What is converted to a zarr store.
    """

    path: str
    folder: str
    mode: str
    running: bool
    owners: tuple[Owner, ...]
    datasets: tuple[DatasetState, ...]
    last_commit: datetime | None
    log_nbytes: int
    finished: bool
    command: tuple[str, ...] = ()
    command_folder: str = ""
    last_alive: datetime | None = None
    part_count: int = 0
    parts: tuple[PartState, ...] = ()
    draft: DraftManifest | None = None
    store: DraftPurpose | None = None

    @property
    def purpose(self) -> DraftPurpose | None:
        """What is made, if it is a repack or a conversion; None for a write, and for the draft of a script."""
        return self.store if self.draft is None else self.draft.purpose

    @property
    def missing_parts(self) -> tuple[int, ...]:
        """Numbers of the parts that are not committed."""
        return missing_parts({part.number: part for part in self.parts}, self.part_count)


def status(path: str | os.PathLike[str]) -> UnfinishedWrite | None:
    """Describe the unfinished write beside a file; changes nothing.

    Parameters
    ----------
    path : str or path-like
        The file that was to be written.

    Returns
    -------
    UnfinishedWrite or None
        None if there is no unfinished write.

    Raises
    ------
    UnfinishedWriteError
        If the folder of the side files is a symbolic link, or another version of this package created it.
    IntegrityError
        If the side files are damaged.

    Examples
    --------
    >>> status("no-such-file.h5") is None
    True
    """
    target = Target(os.path.realpath(local_path("path", path)), "")
    if is_left(DraftPaths(target.path).folder):
        return _status_of_draft(DraftPaths(target.path))
    if (store := find_unfinished_store(target.path)) is not None:
        return _status_of_store(target.path, store)
    if not os.path.lexists(target.folder) or (os.path.isdir(target.folder) and not is_left(target.folder)):
        return None
    # A write that was interrupted while it began may have no manifest yet.
    manifest = read_manifest(target.manifest)
    require_real_folder(target.folder)
    with read_journal(target.journal) as journal:
        datasets = tuple(_states(journal))
        sign = last_sign(target)
        return UnfinishedWrite(
            target.path,
            target.folder,
            manifest.mode if manifest else "new",
            sign.is_alive,
            tuple(journal.owners),
            datasets,
            _moment(journal.last_commit / 1e9),
            os.path.getsize(target.log) if os.path.exists(target.log) else 0,
            journal.finished,
            manifest.command if manifest else (),
            manifest.folder if manifest else "",
            _moment(sign.time),
            manifest.parts if manifest else 0,
            tuple(part for _, part in sorted(journal.parts.items())),
        )


def _status_of_store(path: str, found: UnfinishedStore) -> UnfinishedWrite:
    purpose = found.purpose or DraftPurpose("conversion", "a source that is not known", 0.0)
    return UnfinishedWrite(path, found.folder, "store", found.is_running, (), (), None, 0, False, store=purpose)


def _status_of_draft(draft: DraftPaths) -> UnfinishedWrite:
    sign, fill = last_sign(draft), status(draft.file)
    found = UnfinishedWrite(draft.path, draft.folder, "draft", sign.is_alive, (), (), None, 0, False)
    if fill is not None:
        is_alive, owners = sign.is_alive or fill.running, fill.owners
        found = replace(fill, path=draft.path, folder=draft.folder, mode="draft", running=is_alive, owners=owners)
    manifest = read_draft(draft.manifest)
    return replace(found, draft=manifest or DraftManifest("", "x"), finished=False, last_alive=_moment(sign.time))


def _states(journal: Journal) -> Iterator[DatasetState]:
    for number, made in enumerate(journal.created.datasets if journal.created else ()):
        table = journal.table(number)
        stored = int(table["nbytes"][table["state"] == HELD].sum())
        committed = len(table) - journal.missing(number)
        yield DatasetState(made.name, made.shape, made.dtype, committed, len(table), stored)


def is_own(target: Target) -> bool:
    """Return whether the folder beside a file is that of this call, which has begun the write or taken it over."""
    try:
        with read_journal(target.located().journal) as journal:
            if target.share is not None:
                return journal.created is not None
            return journal.owner is not None and journal.owner.write_id == target.owner_id
    except ChunkIOError:
        return False


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def how_far(target: Target, dataset: int, chunks: Sequence[int] | None) -> tuple[int, bool]:
    """Return how many chunks of a running write are committed, and whether these chunks of a dataset are."""
    with read_journal(target.journal) as journal:
        if journal.created is None:
            return 0, False
        counts = (len(journal.table(n)) - journal.missing(n) for n in range(len(journal.created.datasets)))
        return sum(counts), chunks is not None and journal.find(dataset, chunks) is not None
