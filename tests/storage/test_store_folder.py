import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dask_chunkio import errors
from dask_chunkio.storage import store_folder
from dask_chunkio.storage.filesystem.io import open_side_file
from dask_chunkio.storage.store_folder import StoreFolder, remove_unfinished_store


def make_store(path: Path, words: str) -> None:
    path.mkdir()
    (path / ".zgroup").write_text(words)


def test_a_store_whose_successor_cannot_get_its_name_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.zarr"
    make_store(target, "old")
    rename = os.rename

    def fails(old: Any, new: Any) -> None:
        if os.fspath(new) == os.fspath(target) and Path(old, ".zgroup").read_text() == "new":
            raise OSError(errno.EIO, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fails)
    with (
        pytest.raises(errors.TargetError, match=r"cannot give .* its name: Input/output error"),
        StoreFolder(str(target), overwrite=True) as folder,
    ):
        (Path(folder.store) / ".zgroup").write_text("new")
    assert (target / ".zgroup").read_text() == "old"
    assert os.listdir(tmp_path) == ["x.zarr"]


def test_a_folder_that_others_remove_all_the_time_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def removed(path: str) -> int:
        tries.append(path)
        if len(tries) % 2:
            raise FileNotFoundError(path)
        descriptor = open_side_file(path)
        os.unlink(path)
        return descriptor

    monkeypatch.setattr(store_folder, "open_side_file", removed)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(errors.TargetBusyError, match="all the time"):
        remove_unfinished_store(str(tmp_path / "x.zarr"))
    assert len(tries) > 2
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: StoreFolder) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(StoreFolder, "_clean", fails)
    with pytest.raises(errors.TargetError, match=r"cannot remove .*Permission denied"):
        remove_unfinished_store(str(tmp_path / "x.zarr"))
