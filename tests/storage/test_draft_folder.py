import errno
import os
from pathlib import Path
from typing import Any

import h5py
import pytest

import dask_chunkio as dcio
from dask_chunkio import errors
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.drafts import draft_folder, file, publish
from dask_chunkio.storage.drafts.draft_folder import DraftFolder
from dask_chunkio.storage.filesystem.side_folder import Folder


@pytest.fixture
def paths(tmp_path: Path) -> DraftPaths:
    return DraftPaths(str(tmp_path / "out.h5"))


def test_what_is_no_folder_is_named(paths: DraftPaths) -> None:
    Path(paths.folder).write_text("somebody else's")
    with pytest.raises(errors.TargetError, match=r"out\.h5\.draft is not a folder"):
        DraftFolder(paths)
    assert Path(paths.folder).read_text() == "somebody else's"


def test_a_folder_that_is_gone_is_busy(paths: DraftPaths) -> None:
    with pytest.raises(errors.TargetBusyError, match="held by another process"):
        DraftFolder(paths, makes=False)


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOENT, errors.TargetBusyError), (errno.EIO, errors.TargetError)], ids=["gone", "broken"]
)
def test_a_lock_that_cannot_be_opened_leaves_no_descriptor(
    paths: DraftPaths, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    def fails(path: str) -> None:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(draft_folder, "ActivityLock", fails)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind):
        DraftFolder(paths)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_of_a_later_draft_is_not_removed(paths: DraftPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the renaming, another process has removed the folder and begun a draft of its own."""
    mine = DraftFolder(paths)

    def looks(_: DraftFolder) -> bool:
        os.rename(paths.folder, f"{paths.folder}-old")
        os.mkdir(paths.folder)
        (Path(paths.folder) / "theirs").touch()
        return True

    monkeypatch.setattr(DraftFolder, "is_here", property(looks))
    mine.remove(lambda: None)
    assert (Path(paths.folder) / "theirs").exists()


def test_a_folder_that_cannot_be_removed_is_named(paths: DraftPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    mine = DraftFolder(paths)
    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(errors.TargetError, match=r"cannot remove .*out\.h5\.draft: Permission denied"):
        mine.remove(lambda: None)


def fails_with_eio(*_: Any, **__: Any) -> None:
    raise OSError(errno.EIO, "Input/output error")


def make(out: Path, names: str, **options: Any) -> None:
    with dcio.draft(out, **options) as draft:
        for name in names:
            draft.fill(f"/{name}", [1, 2, 3], progress=False)


def test_a_disk_that_fails_under_a_draft_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "sync_file", fails_with_eio)
    with pytest.raises(errors.TargetError, match="Input/output error"):
        make(tmp_path / "out.h5", "x", durability="power")
    assert not (tmp_path / "out.h5").exists()


def test_an_empty_file_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = h5py.File

    def opens(path: Any, mode: str = "r", **options: Any) -> Any:
        return fails_with_eio() if mode == "x" else opened(path, mode, **options)

    monkeypatch.setattr(h5py, "File", opens)
    with pytest.raises(errors.TargetError, match="cannot write"):
        make(tmp_path / "out.h5", "x")


def test_a_fill_whose_folder_cannot_be_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, remove = tmp_path / "out.h5", publish._remove_finished_fill

    def broken(paths: DraftPaths) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", fails_with_eio)
            remove(paths)

    with monkeypatch.context() as patch:
        patch.setattr(publish, "_remove_finished_fill", broken)
        with pytest.raises(errors.TargetError, match="make the same call again"):
            make(out, "xy")
    make(out, "xy", resume=True)
    assert dcio.verify(out).ok
