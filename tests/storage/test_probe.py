"""What is tried in a folder, and what it is told from."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from dask_chunkio.errors import TargetError
from dask_chunkio.storage.filesystem.kind import FileSystem, file_system_of
from dask_chunkio.storage.inspection import probe
from dask_chunkio.storage.inspection.probe import check_folder
from dask_chunkio.storage.target import Target


def test_everything_holds_here(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    found = check_folder(str(tmp_path))
    assert found.ok, found
    assert [one.about for one in found.probes] == [
        "locks between processes",
        "a lock ends with its process",
        "removal while open",
        "rename over a file",
        "hard links",
        "fsync of a file",
        "fsync of a folder",
        "writes behind the end",
    ]
    assert os.listdir(tmp_path) == ["theirs"]


def test_locks_that_hold_nobody_back_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_TAKE_LOCK", "import sys; print('taken', flush=True); sys.stdin.read()")
    found = check_folder(str(tmp_path))
    failed = [one for one in found.probes if not one.ok]
    assert [one.about for one in failed] == ["locks between processes", "a lock ends with its process"]
    assert {one.found for one in failed} == {"no: processes do not see one another's locks (flock)"}
    assert os.listdir(tmp_path) == []


def test_what_a_file_system_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "fsync", refuse)
    found = check_folder(str(tmp_path))
    assert [one.found for one in found.probes if not one.ok] == ["no: Operation not supported"] * 2
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"cannot make a folder in .*nowhere: No such file"):
        check_folder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", FileSystem("ext4", ("rw",))),
        ("/scratch2", FileSystem("ext4", ("rw",))),
        ("/scratch", FileSystem("lustre", ("rw", "localflock"))),
        ("/scratch/me", FileSystem("lustre", ("rw", "localflock"))),
        ("/home/me/x", FileSystem("nfs4", ("rw", "local_lock=none"))),
    ],
)
def test_the_file_system_of_a_path_is_the_innermost_and_latest(
    path: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [
        SimpleNamespace(mountpoint=place, fstype=kind, opts=options)
        for place, kind, options in [
            ("/", "ext4", "rw"),
            ("/home/me", "autofs", "rw"),
            ("/home/me", "nfs4", "rw,local_lock=none"),
            ("/scratch", "lustre", "rw,localflock"),
        ]
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)  # noqa: A006, ARG005
    monkeypatch.setattr(os.path, "realpath", str)
    assert file_system_of(path) == expected


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "gpfs", "ceph", "cifs", "fuse.sshfs", "beegfs", "", "new"])
def test_what_is_not_known_may_be_shared(kind: str) -> None:
    assert not FileSystem(kind).is_local


@pytest.mark.parametrize("option", ["nolock", "local_lock=flock", "local_lock=all", "localflock"])
def test_locks_that_do_not_reach_other_hosts_are_known(option: str) -> None:
    assert FileSystem("nfs", ("rw", option)).has_local_locks
    assert not FileSystem("nfs", ("rw", "local_lock=none")).has_local_locks


@pytest.mark.parametrize("mounts", [psutil.AccessDenied(), OSError("no /proc"), []])
def test_a_file_system_of_which_the_system_says_nothing_may_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: Any
) -> None:
    """Workers on several hosts then wait for the disk at each commit."""

    def partitions(**_: Any) -> Any:
        if isinstance(mounts, Exception):
            raise mounts
        return mounts

    monkeypatch.setattr(psutil, "disk_partitions", partitions)
    found = file_system_of(str(tmp_path))
    assert (found, found.is_local, found.has_local_locks) == (FileSystem(), False, False)
    assert Target(str(tmp_path / "out.h5"), "id").for_several_hosts().spans_hosts
