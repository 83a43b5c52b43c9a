"""Writes that were cut off at every kind of moment: the folders that they leave, to be damaged."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from dask_chunkio.execution import tasks
from dask_chunkio.storage import begin, finish, redo_log, session, writer
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal.redo_record import Mark, RedoRecord
from dask_chunkio.storage.payload_file import PayloadFile
from tests.support.iterators import FromArray
from tests.support.processes import import_for_writes, in_child

CHUNK, BUFFER = (2, 4), (4, 8)
DATA: dict[str, NDArray[Any]] = {
    "/x": np.arange(1, 97, dtype="i2").reshape(12, 8),
    "/g/y": np.arange(1001, 1065, dtype="i4").reshape(8, 8),
}


class Rows(FromArray):
    """Reads an array, and is not told what it is."""

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(array, chunk_shape=CHUNK, buffer_shape=BUFFER)


def write(path: str | Path, **keywords: Any) -> Any:
    how: dict[str, Any] = {"read": "serial", "compression": "gzip", "scheduler": "synchronous", "progress": False}
    return dcio.to_hdf5(path, {name: Rows(array) for name, array in DATA.items()}, **how | keywords)


def make_old(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["title"] = "mine"
        file["old"] = np.arange(500)
        file.create_dataset("a/deflated", data=np.arange(300), chunks=(50,), compression="gzip")


def check_old(path: Path) -> None:
    with h5py.File(path, locking=False) as file:
        assert file.attrs["title"] == "mine"
        assert (file["old"][...] == np.arange(500)).all()
        assert (file["a/deflated"][...] == np.arange(300)).all()


def check_new(path: Path) -> None:
    with h5py.File(path, locking=False) as file:
        for name, array in DATA.items():
            np.testing.assert_array_equal(file[name][...], array, strict=True)


# Where to cut

CUT_OFF = 7


def cut(owner: object, name: str, number: int = 0, *, before: Callable[..., object] | None = None) -> Any:
    """End the process at a call, as SIGKILL would; `number` of them go through before it."""
    function = getattr(owner, name)
    calls: list[int] = []

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) <= number:
            return function(*arguments, **keywords)
        if before is not None:
            before(*arguments)
        os._exit(CUT_OFF)

    return mock.patch.object(owner, name, wrapped)


def _tear(log: int, record: bytes, at: int) -> None:
    os.pwrite(log, record[: len(record) // 2], at)


def _remove_half(found: Folder, *_: object) -> None:
    for name in ("data.h5", "lock", "read-0", "read-1", "log"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(found.path, name))


CUTS: dict[str, Callable[[], Any]] = {
    "empty": lambda: cut(begin, "describe_folder"),
    "begun": lambda: cut(session, "writer_for"),
    # A transaction is in the log, and its mark is not written yet.
    "first": lambda: cut(Mark, "pack"),
    "created": lambda: cut(writer.Writer, "commit"),
    # Two buffers are in their place, a third one is on its way.
    "committed": lambda: cut(PayloadFile, "place", 2),
    "pending": lambda: cut(Mark, "pack", 3),
    "applied": lambda: cut(RedoRecord, "enter", 3, before=RedoRecord.enter),
    # Each of the three transactions before it writes its record, and its mark.
    "torn": lambda: cut(redo_log, "pwrite_all", 6, before=_tear),
    "whole": lambda: cut(tasks, "finish"),
    "finished": lambda: cut(finish, "publish"),
    # The file has its name, and the folder is half removed.
    "published": lambda: cut(Folder, "remove", before=_remove_half),
}


def make(folder: Path, state: str, *, existing: bool) -> Path:
    """Leave ``out.h5.writing``, and ``out.h5`` where it existed before."""
    import_for_writes()
    folder.mkdir(parents=True)
    path = folder / "out.h5"
    if existing:
        make_old(path)
    assert in_child(_write_and_cut, path, state) == CUT_OFF, (state, existing)
    return path


def _write_and_cut(path: Path, state: str) -> None:
    with CUTS[state]():
        write(path)


def make_all(folder: Path) -> None:
    for existing in (False, True):
        for state in CUTS:
            make(folder / f"{'existing' if existing else 'new'}-{state}", state, existing=existing)


if __name__ == "__main__":
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    make_all(Path(sys.argv[1]))
