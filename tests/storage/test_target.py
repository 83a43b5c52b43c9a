import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import (
    IntegrityError,
    TargetBusyError,
    TargetError,
    TargetExistsError,
    UnfinishedWriteError,
)
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal.manifest import read_manifest
from dask_chunkio.storage.made_folder import make_folder
from dask_chunkio.storage.preconditions import require_free
from dask_chunkio.storage.publish import publish
from dask_chunkio.storage.target import Target
from tests.support.storage.writes import Write, numbers


def hdf5(path: Path, *names: str, attribute: bool = False) -> bytes:
    with h5py.File(path, "w") as file:
        for name in names:
            file[name] = [1, 2]
        if attribute:
            file.attrs["title"] = "mine"
    return path.read_bytes()


def refused(path: Path, error: type[Exception], match: str, *names: str, overwrite: bool = False) -> None:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(error, match=match):
        require_free(Target(str(path), "id", overwrite), names or ("/x",))
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_free_name_is_free(target: Path) -> None:
    assert require_free(Target(str(target), "id"), ("/x",)) == "new"
    assert os.listdir(target.parent) == []


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    refused(tmp_path / "none" / "out.h5", TargetError, "no folder .*none; create it first")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file" / "out.h5", TargetError, "no folder .*file; create it first")


def test_a_directory(target: Path) -> None:
    target.mkdir()
    refused(target, TargetError, "is a directory; give the name of a file", overwrite=True)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_of_another_kind_is_never_replaced(target: Path, content: bytes, overwrite: bool) -> None:
    target.write_bytes(content)
    refused(target, TargetExistsError, "exists and is not an HDF5 file", overwrite=overwrite)


def mode(path: Path, *names: Any, overwrite: bool = False) -> Any:
    return require_free(Target(str(path), "id", overwrite), names or ("/x",))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_to_nothing_is_something(target: Path, overwrite: bool) -> None:
    target.symlink_to("nowhere.h5")
    with pytest.raises(TargetExistsError, match="it is a link to nothing"):
        Write(target, overwrite=overwrite)
    assert target.is_symlink()
    assert os.listdir(target.parent) == ["out.h5"]


def test_a_link_stays_a_link(target: Path) -> None:
    hdf5(target.with_name("real.h5"), "y")
    target.symlink_to("real.h5")
    with Write(target) as write:
        assert write.target.path == str(target.with_name("real.h5"))
        write.complete()
    assert target.is_symlink()


def test_the_same_dataset_needs_overwrite(target: Path) -> None:
    hdf5(target, "x")
    refused(target, TargetExistsError, "already has /x; pass overwrite=True to replace")
    assert mode(target, overwrite=True) == "new"


def test_other_datasets_are_added_to_and_never_replaced(target: Path) -> None:
    hdf5(target, "y", "a/z")
    assert mode(target) == mode(target, overwrite=True) == mode(target, "/a/x", "/b/x") == "existing"
    hdf5(target, "x", "y")
    assert mode(target, overwrite=True) == "existing"


def test_groups_above_the_dataset_are_no_obstacle(target: Path) -> None:
    hdf5(target, "a/b/x")
    assert mode(target, "/a/b/x", overwrite=True) == "new"
    assert mode(target, "/a/b/y") == "existing"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("/a", "already has /a, which is not a dataset"),
        ("/a/x/below", "has /a/x, which is not a group, so /a/x/below cannot be in it"),
        ("/soft", "already has /soft, which is not a dataset"),
        ("/broken", "already has /broken, which is not a dataset"),
        ("/outside", "already has /outside, which is not a dataset"),
        ("/type", "already has /type, which is not a dataset"),
        ("/broken/x", "has /broken, which is not a group"),
    ],
)
def test_only_datasets_are_replaced(target: Path, overwrite: bool, name: str, match: str) -> None:
    hdf5(target, "a/x")
    with h5py.File(target, "a") as file:
        file["soft"] = h5py.SoftLink("/a/x")
        file["broken"] = h5py.SoftLink("/nowhere")
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
        file["type"] = np.dtype("i2")
    refused(target, TargetExistsError, match, name, overwrite=overwrite)


def test_attributes_links_and_user_blocks_are_kept_by_adding(target: Path) -> None:
    hdf5(target, "x", attribute=True)
    assert mode(target, overwrite=True) == "existing"
    hdf5(target, "x")
    with h5py.File(target, "a") as file:
        file["broken"] = h5py.SoftLink("/nowhere")
    assert mode(target, overwrite=True) == "existing"
    hdf5(target, "g/x")
    with h5py.File(target, "a") as file:
        file["g"].attrs["title"] = "mine"
    assert mode(target, "/g/x", overwrite=True) == "existing"
    target.unlink()
    with h5py.File(target, "w", userblock_size=512) as file:
        file["x"] = 1
    assert mode(target, overwrite=True) == "existing"


def test_an_empty_hdf5_file_is_added_to(target: Path) -> None:
    hdf5(target)
    assert mode(target) == "existing"


def test_a_file_that_may_not_be_written(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5(target, "y")
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(target, TargetError, "Permission denied; make the file readable and writable first")


def test_a_file_that_says_it_is_open_for_writing(target: Path) -> None:
    """Left by a program that died, or that uses SWMR: HDF5 would refuse it, and our driver would not see it."""
    with h5py.File(target, "w", libver="v110") as file:
        file["y"] = 1
        file.flush()
        copy = target.read_bytes()
    target.write_bytes(copy)
    refused(target, TargetBusyError, "marked as open for writing.*h5clear -s")


@contextlib.contextmanager
def open_elsewhere(path: Path, mode: str) -> Iterator[None]:
    """Another program that has a file open."""
    script = "import h5py, sys; f = h5py.File(*sys.argv[1:]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(path), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        yield
        other.stdin.close()
        assert other.wait() == 0


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_another_program_writes_is_busy(target: Path, overwrite: bool) -> None:
    hdf5(target, "x")
    with open_elsewhere(target, "r+"):
        refused(target, TargetBusyError, "open", overwrite=overwrite)
        with pytest.raises(TargetBusyError):
            dcio.to_hdf5(target, "/x", numbers(), overwrite=overwrite, scheduler="synchronous")
    assert os.listdir(target.parent) == ["out.h5"]


def test_a_file_that_this_program_writes_is_busy(target: Path) -> None:
    hdf5(target, "x")
    with h5py.File(target, "r+"):
        refused(target, TargetBusyError, "this process has it open itself with h5py", overwrite=True)


def test_a_file_that_others_read_may_be_replaced(target: Path) -> None:
    """They keep what they have open; the new file stands under the name."""
    hdf5(target, "x")
    with open_elsewhere(target, "r"), Write(target, overwrite=True) as write:
        write.complete()


# The folder


def test_the_folder_says_what_it_is_about(target: Path) -> None:
    with Write(target) as write:
        manifest = read_manifest(write.target.manifest)
        assert manifest is not None
        assert (manifest.target, manifest.mode, manifest.command) == (str(target), "new", ())
        owner = write.writer.transactions.journal.owner
        assert (owner.write_id, owner.epoch, owner.pid) == (write.target.write_id, 1, os.getpid())


def test_another_write_to_the_same_target_is_refused_and_harms_nothing(target: Path) -> None:
    with Write(target) as first:
        first.commit(0)
        with pytest.raises(
            UnfinishedWriteError, match=rf"unfinished write of {target}, started .*process {os.getpid()}"
        ):
            Write(target)
        first.complete()


def test_the_remedy_that_the_message_gives_works(target: Path) -> None:
    with Write(target) as first:
        first.commit(0)
    with pytest.raises(UnfinishedWriteError) as caught:
        Write(target)
    remedy = f"dask_chunkio.discard({str(target)!r})"
    assert remedy in str(caught.value)
    assert dcio.discard(target) == str(target) + ".writing"
    with Write(target) as second:
        second.complete()
    assert dcio.discard(target) is None
    second.check()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff" * 9])
def test_a_folder_without_a_readable_manifest_belongs_to_somebody_else(target: Path, content: Any) -> None:
    folder = target.with_name("out.h5.writing")
    folder.mkdir()
    if content is not None:
        (folder / "manifest.json").write_bytes(content)
    else:
        (folder / "journal").touch()
    with pytest.raises((UnfinishedWriteError, IntegrityError), match=r"exists but has no manifest|is damaged"):
        Write(target)
    assert folder.exists()


def test_an_empty_folder_is_what_a_write_has_left_that_ended(target: Path) -> None:
    target.with_name("out.h5.writing").mkdir()
    with Write(target) as write:
        write.complete()
    assert os.listdir(target.parent) == ["out.h5"]


def test_a_folder_that_is_a_link_is_not_used(target: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    target.with_name("out.h5.writing").symlink_to(elsewhere)
    with pytest.raises(UnfinishedWriteError, match="is a symbolic link"):
        Write(target)
    assert os.listdir(elsewhere) == []


def test_side_files_that_are_links_are_not_followed(target: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    precious = tmp_path_factory.mktemp("elsewhere") / "thesis.h5"
    for name in ("data.h5", "journal", "log", "lock"):
        before = hdf5(precious, "mine")
        with Write(target) as write:
            write.commit(0)
            side = os.path.join(write.target.folder, name)
        os.unlink(side)
        os.symlink(precious, side)
        with pytest.raises(TargetError):
            Write(target, resume=True)
        assert precious.read_bytes() == before
        dcio.discard(target, force=True)
        assert precious.read_bytes() == before


def test_discarding_touches_no_file_under_the_name(target: Path) -> None:
    before = hdf5(target, "x")
    Write(target, overwrite=True).release()
    dcio.discard(target)
    assert target.read_bytes() == before
    assert os.listdir(target.parent) == ["out.h5"]


@pytest.mark.parametrize("strange", ["notes.txt", "data.h5.backup", "sub"])
def test_a_foreign_file_in_the_folder_is_not_deleted(target: Path, strange: str) -> None:
    Write(target).release()
    folder = target.with_name("out.h5.writing")
    (folder / strange).mkdir() if strange == "sub" else (folder / strange).write_text("mine")
    before = sorted(os.listdir(folder))
    with pytest.raises(TargetError, match=f"holds .*{strange}.*, which no write creates"):
        dcio.discard(target)
    assert sorted(os.listdir(folder)) == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TargetError, match=r"cannot write .*: Not a directory"):
        make_folder(Target(str(tmp_path / "file" / "out.h5"), "id", mode="new"))
    long = Target(str(tmp_path / ("x" * 250)), "id", mode="new")
    with pytest.raises(TargetError, match="File name too long"):
        make_folder(long)


# The final name


def test_a_name_that_was_taken_during_the_write_is_not_clobbered(target: Path) -> None:
    with Write(target) as write:
        write.commit_missing()
        before = hdf5(target, "theirs")
        with pytest.raises(
            TargetExistsError, match=r"created by another program during the write.*whole in .*data\.h5"
        ):
            write.finish()
        assert target.read_bytes() == before
        with h5py.File(write.target.file) as file:
            np.testing.assert_array_equal(file["x"][...], write.data)


def test_neither_without_hard_links(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with Write(target) as write:
        write.commit_missing()
        before = hdf5(target, "theirs")
        with pytest.raises(TargetExistsError, match="whole in"):
            write.finish()
        assert target.read_bytes() == before
        target.unlink()
        with Folder(write.target.folder) as folder:
            publish(write.target, ("/x",), folder, os.stat(write.target.file))
        write.check()
    assert os.listdir(target.parent) == ["out.h5"]


def test_a_file_that_others_changed_during_the_write_is_not_replaced(target: Path) -> None:
    hdf5(target, "x")
    with Write(target, overwrite=True) as write:
        write.commit_missing()
        with h5py.File(target, "a") as file:
            file["theirs"] = 1
        before = target.read_bytes()
        with pytest.raises(TargetExistsError, match=r"was changed by another program.*whole in .*data\.h5"):
            write.finish()
        assert target.read_bytes() == before


def test_permissions_are_those_of_the_file_that_is_replaced(target: Path) -> None:
    hdf5(target, "x")
    target.chmod(0o640)
    with Write(target, overwrite=True) as write:
        write.commit_missing()
        write.finish()
    assert target.stat().st_mode & 0o777 == 0o640


def test_overwriting_replaces_at_the_end_and_not_before(target: Path) -> None:
    before = hdf5(target, "x")
    with Write(target, overwrite=True) as write:
        write.commit_missing()
        assert target.read_bytes() == before
        write.finish()
        write.check()
    assert os.listdir(target.parent) == ["out.h5"]
