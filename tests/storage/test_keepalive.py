"""What keeps a write alive: whoever runs its graph, not an object that outlives that."""

import threading
from pathlib import Path

import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError
from dask_chunkio.storage import session
from dask_chunkio.storage.activity import keepalive
from dask_chunkio.storage.activity.keepalive import Held, Keepalive, let_go, settle
from dask_chunkio.storage.activity.lease import remove_lease
from tests.support.processes import wait_until
from tests.support.storage.writes import Write


def test_an_object_that_outlives_its_graph_keeps_nothing_alive(tmp_path: Path) -> None:
    """The traceback of an error has it; and the graph may be over before the thread has looked once."""
    runs = {"create"}
    with Write(tmp_path / "a.h5") as write:
        target = write.target
        kept = Keepalive(Held(target.folder, target.lock, target.write_id, "create", runs.__contains__))
        try:
            with session.in_use(target, False):
                pass
            runs.clear()
            assert not settle(target.folder)
        finally:
            let_go(target.write_id)
            del kept


def test_a_call_that_is_refused_leaves_no_lease_behind(tmp_path: Path) -> None:
    """A worker of a cluster that ended next would have left it for 30 s."""
    path = tmp_path / "a.h5"
    with Write(path) as write:
        target = write.target
        with pytest.raises(ArgumentError, match="cannot be resumed with these arguments"):
            dcio.to_hdf5(path, "/another", np.arange(3), resume=True, progress=False, scheduler="synchronous")
        assert not list(Path(target.folder).glob("lease-*"))


def test_whoever_looks_waits_for_a_thread_that_lets_go_just_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that is dropped leaves its lease to the thread; the next call begins as that removes it."""
    in_removal, may_remove = threading.Event(), threading.Event()
    kept = Keepalive(Held(str(tmp_path), str(tmp_path / "lock"), "id", "key", lambda _: False))
    kept.announce()
    (lease,) = tmp_path.glob("lease-*")

    def slowly(path: str) -> None:
        in_removal.set()
        assert may_remove.wait(60)
        remove_lease(path)

    monkeypatch.setattr(keepalive, "remove_lease", slowly)
    del kept
    assert in_removal.wait(60)
    seen = []

    def look() -> None:
        settle(str(tmp_path))
        seen.append(lease.exists())

    looking = threading.Thread(target=look)
    looking.start()
    looking.join(0.1)
    assert not seen
    may_remove.set()
    looking.join(60)
    assert seen == [False]


def test_a_copy_that_comes_with_a_task_is_looked_after_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that begins a write looks after it itself; a worker has only the thread, which may be waiting."""
    activities = keepalive._Activities()
    monkeypatch.setattr(keepalive, "_activities", activities)
    monkeypatch.setattr(keepalive, "_TICK", 1000.0)

    def held(write_id: str) -> Held:
        return Held(str(tmp_path), str(tmp_path / "lock"), write_id, "key", lambda _: True)

    mine = Keepalive(held("mine"), has_begun=False)
    wait_until(lambda: bool(activities._came._waiters), "the thread waits")  # type: ignore[attr-defined]
    copy = Keepalive(held("copy"))
    wait_until(lambda: len(list(tmp_path.glob("lease-*"))) == 1, "its lease is there")
    del mine, copy
    for write_id in ("mine", "copy"):
        let_go(write_id)
    with activities._lock:
        activities._came.notify_all()
