"""Independent jobs that write one file in parts."""

import itertools
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dask_chunkio as dcio
from dask_chunkio.cli.main import main
from dask_chunkio.errors import (
    ArgumentError,
    ArgumentTypeError,
    SourceError,
    TargetBusyError,
    TargetError,
    TargetExistsError,
    UnfinishedWriteError,
)
from dask_chunkio.execution import tasks
from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.planning import planner
from dask_chunkio.storage import begin as begin_module
from dask_chunkio.storage.activity.keepalive import Keepalive
from dask_chunkio.storage.filesystem.kind import FileSystem
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal import part as parts_module
from dask_chunkio.storage.journal.manifest import Manifest, read_manifest
from dask_chunkio.storage.transaction import Transactions
from dask_chunkio.storage.writer import Writer
from tests.support.iterators import FromArray, Noting
from tests.support.notes import notes
from tests.support.processes import exit_code, forked, in_child, wait_until
from tests.support.unfinished import unfinished

DATA = (1 + np.arange(120 * 30, dtype="i4")).reshape(120, 30)
GZIP: dict[str, Any] = {"chunks": (10, 8), "compression": "gzip", "progress": False}


def source() -> FromArray:
    return FromArray(DATA, chunk_shape=(10, 8), buffer_shape=(20, 30))


class Failing(FromArray):
    def _get_data(self, selection: Any) -> Any:
        if selection[0].start >= 100:
            raise OSError("the disk is gone")
        return super()._get_data(selection)


class Waiting(FromArray):
    """Its reading waits at a gate, from some row on."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.came, self.gate = at, threading.Event(), threading.Event()
        super().__init__(DATA, chunk_shape=(10, 8), buffer_shape=(20, 30))

    def _get_data(self, selection: Any) -> Any:
        if selection[0].start >= self.at:
            self.came.set()
            self.gate.wait(60)
        return super()._get_data(selection)


class Refusing:
    """An array whose last rows cannot be read."""

    shape, dtype = DATA.shape, DATA.dtype

    def __getitem__(self, selection: Any) -> Any:
        if selection[0].start >= 50:
            raise OSError("the disk is gone")
        return DATA[selection]


def write(path: Any, number: int, count: int, of: Any = None, **more: Any) -> dcio.WriteResult:
    options = {**GZIP, "scheduler": "synchronous", **more}
    done: dcio.WriteResult = dcio.to_hdf5(path, "/x", DATA if of is None else of, part=(number, count), **options)
    return done


def require_whole(path: Path, name: str = "x") -> None:
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file[name][...], DATA)
    assert [other for other in os.listdir(path.parent) if other != path.name] == []


@pytest.fixture(params=["synchronous", "threads", "processes", "thread_client", "process_client"])
def scheduler(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param) if request.param.endswith("client") else request.param


def test_on_every_scheduler(target: Path, scheduler: Any) -> None:
    for number in (2, 0, 1):
        assert not target.exists()
        done = write(target, number, 3, source(), scheduler=scheduler)
        assert done.nbytes == 40 * 30 * 4
        assert done.chunks == 16
    assert done.is_whole
    require_whole(target)


@pytest.mark.parametrize("chunks", [(50, 7), (120, 30), (10, 8)])
def test_dask_arrays_compute_only_their_part(target: Path, chunks: tuple[int, int]) -> None:
    computed: list[Any] = []

    def noted(block: Any, block_info: Any) -> Any:
        computed.append(block_info[0]["array-location"])
        return block

    array = da.from_array(DATA, chunks=chunks).map_blocks(noted, dtype="i4")
    for number in range(4):
        computed.clear()
        write(target, number, 4, array)
        rows = [location[0] for location in computed]
        assert all(start < 30 * number + 30 and stop > 30 * number - 10 for start, stop in rows)
    require_whole(target)


@pytest.mark.parametrize("compute", [True, False])
def test_several_datasets_and_any_number_of_parts(target: Path, compute: bool) -> None:
    sources: dict[str, Any] = {
        "/a/x": DATA,
        "/b": da.from_array(DATA[:, 0], chunks=17),
        "/c": np.arange(3.0),
        "/d": np.zeros((0, 4)),
    }
    for number in random.Random(0).sample(range(7), 7):
        if compute:
            done = dcio.to_hdf5(target, sources, part=(number, 7), scheduler="threads", progress=False)
        else:
            done = dcio.to_hdf5(target, sources, part=(number, 7), compute=False).compute(scheduler="threads")
    assert done.is_whole
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["a/x"][...], DATA)
        np.testing.assert_array_equal(file["b"][...], DATA[:, 0])
        np.testing.assert_array_equal(file["c"][...], [0, 1, 2])
        assert file["d"].shape == (0, 4)


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shapes_chunks_and_parts(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("parts") / "out.h5"
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    chunks = tuple(data.draw(st.integers(1, length)) for length in shape)
    values = np.arange(1, 1 + np.prod(shape), dtype="i2").reshape(shape)
    count = data.draw(st.integers(1, 6))
    of = da.from_array(values, chunks=chunks) if data.draw(st.booleans()) else values
    filters: dict[str, Any] = data.draw(
        st.sampled_from([{}, {"compression": "lzf", "shuffle": True}, {"fletcher32": True}])
    )
    for number in data.draw(st.permutations(range(count))):
        done = dcio.to_hdf5(
            path, "/x", of, part=(number, count), chunks=chunks, scheduler="synchronous", progress=False, **filters
        )
    assert done.is_whole
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], values)


def test_jobs_at_once_in_one_process(target: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda number: write(target, number, 12, source()), range(12)))
    assert sum(one.is_whole for one in done) == 1
    require_whole(target)


def _job(arguments: tuple[str, int]) -> bool:
    path, number = arguments
    return write(path, number, 8, source()).is_whole


def test_jobs_at_once_in_several_processes(target: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
        assert sum(pool.map(_job, [(str(target), number) for number in range(8)])) == 1
    require_whole(target)


def test_a_job_that_is_run_again_reads_nothing_again(target: Path, tmp_path: Path) -> None:
    said = tmp_path.parent / f"{tmp_path.name}-notes"
    of = Noting(DATA, said, "x", chunk_shape=(10, 8), buffer_shape=(20, 30))
    first = write(target, 0, 2, of)
    before = notes(said)
    again = write(target, 0, 2, of)
    assert (first.missing_parts, again.missing_parts) == ((1,), (1,))
    assert notes(said) == before != []
    assert write(target, 1, 2, of).is_whole
    later = write(target, 1, 2, of)
    assert (later.already_complete, later.is_whole) == (True, True)
    require_whole(target)


def test_a_job_whose_source_failed_is_run_again(target: Path) -> None:
    with pytest.raises(SourceError, match="the disk is gone") as raised:
        write(target, 1, 2, Failing(DATA, chunk_shape=(10, 8), buffer_shape=(10, 30)))
    assert "make the same call again, or remove the data of all jobs" in "".join(raised.value.__notes__)
    assert unfinished(target).missing_parts == (0, 1)
    assert write(target, 0, 2).missing_parts == (1,)
    assert write(target, 1, 2).is_whole
    require_whole(target)


def test_status_says_who_did_what(target: Path) -> None:
    write(target, 1, 3)
    found = unfinished(target)
    assert (found.part_count, found.missing_parts, found.running) == (3, (0, 2), False)
    (mine,) = found.parts
    assert (mine.number, mine.pid) == (1, os.getpid())
    assert mine.finished is not None
    assert datetime.now(UTC) - mine.started < timedelta(minutes=5)
    said = CliRunner().invoke(main, ["status", str(target)]).output
    assert "1 of 3 committed; parts 0, 2 are missing" in said
    assert f"part 1      started {mine.started.astimezone():%Y-%m-%d}" in said
    assert "run the jobs of the missing parts again, resume it with the same call of to_hdf5" in said


def test_after_a_reboot_a_part_that_was_not_on_the_disk_is_written_again(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(target, 0, 2)
    write_durably = target.with_name("durable.h5")
    write(write_durably, 0, 2, durability="power")
    monkeypatch.setattr(parts_module, "boot_id", lambda: "another boot")
    # The failure of the machine has lost a payload.
    with open(f"{target}.writing/data.h5", "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size - 200)
        file.write(bytes(200))
    assert write(target, 1, 2).missing_parts == (0,)
    assert write(target, 0, 2).is_whole
    assert write(write_durably, 1, 2, durability="power").is_whole
    for path in (target, write_durably):
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["x"][...], DATA)


def test_events_and_the_log_say_what_is_missing(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []
    with caplog.at_level(logging.INFO, "dask_chunkio"):
        write(target, 1, 3, callback=events.append)
    assert events[-1].missing_parts == (0, 2)
    assert f"{target} has its part of this call: 4.69 kiB stored in" in caplog.text
    assert "; parts 0, 2 are missing" in caplog.text
    assert "is whole" not in caplog.text
    write(target, 0, 3)
    with caplog.at_level(logging.INFO, "dask_chunkio"):
        write(target, 2, 3)
    assert f"{target} is whole" in caplog.text


# Existing files


def test_into_an_existing_file(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file["theirs"] = np.arange(5)
    for number in (1, 2, 0):
        write(target, number, 3, source())
        with h5py.File(target) as file:
            assert ("x" in file) == (number == 0)
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["theirs"][...], np.arange(5))
    require_whole(target)


def test_overwriting_needs_a_token_and_is_done_once(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file["x"] = np.arange(5)
        file["theirs"] = np.arange(5)
    with pytest.raises(ArgumentError, match="needs a token"):
        write(target, 0, 2, overwrite=True)
    for number in (0, 1):
        done = write(target, number, 2, overwrite=True, token="run 7")
    assert done.is_whole
    assert write(target, 0, 2, overwrite=True, token="run 7").already_complete
    require_whole(target)


def test_a_dataset_that_differs_is_not_replaced(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file["x"] = np.arange(5)
    with pytest.raises(TargetExistsError, match="/x"):
        write(target, 0, 2)
    assert os.listdir(target.parent) == [target.name]


# Refusals


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"chunks": (10, 15)}, "chunks was"),
        ({"compression": None}, "filters was"),
        ({"dtype": "f8"}, "dtype was"),
        ({"token": "mine"}, "token"),
    ],
)
def test_a_job_with_other_arguments_is_refused(target: Path, more: dict[str, Any], words: str) -> None:
    write(target, 0, 2)
    with pytest.raises(ArgumentError, match=f"(?s)in parts were begun with other arguments.*{words}"):
        write(target, 1, 2, **more)
    with pytest.raises(ArgumentError, match=r"part=\(1, 3\).*2 parts"):
        write(target, 1, 3)
    assert write(target, 1, 2).is_whole
    require_whole(target)


@pytest.mark.parametrize(
    ("part", "error", "words"),
    [
        ((2, 2), ArgumentError, "numbers 0 to 1"),
        ((0, 0), ArgumentError, "part="),
        ((0.0, 2), ArgumentTypeError, "two whole numbers"),
        ("3/4", ArgumentTypeError, "two whole numbers"),
        ((True, 2), ArgumentTypeError, "two whole numbers"),
        ("slurm", ArgumentError, "no task of a Slurm job array"),
    ],
)
def test_what_is_no_part(
    target: Path, monkeypatch: pytest.MonkeyPatch, part: Any, error: type[Exception], words: str
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    with pytest.raises(error, match=words):
        dcio.to_hdf5(target, "/x", DATA, part=part, progress=False)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("keywords", [{"append": True}, {"region": np.s_[:]}, {"read": "ordered"}])
def test_what_cannot_be_divided(target: Path, keywords: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="part= "):
        dcio.to_hdf5(target, "/x", DATA, part=(0, 2), progress=False, **keywords)


@pytest.mark.parametrize("keywords", [{}, {"maxshape": (9, 30), "dtype": "i4"}])
def test_a_stream_is_refused_before_it_is_begun(target: Path, keywords: dict[str, Any]) -> None:
    stream = iter([dcio.DataChunk(DATA[:3], np.s_[0:3])])
    with pytest.raises(ArgumentError):
        dcio.to_hdf5(target, "/x", stream, part=(0, 2), progress=False, **keywords)
    assert next(stream) is not None


def test_a_single_call_and_parts_do_not_mix(target: Path) -> None:
    with pytest.raises(SourceError):
        dcio.to_hdf5(target, "/x", Failing(DATA, chunk_shape=(10, 8)), **GZIP)
    with pytest.raises(UnfinishedWriteError, match="by a single call"):
        write(target, 0, 2)
    dcio.discard(target)
    write(target, 0, 2)
    with pytest.raises(UnfinishedWriteError):
        dcio.to_hdf5(target, "/x", DATA, **GZIP)
    # A call for the whole write may go on with what jobs have left, and then their parts are its own.
    assert dcio.to_hdf5(target, "/x", DATA, resume=True, **GZIP).is_whole
    require_whole(target)


def test_no_job_joins_a_write_that_a_single_call_has_taken_over(target: Path) -> None:
    write(target, 0, 2)

    with pytest.raises(SourceError):
        dcio.to_hdf5(target, "/x", Failing(DATA, chunk_shape=(10, 8)), resume=True, **GZIP)
    with pytest.raises(UnfinishedWriteError, match="by a single call"):
        write(target, 1, 2)


def test_a_job_at_work_is_not_taken_over_and_others_join_it(target: Path) -> None:
    waiting = Waiting()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(write, target, 0, 2, waiting)
        waiting.came.wait(60)
        with pytest.raises(TargetBusyError):
            dcio.discard(target)
        with pytest.raises(TargetBusyError):
            dcio.to_hdf5(target, "/x", DATA, resume=True, **GZIP)
        assert unfinished(target).running
        assert write(target, 1, 2).missing_parts == (0,)
        waiting.gate.set()
        assert job.result().is_whole
    require_whole(target)


def test_two_copies_of_the_last_job(target: Path) -> None:
    """One of them has yet to commit a buffer when the other one has finished the file."""
    write(target, 0, 2)
    waiting = Waiting(at=100)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(write, target, 1, 2, waiting)
        waiting.came.wait(60)
        assert write(target, 1, 2).is_whole
        require_whole(target)
        waiting.gate.set()
        assert slow.result().is_whole
    require_whole(target)


def _places_slowly(folder: Path, job: str) -> None:
    """Two copies of one job encode differently.  The second has its payloads when the first has placed all of its own.

    It is killed before it places anything.
    """

    def say(name: str) -> None:
        (folder / name).touch()

    def wait(name: str) -> None:
        wait_until((folder / name).exists, f"the other copy came to {name}")

    module: Any = tasks
    commit, record, encode, transaction = Writer.commit, module.finish_part, module._encoded, Transactions.transaction
    if job == "first":

        def waiting_commit(*arguments: Any) -> None:
            wait("encoded")
            commit(*arguments)

        def waiting_record(*arguments: Any) -> Any:
            say("placed")
            wait("killed")
            return record(*arguments)

        Writer.commit = waiting_commit  # type: ignore[assignment, method-assign]
        module.finish_part = waiting_record
    else:

        def other_encoder(*arguments: Any) -> list[Payload]:
            found = encode(*arguments)
            return [Payload(zlib.compress(zlib.decompress(bytes(one.data)), 0), one.mask) for one in found]

        def late_transaction(*arguments: Any, **keywords: Any) -> Any:
            if sys._getframe(1).f_code.co_name == "commit":
                say("encoded")
                wait("placed")
            return transaction(*arguments, **keywords)

        module._encoded = other_encoder
        Transactions.transaction = late_transaction  # type: ignore[method-assign]
        Writer._place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    write(folder / "out.h5", 1, 2, source())


def test_a_copy_that_is_killed_before_it_places_its_payloads_harms_nothing(tmp_path: Path) -> None:
    write(tmp_path / "out.h5", 0, 2)
    first = forked(_places_slowly, tmp_path, "first")
    assert in_child(_places_slowly, tmp_path, "second") == -signal.SIGKILL
    (tmp_path / "killed").touch()
    assert exit_code(first) == 0
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["x"][...], DATA)


def test_copies_whose_payloads_are_not_in_place_are_no_part(target: Path) -> None:
    """Both have begun; what the journal names last was never placed."""
    with pytest.raises(SourceError):
        write(target, 0, 2, FromArray(Refusing(), chunk_shape=(10, 8), buffer_shape=(10, 30)))
    folder = f"{target}.writing"

    def lost(*arguments: Any) -> Any:
        with open(f"{folder}/data.h5", "r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(bytes(100))
        return finish_part(*arguments)

    module: Any = tasks
    finish_part = module.finish_part
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "finish_part", lost)
        with pytest.raises(TargetError, match="another copy of the job of part 0/2"):
            write(target, 0, 2)
    assert unfinished(target).missing_parts == (0, 1)
    assert write(target, 0, 2).missing_parts == (1,)
    assert write(target, 1, 2).is_whole
    require_whole(target)


def test_a_job_that_lost_its_lease_and_begins_again_is_alive(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It joins as another process removes the folder, and begins a new one."""
    write(target, 0, 2)
    announce = Keepalive.announce
    seen: list[str] = []

    def removed(self: Keepalive) -> None:
        announce(self)
        if not seen:
            seen.append("removed")
            shutil.rmtree(f"{target}.writing")

    class Looking(FromArray):
        def _get_data(self, selection: Any) -> Any:
            seen.extend(name for name in os.listdir(f"{target}.writing") if name.startswith("lease-"))
            return super()._get_data(selection)

    monkeypatch.setattr(Keepalive, "announce", removed)
    assert write(target, 1, 2, Looking(DATA, chunk_shape=(10, 8), buffer_shape=(20, 30))).missing_parts == (0,)
    assert len(seen) > 1


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("at", range(1, 9))
def test_wherever_the_removal_of_the_folder_is_cut_off_jobs_complete_it(target: Path, is_new: bool, at: int) -> None:
    if not is_new:
        with h5py.File(target, "w") as file:
            file["theirs"] = np.arange(5)
    write(target, 0, 2)
    assert in_child(_killed_at_unlink, target, at) in (-signal.SIGKILL, 0)
    for number in (1, 0):
        assert write(target, number, 2).is_whole
    require_whole(target)


def _killed_at_unlink(target: Path, at: int) -> None:
    count, unlink = itertools.count(1), os.unlink

    def killing(*arguments: Any, **keywords: Any) -> None:
        if next(count) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        unlink(*arguments, **keywords)

    empty = Folder.empty

    def emptied(self: Folder) -> None:
        os.unlink = killing
        empty(self)

    Folder.empty = emptied  # type: ignore[method-assign]
    write(target, 1, 2)


def test_jobs_of_two_writes_of_one_file_wait_for_one_another(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file["theirs"] = np.arange(5)
    waiting = Waiting()

    def other(number: int) -> Any:
        return dcio.to_hdf5(target, "/y", DATA, part=(number, 3), scheduler="synchronous", **GZIP)

    with ThreadPoolExecutor(2) as pool:
        last = pool.submit(write, target, 0, 1, waiting)
        waiting.came.wait(60)
        next_write = pool.submit(other, 0)
        with pytest.raises(TimeoutError):
            next_write.result(0.3)
        waiting.gate.set()
        assert last.result().is_whole
        assert next_write.result().missing_parts == (1, 2)
    for number in (1, 2):
        other(number)
    require_whole(target, "y")


def test_jobs_promise_the_same_durability(target: Path) -> None:
    write(target, 0, 2)
    with pytest.raises(ArgumentError, match="durability='process'"):
        write(target, 1, 2, durability="power")


# Slurm, the command line, the plan


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ("ARRAY_TASK_ID=3 ARRAY_TASK_MIN=0 ARRAY_TASK_MAX=9 ARRAY_TASK_COUNT=10", (3, 10)),
        ("ARRAY_TASK_ID=7 ARRAY_TASK_MIN=1 ARRAY_TASK_MAX=9 ARRAY_TASK_COUNT=5 ARRAY_TASK_STEP=2", (3, 5)),
        ("PROCID=1 NTASKS=4 STEP_ID=0", (1, 4)),
    ],
)
def test_the_environment_of_slurm(
    target: Path, monkeypatch: pytest.MonkeyPatch, variables: str, part: tuple[int, int]
) -> None:
    for name, _, value in (word.partition("=") for word in variables.split()):
        monkeypatch.setenv(f"SLURM_{name}", value)
    done = dcio.to_hdf5(target, "/x", DATA, part="slurm", **GZIP)
    assert done.missing_parts == tuple(number for number in range(part[1]) if number != part[0])


def test_an_uneven_array_of_slurm_is_refused(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ID": 1, "MIN": 1, "MAX": 9, "COUNT": 3}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    with pytest.raises(ArgumentError, match="not evenly spaced"):
        dcio.to_hdf5(target, "/x", DATA, part="slurm", **GZIP)


def test_the_command_line(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", DATA)
    words = ["write", str(tmp_path / "x.npy"), str(tmp_path / "out.h5"), "--chunks", "10,8", "--no-progress"]
    runner = CliRunner()
    refused = runner.invoke(main, [*words, "--part", "2/2"])
    assert refused.exit_code == 2
    assert "numbers 0 to 1" in refused.output
    assert runner.invoke(main, [*words, "--part", "2"]).exit_code == 2
    planned = runner.invoke(main, [*words, "--part", "1/2", "--plan"])
    assert "[60:120, 0:30] of (120, 30)" in planned.output
    done = runner.invoke(main, [*words, "--part", "1/2"])
    assert done.exit_code == 0, done.output
    assert "part 0 is missing" in done.output
    resumed = runner.invoke(main, ["resume", str(tmp_path / "out.h5"), "--no-progress"])
    assert resumed.exit_code == 0, resumed.output
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["x"][...], DATA)


def test_a_plan_is_of_the_part(target: Path) -> None:
    planned = dcio.plan(target, "/x", DATA, part=(0, 4), chunks=(10, 8), scheduler="synchronous")
    assert planned.datasets[0].shape == (30, 30)
    assert "[0:30, 0:30] of (120, 30)" in repr(planned)
    assert planned.write(progress=False).missing_parts == (1, 2, 3)


def test_jobs_of_other_hosts_need_locks_that_reach_them(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(target, 0, 3)
    monkeypatch.setattr(begin_module, "file_system_of", lambda _: FileSystem("nfs4", ("rw", "local_lock=all")))
    assert write(target, 1, 3).missing_parts == (2,)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    with pytest.raises(TargetError, match="do not reach other hosts"):
        write(target, 2, 3)


def test_without_locks_there_are_no_parts(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "HAS_LOCKS", False)
    with pytest.raises(ArgumentError, match="no locks between processes"):
        write(target, 0, 2)


def test_a_manifest_with_impossible_parts_is_damaged(target: Path) -> None:
    write(target, 0, 2)
    path = f"{target}.writing/manifest.json"
    for parts in (-1, 10**12, "2", None):
        found = json.loads(Path(path).read_text())
        Path(path).write_text(json.dumps({**found, "parts": parts}))
        with pytest.raises(dcio.errors.IntegrityError, match="damaged"):
            read_manifest(path)
    assert Manifest("", "new", "").parts == 0
