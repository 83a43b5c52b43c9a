"""Recover and discard, where they refuse: nothing is lost, and the error says what to do."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import IntegrityError, SourceError, TargetError
from dask_chunkio.storage import recovery
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.made_folder import describe_folder, make_folder
from dask_chunkio.storage.target import Target
from tests.support.storage.writes import Write, numbers


@pytest.fixture
def cut_off(target: Path) -> Path:
    """Return the folder of a write of which a third is committed."""
    with Write(target) as write:
        write.commit(0)
        return Path(write.target.folder)


def resumed(target: Path) -> None:
    """Nothing of the write is lost."""
    with Write(target, resume=True) as again:
        assert again.is_stored(0)
        again.complete()
    assert os.listdir(target.parent) == [target.name]


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_folder_that_cannot_be_removed_is_named(target: Path, cut_off: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", refuse)
        with pytest.raises(TargetError, match=f"cannot remove {cut_off}: Operation not permitted"):
            dcio.discard(target)
    resumed(target)


def test_a_write_that_ends_as_recover_waits_for_it(
    target: Path, cut_off: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: Any) -> bool:
        shutil.rmtree(cut_off)
        return True

    monkeypatch.setattr(recovery, "take_over", ended)
    with pytest.raises(TargetError, match=f"there is no unfinished write of {target}"):
        dcio.recover(target)


def test_a_write_that_has_made_nothing_is_not_recovered(target: Path) -> None:
    begun = Target(str(target), "id", mode="new")
    with make_folder(begun):
        describe_folder(begun)
    with pytest.raises(TargetError, match=f"{target} was cut off before it had made anything; discard it"):
        dcio.recover(target)
    dcio.discard(target)
    assert os.listdir(target.parent) == []


@pytest.mark.parametrize("name", ["lock", "log", "journal"])
def test_a_side_file_that_is_a_link_is_not_followed(target: Path, cut_off: Path, name: str) -> None:
    elsewhere = target.with_name("elsewhere")
    os.rename(cut_off / name, elsewhere)
    (cut_off / name).symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(TargetError, match=rf"cannot (use|read) {cut_off}.*: Too many levels of symbolic links"):
        dcio.recover(target)
    assert elsewhere.read_bytes() == before
    os.rename(elsewhere, cut_off / name)
    resumed(target)


def test_what_was_hidden_in_a_file_that_is_gone_needs_no_removal(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file["old"] = [1, 2]
    with Write(target) as write:
        write.commit(0)
    moved = target.with_name("moved.h5")
    target.rename(moved)
    assert dcio.discard(target) == write.target.folder
    assert os.listdir(target.parent) == [moved.name]
    with h5py.File(moved) as file:
        assert file["old"][...].tolist() == [1, 2]


def test_a_file_that_is_not_the_journals_is_not_recovered(target: Path, cut_off: Path) -> None:
    with Write(target.with_name("other.h5"), numbers((4, 8))) as other:
        other.commit_missing()
        other.finish()
    mine, theirs = cut_off / "data.h5", target.with_name("other.h5")
    os.rename(mine, target.with_name("kept.h5"))
    os.rename(theirs, mine)
    # A transaction that was cut off would not fit to it.
    (cut_off / "applying").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"journal counts 12 chunks of /x, the file 4; discard the write"):
        dcio.recover(target)
    os.rename(target.with_name("kept.h5"), mine)
    assert dcio.recover(target).committed == 4
    resumed(target)


class Fails(dcio.GenericDataChunkIterator):
    """Rows of which the last cannot be read."""

    def _get_data(self, selection: Any) -> Any:
        if selection[0].stop > 8:
            raise OSError("not yet")
        return numbers()[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        return (12, 8)

    def _get_dtype(self) -> Any:
        return np.dtype("i2")


def test_datasets_without_chunks_are_recovered_too(target: Path) -> None:
    rows = Fails(chunk_shape=(2, 4), buffer_shape=(4, 8))
    sources = {"/scalar": np.float64(2.5), "/empty": np.empty((0, 3)), "/x": rows}
    with pytest.raises(SourceError, match="not yet"):
        dcio.to_hdf5(target, sources, scheduler="synchronous")
    output = target.with_name("recovered.h5")
    recovered = dcio.recover(target, output)
    assert (recovered.path, set(recovered.datasets)) == (str(output), set(sources))
    with h5py.File(output) as file:
        assert file["scalar"][()] == 2.5
        assert file["empty"].shape == (0, 3)
        np.testing.assert_array_equal(file["x"][:8], numbers()[:8])
    assert os.listdir(target.parent) == [output.name]


# The output of recover


def test_an_output_that_exists_is_not_replaced(target: Path, cut_off: Path) -> None:
    output = target.with_name("mine.h5")
    output.write_text("mine")
    with pytest.raises(TargetError, match=f"{output} exists; give another name to recover to"):
        dcio.recover(target, output)
    assert output.read_text() == "mine"
    assert cut_off.exists()
    output.unlink()
    resumed(target)


def test_an_output_that_cannot_be_made_leaves_the_write(target: Path, cut_off: Path) -> None:
    output = target.parent / "nowhere" / "mine.h5"
    with pytest.raises(TargetError, match=f"cannot move {cut_off}/data.h5 to {output}: .*No such file"):
        dcio.recover(target, output)
    resumed(target)


def test_an_output_is_whole_though_the_folder_cannot_be_removed(
    target: Path, cut_off: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = target.with_name("mine.h5")
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", refuse)
        words = f"{output} is whole, but {cut_off} cannot be removed: Operation not permitted"
        with pytest.raises(TargetError, match=words):
            dcio.recover(target, output)
    with h5py.File(output) as file:
        np.testing.assert_array_equal(file["x"][:4], numbers()[:4])
    dcio.discard(target)
    assert os.listdir(target.parent) == [output.name]
