import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dask_chunkio.storage.filesystem import io
from dask_chunkio.storage.filesystem.io import (
    copy_whole_file,
    memory_nbytes,
    open_side_file,
    pread_into,
    pwrite_all,
    write_whole_file,
)
from tests.support.other_systems import imported_anew


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that moves at most three bytes in a call, as Linux does at most 2 GiB."""
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, bytes(data)[:3], offset))
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: preadv(file, [views[0][:3]], offset))


@pytest.mark.usefixtures("short")
def test_short_counts_are_gone_on_with(descriptor: int) -> None:
    pwrite_all(descriptor, b"0123456789", 5)
    found = bytearray(10)
    assert pread_into(descriptor, memoryview(found), 5) == 10
    assert found == b"0123456789"


def test_more_than_the_system_moves_at_once(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "_MOST", 4)
    pwrite_all(descriptor, memoryview(b"0123456789"), 0)
    found = bytearray(10)
    assert pread_into(descriptor, memoryview(found), 0) == 10
    assert found == b"0123456789"


def test_the_end_of_the_file_ends_a_read(descriptor: int) -> None:
    pwrite_all(descriptor, b"abc", 0)
    found = bytearray(b"......")
    assert pread_into(descriptor, memoryview(found), 1) == 2
    assert found == b"bc...."
    assert pread_into(descriptor, memoryview(found), 10) == 0


def test_nothing_can_be_written(descriptor: int) -> None:
    pwrite_all(descriptor, b"", 100)
    assert os.fstat(descriptor).st_size == 0


def test_a_whole_file_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for content in (b"a long first content", b"short"):
        write_whole_file(str(path), content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_a_flush_empties_the_cache_of_the_drive_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: macOS has a command for it, and some of its file systems do not have it."""
    calls: list[str | int] = []
    monkeypatch.setattr(io, "_FULL_FLUSH", 51)
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    with (tmp_path / "file").open("wb") as file:
        monkeypatch.setattr("fcntl.fcntl", lambda _, command: calls.append(command))
        io.flush(file.fileno())
        assert calls == [51]
        for number, fails in ((errno.ENOTSUP, False), (errno.EIO, True)):

            def refuse(*_: Any, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr("fcntl.fcntl", refuse)
            with pytest.raises(OSError, match="error") if fails else contextlib.nullcontext():
                io.flush(file.fileno())
    assert calls == [51, "fsync"]


def test_a_system_that_cannot_write_at_an_offset(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: Windows has one position in an open file, which threads must not move for one another."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    for name in ("pwrite", "pwritev", "preadv"):
        monkeypatch.delattr(os, name)
    windows = imported_anew(io)

    def write_and_read(number: int) -> bool:
        data = bytes([number]) * 600
        windows.pwrite_each(descriptor, [(1000 * number, data[:300]), (1000 * number + 300, data[300:])])
        found = bytearray(600)
        return windows.pread_into(descriptor, memoryview(found), 1000 * number) == 600 and bytes(found) == data

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write_and_read, range(1, 100)))
    assert windows.pread_into(descriptor, memoryview(bytearray(600)), 99_500) == 100
    windows.flush(descriptor)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_a_side_file_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    """A pipe would hang, and a link would lead elsewhere."""
    path, elsewhere = tmp_path / "side", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"not a regular file|directory|symbolic links"):
        open_side_file(str(path))
    assert elsewhere.read_bytes() == b"mine"


@pytest.mark.parametrize("system", ["tells holes", "does not tell holes", "refuses to tell"])
def test_a_copy_has_the_content_and_leaves_holes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descriptor: int, system: str
) -> None:
    monkeypatch.setattr(io, "_MOST_AT_ONCE", 1 << 16)
    pwrite_all(descriptor, b"first", 0)
    pwrite_all(descriptor, b"last", 10 << 20)
    if system == "does not tell holes":
        monkeypatch.delattr(os, "SEEK_DATA")
    elif system == "refuses to tell":
        seek = os.lseek

        def refuse(file: int, offset: int, how: int) -> int:
            if how == os.SEEK_DATA:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return seek(file, offset, how)

        monkeypatch.setattr(os, "lseek", refuse)
    written: list[int] = []
    pwrite = os.pwrite

    def noted(file: int, data: memoryview, at: int) -> int:
        written.append(at)
        return pwrite(file, data, at)

    monkeypatch.setattr(os, "pwrite", noted)
    copy = Path(copy_whole_file(descriptor, str(tmp_path), "copy-"))
    assert copy.name == "copy-1"
    assert copy.read_bytes() == (tmp_path / "file").read_bytes()
    if system == "tells holes" and sys.platform == "linux":
        assert written == [0, 10 << 20]


@pytest.mark.parametrize("error", [ValueError("unrecognized configuration name"), OSError(errno.EINVAL, "Invalid")])
def test_unknown_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    assert 1 << 20 < memory_nbytes() < 1 << 50

    def refuse(_: Any) -> None:
        raise error

    monkeypatch.setattr(os, "sysconf", refuse)
    assert memory_nbytes() > 1 << 60
