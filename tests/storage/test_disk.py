"""What a successful flush proves, and what one that failed leaves in doubt."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import TargetError
from dask_chunkio.storage import payload_file
from dask_chunkio.storage.filesystem.disk import Disk
from dask_chunkio.storage.filesystem.io import pwrite_each
from tests.support.processes import Call, wait_until
from tests.support.storage.writes import Write


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield Disk(descriptor, str(tmp_path / "unsynced"))
    os.close(descriptor)


def refuse(*_: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_another_thread_wrote_before_a_flush_failed_is_not_on_the_disk(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Linux reports the failure to one of them only, and calls the next flush a success."""
    mine, theirs = disk.begin(), disk.begin()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            disk.is_synced(mine)
    assert (tmp_path / "unsynced").exists(), "other processes have to know"
    assert not disk.is_synced(theirs), "it has to write again"
    with pytest.raises(OSError, match="refused what another thread wrote at the same time"):
        disk.sync(theirs)
    disk.sync(disk.begin())
    assert disk.is_doubted
    disk.settle()
    assert not disk.is_doubted
    assert not (tmp_path / "unsynced").exists()


class Ticks:
    """A clock that counts how often it was looked at."""

    def __init__(self) -> None:
        self.count = 0

    def __next__(self) -> int:
        self.count += 1
        return self.count


def test_one_flush_is_enough_for_all_that_wrote_before_it(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, flushes, ticks = threading.Event(), [], Ticks()

    def flush(_: int) -> None:
        flushes.append(1)
        assert may_end.wait(60)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(disk, "_clock", ticks)
    first = Call(disk.sync, disk.begin())
    wait_until(lambda: flushes)
    others = [Call(disk.sync, disk.begin()) for _ in range(3)]
    # Each looks twice before it waits for the flush that is under way, and that has begun too early for it.
    wait_until(lambda: ticks.count == 3 + 2 * len(others))
    may_end.set()
    for call in (first, *others):
        call.result()
    assert len(flushes) == 2


def test_payloads_are_written_again_if_a_flush_failed_as_they_were_placed(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[int] = []
    with Write(target, durability="power") as write:
        files = write.writer.transactions

        def failing_once(descriptor: int, pieces: Any) -> None:
            pwrite_each(descriptor, pieces)
            placed.append(len(pieces))
            if len(placed) == 1:
                files.payloads.disk.doubt()

        monkeypatch.setattr(payload_file, "pwrite_each", failing_once)
        write.commit(0)
        assert placed == [4, 4]
        write.complete()
    assert os.listdir(target.parent) == ["out.h5"]


def test_a_journal_that_cannot_be_flushed_is_in_doubt_until_it_is_written_again(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Write(target) as write:
        write.commit(0)
    journal, fsync = os.stat(write.target.journal).st_ino, os.fsync

    def refuse_journal(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == journal:
            refuse()
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse_journal)
        with pytest.raises(TargetError, match="Input/output error"):
            dcio.recover(target)
    assert Path(write.target.unsynced).exists(), "the next process has to write it again"
    recovered = dcio.recover(target)
    assert (recovered.committed, recovered.chunks) == (4, 12)
    assert not Path(write.target.unsynced).exists()
    with Write(target, resume=True) as again:
        assert again.is_stored(0)
        again.complete()
