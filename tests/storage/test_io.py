import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dask_chunkio.storage.filesystem import io
from dask_chunkio.storage.filesystem.io import pread_into, pwrite_all, write_whole_file


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
