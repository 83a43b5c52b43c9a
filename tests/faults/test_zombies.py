"""Workers that are stopped in the midst of a write, presumed dead, and go on later."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster

import dask_chunkio as dcio
from dask_chunkio.errors import TargetBusyError, TargetExistsError, WorkerError
from dask_chunkio.storage import begin, recovery, take_over
from dask_chunkio.storage.filesystem import placement_barrier
from tests.support.faults import zombies
from tests.support.faults.zombies import (
    DATA,
    FREE,
    FREE_BEGINNING,
    FREE_FINISH,
    HELD,
    HELD_BEGINNING,
    HELD_FINISH,
    Numbers,
)
from tests.support.files import digest
from tests.support.processes import Call, kill, outcome, program, resume, stopped, wait_until, waits_for_a_file
from tests.support.unfinished import unfinished

SCRIPT = "tests.support.faults.zombies"
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/locks"),
]
OLD = np.arange(500)
KINDS = ("new", "existing")
LAST = ("removing", "before removing the folder")
PLACING = ("with the scheduler's lock", "before placing", "placing", "after placing")
# Seconds for which a worker and its lock are believed in: a stopped one is presumed dead soon.
SOON = {
    "distributed.scheduler.worker-ttl": "2s",
    "distributed.scheduler.locks.lease-timeout": "1s",
    "distributed.scheduler.locks.lease-validation-interval": "200ms",
}


def write(path: Path, **keywords: Any) -> Any:
    return dcio.to_hdf5(path, "/new/x", keywords.pop("source", None) or Numbers(), compression="gzip", **keywords)


def make_old(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["old"] = OLD


def with_kinds(phases: Iterable[str], both: Container[str] = ()) -> pytest.MarkDecorator:
    """Have each phase with a new or an existing file by turns, and some with both."""
    pairs = [(phase, KINDS[number % 2]) for number, phase in enumerate(phases)]
    pairs += [(phase, KINDS[(number + 1) % 2]) for number, phase in enumerate(phases) if phase in both]
    return pytest.mark.parametrize(("phase", "place"), pairs, indirect=["place"])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is alive is not waited for in this process."""
    for module in (begin, recovery):
        monkeypatch.setattr(module, "take_over", partial(take_over.take_over, patience=0.1))


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_place(request.param, tmp_path)


def make_place(kind: str, tmp_path: Path) -> Path:
    """Where to write, and beside it what the file is to look like in the end."""
    for name in ("out.h5", "undisturbed.h5"):
        if kind == "existing":
            make_old(tmp_path / name)
    write(tmp_path / "undisturbed.h5", scheduler="synchronous")
    return tmp_path / "out.h5"


def check(path: Path) -> None:
    """The data are there, each chunk once, and as much space is used as by a write that nobody disturbed."""
    with h5py.File(path) as file, h5py.File(path.with_name("undisturbed.h5")) as other:
        np.testing.assert_array_equal(file["new/x"][...], DATA, strict=True)
        assert set(file) == set(other)
        if "old" in file:
            np.testing.assert_array_equal(file["old"][...], OLD)
        assert file["new/x"].id.get_num_chunks() == other["new/x"].id.get_num_chunks()
        assert file["new/x"].id.get_storage_size() == other["new/x"].id.get_storage_size()
    assert path.stat().st_size == path.with_name("undisturbed.h5").stat().st_size
    assert not os.path.lexists(f"{path}.writing")


# A cluster


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Client]:
    with (
        dask.config.set(SOON),
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def workers(scheduler: Client, tmp_path: Path) -> Any:
    """Start two workers that stop in a phase, and have their marker."""

    @contextlib.contextmanager
    def start(phase: str) -> Iterator[tuple[Path, set[int]]]:
        marker = tmp_path / "marker"
        assert scheduler.scheduler is not None
        address = scheduler.scheduler.address
        words: list[Any] = ["-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
        words += ["--no-dashboard", "--local-directory", tmp_path, "--preload", SCRIPT]
        environment = {"ZOMBIE_PHASE": phase, "ZOMBIE_MARKER": str(marker)}
        environment |= {f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": SOON[key] for key in SOON}
        with program(*words, **environment) as first, program(*words, **environment) as second:
            scheduler.wait_for_workers(2)
            yield marker, {first.pid, second.pid}
        wait_until(lambda: not scheduler.scheduler_info()["workers"], "the workers are gone")

    return start


@with_kinds(["reading", "encoding", *FREE_FINISH], both=FREE_FINISH)
def test_others_go_on_for_a_stopped_worker_and_it_comes_too_late(
    place: Path, scheduler: Client, workers: Any, phase: str
) -> None:
    if place.exists() and "name" in phase:
        pytest.skip("the file has its name")
    with workers(phase) as (marker, _):
        call = Call(write, place, scheduler=scheduler)
        zombie = stopped(marker)
        # Where next to nothing is left of the folder, nothing tells that the file is this write's.
        with contextlib.suppress(TargetExistsError) if phase in LAST else contextlib.nullcontext():
            call.result()
        check(place)
        before = digest(place)
        resume(zombie)
        # It fails, or finds in the journal that it has open that the write is finished, and has nothing to do.
        outcome(marker)
    assert digest(place) == before, "something was committed after the end"
    check(place)


@pytest.mark.parametrize("ending", [resume, kill])
@pytest.mark.parametrize("phase", [*HELD, *HELD_FINISH])
@pytest.mark.usefixtures("impatient")
def test_others_wait_for_a_worker_that_is_stopped_in_its_transaction(
    tmp_path: Path, scheduler: Client, workers: Any, phase: str, ending: Any
) -> None:
    place = make_place("new" if ending is resume else "existing", tmp_path)
    with workers(phase) as (marker, pids):
        call = Call(write, place, scheduler=scheduler)
        zombie = stopped(marker)
        (other,) = pids - {zombie}
        # For the lock on the log in its transaction; or, at the end, for the one that whoever places data shares.
        is_waiting = partial(waits_for_a_file, other, f"{place}.writing/log")
        wait_until(lambda: is_waiting() or os.path.exists(f"{marker}.waiting"), "the other waits")
        with pytest.raises(TargetBusyError, match="being written"):
            write(place, resume=True)
        with pytest.raises(TargetBusyError, match="being written"):
            dcio.discard(place)
        ending(zombie)
        call.result()
        check(place)


@pytest.mark.parametrize("ending", [resume, kill])
@pytest.mark.parametrize("phase", PLACING)
def test_others_do_all_and_wait_at_the_end_for_a_worker_that_is_stopped_as_it_places(
    tmp_path: Path, scheduler: Client, workers: Any, phase: str, ending: Any
) -> None:
    place = make_place("new" if ending is resume else "existing", tmp_path)
    with workers(phase) as (marker, _):
        call = Call(write, place, scheduler=scheduler)
        zombie = stopped(marker)
        wait_until(lambda: unfinished(place).datasets[0].committed == 16, "the other has done all")
        ending(zombie)
        call.result()
        check(place)


# Processes of one pool


def pool(count: int, phase: str, marker: Path) -> dict[str, Any]:
    """One of them stops; none is given more than one task at a time."""
    return {"num_workers": count, "initializer": partial(zombies.stop_at, phase, marker), "chunksize": 1}


@with_kinds(["placing", "reading", "between tasks"])
@pytest.mark.usefixtures("impatient")
def test_a_pool_waits_for_its_stopped_process_and_nobody_else_may_go_on(
    place: Path, tmp_path: Path, phase: str
) -> None:
    marker = tmp_path / "marker"
    call = Call(write, place, scheduler="processes", compute_kwargs=pool(2, phase, marker))
    zombie = stopped(marker)
    wait_until(lambda: unfinished(place).datasets[0].committed >= 14, "the other has done the rest")
    with pytest.raises(TargetBusyError, match="is being written by another call, started "):
        write(place, resume=True)
    with pytest.raises(TargetBusyError, match="being written"):
        dcio.discard(place)
    assert unfinished(place).running
    resume(zombie)
    call.result()
    check(place)


@with_kinds([*FREE, *HELD], both=HELD)
def test_a_stopped_process_of_a_pool_that_is_killed_is_resumed(place: Path, tmp_path: Path, phase: str) -> None:
    marker = tmp_path / "marker"
    call = Call(write, place, scheduler="processes", compute_kwargs=pool(2, phase, marker))
    kill(stopped(marker))
    with pytest.raises(WorkerError, match="ended before the write"):
        call.result()
    write(place, resume=True)
    check(place)


class Waiting(Numbers):
    """Waits for a file before its last buffer."""

    def __init__(self, gate: Path) -> None:
        self.gate = str(gate)
        super().__init__()

    def _get_data(self, selection: Any) -> Any:
        if selection[0].start >= 35:
            Path(f"{self.gate}.waiting").touch()
            wait_until(lambda: os.path.exists(self.gate), "the gate is open")
        return super()._get_data(selection)


# What a stopped process does to those who come after it


class Failing(Numbers):
    """Other data, that are cut off before the last buffer while the gate is closed."""

    def __init__(self, gate: Path) -> None:
        self.gate = str(gate)
        super().__init__()

    def _get_data(self, selection: Any) -> Any:
        if selection[0].start >= 35 and not os.path.exists(self.gate):
            raise OSError("not yet")
        return super()._get_data(selection) + 100


def begin_another(place: Path, gate: Path, **keywords: Any) -> dict[str, bytes]:
    """Have another write of the same file cut off."""
    with pytest.raises(dcio.errors.SourceError, match="not yet"):
        write(place, source=Failing(gate), scheduler="synchronous", **keywords)
    return side_files(place)


def end_another(place: Path, gate: Path, **keywords: Any) -> None:
    gate.touch()
    write(place, source=Failing(gate), scheduler="synchronous", resume=True, **keywords)
    with h5py.File(place) as file:
        np.testing.assert_array_equal(file["new/x"][...], DATA + 100, strict=True)
    assert not os.path.lexists(f"{place}.writing")


def side_files(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(f"{place}.writing").iterdir()}


def ends(zombie: int, process: subprocess.Popen[str]) -> str:
    resume(zombie)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return stdout.strip()


@with_kinds(PLACING)
def test_no_write_ends_while_a_stopped_process_is_placing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Its payloads would land in the file when the write is long over, on what may be others' data by then."""
    marker, write_id = tmp_path / "marker", tmp_path.name
    monkeypatch.setattr(placement_barrier, "_PATIENCE", 0)
    with program("-m", SCRIPT, "as_worker", place, phase, marker, write_id) as process:
        zombie = stopped(marker)
        with pytest.raises(TargetBusyError, match=r"cannot end: a process has been placing .*kill it, and go on"):
            zombies.as_worker(place, write_id)
        assert unfinished(place).datasets[0].committed == 16
        assert ends(zombie, process) == "done"
    check(place)


@pytest.mark.parametrize("phase", FREE_FINISH)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_finish_touches_nothing_of_a_write_that_began_since(tmp_path: Path, phase: str, kind: str) -> None:
    """The other finished, somebody moved its file away or goes on with it, and begins another write there."""
    place, marker, gate, write_id = make_place(kind, tmp_path), tmp_path / "marker", tmp_path / "gate", tmp_path.name
    if kind == "existing" and "name" in phase:
        pytest.skip("the file has its name")
    with program("-m", SCRIPT, "as_worker", place, phase, marker, write_id) as process:
        zombie = stopped(marker)
        # (Without a folder there is nothing to tell that this file is its own.)
        with pytest.raises(TargetExistsError) if "the folder" in phase else contextlib.nullcontext():
            zombies.as_worker(place, write_id)
        check(place)
        keywords: dict[str, Any] = {}
        if kind == "new":
            place.rename(tmp_path / "moved.h5")
        else:
            keywords["overwrite"] = True
        before = begin_another(place, gate, **keywords)
        words = ends(zombie, process)
        assert side_files(place) == before, words
        assert place.exists() == (kind == "existing"), "half a file has the final name"
        end_another(place, gate, **keywords)
    assert words == "done" or words.startswith(("TargetError: ", "TargetExistsError: ")), words


@pytest.mark.parametrize("phase", FREE_FINISH)
def test_a_stopped_replacement_replaces_nothing_that_came_since(tmp_path: Path, phase: str) -> None:
    """With overwrite=True and nothing else in the file, a new file takes its place: not half of a later one."""
    place, marker, gate, write_id = make_place("new", tmp_path), tmp_path / "marker", tmp_path / "gate", tmp_path.name
    write(place, source=Numbers())
    with program("-m", SCRIPT, "as_worker", place, phase, marker, write_id, "overwrite") as process:
        zombie = stopped(marker)
        zombies.as_worker(place, write_id, overwrite=True)
        check(place)
        before, whole = begin_another(place, gate, overwrite=True), digest(place)
        words = ends(zombie, process)
        assert side_files(place) == before, words
        assert digest(place) == whole, "half a file has the final name"
        end_another(place, gate, overwrite=True)


def test_a_stopped_discard_removes_nothing_of_a_write_that_began_since(place: Path, tmp_path: Path) -> None:
    marker, gate = tmp_path / "marker", tmp_path / "gate"
    begin_another(place, gate)
    with program("-m", SCRIPT, "discard", place, "discarding", marker) as process:
        zombie = stopped(marker)
        # The lock that it holds is gone; whoever comes next removes the rest.
        dcio.discard(place)
        before = begin_another(place, gate)
        words = ends(zombie, process)
        assert side_files(place) == before, words
        end_another(place, gate)


@contextlib.contextmanager
def without_its_lock(place: Path, marker: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A call that is stopped between two tasks, and believed in for a second: nobody sees its lock."""
    words = "as_worker", place, "without its lock", marker, "first"
    with program("-m", SCRIPT, *words, DASK_CHUNKIO__LEASE_DURATION="1s") as process:
        yield stopped(marker), process


def test_a_call_that_was_stopped_and_replaced_gives_up(place: Path, tmp_path: Path) -> None:
    """The commit of the first call is refused while the second one is at work."""
    marker, gate = tmp_path / "marker", tmp_path / "gate"
    with without_its_lock(place, marker) as (zombie, process):
        second = Call(write, place, resume=True, source=Waiting(gate))
        # (Each look of `status` has the activity lock for an instant, and could keep the second from it.)
        wait_until(lambda: os.path.exists(f"{gate}.waiting"), "the second has taken over")
        words = ends(zombie, process)
    assert re.match(r"UnfinishedWriteError: .* was taken over by another, started .*gives up", words)
    gate.touch()
    second.result()
    check(place)


def test_a_call_that_was_stopped_and_outlived_gives_up(place: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with without_its_lock(place, marker) as (zombie, process):
        write(place, resume=True)
        before = digest(place)
        words = ends(zombie, process)
    assert re.match("TargetError: .*finished (or discarded )?meanwhile", words)
    assert digest(place) == before
    check(place)


def test_a_call_that_was_stopped_and_outlived_touches_nothing_of_a_write_that_began_since(
    place: Path, tmp_path: Path
) -> None:
    marker, gate = tmp_path / "marker", tmp_path / "gate"
    with without_its_lock(place, marker) as (zombie, process):
        write(place, resume=True)
        before, whole = begin_another(place, gate, overwrite=True), digest(place)
        words = ends(zombie, process)
    assert words.startswith(("UnfinishedWriteError: ", "TargetError: ")), words
    assert side_files(place) == before, words
    assert digest(place) == whole
    end_another(place, gate, overwrite=True)


@pytest.mark.parametrize("phase", FREE_BEGINNING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_beginning_removes_nothing_of_a_write_that_began_since(tmp_path: Path, phase: str, kind: str) -> None:
    """It had made the folder, and not yet its activity lock; another call took the folder for its own."""
    place, marker, gate = make_place(kind, tmp_path), tmp_path / "marker", tmp_path / "gate"
    with program("-m", SCRIPT, "to_hdf5", place, phase, marker) as process:
        zombie = stopped(marker)
        before = begin_another(place, gate, resume=True)
        words = ends(zombie, process)
        assert words.startswith(("UnfinishedWriteError: ", "TargetBusyError: ", "TargetError: ")), words
        assert side_files(place) == before, words
        end_another(place, gate)


@pytest.mark.parametrize("phase", HELD_BEGINNING)
@pytest.mark.parametrize("ending", [resume, kill])
@pytest.mark.usefixtures("impatient")
def test_others_wait_for_a_beginning_that_is_stopped(tmp_path: Path, phase: str, ending: Any) -> None:
    """It has its activity lock: others are refused until it goes on, or is killed."""
    place, marker = make_place("new" if ending is resume else "existing", tmp_path), tmp_path / "marker"
    with program("-m", SCRIPT, "to_hdf5", place, phase, marker) as process:
        zombie, before = stopped(marker), side_files(place)
        for attempt in (partial(write, place), partial(write, place, resume=True), partial(dcio.discard, place)):
            with pytest.raises(TargetBusyError, match="being written"):
                attempt()
            assert side_files(place) == before
        if ending is resume:
            assert ends(zombie, process) == "done"
        else:
            kill(zombie)
            process.wait()
            write(place, resume=True)
    check(place)
