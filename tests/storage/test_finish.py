"""The end of a write: where it cannot name the file, where it runs twice, and where the index is not the journal's."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import IntegrityError, TargetError
from dask_chunkio.storage import finish as module
from dask_chunkio.storage.filesystem.side_folder import Folder
from tests.support.storage.writes import Write, numbers


def committed(target: Path, **keywords: Any) -> Write:
    write = Write(target, compression="gzip", **keywords)
    write.commit_missing()
    return write


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("step", ["remove", "link"])
def test_a_name_that_cannot_be_given_is_given_by_the_next_call(
    target: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with committed(target) as write:
        with monkeypatch.context() as patch:
            patch.setattr(Folder, step, refuse)
            # A file system may lack hard links: then the file is renamed.
            patch.setattr(Folder, "move", refuse)
            words = (
                f"cannot write {target}: Operation not permitted .all of it is written, but cannot be given its name"
            )
            with pytest.raises(TargetError, match=words):
                write.finish()
        assert target.exists() == (step == "remove")
        assert dcio.verify(target).ok
    with Write(target, resume=True, compression="gzip") as again:
        assert all(again.is_stored(buffer) for buffer in range(3))
        again.finish()
        again.check()
    assert os.listdir(target.parent) == [target.name]


def other_content(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["y"] = 1


def other_dataset(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5)


def fewer_chunks(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (12, 8), "i2", chunks=(2, 4), compression="gzip", fillvalue=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Path.unlink, "No such file"),
        (lambda path: path.write_text("mine"), "file signature not found"),
        (other_content, "object 'x' doesn't exist"),
        (other_dataset, "holds other datasets than this write made"),
        (fewer_chunks, "does not hold every chunk"),
    ],
)
def test_a_task_that_runs_again_when_all_is_over_accepts_only_what_it_would_have_made(
    target: Path, change: Callable[[Path], object], words: str
) -> None:
    with committed(target) as write:
        first = write.finish()
        assert write.finish().stored == first.stored
        change(target)
        with pytest.raises(TargetError, match=rf"is gone: .*{target} is not what it would have made \(.*{words}"):
            write.finish()
    assert not os.path.exists(write.target.folder)


def test_an_index_that_is_still_wrong_when_it_is_rebuilt_ends_nothing(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with committed(target) as write:
        with monkeypatch.context() as patch:
            patch.setattr(module, "index_differs", lambda *_: "/x: the index is wrong")
            with pytest.raises(
                IntegrityError, match="the index is wrong, also after it was rebuilt; discard the write"
            ):
                write.finish()
        assert not target.exists()
        write.finish()
        write.check()


class Meddled:
    """New rows; as the last of them are read, another program writes into the first chunk."""

    shape, dtype = (12, 8), np.dtype("i2")

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, selection: Any) -> Any:
        if selection[0].start == 8:
            with h5py.File(self.path, "r+") as file:
                file["x"][0, :4] = np.random.default_rng(0).integers(0, 1000, 4)
        return numbers()[selection]


def test_what_another_program_writes_into_a_region_meanwhile_is_noted_and_kept(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file.create_dataset("x", (12, 8), "i2", chunks=(2, 4), compression="gzip")
    call: dict[str, Any] = {"region": np.s_[:], "buffer_shape": (4, 8), "scheduler": "synchronous"}
    result = dcio.to_hdf5(target, "/x", Meddled(target), **call)
    (note,) = result.notes
    assert "another program has changed it since" in note
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][1:], numbers()[1:])
        assert (file["x"][0, :4] != numbers()[0, :4]).any()
