"""Begin a write: one attempt, in which checking the target and taking it are one step.

A call that has to wait makes another attempt later, and holds nothing in between.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from dask_chunkio.errors import ArgumentError, TargetBusyError, TargetChangedError, TargetError, UnfinishedWriteError
from dask_chunkio.storage import session
from dask_chunkio.storage.activity.activity_lock import LOOKS, ActivityLock
from dask_chunkio.storage.activity.keepalive import Keepalive
from dask_chunkio.storage.creation import Made, create_datasets
from dask_chunkio.storage.filesystem.io import is_at
from dask_chunkio.storage.filesystem.kind import file_system_of
from dask_chunkio.storage.filesystem.side_folder import Folder, is_left, remove_empty_folder
from dask_chunkio.storage.hdf5.dataset import DatasetSpec
from dask_chunkio.storage.journal.created import Created
from dask_chunkio.storage.journal.journal import read_journal
from dask_chunkio.storage.journal.manifest import Manifest, read_manifest, require_real_folder
from dask_chunkio.storage.journal.owner import Owner
from dask_chunkio.storage.made_folder import describe_folder, make_folder
from dask_chunkio.storage.preconditions import judge
from dask_chunkio.storage.take_over import take_over
from dask_chunkio.storage.target import Target, cannot_join, remedies
from dask_chunkio.storage.transaction import Lock

__all__ = ["Begun", "begin", "held_alone"]

_Create = Callable[[Target, Sequence[Owner] | None], Made]


@dataclass(frozen=True, slots=True)
class Begun:
    """A write that has begun, or has nothing to do.

    Parameters
    ----------
    target : Target
        The target, with its mode.
    made : Made
        Its datasets.
    """

    target: Target
    made: Made = field(default_factory=Made)


def begin(
    target: Target, specs: Sequence[DatasetSpec], exclusive: bool, lock: Lock, keepalive: Keepalive | None = None
) -> Begun:
    """Begin a write: create its folder, its file and its datasets; or resume one.

    If it runs again for the same write, it finds them and changes nothing.

    Parameters
    ----------
    target : Target
        The target of the write.
    specs : sequence of DatasetSpec
        Its datasets.
    exclusive : bool
        Whether no other process takes transactions.
    lock : callable
        Returns the scheduler's lock.
    keepalive : Keepalive, optional
        Keeps the write alive from here on.

    Raises
    ------
    TargetBusyError
        If another call writes the file, or another program has it open: it may be free later.
    TargetChangedError
        If another write has changed the file since this one was planned: this one must be planned again.
    UnfinishedWriteError
        If there is an interrupted write, and `Target.resume` is not set.
    TargetExistsError, TargetError
        If the target cannot be written.
    ArgumentError
        If the write that is resumed was begun with other arguments.
    """
    target = target.located()
    require_real_folder(target.folder)

    def create(target: Target, owners: Sequence[Owner] | None) -> Made:
        writer = session.writer_for(target, exclusive)
        if keepalive is None:
            return create_datasets(writer.transactions, specs, lock, owners)
        with writer.transactions.files.used():
            made = create_datasets(writer.transactions, specs, lock, owners, keepalive.announce)
            # Share the lock before this call releases its own, so that no other call finds the write free.
            if not made.complete:
                keepalive.share()
        return made

    if target.share is not None:
        target = _joined(target, specs)
    if os.path.isdir(target.folder) and _is_mine(target):
        return _gone_on(target, create, None)
    if target.has_joined:
        raise TargetChangedError(_is_beginning(target))
    remove_empty_folder(target.folder)
    if not is_left(target.folder):
        return _begun_anew(target, specs, create)
    with held_alone(target) as owners:
        if owners is None:
            return _begun_anew(target, specs, create)
        if target.share is not None:
            # Another job has begun it meanwhile, or was cut off in its first transaction.
            target = _joined(target, specs, is_dead=True)
        return _gone_on(target, create, None if target.has_joined else owners)


def _begun_anew(target: Target, specs: Sequence[DatasetSpec], create: _Create) -> Begun:
    judged = judge(target, specs)
    if judged.complete:
        return Begun(target, Made(complete=judged.complete))
    target = replace(target, mode=judged.mode)
    with _new_folder(target) as (folder, activity_lock):
        try:
            if judge(target, specs) != judged:
                raise TargetChangedError(f"{target.path} was changed as this write began; run it again")
            describe_folder(target)
            _share(target, activity_lock, folder)
            return Begun(target, create(target, None))
        except BaseException:
            session.release(target.write_id)
            _take_back(target, folder, activity_lock)
            raise


@contextlib.contextmanager
def _new_folder(target: Target):  # type: ignore[no-untyped-def]
    """Create the folder, and hold its activity lock exclusively from the beginning.

    Two calls may both take one folder for theirs: one creates it, the other removes it while it is empty and creates it
    again, and then the first opens it.  The call that first holds the activity lock exclusively continues.
    """
    try:
        folder = make_folder(target)
    except FileExistsError as error:
        raise TargetBusyError(_is_beginning(target)) from error
    except FileNotFoundError as error:
        # Another call removed it: a folder that is still empty counts as left over.
        raise TargetChangedError(_is_beginning(target)) from error
    with folder:
        try:
            activity_lock = ActivityLock(target.lock)
        except OSError as error:
            if folder.is_there:
                with contextlib.suppress(OSError):
                    os.rmdir(target.folder)
                raise target.refused(error, target.lock) from error
            raise TargetChangedError(_is_beginning(target)) from error
        try:
            if not _is_taken(activity_lock, folder) or os.path.lexists(target.manifest):
                raise TargetBusyError(_is_beginning(target))
            _require_in_place(target, activity_lock, folder)
            yield folder, activity_lock
        finally:
            activity_lock.close()


def _is_taken(activity_lock: ActivityLock, folder: Folder) -> bool:
    try:
        return activity_lock.take_alone(1)
    except TargetError:  # no locks, so no other process can hold one
        with contextlib.suppress(OSError):
            folder.remove(activity_lock.close)
        raise


def _share(target: Target, activity_lock: ActivityLock, folder: Folder) -> None:
    """Share the activity lock with the tasks of this write; for an instant, another process may take it exclusively."""
    activity_lock.share()
    _require_in_place(target, activity_lock, folder)
    manifest = read_manifest(target.manifest)
    if manifest is None or manifest.write_id != target.owner_id:
        raise TargetChangedError(_is_beginning(target))


def _require_in_place(target: Target, activity_lock: ActivityLock, folder: Folder) -> None:
    if not folder.is_there or not is_at(activity_lock.descriptor, target.lock):
        raise TargetChangedError(_is_beginning(target))


def _is_beginning(target: Target) -> str:
    return f"{target.path} is being written by another call, which begins or ends just now; wait for it (wait=True)"


def _joined(target: Target, specs: Sequence[DatasetSpec], is_dead: bool = False) -> Target:
    """Return the target with the identifier of the write that other jobs have begun, if this job belongs to it.

    `is_dead` says that nobody works on the write that is there: then there is nothing to wait for.

    Raises
    ------
    TargetChangedError
        If another write has begun meanwhile.
    ArgumentError
        If this job differs from the others.
    UnfinishedWriteError
        If the folder holds a write that is not in parts.
    """
    manifest = read_manifest(target.manifest)
    with read_journal(target.journal) as journal:
        owner, created, parts = journal.owner, journal.created, journal.parts.values()
        is_over = journal.finished or journal.discarded
    if read_manifest(target.manifest) != manifest:
        raise TargetChangedError(_is_beginning(target))
    if manifest is None or target.share is None or is_over or target.is_given_up:
        return target
    difference = _difference(target, specs, manifest, owner, created)
    if difference is not None and is_dead:
        raise difference
    if difference is not None:
        return target
    if manifest.durability != target.durability:
        raise ArgumentError(cannot_join(target, f"they have durability={manifest.durability!r}"))
    hosts = {part.host for part in parts} | ({owner.host} if owner is not None else set())
    _require_locks_between(target, hosts - {socket.gethostname()})
    # A job that was cut off before its first transaction has begun nothing.
    return replace(target, joined_id=manifest.write_id) if is_dead or owner is not None else target


def _difference(
    target: Target, specs: Sequence[DatasetSpec], manifest: Manifest, owner: Owner | None, created: Created | None
) -> Exception | None:
    """Return the error that tells why this job does not belong to the write that is there; None if it does."""
    if not manifest.parts or (owner is not None and owner.write_id != manifest.write_id):
        return UnfinishedWriteError(
            f"{target.folder} holds an unfinished write of {target.path} by a single call, "
            f"{owner or 'which was cut off as it began'}, which no part can join. {remedies(target.path)}"
        )
    if target.share is not None and manifest.parts != target.share.count:
        return ArgumentError(
            f"part=({target.share.number}, {target.share.count}): the jobs that write {target.path} divide it into "
            f"{manifest.parts} parts; give all jobs the same number, or discard the write with "
            f"dask_chunkio.discard({target.discardable!r})"
        )
    if created is not None and created.token != target.token:
        return ArgumentError(cannot_join(target, f"they have token={created.token!r}"))
    names, mine = [made.name for made in created.datasets] if created else [], [spec.name for spec in specs]
    if created is not None and names != mine:
        return ArgumentError(cannot_join(target, f"they write {', '.join(names)}, not {', '.join(mine)}"))
    return None


def _require_locks_between(target: Target, hosts: Collection[str]) -> None:
    if hosts and file_system_of(target.folder).has_local_locks:
        raise TargetError(
            f"the locks of the file system of {target.path} do not reach other hosts, and jobs on "
            f"{', '.join(sorted(hosts))} write other parts of it; run all jobs on one host, or mount the file system "
            f"with locks that reach all of them"
        )


def _is_mine(target: Target) -> bool:
    """Return whether this call, in this or another process, has created the folder or owns the write."""
    manifest = read_manifest(target.manifest)
    with read_journal(target.journal) as journal:
        if journal.owner is not None:
            return journal.owner.write_id == target.owner_id
        return manifest is not None and manifest.write_id == target.owner_id


def _gone_on(target: Target, create: _Create, owners: Sequence[Owner] | None) -> Begun:
    try:
        found = target.found()
        if found is None:
            raise TargetChangedError(_is_beginning(target))
        made = create(found, owners)
    except BaseException as error:
        session.release(target.write_id)
        may_be_over = owners is not None or target.has_joined
        if may_be_over and type(error) is TargetError and not is_left(target.folder):
            raise TargetChangedError(_is_beginning(target)) from error
        raise
    if made.complete:
        session.release(target.write_id)
    return Begun(found, made)


@contextlib.contextmanager
def held_alone(target: Target):  # type: ignore[no-untyped-def]
    """Keep other calls from taking over a write whose call is dead, and yield its owners.

    A write in which nothing was committed is removed: then there is nothing to resume, and None is yielded.

    Raises
    ------
    TargetBusyError
        If the call is alive.
    TargetChangedError
        If another call begins or ends a write there now.
    UnfinishedWriteError
        If the call is dead, and `Target.resume` is not set.
    """
    with contextlib.ExitStack() as stack:
        owners = _take_over_folder(target, stack)
        if owners is None:
            # This activity lock must be released before another call creates a folder of the same name.
            stack.close()
        yield owners


def _take_over_folder(target: Target, stack: contextlib.ExitStack) -> Sequence[Owner] | None:
    require_real_folder(target.folder)
    try:
        folder = stack.enter_context(Folder(target.folder))
    except FileNotFoundError as error:
        raise TargetChangedError(_is_beginning(target)) from error
    activity_lock = _lock_in(folder, target)
    if activity_lock is None:
        return None
    stack.callback(activity_lock.close)
    with read_journal(target.journal) as journal:
        owners, owner = tuple(journal.owners), journal.owner
    looks = 1 if owner is not None and owner.exclusive else LOOKS
    # Workers may still hold a write that has just ended; a call that resumes it waits for them, and for a lease.
    if not take_over(target, activity_lock, looks, **({} if target.resume else {"patience": 0.0})):
        raise TargetBusyError(
            f"{target.path} is being written by another call, {owner or 'which begins just now'}; wait for it "
            f"(wait=True), or choose another name"
        )
    _require_in_place(target, activity_lock, folder)
    if _is_over(target):
        _remove(folder, activity_lock.close)
        return None
    if not target.resume:
        about = f", {owner}" if owner else ""
        raise UnfinishedWriteError(
            f"{target.folder} holds an unfinished write of {target.path}{about}. {remedies(target.path)}"
        )
    # From here on no other process can take it exclusively; the writer of this call shares it.
    activity_lock.share()
    return owners


def _lock_in(folder: Folder, target: Target) -> ActivityLock | None:
    """Open the lock of a write that was found; None if that write is over, and its folder is removed here.

    Raises
    ------
    TargetChangedError
        If another call creates or removes the folder just now.
    """
    activity_lock = _opened_activity_lock(target)
    # The lock is the first file that is created in a folder.
    if activity_lock is None and (not folder.is_there or folder.is_empty):
        raise TargetChangedError(_is_beginning(target))
    if activity_lock is None and (activity_lock := _opened_activity_lock(target)) is None:
        # The folder is being removed, or its removal was interrupted: a new lock file would hinder the removal.
        if _is_over(target) or (target.found() is not None and target.is_finished):
            _remove(folder)
            return None
        activity_lock = _opened_activity_lock(target, create=True)
    if activity_lock is None:
        raise TargetChangedError(_is_beginning(target))
    return activity_lock


def _opened_activity_lock(target: Target, create: bool = False) -> ActivityLock | None:
    try:
        return ActivityLock(target.lock, create)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TargetError(f"cannot use {target.lock}: {error.strerror or error}") from error


def _is_over(target: Target) -> bool:
    """Return whether a folder that no process uses holds nothing that is needed."""
    if not target.is_begun:
        # (Without a manifest, the purpose of the folder is not certain.)
        return target.resume or target.found() is not None
    if target.is_given_up:
        return True
    found = None if target.resume else target.found()
    return found is not None and found.mode != "new" and target.is_finished


def _remove(folder: Folder, let_go: Callable[[], object] = lambda: None) -> None:
    try:
        folder.remove(let_go)
    except OSError as error:
        raise TargetError(f"cannot remove {folder.path}: {error.strerror}; inspect it yourself") from error


def _take_back(target: Target, folder: Folder, activity_lock: ActivityLock) -> None:
    """Remove the folder of a write that could not begin, unless another process of the write continues."""
    # Only the log of a transaction that failed half-way can repair an existing file.
    if target.mode == "existing" and target.is_begun:
        return
    with contextlib.suppress(OSError):
        if activity_lock.take_alone(1):
            folder.remove(activity_lock.close)
