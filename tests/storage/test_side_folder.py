"""The folder of a write: its removal, cut off before each of its steps, or refused; systems that open no folders."""

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import TargetError
from dask_chunkio.storage import finish
from dask_chunkio.storage.filesystem import side_folder
from dask_chunkio.storage.filesystem.side_folder import Folder, is_left, remove_empty_folder
from tests.support.files import open_files
from tests.support.storage.writes import Write

OLD, NEW = np.arange(40, dtype="i4").reshape(10, 4), np.arange(40, 64, dtype="i4").reshape(6, 4)
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "new": ({}, {}),
    "addition": ({"y": OLD}, {}),
    "append": ({"x": OLD}, {"append": True}),
    "region": ({"x": OLD}, {"region": np.s_[2:8]}),
    "overwrite": ({"x": OLD, "y": OLD}, {"overwrite": True}),
}


class Cut(Exception):  # noqa: N818
    """The process has ended here."""


def cut_before(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the removal of a folder end before step `number`."""
    steps, unlink, rmdir = itertools.count(), Folder.unlink, os.rmdir

    def before(act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*arguments: Any, **keywords: Any) -> Any:
            is_step = act is unlink or os.path.isdir(arguments[0])
            if is_step and next(steps) == number:
                raise Cut
            return act(*arguments, **keywords)

        return acting

    monkeypatch.setattr(Folder, "unlink", before(unlink))
    monkeypatch.setattr(os, "rmdir", before(rmdir))


def prepare(path: Path, datasets: dict[str, Any]) -> None:
    shutil.rmtree(f"{path}.writing", ignore_errors=True)
    path.unlink(missing_ok=True)
    if datasets:
        with h5py.File(path, "w") as file:
            for name, data in datasets.items():
                file.create_dataset(name, data=data, chunks=(4, 4), maxshape=(None, 4))


@pytest.mark.parametrize("kind", CALLS)
def test_whatever_is_left_of_a_folder_says_that_its_write_is_finished(
    target: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    datasets, keywords = CALLS[kind]
    for number in itertools.count():
        prepare(target, datasets)
        with monkeypatch.context() as patch:
            cut_before(patch, number)
            try:
                dcio.to_hdf5(target, "/x", NEW, scheduler="synchronous", **keywords)
                break
            except Cut:
                pass
        # An empty folder is nobody's.
        found = dcio.status(target)
        assert (found is not None and found.finished) == bool(os.listdir(f"{target}.writing")), number
    assert number > 4


class Windows:
    """The module `os` as a system has it that cannot open folders, nor rename or remove open files."""

    name = "nt"

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@pytest.mark.parametrize("kind", [*CALLS, "alone"])
def test_a_system_that_opens_no_folders_and_renames_no_open_files(
    target: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Simulated: Windows."""
    datasets, keywords = CALLS.get(kind, ({"x": OLD}, {"overwrite": True}))
    prepare(target, datasets)
    monkeypatch.setattr(side_folder, "_HOLDS", False)
    monkeypatch.setattr(finish, "os", Windows())

    def closed_first(call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(path: Any, *arguments: Any, **keywords: Any) -> Any:
            name = os.path.relpath(path, target.parent)
            assert name not in open_files(target.parent), f"{name} is open"
            return call(path, *arguments, **keywords)

        return calling

    for name in ("link", "replace", "unlink"):
        monkeypatch.setattr(os, name, closed_first(getattr(os, name)))
    dcio.to_hdf5(target, "/x", NEW, scheduler="synchronous", **keywords)
    assert os.listdir(target.parent) == [target.name]
    with h5py.File(target) as file:
        found = file["x"][...]
        assert set(file) == {"x", *datasets}
    expected = {"append": np.concatenate([OLD, NEW]), "region": np.concatenate([OLD[:2], NEW, OLD[8:]])}
    np.testing.assert_array_equal(found, expected.get(kind, NEW))


def test_a_removed_folder_of_such_a_system_may_be_a_folder_of_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_folder, "_HOLDS", False)
    path = tmp_path / "out.h5.writing"
    path.mkdir()
    with Folder(str(path)) as folder, folder.copy() as copy:
        assert folder.is_there
        assert copy.is_empty
        folder.remove()
        assert not copy.is_there
        assert copy.is_empty
        copy.remove()


def refuse(number: int) -> Callable[..., Any]:
    def refusing(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refusing


@pytest.mark.parametrize("call", [dcio.discard, lambda path: Write(path, resume=True)])
def test_a_folder_that_cannot_be_removed_is_named_and_stays(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Path], object]
) -> None:
    """Nothing was committed: a call that resumes such a write begins it anew."""
    folder = Path(f"{target}.writing")
    folder.mkdir()
    (folder / "lock").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "unlink", refuse(errno.EPERM))
        with pytest.raises(TargetError, match=f"cannot remove {folder}: Operation not permitted"):
            call(target)
    assert os.listdir(folder) == ["lock"]
    call(target)
    assert not (folder / "lock").exists() or (folder / "journal").exists()
    dcio.discard(target)
    assert os.listdir(target.parent) == []


def test_a_folder_that_cannot_be_listed_holds_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.h5.writing"
    path.mkdir()
    with monkeypatch.context() as patch, Folder(str(path)) as folder:
        patch.setattr(os, "listdir", refuse(errno.EACCES))
        assert is_left(str(path))
        remove_empty_folder(str(path))
        with pytest.raises(PermissionError):
            folder.remove()
        assert path.exists()
        # It was removed as it was looked at; or, on NFS, another host has removed it.
        for number in (errno.ENOENT, errno.ESTALE):
            patch.setattr(os, "listdir", refuse(number))
            assert folder.is_empty
        patch.setattr(os, "listdir", refuse(errno.ENOENT))
        assert not is_left(str(path))


def test_a_folder_that_was_replaced_as_it_was_removed_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another call has removed it, and begun a write in a new one."""
    path, rmdir = tmp_path / "out.h5.writing", os.rmdir
    path.mkdir()

    def replaced_first(removed: Any) -> None:
        os.rename(removed, tmp_path / "other")
        path.mkdir()
        (path / "lock").touch()
        rmdir(removed)

    monkeypatch.setattr(os, "rmdir", replaced_first)
    with Folder(str(path)) as folder:
        folder.remove()
    assert os.listdir(path) == ["lock"]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_folder_that_holds_open_files_for_long_is_set_aside_unless_it_is_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    """NFS keeps a removed file under such a name as long as a process has it open."""
    path, rename = tmp_path / "out.h5.writing", os.rename
    path.mkdir()
    (path / ".nfs0001").touch()

    def replaced_first(old: Any, new: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        rename(old, tmp_path / "other")
        path.mkdir()
        (path / "lock").touch()
        rename(old, new)

    monkeypatch.setattr(side_folder, "_PATIENCE", 0)
    monkeypatch.setattr(Folder, "unlink", refuse(errno.EBUSY))
    if is_replaced:
        monkeypatch.setattr(os, "rename", replaced_first)
    remove_empty_folder(str(path))
    if is_replaced:
        assert sorted(os.listdir(tmp_path)) == ["other", "out.h5.writing"]
        assert os.listdir(path) == ["lock"]
    else:
        (aside,) = os.listdir(tmp_path)
        assert aside.startswith("out.h5.writing.removed-")
