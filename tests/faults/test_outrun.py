"""A worker that was presumed dead finishes a write while another one repeats its tasks."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest import mock

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import TargetError, TargetExistsError
from dask_chunkio.execution import tasks
from dask_chunkio.sources.base import Reader
from dask_chunkio.storage import finish, session
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.publish import publish
from dask_chunkio.storage.side_paths import HIDDEN_FILE
from dask_chunkio.storage.target import Target
from tests.support.faults.zombies import DATA, Numbers
from tests.support.processes import run_python

ZOMBIES = "tests.support.faults.zombies"


class Outrun(Numbers):
    """The data, of which the second buffer is read when another process has done the whole write."""

    def __init__(self, finish: Callable[[], object]) -> None:
        super().__init__()
        self.finish = finish

    def _get_data(self, selection: Any) -> Any:
        if selection[0].start == 5:
            self.finish()
        return super()._get_data(selection)


def finished_by_another(path: Path, write_id: str, marker: Path) -> None:
    """Have a process do all tasks of the write; it does not stop, as the marker is taken."""
    marker.touch()
    words = "as_worker", path, "before publishing", marker, write_id
    done = run_python("-m", ZOMBIES, *words, check=True, timeout=120)
    assert done.stdout == "done\n"
    assert not Path(f"{path}.writing").exists()


@pytest.fixture
def delayed(tmp_path: Path) -> Any:
    """Return the tasks of a write that another process of the same write finishes after the first buffer."""
    path, write_id = tmp_path / "out.h5", tmp_path.name
    source = Outrun(lambda: finished_by_another(path, write_id, tmp_path / "marker"))
    with mock.patch.object(uuid, "uuid4", return_value=mock.Mock(hex=write_id)):
        return dcio.to_hdf5(path, "/new/x", source, compression="gzip", compute=False)


def test_the_tasks_that_are_repeated_have_nothing_to_do(delayed: Any, tmp_path: Path) -> None:
    result = delayed.compute(scheduler="synchronous")
    assert result.nbytes == DATA.nbytes
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["new/x"][...], DATA)


def test_it_is_begun_again_where_it_is_known_to_be_finished(delayed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, creations = tasks.begin_write, []

    def noting(creation: Any) -> Any:
        creations.append(creation)
        return begin(creation)

    monkeypatch.setattr(tasks, "begin_write", noting)
    delayed.compute(scheduler="synchronous")
    (creation,) = creations
    layout = begin(creation)
    job = layout.jobs[0]
    # There is nothing to read.
    reader = cast(Reader, None)
    receipts = [tasks.write_buffer(layout, 0, buffer, reader) for buffer in range(len(job.buffers))]
    assert tasks.finish_target(layout, receipts, creation.specs).nbytes == DATA.nbytes


def test_what_another_call_has_finished_is_still_an_error(delayed: Any) -> None:
    """Its file is not that of this write, whatever it holds."""
    with (
        mock.patch(f"{__name__}.finished_by_another", side_effect=lambda path, *_: resumed_and_finished(path)),
        pytest.raises(TargetError, match=r"finished or discarded meanwhile|taken over|ended"),
    ):
        delayed.compute(scheduler="synchronous")


# The last task is repeated


def written(path: Path, write_id: str, **keywords: Any) -> Any:
    with mock.patch.object(uuid, "uuid4", return_value=mock.Mock(hex=write_id)):
        delayed = dcio.to_hdf5(path, "/new/x", Numbers(), compression="gzip", compute=False, **keywords)
    return delayed.compute(scheduler="synchronous")


def check(path: Path) -> None:
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["new/x"][...], DATA)
    assert not Path(f"{path}.writing").exists()


@pytest.mark.parametrize(
    ("is_released", "existing"),
    [
        (False, False),
        (True, True),
        pytest.param(False, True, marks=pytest.mark.heavy),
        pytest.param(True, False, marks=pytest.mark.heavy),
    ],
)
def test_the_write_is_finished_by_another_as_its_last_task_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, is_released: bool
) -> None:
    path, used_writer = tmp_path / "out.h5", session.used_writer
    if existing:
        with h5py.File(path, "w") as file:
            file["old"] = 1

    def outrun(*arguments: Any) -> Any:
        writer = used_writer(*arguments)
        monkeypatch.setattr(session, "used_writer", used_writer)
        finished_by_another(path, tmp_path.name, tmp_path / "marker")
        if is_released:
            session.release(tmp_path.name)
            return used_writer(*arguments)
        return writer

    def last_task(*arguments: Any) -> Any:
        monkeypatch.setattr(session, "used_writer", outrun)
        return finish.finish(*arguments)

    monkeypatch.setattr(tasks, "finish", last_task)
    assert written(path, tmp_path.name).nbytes == DATA.nbytes
    check(path)


@pytest.mark.parametrize("removes", [False, True], ids=["named", "named, folder half removed"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_file_has_its_name_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removes: bool, overwrite: bool
) -> None:
    path = tmp_path / "out.h5"
    if overwrite:
        with h5py.File(path, "w") as file:
            file["new/x"] = 1

    def outrun(target: Target, names: tuple[str, ...], folder: Folder, *more: Any) -> None:
        if overwrite:
            folder.move(HIDDEN_FILE, target.path)
        else:
            folder.link(HIDDEN_FILE, target.path)
        for name in ("applying", HIDDEN_FILE, "lock", "log") if removes else ():
            Path(target.folder, name).unlink(missing_ok=True)
        publish(target, names, folder, *more)

    monkeypatch.setattr(finish, "publish", outrun)
    assert written(path, tmp_path.name, overwrite=overwrite).nbytes == DATA.nbytes
    check(path)


def test_a_file_system_without_lasting_inodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is then judged by what it holds."""
    path = tmp_path / "out.h5"

    def outrun(*arguments: Any) -> None:
        finished_by_another(path, tmp_path.name, tmp_path / "marker")
        publish(*arguments)

    monkeypatch.setattr(finish, "publish", outrun)
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    assert written(path, tmp_path.name).nbytes == DATA.nbytes
    check(path)


def test_another_file_of_that_name_is_still_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.h5"

    def appear(*arguments: Any) -> None:
        path.write_bytes(b"theirs")
        publish(*arguments)

    monkeypatch.setattr(finish, "publish", appear)
    with pytest.raises(TargetExistsError, match="created by another program"):
        written(path, tmp_path.name)
    assert path.read_bytes() == b"theirs"


def resumed_and_finished(path: Path) -> None:
    script = (
        f"import sys; from {ZOMBIES} import Numbers; import dask_chunkio as dcio;"
        "from dask_chunkio.storage.activity.activity_lock import ActivityLock;"
        "ActivityLock.take_alone = lambda *_: True;"
        "from dask_chunkio.storage import begin; begin.take_over = lambda *_, **__: True;"
        "dcio.to_hdf5(sys.argv[1], '/new/x', Numbers(), compression='gzip', scheduler='synchronous', resume=True)"
    )
    run_python("-c", script, path, check=True, timeout=120)
