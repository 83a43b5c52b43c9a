"""Writes that were cut off at every kind of moment: the folders that they leave, to be damaged."""

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np

import dask_chunkio as dcio
from dask_chunkio.storage import finish, session, target, writer
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.redo_log import RedoLog
from tests.support.iterators import FromArray
from tests.support.processes import in_child

CHUNK, BUFFER = (2, 4), (4, 8)
DATA = {
    "/x": np.arange(1, 97, dtype="i2").reshape(12, 8),
    "/g/y": np.arange(1001, 1065, dtype="i4").reshape(8, 8),
}


class Rows(FromArray):
    """Reads an array, and is not told what it is."""

    def __init__(self, array: Any) -> None:
        super().__init__(array, chunk_shape=CHUNK, buffer_shape=BUFFER)


def write(path: Any, **keywords: Any) -> Any:
    keywords = {"read": "serial", "compression": "gzip", "scheduler": "synchronous", "progress": False} | keywords
    return dcio.to_hdf5(path, {name: Rows(array) for name, array in DATA.items()}, **keywords)


def make_old(path: Any) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["title"] = "mine"
        file["old"] = np.arange(500)
        file.create_dataset("a/deflated", data=np.arange(300), chunks=(50,), compression="gzip")


def check_old(path: Any) -> None:
    with h5py.File(path, locking=False) as file:
        assert file.attrs["title"] == "mine"
        assert (file["old"][...] == np.arange(500)).all()
        assert (file["a/deflated"][...] == np.arange(300)).all()


def check_new(path: Any) -> None:
    with h5py.File(path, locking=False) as file:
        for name, array in DATA.items():
            np.testing.assert_array_equal(file[name][...], array, strict=True)


# Where to cut

CUT_OFF = 7


def cut(owner: Any, name: Any, number: int = 0, *, before: Any = None) -> Any:
    """End the process at a call, as SIGKILL would; `number` of them go through before it."""
    function, calls = getattr(owner, name), []

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) <= number:
            return function(*arguments, **keywords)
        if before is not None:
            before(*arguments)
        os._exit(CUT_OFF)

    return mock.patch.object(owner, name, wrapped)


def _apply(redo_log: Any, redo: Any, durable: Any) -> None:  # noqa: ARG001
    redo.apply(redo_log._disk.descriptor)
    redo.enter(redo_log._journal)


def _tear(redo_log: Any, redo: Any, durable: Any) -> None:  # noqa: ARG001
    record = redo.pack()
    os.pwrite(redo_log._log, record[: len(record) // 2], 0)


def _remove_half(found: Any, *_: Any) -> None:
    for name in ("data.h5", "lock", "read-0", "read-1", "log"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(found.path, name))


CUTS = {
    "empty": lambda: cut(target.Target, "describe_folder"),
    "begun": lambda: cut(session, "writer_for"),
    "first": lambda: cut(RedoLog, "_apply"),
    "created": lambda: cut(writer.Writer, "commit"),
    # Two buffers are in their place, a third one is on its way.
    "committed": lambda: cut(writer.Writer, "_place", 2),
    "pending": lambda: cut(RedoLog, "_apply", 3),
    "applied": lambda: cut(RedoLog, "_apply", 3, before=_apply),
    "torn": lambda: cut(RedoLog, "commit", 3, before=_tear),
    "whole": lambda: cut(finish, "_finish_file"),
    "finished": lambda: cut(finish, "publish"),
    # The file has its name, and the folder is half removed.
    "published": lambda: cut(Folder, "remove", before=_remove_half),
}


def make(folder: Any, state: Any, *, existing: Any) -> Any:
    """Leave ``out.h5.writing``, and ``out.h5`` where it existed before."""
    folder.mkdir(parents=True)
    path = folder / "out.h5"
    if existing:
        make_old(path)
    assert in_child(_write_and_cut, path, state) == CUT_OFF, (state, existing)
    return path


def _write_and_cut(path: Any, state: Any) -> None:
    with CUTS[state]():
        write(path)


def make_all(folder: Any) -> None:
    for existing in (False, True):
        for state in CUTS:
            make(folder / f"{'existing' if existing else 'new'}-{state}", state, existing=existing)


if __name__ == "__main__":
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    make_all(Path(sys.argv[1]))
