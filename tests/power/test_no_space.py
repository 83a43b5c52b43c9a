"""Writing is refused: no space, no quota, a broken disk, no permission, no locks; each call in turn."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio
from dask_chunkio.errors import SourceError, TargetError
from dask_chunkio.storage import session
from tests.support.files import content, still_open
from tests.support.power.failing_disk import FailingDisk
from tests.support.power.power_writes import (
    FILE,
    SEED,
    TIMES,
    Case,
    acknowledging,
    check,
    check_here,
    folder,
    is_begun,
    some_of,
    without_pauses,
)
from tests.support.power.simulated_disk import Disk

FULL = (errno.ENOSPC, errno.EDQUOT)


def noise(seed: int, rows: int, columns: int = 64) -> Any:
    return np.random.default_rng(seed).integers(0, 1 << 30, (rows, columns)).astype("i4")


def others(path: Any) -> None:
    """Other people's file, with space in it that is free, and a dataset that is to be replaced."""
    with h5py.File(path, "w") as file:
        file.attrs["by"] = "others"
        file["gone"] = noise(1, 12)
        file.create_dataset("g/packed", data=noise(3, 8), chunks=(4, 64), compression="gzip")
        file["x"] = noise(4, 3)
        del file["gone"]


def only_ours(path: Any) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = noise(5, 5)


X, NEW = noise(6, 12), noise(7, 6)
STARTS = {
    "new": Case({"/x": X}),
    "replaced": Case({"/x": X}, only_ours, keywords={"overwrite": True}),
    "existing": Case({"/x": X, "/g/new": NEW}, others, keywords={"overwrite": True}),
}
WAYS: dict[str, dict[str, Any]] = {
    "synchronous": {"buffer": 2},
    "threads": {"scheduler": "threads", "durability": "process"},
    "shared": {"exclusive": False},
}
CASES = {f"{name}, {how}": replace(case, **keywords) for name, case in STARTS.items() for how, keywords in WAYS.items()}
CASES["existing, read one at a time"] = replace(
    CASES["existing, synchronous"], keywords={"overwrite": True, "read": "serial"}
)

FEWER = [name for name in CASES if "replaced" not in name]


def write(case: Case, root: Any, **keywords: Any) -> Any:
    """Write in the case's way: many processes are what `compute=False` has to reckon with."""
    if case.exclusive:
        return case.write(root, scheduler=case.scheduler, **keywords)
    try:
        return replace(case, exclusive=True).write(root, compute=False, **keywords).compute(scheduler=case.scheduler)
    finally:
        # The process that ran the tasks ends.
        for write_id in list(session._writers):
            session.release(write_id)


def require_one_clear_error(error: Any, path: Any, number: int) -> None:
    assert isinstance(error, TargetError), f"{type(error).__name__}: {error}"
    assert path in str(error)
    assert os.strerror(number) in str(error), error
    if number in FULL:
        assert "make space, and go on with resume=True" in str(error), error
    assert "discarded meanwhile" not in str(error), error


def state_of(path: Any) -> None:
    """Look at what is left, which must work while the disk is full."""
    state = dask_chunkio.status(path)
    assert (state is not None) == is_begun(path)


def fails_once(case: Case, old: Any, refusal: Any, how: Any) -> bool:
    """Let a write fail, and see what is left; return whether it failed."""
    at, number, lasts = refusal
    with folder() as root, without_pauses():
        case.begin(root)
        path = os.path.join(root, FILE)
        disk = FailingDisk(root, at, number, lasts)
        raised: Exception | None = None
        with disk.failing():
            try:
                with acknowledging(disk):
                    write(case, root)
            except Exception as error:
                raised = error
            else:
                # (Where a name cannot be linked it is moved; and a lease is written again later.)
                assert all(name == "link" or "/lease-" in path for name, path in disk.failed), (
                    f"{disk.failed} failed and nobody was told"
                )
            if raised is not None:
                require_one_clear_error(raised, path, number)
                state_of(path)
        assert not still_open(root)
        left = Disk.at(root)
        # What has not begun leaves nothing.
        if not os.path.isdir(path + ".writing"):
            assert content(path) == old or raised is None
        check(case, old, left, disk.acks, how)
        check_here(case, old, root, disk.acks, "resume")
    return raised is not None


def calls_of(case: Case) -> Any:
    with folder() as root:
        case.begin(root)
        disk = FailingDisk(root)
        with disk.failing():
            write(case, root)
    return disk.calls


def every_call_may_fail(name: str, numbers: Any, *, limit: Any, seed: int = 3) -> None:
    case, random = CASES[name], Random(seed)
    old, calls = case.old(), calls_of(case)
    assert {"mkdir", "open", "pwrite", "fsync", "ftruncate"} <= {call for call, _ in calls}
    tries = [(at, number, lasts) for at in range(len(calls)) for number in numbers for lasts in (False, True)]
    tries = some_of(tries, limit, random)
    words, failed = [], 0
    for at, number, lasts in tries:
        how = ("recover", "discard")[(at + lasts) % 2]
        try:
            failed += fails_once(case, old, (at, number, lasts), how)
        except Exception as error:
            rest = " and all later ones" if lasts else ""
            shown = f"{type(error).__name__}: {error}"
            words.append(f"call {at} {calls[at]}{rest}: {errno.errorcode[number]}; then {how}: {shown[:600]}")
    assert not words, f"{len(words)} of {len(tries)}\n" + "\n".join(words)
    assert failed


@pytest.mark.parametrize("name", ["new, synchronous", "existing, shared"])
def test_a_full_disk_harms_nothing_at_any_call(name: str) -> None:
    every_call_may_fail(name, (errno.ENOSPC,), limit=8)


@pytest.mark.parametrize("name", FEWER)
def test_a_lock_that_cannot_be_made_leaves_no_folder(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.begin(tmp_path)
    before = Disk.at(tmp_path)
    disk = FailingDisk(tmp_path, 1, errno.ENOSPC)
    with disk.failing(), without_pauses(), pytest.raises(TargetError, match="No space left"):
        write(case, tmp_path)
    assert disk.failed == [("open", "out.h5.writing/lock")]
    assert Disk.at(tmp_path).key == before.key


@pytest.mark.parametrize("how", ["resume", "recover", "discard"])
@pytest.mark.parametrize("name", STARTS)
def test_a_folder_that_is_empty_is_no_write(name: str, how: str) -> None:
    case = STARTS[name]
    with folder() as root, without_pauses():
        case.begin(root)
        os.mkdir(os.path.join(root, FILE + ".writing"))
        state_of(os.path.join(root, FILE))
        check_here(case, case.old(), root, [], how)


@pytest.mark.parametrize("how", ["recover", "discard"])
@pytest.mark.parametrize("name", ["existing, synchronous", pytest.param("existing, shared", marks=pytest.mark.heavy)])
def test_a_first_transaction_that_cannot_be_applied_is_not_left_half_done(name: str, how: str) -> None:
    case = CASES[name]
    old, calls = case.old(), calls_of(case)
    first = calls.index(("pwrite", FILE))
    journal = calls.index(("pwrite", "out.h5.writing/journal"))
    assert first < journal
    for at in range(first, journal + 1):
        assert fails_once(case, old, (at, errno.ENOSPC, True), how)


@pytest.mark.parametrize("name", ["existing, synchronous"])
def test_a_broken_disk_and_a_used_up_quota_harm_nothing_at_any_call(name: str) -> None:
    every_call_may_fail(name, (errno.EDQUOT, errno.EIO), limit=8)


@pytest.mark.heavy
@pytest.mark.parametrize("name", CASES)
def test_a_full_disk_harms_nothing_at_any_call_searched_longer(name: str) -> None:
    every_call_may_fail(name, (errno.ENOSPC,), limit=25 * TIMES, seed=SEED)


@pytest.mark.heavy
@pytest.mark.parametrize("name", CASES)
def test_a_broken_disk_and_a_used_up_quota_harm_nothing_at_any_call_searched_longer(name: str) -> None:
    every_call_may_fail(name, (errno.EDQUOT, errno.EIO), limit=15 * TIMES, seed=SEED)


class Refusing:
    """A source whose own disk is full."""

    shape, dtype = X.shape, X.dtype

    def __getitem__(self, selection: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "elsewhere")


def test_a_source_that_finds_no_space_is_an_error_of_the_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        STARTS["new"].write(tmp_path, {"/x": Refusing()})
    assert "make space" not in str(caught.value)


# A file system that really is small


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Any]:
    """Return a function that mounts a file system with these options, and again with others."""
    root = tmp_path / "small"
    root.mkdir()

    def mount(options: Any) -> str:
        is_again = os.path.ismount(root)
        command = ["mount", "-t", "tmpfs", "-o", f"{'remount,' * is_again}{options}", "tmpfs", str(root)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=is_again).returncode:
            pytest.skip("this process may not mount a file system")
        return str(root)

    yield mount
    if os.path.ismount(root):
        subprocess.run(["umount", "-l", str(root)], check=True)


def no_space_on(mount: Any, case: Case, small: Any, large: Any) -> bool:
    """Write to a small file system, and make it large."""
    with without_pauses():
        root = mount(large)
        for name in os.listdir(root):
            os.unlink(os.path.join(root, name))
        case.begin(root)
        used = sum(os.stat(os.path.join(root, name)).st_blocks // 8 for name in os.listdir(root))
        path, old = os.path.join(root, FILE), case.old()
        mount(small(used, len(os.listdir(root)) + 1))
        try:
            write(case, root)
        except Exception as error:
            require_one_clear_error(error, path, errno.ENOSPC)
            state_of(path)
            mount(large)
            check(case, old, Disk.at(root), [], "discard")
            check_here(case, old, root, [], "resume")
            return True
        return False


@pytest.mark.parametrize("name", [FEWER[0], *(pytest.param(name, marks=pytest.mark.heavy) for name in FEWER[1:])])
def test_a_write_goes_on_when_a_small_file_system_has_grown(name: str, small_disk: Any) -> None:
    case = replace(CASES[name], data={"/x": noise(6, 120), "/g/new": NEW})
    were_refused = [
        no_space_on(small_disk, case, lambda used, _, pages=pages: f"size={(used + pages) * 4096}", "size=16m")
        for pages in (1, 2, 4, 7, 10, 1000)
    ]
    assert were_refused == [True] * 5 + [False], were_refused


@pytest.mark.parametrize("name", ["new, threads", "existing, synchronous"])
def test_a_write_goes_on_when_a_file_system_may_hold_more_files(name: str, small_disk: Any) -> None:
    were_refused = [
        no_space_on(
            small_disk, CASES[name], lambda _, used, files=files: f"nr_inodes={used + files}", "size=16m,nr_inodes=1k"
        )
        for files in range(1, 9)
    ]
    assert were_refused[:3] == [True] * 3
    assert not were_refused[-1]


@pytest.mark.parametrize("name", ["new", "replaced", "existing"])
def test_a_file_system_that_is_read_only_is_one_clear_error(name: str, small_disk: Any) -> None:
    case, root = STARTS[name], small_disk("size=1m")
    case.begin(root)
    small_disk("ro")
    refused(case, root, "Permission denied" if name != "new" else os.strerror(errno.EROFS))


# What stands in the way


def refused(case: Case, root: Any, *words: Any, **keywords: Any) -> str:
    """See that a write raises one clear error, and leaves nothing."""
    root = str(root)
    before = Disk.at(root)
    path = os.path.join(root, FILE)
    with without_pauses(), pytest.raises(TargetError) as caught:
        write(case, root, **keywords)
    assert Disk.at(root).key == before.key
    assert path in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert "discarded meanwhile" not in str(caught.value)
    assert not still_open(root)
    return str(caught.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("name", ["new, threads", "existing, synchronous", "existing, shared"])
def test_a_folder_that_may_not_be_written_to_is_one_clear_error(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    case.begin(tmp_path)

    def mkdir(path: Any, *_: Any) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    refused(case, tmp_path, os.strerror(number))


@pytest.mark.parametrize("name", ["new", "existing"])
def test_permissions_that_forbid_writing_are_one_clear_error(name: str, bound_folder: Path) -> None:
    case = STARTS[name]
    case.begin(bound_folder)
    where = bound_folder if name == "new" else bound_folder / FILE
    mode = where.stat().st_mode
    where.chmod(mode & ~0o222)
    try:
        refused(case, bound_folder, "Permission denied")
    finally:
        where.chmod(mode)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("name", ["existing, synchronous", "existing, shared"])
def test_a_file_that_may_not_be_written_to_is_one_clear_error(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, real = CASES[name], os.open
    case.begin(tmp_path)

    def only_to_read(path: Any, flags: Any, *args: Any, **keywords: Any) -> Any:
        if os.fspath(path) == str(tmp_path / FILE) and flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(number, os.strerror(number), path)
        return real(path, flags, *args, **keywords)

    monkeypatch.setattr(os, "open", only_to_read)
    refused(case, tmp_path, os.strerror(number))


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    root = tmp_path / "gone"
    with pytest.raises(TargetError, match=r"there is no folder .*gone; create it first"):
        STARTS["new"].write(root)
    assert not list(tmp_path.iterdir())


def directory(path: Any) -> None:
    path.mkdir()


def directory_with_files(path: Any) -> None:
    path.mkdir()
    (path / "theirs").write_text("theirs")


def empty(path: Any) -> None:
    path.touch()


def text(path: Any) -> None:
    path.write_text("theirs " * 1000)


def cut_off(path: Any) -> None:
    others(path)
    os.truncate(path, 100)


@pytest.mark.parametrize("make", [directory, directory_with_files, empty, text, cut_off])
@pytest.mark.parametrize("keywords", [{}, {"overwrite": True}, {"resume": True}, {"wait": True}])
@pytest.mark.parametrize("name", ["new, synchronous", "new, shared"])
def test_what_is_no_hdf5_file_is_one_clear_error(
    name: str, make: Any, keywords: dict[str, Any], tmp_path: Path
) -> None:
    make(tmp_path / FILE)
    refused(CASES[name], tmp_path, **keywords)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("name", FEWER)
def test_a_file_system_without_locks_is_one_clear_error(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    case.begin(tmp_path)

    def no_lock(_descriptor: Any, _operation: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_lock)
    refused(case, tmp_path, "has no file locks", "write to another file system")
