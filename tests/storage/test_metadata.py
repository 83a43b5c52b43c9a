"""Owner, mode and attributes of a file that is replaced: kept by the new file, or the old file is written in place."""

import errno
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import TargetError
from dask_chunkio.storage.filesystem import metadata
from dask_chunkio.storage.filesystem.metadata import keeps_metadata

X = np.arange(96, dtype="i4").reshape(12, 8)
SOMEBODY = 12345


def write(path: Path, data: Any = X, **keywords: Any) -> None:
    dcio.to_hdf5(path, "/x", data, scheduler="synchronous", **keywords)


def read(path: Path) -> Any:
    with h5py.File(path) as file:
        return file["x"][...]


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A user whom permissions bind may not read what the first write imports."""
    path = tmp_path_factory.mktemp("first") / "out.h5"
    write(path)
    overwritten(path)


def overwritten(path: Path) -> bool:
    """Overwrite the file; say whether a new file has taken its place."""
    before = path.stat().st_ino
    write(path, X + 1, overwrite=True)
    np.testing.assert_array_equal(read(path), X + 1)
    assert os.listdir(path.parent) == [path.name]
    return path.stat().st_ino != before


def test_a_user_replaces_files_of_their_own(bound_folder: Path) -> None:
    path = bound_folder / "out.h5"
    write(path)
    path.chmod(0o600)
    assert overwritten(path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files to other users")
@pytest.mark.parametrize(("user", "group"), [(SOMEBODY, -1), (-1, SOMEBODY)])
def test_a_file_that_a_user_cannot_give_back_stays_its_owners(bound_folder: Path, user: int, group: int) -> None:
    """A new file would be the writing user's."""
    path = bound_folder / "out.h5"
    write(path)
    me = os.geteuid()
    os.seteuid(0)
    try:
        os.chown(path, user, group)
        path.chmod(0o666)
    finally:
        os.seteuid(me)
    before = path.stat()
    assert not keeps_metadata(str(path))
    assert not overwritten(path)
    after = path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_a_system_without_owners_and_attributes(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: Windows has neither `chown` nor extended attributes."""
    monkeypatch.setattr(metadata, "_HAS_ATTRIBUTES", False)
    for name in ("chown", "geteuid", "listxattr"):
        monkeypatch.delattr(os, name, raising=False)
    write(target)
    target.chmod(0o640)
    assert overwritten(target)
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("number", "replaces"), [(errno.ENOTSUP, True), (errno.EIO, False)])
def test_attributes_that_cannot_be_listed(
    target: Path, monkeypatch: pytest.MonkeyPatch, number: int, replaces: bool
) -> None:
    """A file system that has none loses none; one that fails might."""
    write(target)
    content = target.read_bytes()

    def refuse(path: Any) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "listxattr", refuse, raising=False)
    monkeypatch.setattr(metadata, "_HAS_ATTRIBUTES", True)
    if replaces:
        assert overwritten(target)
        return
    with pytest.raises(TargetError, match=f"{target} cannot be opened .*Input/output error"):
        overwritten(target)
    assert target.read_bytes() == content
    assert os.listdir(target.parent) == [target.name]
