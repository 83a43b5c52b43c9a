"""Checks of the existing target: whether it allows the datasets to be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import h5py

from dask_chunkio.errors import (
    IntegrityError,
    TargetBusyError,
    TargetChangedError,
    TargetError,
    TargetExistsError,
    UnfinishedWriteError,
)
from dask_chunkio.storage.completeness import StoredDataset, completed, differs
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.filesystem.lock_holders import close_it
from dask_chunkio.storage.filesystem.locks import has_writer
from dask_chunkio.storage.filesystem.metadata import keeps_metadata
from dask_chunkio.storage.filesystem.side_folder import is_left
from dask_chunkio.storage.hdf5.dataset import DatasetSpec
from dask_chunkio.storage.hdf5.superblock import require_closed
from dask_chunkio.storage.journal.manifest import require_real_folder
from dask_chunkio.storage.target import Mode, Target, remedies
from dask_chunkio.storage.visible_chunks import require_as_planned

__all__ = ["Judgement", "is_complete", "judge", "left_words", "opened_to_look", "require_free", "require_inside"]
__all__ += ["require_replaceable", "require_writable", "require_writable_folder", "target_problem"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of a check of the target.

    Parameters
    ----------
    mode : str
        As `Target.mode`: how the write is to be done.
    complete : tuple of StoredDataset
        All datasets of the write, if they exist already.
    """

    mode: Mode
    complete: tuple[StoredDataset, ...] = ()


def judge(target: Target, specs: Sequence[DatasetSpec]) -> Judgement:
    """Check whether datasets can be written, or exist already; changes nothing.

    Raises
    ------
    TargetExistsError
        If a dataset exists and may not be replaced.
    TargetChangedError
        If an existing dataset is not as it was when the write was planned.
    TargetBusyError
        If another program has the file open for writing.
    TargetError
        If the folder does not exist, the path is a directory or a file of another kind, or it cannot be written.
    """

    def look(file: h5py.File) -> Judgement:
        if complete := completed(file, target, specs):
            return Judgement("existing", complete)
        require_writable(target)
        for spec in specs:
            if spec.there is None:
                require_replaceable(file, spec.name, target, spec)
            else:
                require_inside(file, spec.name, target)
                require_as_planned(file, spec.there)
        mode = _mode(file, target, specs)
        if mode == "existing" and target.layout is not None:
            raise TargetExistsError(
                f"{target.path} exists, and layout={target.layout.name!r} is chosen when a file is created: leave "
                f"layout= out to add to the file as it is, or write to a new file"
            )
        return Judgement(mode)

    return _looked(target, look) or _judged_new(target, specs)


def require_free(target: Target, names: tuple[str, ...]) -> Mode:
    """Make sure that new datasets replace nothing that would be lost.

    Parameters
    ----------
    target : Target
        The target that is going to be written.
    names : tuple of str
        Absolute names of its new datasets.

    Returns
    -------
    str
        ``"new"`` or ``"existing"``, as `Target.mode`.

    Raises
    ------
    TargetExistsError
        If a dataset exists and may not be replaced.
    TargetBusyError
        If another program has the file open for writing.
    TargetError
        If the folder does not exist, or the path is a directory or a file of another kind.
    """

    def look(file: h5py.File) -> Judgement:
        require_writable(target)
        for name in names:
            require_replaceable(file, name, target)
        return Judgement("new" if target.overwrite and _holds_only(file, set(names)) else "existing")

    found = _looked(target, look)
    return "new" if found is None else found.mode


def target_problem(target: Target, specs: Sequence[DatasetSpec]) -> str:
    """Return in words why a write would be refused now; empty if it would not.  Changes nothing."""
    try:
        target = target.located()
        require_real_folder(target.folder)
        if not target.resume and is_left(target.folder):
            return left_words(target)
        judge(target, specs)
    except (TargetError, IntegrityError) as error:
        return str(error)
    return ""


def is_complete(target: Target, specs: Sequence[DatasetSpec]) -> bool:
    """Return whether everything that a write would create exists already.  Changes nothing."""
    try:
        return bool(judge(target.located(), specs).complete)
    except (TargetError, IntegrityError):
        return False


def require_no_draft(target: Target) -> None:
    """Refuse a file of which a draft is made: the one that is complete first would be in the way of the other.

    Raises
    ------
    UnfinishedWriteError
        If there is a draft.
    """
    draft = DraftPaths(target.path)
    if is_left(draft.folder):
        raise UnfinishedWriteError(
            f"{draft.folder} holds a draft of {target.path} that is unfinished or being made. Go on with it "
            f"(dask_chunkio.draft with resume=True), or remove it with dask_chunkio.discard({target.path!r})"
        )


def left_words(target: Target) -> str:
    """Return the message that the folder holds a write, without checking whether it is running."""
    return f"{target.folder} holds a write that is unfinished or running. {remedies(target.path)}"


def _judged_new(target: Target, specs: Sequence[DatasetSpec]) -> Judgement:
    for spec in specs:
        if spec.there is not None:
            raise TargetChangedError(f"{target.path} was moved away since the write was planned; run the write again")
    require_writable_folder(target)
    return Judgement("new")


def _mode(file: h5py.File, target: Target, specs: Sequence[DatasetSpec]) -> Mode:
    is_all = target.overwrite and all(spec.there is None for spec in specs)
    is_replaced = is_all and _holds_only(file, {spec.name for spec in specs})
    # A new file would lose the other names and the metadata of the old one.
    return "new" if is_replaced and keeps_metadata(target.path) else "existing"


def _looked(target: Target, look: Callable[[h5py.File], Judgement]) -> Judgement | None:
    parent = os.path.dirname(target.path)
    if not os.path.isdir(parent):
        raise TargetError(f"cannot write {target.path}: there is no folder {parent}; create it first")
    require_no_draft(target)
    if os.path.isdir(target.path):
        raise TargetError(f"cannot write {target.path}: it is a directory; give the name of a file")
    if not os.path.lexists(target.path):
        return None
    with opened_to_look(target) as file:
        return look(file)


@contextmanager
def opened_to_look(target: Target) -> Iterator[h5py.File]:
    """Open an existing file for reading, if no program has it open for writing.

    Raises
    ------
    TargetExistsError
        If it is not an HDF5 file.
    TargetBusyError
        If another program has it open for writing.
    TargetError
        If it cannot be read.
    """
    if not os.access(target.path, os.R_OK):
        raise _denied(target)
    if not h5py.is_hdf5(target.path):
        raise TargetExistsError(f"{target.path} exists and is not an HDF5 file; choose another name or move it away")
    if has_writer(target.path):
        raise TargetBusyError(f"{target.path} is open for writing: {close_it(target.path)}, or choose another name")
    require_closed(target.path)
    try:
        with h5py.File(target.path, "r") as file:
            yield file
    except BlockingIOError as error:
        raise TargetBusyError(
            f"{target.path} is open for writing ({error}): {close_it(target.path)}, or choose another name"
        ) from error
    except OSError as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(
            f"{target.path} cannot be opened ({error}): it is cut off or damaged, or {close_it(target.path)}; "
            f"otherwise choose another name"
        ) from error


def require_writable(target: Target) -> None:
    """Refuse a file, or a folder, that this user may not write.

    Raises
    ------
    TargetError
        If the user may not write it.
    """
    if not os.access(target.path, os.R_OK | os.W_OK):
        raise _denied(target)
    require_writable_folder(target)


def _denied(target: Target) -> TargetError:
    return TargetError(f"cannot write {target.path}: Permission denied; make the file readable and writable first")


def require_writable_folder(target: Target) -> None:
    """Refuse a folder that does not exist, or that this user may not write.

    Raises
    ------
    TargetError
        If there is no such folder, or the user may not write it.
    """
    parent = os.path.dirname(target.path)
    if not os.path.isdir(parent):
        raise TargetError(f"cannot write {target.path}: there is no folder {parent}; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        is_read_only = hasattr(os, "statvfs") and os.statvfs(parent).f_flag & os.ST_RDONLY
        why = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
        raise TargetError(
            f"cannot write {target.path}: {why} in {parent}, where side files are kept during a write; "
            f"make that folder writable first"
        )


def require_replaceable(file: h5py.File, name: str, target: Target, spec: DatasetSpec | None = None) -> None:
    """Make sure that a dataset can be created under `name` without loss of anything but what it replaces.

    Raises
    ------
    TargetExistsError
        If it cannot.
    TargetChangedError
        If there is now a dataset to append to, which did not exist when the write was planned.
    TargetError
        If a group above it is a link into another file.
    """
    parts = name.strip("/").split("/")
    for end in range(1, len(parts) + 1):
        path = "/" + "/".join(parts[:end])
        link = file.get(path, getlink=True)
        if link is None:
            return
        if end < len(parts):
            if not isinstance(file.get(path), h5py.Group):
                raise TargetExistsError(f"{target.path} has {path}, which is not a group, so {name} cannot be in it")
            require_inside(file, path, target)
        elif not isinstance(link, h5py.HardLink) or not isinstance(file.get(path), h5py.Dataset):
            raise TargetExistsError(f"{target.path} already has {name}, which is not a dataset and is not replaced")
        elif spec is not None and spec.appends:
            raise TargetChangedError(f"{target.path} has {name} since the write was planned; run the write again")
        elif not target.overwrite:
            raise TargetExistsError(_exists(file[path], name, target, spec))


def _exists(dataset: h5py.Dataset, name: str, target: Target, spec: DatasetSpec | None) -> str:
    words = f"{target.path} already has {name}"
    if target.token is not None:
        words += f", to which the token {target.token!r} is not applied"
    elif target.resume and spec is not None and (difference := differs(dataset, spec)) is not None:
        words += f", and not as this call would make it: {difference}"
    return f"{words}; pass overwrite=True to replace it, or choose another name"


def require_inside(file: h5py.File, name: str, target: Target) -> None:
    """Refuse an object that a link finds in another file.

    Raises
    ------
    TargetError
        If the object is in another file.
    """
    found = file.get(name)
    if found is not None and h5py.h5o.get_info(found.id).fileno != h5py.h5o.get_info(file.id).fileno:
        raise TargetError(
            f"{target.path} has {name} only as a link into another file, {found.file.filename}; write to that file"
        )


def _holds_only(file: h5py.File, names: set[str]) -> bool:
    """Return whether nothing would be lost if a new file with these datasets replaced this one."""
    others: list[str] = []

    def note(name: str | bytes) -> None:
        path = "/" + (name if isinstance(name, str) else name.decode("utf-8", "replace"))
        is_above = any(wanted.startswith(path + "/") for wanted in names)
        if path not in names and not (is_above and not len(file[path].attrs)):
            others.append(path)

    file.visit_links(note)
    return not others and not len(file.attrs) and not file.userblock_size
