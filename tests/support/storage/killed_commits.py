"""Kills a process at every write to the disk in turn, or every so many, halfway through it, and goes on in another.

Usage: python -m tests.support.storage.killed_commits exclusive|shared FOLDER [EVERY]
"""

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from dask_chunkio.storage.journal.redo_record import read_redo_record
from tests.support.processes import in_child
from tests.support.storage.writes import Write, numbers
from tests.support.system_calls import kill_at


def kill_at_piece(number: int) -> None:
    """Die at a write to the disk; of pieces that are written by one call, each counts."""

    def pwritev(descriptor: int, views: Sequence[bytes | memoryview], offset: int) -> int:
        for view in views:
            os.pwrite(descriptor, view, offset)
            offset += len(view)
        return sum(map(len, views))

    mock.patch.object(os, "pwritev", pwritev).start()
    kill_at(number, ("pwrite", "ftruncate"))


def the_write(path: Path, exclusive: bool) -> Write:
    """With an index of many blocks, each with a checksum: half of one is not to be read."""
    shape: dict[str, Any] = {
        "data": numbers((24, 8)),
        "chunks": (1, 4),
        "buffer": (8, 8),
        "maxshape": (None, 8),
        "libver": "v110",
    }
    return Write(path, exclusive=exclusive, write_id="same", compression="gzip", **shape)


def first_process(path: Path, exclusive: bool, number: int) -> None:
    write = the_write(path, exclusive)
    write.commit(0)
    kill_at_piece(number)
    write.commit(1)


def second_process(path: Path, exclusive: bool) -> None:
    log = Path(f"{path}.writing", "log").read_bytes()
    write = the_write(path, exclusive)
    assert write.is_stored(0), "what was committed before is lost"
    if read_redo_record(log) is not None:
        assert write.writer.transactions.journal.find(0, write.chunks(1)) is not None, "what was in the log is lost"
    write.complete()


def main() -> None:
    exclusive, folder, every = sys.argv[1] == "exclusive", Path(sys.argv[2]), int(*sys.argv[3:] or "1")
    for number in itertools.count(0, every):
        path = folder / f"{number}.h5"
        ended = in_child(first_process, path, exclusive, number)
        assert ended in (0, -signal.SIGKILL)
        assert not os.path.lexists(path)
        assert in_child(second_process, path, exclusive) == 0
        if ended == 0:
            break
    sys.stdout.write(f"{number // every} kills\n")


if __name__ == "__main__":
    main()
