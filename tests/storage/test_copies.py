import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from dask_chunkio.storage.filesystem.copies import copy_file


def test_content_and_mode_are_copied(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"content")
    old.chmod(0o640)
    copy_file(str(old), str(new))
    assert (new.read_bytes(), new.stat().st_mode & 0o777) == (b"content", 0o640)


def test_nothing_is_left_of_a_copy_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"content")
    monkeypatch.setattr(shutil, "copymode", full)
    with pytest.raises(OSError, match="No space"):
        copy_file(str(old), str(new))
    assert os.listdir(tmp_path) == ["old"]


def test_blocks_that_the_file_system_shares_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"content")

    def share(new_file: int, _: int, old_file: int) -> None:
        os.pwrite(new_file, os.pread(old_file, 100, 0), 0)

    def refuse(*_: Any) -> None:
        raise AssertionError("the content is copied")

    monkeypatch.setattr(fcntl, "ioctl", share)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    copy_file(str(old), str(new))
    assert new.read_bytes() == b"content"


def test_a_system_without_fcntl_copies_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"content")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    copy_file(str(old), str(new))
    assert new.read_bytes() == b"content"
