"""A write that begins, and another call or program that comes between two of its steps."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import TargetBusyError, TargetChangedError, TargetError, TargetExistsError
from dask_chunkio.storage import begin as module
from dask_chunkio.storage import session
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.begin import held_alone
from dask_chunkio.storage.creation import create_datasets
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal.redo_record import RedoRecord
from dask_chunkio.storage.made_folder import describe_folder
from dask_chunkio.storage.target import Target
from tests.support.storage.writes import Write, no_lock, numbers

fcntl = pytest.importorskip("fcntl", reason="takes locks of POSIX")

JUST_NOW = "is being written by another call, which begins or ends just now; wait for it"
Step = Callable[..., Any]


class Between:
    """Has something happen once, before or after a step."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def before(self, owner: Any, name: str, happens: Callable[[], object]) -> None:
        step = getattr(owner, name)

        def acting(*arguments: Any, **keywords: Any) -> Any:
            self.patch.setattr(owner, name, step)
            happens()
            return step(*arguments, **keywords)

        self.patch.setattr(owner, name, acting)

    def after(self, owner: Any, name: str, happens: Callable[[], object]) -> None:
        step = getattr(owner, name)

        def acting(*arguments: Any, **keywords: Any) -> Any:
            self.patch.setattr(owner, name, step)
            found = step(*arguments, **keywords)
            happens()
            return found

        self.patch.setattr(owner, name, acting)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    return Between(monkeypatch)


@pytest.fixture
def folder(target: Path) -> Path:
    return Path(f"{target}.writing")


def write_by_h5py(path: Path, name: str = "theirs", data: Any = None) -> None:
    with h5py.File(path, "a") as file:
        file[name] = np.arange(5) if data is None else data


def begins_at_last(target: Path) -> None:
    """The same call once more, as `to_hdf5` tries it."""
    with Write(target) as write:
        write.complete()
    assert os.listdir(target.parent) == [target.name]


# A new folder


def test_a_file_that_appears_as_the_write_begins_is_added_to(target: Path, between: Between) -> None:
    between.after(os, "mkdir", lambda: write_by_h5py(target))
    with pytest.raises(TargetChangedError, match=f"{target} was changed as this write began; run it again"):
        Write(target)
    assert os.listdir(target.parent) == [target.name]
    begins_at_last(target)
    with h5py.File(target) as file:
        assert set(file) == {"theirs", "x"}


def test_the_call_of_a_user_goes_on_with_such_a_file_by_itself(target: Path, between: Between) -> None:
    between.after(os, "mkdir", lambda: write_by_h5py(target))
    dcio.to_hdf5(target, "/x", numbers(), scheduler="synchronous")
    with h5py.File(target) as file:
        assert set(file) == {"theirs", "x"}
    assert os.listdir(target.parent) == [target.name]


def test_a_folder_that_another_call_makes_first_is_its(target: Path, between: Between, folder: Path) -> None:
    between.before(os, "mkdir", folder.mkdir)
    with pytest.raises(TargetBusyError, match=JUST_NOW):
        Write(target)
    assert folder.exists()
    begins_at_last(target)


def test_a_folder_that_another_call_removes_while_it_is_empty(target: Path, between: Between, folder: Path) -> None:
    between.after(os, "mkdir", folder.rmdir)
    with pytest.raises(TargetChangedError, match=JUST_NOW):
        Write(target)
    between.before(module, "ActivityLock", folder.rmdir)
    with pytest.raises(TargetChangedError, match=JUST_NOW):
        Write(target)
    begins_at_last(target)


def test_a_folder_that_two_calls_have_made_is_the_ones_that_locks_it_first(
    target: Path, between: Between, folder: Path
) -> None:
    between.before(ActivityLock, "take_alone", lambda: _held(stack, folder))
    with contextlib.ExitStack() as stack:
        with pytest.raises(TargetBusyError, match=JUST_NOW):
            Write(target)
        assert os.listdir(folder) == ["lock"], "it is the other's"
    dcio.discard(target)
    begins_at_last(target)


def _held(stack: contextlib.ExitStack, folder: Path) -> None:
    """Have another call share the activity lock until the stack is closed."""
    lock = ActivityLock(str(folder / "lock"))
    stack.callback(lock.close)
    lock.share()


def test_a_folder_that_was_replaced_before_it_was_locked_is_left_alone(
    target: Path, between: Between, folder: Path
) -> None:
    def replace() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "lock").write_text("theirs")

    between.after(module, "_is_taken", replace)
    with pytest.raises(TargetChangedError, match=JUST_NOW):
        Write(target)
    assert (folder / "lock").read_text() == "theirs"


def test_a_folder_that_another_call_describes_at_the_same_time_is_its(
    target: Path, between: Between, folder: Path
) -> None:
    """For an instant, between two kinds of lock, it could take the folder."""
    with contextlib.ExitStack() as stack:

        def take() -> None:
            describe_folder(Target(str(target), "theirs", mode="new"))
            _held(stack, folder)

        between.after(ActivityLock, "share", take)
        with pytest.raises(TargetChangedError, match=JUST_NOW):
            Write(target)
        assert sorted(os.listdir(folder)) == ["lock", "manifest.json"], "the other call goes on with it"


# A folder that is there


@pytest.mark.parametrize("content", [None, ()])
def test_a_folder_that_is_gone_or_empty_as_it_is_looked_into(
    target: Path, folder: Path, content: tuple[()] | None
) -> None:
    if content is not None:
        folder.mkdir()
    with pytest.raises(TargetChangedError, match=JUST_NOW), held_alone(Target(str(target), "id")):
        pass
    begins_at_last(target)


def test_a_write_that_ends_as_its_own_task_looks_for_it(target: Path, between: Between, folder: Path) -> None:
    with Write(target, write_id="same") as write:
        write.commit(0)
    between.after(module, "_is_mine", lambda: shutil.rmtree(folder))
    with pytest.raises(TargetChangedError, match=JUST_NOW):
        Write(target, write_id="same")
    begins_at_last(target)


def test_a_write_that_ends_as_another_call_resumes_it(target: Path, between: Between, folder: Path) -> None:
    with Write(target) as write:
        write.commit(0)
    between.before(session, "writer_for", lambda: shutil.rmtree(folder))
    with pytest.raises(TargetChangedError, match=JUST_NOW):
        Write(target, resume=True)
    begins_at_last(target)


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_lock_that_is_missing_is_made_anew_unless_the_folder_is_removed(
    target: Path, between: Between, folder: Path, is_gone: bool
) -> None:
    with Write(target) as write:
        write.commit(0)
    (folder / "lock").unlink()
    if is_gone:
        between.before(Target, "found", lambda: shutil.rmtree(folder))
        with pytest.raises(TargetChangedError, match=JUST_NOW):
            Write(target, resume=True)
        begins_at_last(target)
        return
    with Write(target, resume=True) as again:
        assert again.is_stored(0)
        again.complete()


# A file that changes between the plan and the beginning


def grow(path: Path) -> None:
    """Append to the dataset, as another program does."""
    with h5py.File(path, "a") as file:
        if "x" not in file:
            file.create_dataset("x", (0, 8), "i2", chunks=(2, 4), maxshape=(None, 8))
        file["x"].resize(len(file["x"]) + 2, axis=0)
        file["x"][-2:] = 7


def append(path: Path) -> Any:
    return dcio.to_hdf5(path, "/x", numbers(), append=True, scheduler="synchronous")


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("step", ["judge", "create_datasets"])
def test_an_append_goes_behind_what_another_program_appends_meanwhile(
    target: Path, between: Between, rows: int, step: str
) -> None:
    """There may have been no dataset to append to when it was planned."""
    write_by_h5py(target, "old")
    if rows:
        grow(target)
    between.before(module, step, lambda: grow(target))
    assert not append(target).already_complete
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], np.concatenate([np.full((rows + 2, 8), 7), numbers()]))
    assert os.listdir(target.parent) == [target.name]


def test_an_append_whose_file_is_moved_away_meanwhile_makes_its_dataset_anew(target: Path, between: Between) -> None:
    grow(target)
    moved = target.with_name("moved.h5")
    between.before(module, "judge", lambda: target.rename(moved))
    append(target)
    with h5py.File(target) as file, h5py.File(moved) as other:
        np.testing.assert_array_equal(file["x"][...], numbers())
        assert len(other["x"]) == 2


def test_a_region_whose_file_is_moved_away_meanwhile_has_no_place(target: Path, between: Between) -> None:
    grow(target)
    moved = target.with_name("moved.h5")
    between.before(module, "judge", lambda: target.rename(moved))
    with pytest.raises(TargetError, match=f"there is no file {target}, so nothing to write a region of /x into"):
        dcio.to_hdf5(target, "/x", numbers((2, 8)), region=np.s_[:2], scheduler="synchronous")
    assert os.listdir(target.parent) == [moved.name]


def test_a_dataset_that_is_there_without_the_token_is_not_taken_for_the_calls(target: Path) -> None:
    grow(target)
    before = target.read_bytes()
    with pytest.raises(
        TargetExistsError, match=r"already has /x, to which the token 'a' is not applied; pass overwrite"
    ):
        dcio.to_hdf5(target, "/x", numbers(), token="a", scheduler="synchronous")
    assert target.read_bytes() == before


# Its datasets


@pytest.fixture
def existing(target: Path) -> Path:
    write_by_h5py(target, "old")
    return target


def test_datasets_that_appear_before_the_first_transaction_are_not_made_twice(existing: Path, between: Between) -> None:
    """The next attempt of the call finds that nothing is left to do."""

    def make() -> None:
        with h5py.File(existing, "a") as file:
            file.create_dataset("x", data=numbers(), chunks=(4, 8))

    between.before(module, "create_datasets", make)
    call: dict[str, Any] = {"chunks": (4, 8), "scheduler": "synchronous", "resume": True}
    assert dcio.to_hdf5(existing, "/x", numbers(), **call).already_complete
    with h5py.File(existing) as file:
        assert set(file) == {"old", "x"}
    assert os.listdir(existing.parent) == [existing.name]


def test_datasets_of_a_write_that_another_call_owns_are_its(target: Path) -> None:
    with Write(target) as write:
        write.commit(0)
        other = session.writer_for(Target(str(target), "late", mode="new"))
        try:
            with pytest.raises(TargetBusyError, match=rf"{target} is being written by another call, started .* by "):
                create_datasets(other.transactions, [write.spec], no_lock)
        finally:
            session.release("late")
        write.complete()


def test_a_write_that_was_cut_off_in_its_first_transaction_begins_anew(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its redo record only a part is in the log."""

    class Cut(BaseException):
        """The process has ended here."""

    def half(self: RedoRecord) -> bytes:
        return pack(self)[:100]

    def cut(*_: Any) -> None:
        raise Cut

    pack = RedoRecord.pack
    with monkeypatch.context() as patch:
        patch.setattr(RedoRecord, "pack", half)
        patch.setattr("dask_chunkio.storage.redo_log.RedoLog._apply", cut)
        # The process takes nothing back.
        patch.setattr(module, "_take_back", lambda *_: None)
        with pytest.raises(Cut):
            Write(target)
    assert os.path.getsize(f"{target}.writing/log") == 100
    with Write(target, resume=True) as again:
        again.complete()
    assert os.listdir(target.parent) == [target.name]


def test_another_call_removes_the_folder_that_a_finished_write_has_left(
    existing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Write(existing) as write:
        write.commit_missing()
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", lambda *_: None)
            write.finish()
    assert os.path.exists(f"{existing}.writing/journal")
    with pytest.raises(TargetChangedError, match="a write that had ended left its folder, which is removed now"):
        Write(existing, name="/y", resume=True)
    with Write(existing, name="/y", resume=True) as other:
        other.complete()
    write.check()
    assert os.listdir(existing.parent) == [existing.name]
