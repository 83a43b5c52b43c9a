"""A log that is damaged while its transaction is half applied: it is the only copy of what the file needs."""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.journal.redo_record import RedoRecord
from dask_chunkio.storage.redo_log import RedoLog

KILLED = 9
OLD = np.arange(240, dtype="i4").reshape(12, 20)
NEW = OLD[::-1] * 7
PATH = "out.h5"
CASES: dict[str, dict[str, Any]] = {
    "new": {},
    "added": {},
    "region": {"region": np.s_[:]},
    "append": {"append": True, "token": "once"},
}


def make_old(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=OLD, chunks=(3, 20), maxshape=(None, 20), compression="gzip")
        file["theirs"] = OLD


def write(folder: Path, case: str, **keywords: Any) -> Any:
    name = "/x" if case in ("region", "append") else "/new"
    encoding: dict[str, Any] = {} if name == "/x" else {"chunks": (3, 20), "compression": "gzip"}
    together: dict[str, Any] = {"buffer_shape": (3, 20), "scheduler": "synchronous", "progress": False, "resume": True}
    return dcio.to_hdf5(folder / PATH, name, NEW, **encoding, **together, **CASES[case], **keywords)


def killed_while_applying(folder: Path, case: str, writes: int, **keywords: Any) -> bool:
    """Have a process die in its third transaction, halfway through a write after the mark; say whether it did."""
    child = os.fork()
    if child == 0:
        try:
            _die_while_applying(writes)
            write(folder, case, **keywords)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


def _die_while_applying(writes: int) -> None:
    real, calls, pwrite = RedoLog._apply, iter(range(10**6)), os.pwrite

    def apply(self: RedoLog, redo: RedoRecord, durable: bool) -> None:
        if next(calls) == 2:
            counts = iter(range(10**6))

            def dying(descriptor: int, data: Any, offset: int) -> int:
                if next(counts) == writes:
                    pwrite(descriptor, bytes(data)[: len(data) // 2], offset)
                    os._exit(KILLED)
                return pwrite(descriptor, data, offset)

            os.pwrite = dying
        real(self, redo, durable)
        os.pwrite = pwrite

    mock.patch.object(RedoLog, "_apply", apply).start()


def _counts(path: Path) -> bool:
    # A lease is removed as soon as whoever has it is known to be dead.
    return path.is_file() and not path.name.startswith("lease-")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if _counts(path)}


def check(folder: Path, case: str) -> None:
    with h5py.File(folder / PATH) as file:
        if case != "new":
            np.testing.assert_array_equal(file["theirs"][...], OLD)
        found = file["x" if case in ("region", "append") else "new"][...]
    np.testing.assert_array_equal(found, np.concatenate([OLD, NEW]) if case == "append" else NEW)


def half_applied(base: Any, case: str, **keywords: Any) -> Iterator[Any]:
    """Yield a folder for each write of the third transaction in which its process was killed."""
    for writes in range(1, 100):
        folder = base / f"killed-{writes}"
        folder.mkdir()
        if case != "new":
            make_old(folder / PATH)
        if not killed_while_applying(folder, case, writes, **keywords):
            assert writes > 2
            return
        yield folder


def refused_untouched(folder: Path, case: str, **keywords: Any) -> None:
    before = snapshot(folder)
    with pytest.raises(IntegrityError, match=r"log is damaged: .*Nothing was changed, and the log is kept"):
        write(folder, case, **keywords)
    after = snapshot(folder)
    assert {name: after[name] for name in before} == before


def damages(record: Any, most: Any) -> Iterator[Any]:
    """One byte changed, at each position or some; or cut off, emptied of content, or longer."""
    header = range(0, 24, 3 if most == 0 else 1)
    some = [*header, *random.Random(1).sample(range(24, len(record)), most or 4)]
    positions = range(len(record)) if most is None else some
    for position in positions:
        damaged = bytearray(record)
        damaged[position] ^= 1 << position % 8
        yield bytes(damaged)
    yield from (record[:10], record[:-1], record[: len(record) // 2], bytes(len(record)))


def every_damage_is_refused(base: Any, case: str, durability: Any, most: Any, states: Any = None) -> None:
    checked = 0
    for number, folder in enumerate(half_applied(base, case, durability=durability)):
        log = folder / f"{PATH}.writing" / "log"
        record = log.read_bytes()
        if states is None or number in states:
            for damaged in damages(record, most):
                log.write_bytes(damaged)
                refused_untouched(folder, case, durability=durability)
                checked += 1
        log.write_bytes(record)
        write(folder, case, durability=durability)
        check(folder, case)
        shutil.rmtree(folder)
        if states is not None and number >= max(states):
            break
    assert checked


@pytest.mark.parametrize("durability", [pytest.param("process", marks=pytest.mark.heavy), "power"])
@pytest.mark.parametrize("case", CASES)
def test_a_damaged_log_of_a_transaction_that_is_half_applied_is_kept_and_refused(
    tmp_path: Path, case: str, durability: str
) -> None:
    every_damage_is_refused(tmp_path, case, durability, most=0, states=(1,))


@pytest.mark.heavy
@pytest.mark.parametrize("case", CASES)
def test_a_log_with_any_byte_changed_is_kept_and_refused(tmp_path: Path, case: str) -> None:
    most = None if os.environ.get("DASK_CHUNKIO_EVERY_BYTE") else 20
    every_damage_is_refused(tmp_path, case, "process", most)


@pytest.mark.parametrize("case", ["added", "region", "append"])
def test_an_empty_log_of_a_transaction_that_is_half_applied_is_refused(tmp_path: Path, case: str) -> None:
    folder = next(half_applied(tmp_path, case))
    (folder / f"{PATH}.writing" / "log").write_bytes(b"")
    refused_untouched(folder, case)


# A transaction of which nothing was applied


def cut_off_before_applying(folder: Path, case: str, durability: str) -> Path:
    make_old(folder / PATH)
    real, calls = RedoLog._apply, iter(range(100))

    def apply(self: RedoLog, redo: RedoRecord, durable: bool) -> None:
        if next(calls) == 2:
            raise RuntimeError("cut")
        real(self, redo, durable)

    with mock.patch.object(RedoLog, "_apply", apply), pytest.raises(RuntimeError, match="cut"):
        write(folder, case, durability=durability)
    return folder / f"{PATH}.writing" / "log"


@pytest.mark.parametrize("case", ["added", "region", "append"])
def test_a_log_that_never_reached_the_disk_is_kept_aside(tmp_path: Path, case: str) -> None:
    """What a power failure leaves has any content."""
    log = cut_off_before_applying(tmp_path, case, "power")
    record = bytes(len(log.read_bytes()))
    log.write_bytes(record)
    dcio.status(tmp_path / PATH)
    with mock.patch("dask_chunkio.storage.filesystem.side_folder.Folder.remove"):
        write(tmp_path, case, durability="power")
    assert (log.parent / "log.damaged-1").read_bytes() == record
    check(tmp_path, case)


def test_a_log_that_no_killed_process_leaves_is_refused(tmp_path: Path) -> None:
    log = cut_off_before_applying(tmp_path, "added", "process")
    log.write_bytes(bytes(len(log.read_bytes())))
    refused_untouched(tmp_path, "added")


def test_a_log_that_is_cut_off_never_happened(tmp_path: Path) -> None:
    log = cut_off_before_applying(tmp_path, "added", "process")
    log.write_bytes(log.read_bytes()[:-1])
    write(tmp_path, "added")
    check(tmp_path, "added")
