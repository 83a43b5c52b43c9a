"""The removal of the folder, cut off before each of its steps."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.storage.filesystem.side_folder import Folder

OLD, NEW = np.arange(40, dtype="i4").reshape(10, 4), np.arange(40, 64, dtype="i4").reshape(6, 4)
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "new": ({}, {}),
    "addition": ({"y": OLD}, {}),
    "append": ({"x": OLD}, {"append": True}),
    "region": ({"x": OLD}, {"region": np.s_[2:8]}),
    "overwrite": ({"x": OLD, "y": OLD}, {"overwrite": True}),
}


class Cut(Exception):  # noqa: N818
    """The process has ended here."""


def cut_before(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the removal of a folder end before step `number`."""
    steps, unlink, rmdir = itertools.count(), Folder._unlink, os.rmdir

    def before(act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*arguments: Any, **keywords: Any) -> Any:
            is_step = act is unlink or os.path.isdir(arguments[0])
            if is_step and next(steps) == number:
                raise Cut
            return act(*arguments, **keywords)

        return acting

    monkeypatch.setattr(Folder, "_unlink", before(unlink))
    monkeypatch.setattr(os, "rmdir", before(rmdir))


def prepare(path: Path, datasets: dict[str, Any]) -> None:
    shutil.rmtree(f"{path}.writing", ignore_errors=True)
    path.unlink(missing_ok=True)
    if datasets:
        with h5py.File(path, "w") as file:
            for name, data in datasets.items():
                file.create_dataset(name, data=data, chunks=(4, 4), maxshape=(None, 4))


@pytest.mark.parametrize("kind", CALLS)
def test_whatever_is_left_of_a_folder_says_that_its_write_is_finished(
    target: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    datasets, keywords = CALLS[kind]
    for number in itertools.count():
        prepare(target, datasets)
        with monkeypatch.context() as patch:
            cut_before(patch, number)
            try:
                dcio.to_hdf5(target, "/x", NEW, scheduler="synchronous", **keywords)
                break
            except Cut:
                pass
        # An empty folder is nobody's.
        found = dcio.status(target)
        assert (found is not None and found.finished) == bool(os.listdir(f"{target}.writing")), number
    assert number > 4
