"""Locks on files: what a file system without them means, and a system without them."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest

from dask_chunkio.errors import TargetBusyError, TargetError
from dask_chunkio.storage.filesystem import locks
from dask_chunkio.storage.filesystem.locks import has_writer, locked, share, try_exclusive, try_share
from tests.support.other_systems import imported_anew

fcntl = pytest.importorskip("fcntl", reason="takes locks of POSIX")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.fixture
def other(tmp_path: Path, file: int) -> Iterator[int]:  # noqa: ARG001
    """The same file, opened a second time, as another process has it."""
    opened = os.open(tmp_path / "file", os.O_RDWR)
    yield opened
    os.close(opened)


TAKES = [share, try_share, try_exclusive]


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("take", TAKES)
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    file: int, monkeypatch: pytest.MonkeyPatch, take: Any, number: int
) -> None:
    refuse_locks(monkeypatch, number)
    with pytest.raises(
        TargetError, match=r"the file system of out\.h5 has no file locks .*write to another file system"
    ):
        take(file, "out.h5")


@pytest.mark.parametrize("take", TAKES)
def test_an_error_of_the_disk_is_not_taken_for_a_file_system_without_locks(
    file: int, monkeypatch: pytest.MonkeyPatch, take: Any
) -> None:
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as caught:
        take(file, "out.h5")
    assert not isinstance(caught.value, TargetError)


def test_a_lock_that_stays_taken_names_the_file_and_what_to_do(tmp_path: Path, file: int, other: int) -> None:
    path = str(tmp_path / "file")
    assert try_exclusive(other, path)
    words = rf"{path} is in use: another program has it open; close it there, and run the write again"
    with pytest.raises(TargetBusyError, match=words), locked(file, path, patience=0):
        pass
    assert has_writer(path)
    fcntl.flock(other, fcntl.LOCK_UN)
    assert not has_writer(path)


def test_a_file_in_memory_of_the_same_name_is_not_the_file(tmp_path: Path, file: int, other: int) -> None:
    """It names no file on the disk."""
    path = str(tmp_path / "file")
    assert try_exclusive(other, path)
    with (
        h5py.File(tmp_path / "memory", "w", driver="core", backing_store=False),
        pytest.raises(TargetBusyError, match="another program has it open"),
        locked(file, path, patience=0),
    ):
        pass


def test_a_system_without_locks_lets_the_threads_of_one_process_write(
    file: int, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: Windows has no `fcntl`."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    windows = imported_anew(locks)
    assert not windows.HAS_LOCKS
    assert windows.try_exclusive(file, "name")
    with windows.locked(other, "name", patience=0):
        assert windows.try_share(file, "name")
    windows.unlock(file)
