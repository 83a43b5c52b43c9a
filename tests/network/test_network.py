"""File systems that rename what is removed while it is open, and several hosts on one file system."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import distributed
import h5py
import numpy as np
import pytest
from distributed import Client, Event

import dask_chunkio as dcio
from dask_chunkio import dask_compat
from dask_chunkio.storage.filesystem.side_folder import is_held_open
from dask_chunkio.storage.journal.owner import Owner
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.transaction import Transactions
from tests.support.files import open_files
from tests.support.network.mounts import file_system, mounted
from tests.support.processes import in_child, wait_until
from tests.support.unfinished import unfinished

PROGRAM, MISSING = file_system()
needs_mounts = pytest.mark.skipif(bool(MISSING), reason=MISSING)
DATA = np.arange(40_000, dtype="i4").reshape(4000, 10)


class Half:
    """An array whose reader is killed in its midst."""

    shape, dtype, ndim = DATA.shape, DATA.dtype, DATA.ndim

    def __getitem__(self, selection: Any) -> Any:
        if selection[0].start >= len(DATA) // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return DATA[selection]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    with mounted(PROGRAM, tmp_path, 1) as (mount,):
        yield mount


@pytest.fixture(params=["local", pytest.param("network", marks=needs_mounts)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    found: Path = request.getfixturevalue("mount") if request.param == "network" else tmp_path
    return found


def lazy() -> Any:
    return da.from_array(DATA, chunks=(500, 10)) + 0


def check(path: Path, expected: Any = DATA) -> None:
    with h5py.File(path, locking=False) as file:
        np.testing.assert_array_equal(file["x"][...], expected)
    assert os.listdir(path.parent) == [path.name]


def write(path: Path, source: Any = DATA, **keywords: Any) -> Any:
    chunks: dict[str, Any] = {"chunks": (500, 10), "buffer_shape": (500, 10), "compression": "gzip"}
    return dcio.to_hdf5(path, "/x", source, **chunks, scheduler="synchronous", **keywords)


def cut_off(path: Path) -> None:
    """Leave half of a write."""
    assert in_child(write, path, Half()) == -signal.SIGKILL
    assert unfinished(path).datasets[0].committed == 4


@needs_mounts
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", pytest.param("processes", marks=pytest.mark.heavy)])
def test_a_write_leaves_nothing(mount: Path, scheduler: str) -> None:
    path = mount / "out.h5"
    dcio.to_hdf5(path, "/x", lazy(), compression="gzip", scheduler=scheduler)
    check(path)
    dcio.to_hdf5(path, "/x", DATA[::-1], overwrite=True, scheduler=scheduler)
    check(path, DATA[::-1])
    dcio.to_hdf5(path, "/y", lazy(), maxshape=(None, 10), scheduler=scheduler)
    dcio.to_hdf5(path, "/y", DATA, append=True, scheduler=scheduler)
    dcio.to_hdf5(path, "/x", DATA[:1000], region=np.s_[:1000], scheduler=scheduler)
    check(path, np.concatenate([DATA[:1000], DATA[::-1][1000:]]))
    assert not open_files(mount)


@needs_mounts
def test_a_cluster_leaves_nothing(mount: Path, process_client: Client) -> None:
    path = mount / "out.h5"
    with process_client.as_current():
        dcio.to_hdf5(path, "/x", lazy(), compression="gzip")
    check(path)
    assert not any(process_client.run(open_files, str(mount)).values())


@needs_mounts
def test_a_write_that_was_cut_off_is_resumed(mount: Path) -> None:
    path = mount / "out.h5"
    cut_off(path)
    write(path, resume=True)
    check(path)


@needs_mounts
def test_a_write_that_was_cut_off_is_discarded(mount: Path) -> None:
    path = mount / "out.h5"
    cut_off(path)
    assert dcio.discard(path) == f"{path}.writing"
    assert os.listdir(mount) == []
    assert dcio.status(path) is None


@needs_mounts
def test_a_write_that_was_cut_off_is_moved(mount: Path) -> None:
    path = mount / "out.h5"
    cut_off(path)
    dcio.recover(path, mount / "half.h5")
    check(mount / "half.h5", np.where(np.arange(4000)[:, np.newaxis] < 2000, DATA, 0))


@needs_mounts
def test_what_a_process_keeps_open_does_not_count(mount: Path) -> None:
    path = mount / "out.h5"
    side = mount / "out.h5.writing"
    side.mkdir()
    with (side / "data.h5").open("w"):
        (side / "data.h5").unlink()
        assert list(map(is_held_open, os.listdir(side))) == [True]
        assert dcio.status(path) is None
        with pytest.raises(dcio.errors.TargetError, match="there is no unfinished write"):
            dcio.recover(path)
        dcio.to_hdf5(path, "/x", DATA, scheduler="synchronous")
        assert not side.exists()
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["x"][...], DATA)
    (aside,) = set(os.listdir(mount)) - {"out.h5"}
    assert os.listdir(mount / aside) == []


@pytest.mark.parametrize("names", [[], [".nfs0000000000a1b2c300000001"], [".fuse_hidden0000000200000001"]])
def test_a_folder_without_anything_else_counts_as_removed(target: Path, names: list[str]) -> None:
    side = target.with_name("out.h5.writing")

    def leave() -> None:
        side.mkdir()
        for name in names:
            (side / name).touch()

    leave()
    assert dcio.status(target) is None
    assert dcio.plan(target, "/x", DATA).target_problem == ""
    assert dcio.discard(target) is None
    assert not side.exists()
    leave()
    dcio.to_hdf5(target, "/x", DATA, scheduler="synchronous")
    check(target)
    leave()
    assert dcio.verify(target).ok
    dcio.to_hdf5(target, "/x", DATA, scheduler="synchronous", resume=True)
    side.rmdir() if side.exists() else None


def wait_for(block: Any, name: str, worker_event: str) -> Any:
    Event(worker_event).set()
    Event(name).wait()
    return block


def test_workers_let_go_of_what_is_cancelled_and_discarded(folder: Path, process_client: Client) -> None:
    path = folder / "out.h5"
    names = f"go-{folder}", f"came-{folder}"
    with process_client.as_current():
        blocks = da.concatenate([lazy()[:3500], lazy()[3500:].map_blocks(wait_for, *names, meta=DATA[:0])])
        delayed = dcio.to_hdf5(path, "/x", blocks, chunks=(500, 10), buffer_shape=(500, 10), compute=False)
        future = process_client.compute(delayed)
        Event(names[1]).wait()
        wait_until(lambda: (state := dcio.status(path)) is not None and state.datasets)
        assert any(process_client.run(open_files, str(folder)).values())
        future.cancel()
        del future
        Event(names[0]).set()
    wait_until(lambda: not unfinished(path).running)
    assert dcio.discard(path) is not None
    wait_until(lambda: not any(process_client.run(open_files, str(folder)).values()))
    assert [name for name in os.listdir(folder) if name.startswith("out.h5")] == []


@needs_mounts
def test_a_graph_is_computed_twice(mount: Path) -> None:
    """What a process closes when a write has ended, it opens again."""
    path = mount / "out.h5"
    delayed = dcio.to_hdf5(path, "/x", lazy(), overwrite=True, compute=False)
    for _ in range(2):
        delayed.compute(scheduler="threads")
        check(path)


def test_a_link_to_itself_is_no_folder(target: Path) -> None:
    side = target.with_name("out.h5.writing")
    side.symlink_to(side)
    assert dcio.discard(target) is None
    assert side.is_symlink()


# Several hosts


@pytest.mark.parametrize(
    ("address", "is_so"),
    [
        ("tcp://127.0.0.1:41231", False),
        ("tls://127.0.1.1:41231", False),
        ("tcp://[::1]:41231", False),
        ("inproc://10.0.0.7/3/5", False),
        ("tcp://10.0.0.7:41231", True),
        ("tls://[fd00::7]:41231", True),
    ],
)
def test_a_worker_that_listens_on_its_host_alone_has_no_others(
    monkeypatch: pytest.MonkeyPatch, address: str, is_so: bool
) -> None:
    assert not dask_compat.spans_hosts()
    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(address=address))
    assert dask_compat.spans_hosts() == is_so


@pytest.mark.parametrize("spans_hosts", [False, True])
def test_where_several_hosts_write_each_byte_is_flushed_as_it_is(
    target: Path, spans_hosts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One host alone waits for nothing."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    write = Target(str(target), "an-id", spans_hosts=spans_hosts, mode="new")
    os.mkdir(write.folder)
    Path(write.lock).touch()
    transactions = Transactions(write, exclusive=False)
    assert bool(fcntl.fcntl(transactions.files.file, fcntl.F_GETFL) & os.O_DSYNC) == spans_hosts
    with transactions.transaction(contextlib.nullcontext, anybody=True), transactions.opened("w") as state:
        transactions.commit(state, Owner.here("an-id", 1, exclusive=False).pack())
    transactions.payloads.place([(4096, b"payload")])
    transactions.close()
    files = [os.path.basename(name) for name in synced]
    assert files == (["log", "out.h5.writing", "applying", "data.h5", "journal", "data.h5"] if spans_hosts else [])


@needs_mounts
def test_the_journal_of_another_host_is_seen(tmp_path: Path) -> None:
    """Attributes of files that are open are believed in, as clients of NFS do."""
    with mounted(PROGRAM, tmp_path, 2) as mounts:
        (tmp_path / "stored" / "out.h5.writing").mkdir()
        (tmp_path / "stored" / "out.h5.writing" / "lock").touch()
        hosts = [
            Transactions(Target(str(mount / "out.h5"), "an-id", spans_hosts=True, mode="new"), exclusive=False)
            for mount in mounts
        ]
        for epoch in range(1, 7):
            writer, reader = hosts[epoch % 2], hosts[1 - epoch % 2]
            with writer.transaction(contextlib.nullcontext), writer.opened("w" if epoch == 1 else "r+") as state:
                writer.commit(state, Owner.here("an-id", epoch, exclusive=False).pack())
            reader.refresh()
            owner = reader.journal.owner
            assert owner is not None
            assert owner.epoch == epoch
        for host in hosts:
            host.close()
