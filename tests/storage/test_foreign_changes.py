"""Another program changes the file between two transactions of ours, or in the middle of one that was cut off."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest

from dask_chunkio.errors import IntegrityError, TargetBusyError
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.journal.records import FILLED, pack_record
from dask_chunkio.storage.redo_log import RedoLog
from tests.support.storage.writes import Write, longer


@pytest.fixture
def existing(target: Path) -> Path:
    with h5py.File(target, "w", libver="v110") as file:
        file["old"] = np.arange(1000)
    return target


def cut_off(path: Path, call: Callable[[Write], object]) -> None:
    """Have the transaction that `call` takes be in the log, and not in the file."""
    with (
        Write(path, name="/new/x") as write,
        mock.patch.object(RedoLog, "_apply", side_effect=RuntimeError("cut")),
        pytest.raises(RuntimeError, match="cut"),
    ):
        call(write)


def refused_untouched(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match="was changed by another program"):
        Write(path, name="/new/x", resume=True)
    assert path.read_bytes() == before
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["old"][...], np.arange(1000))
        np.testing.assert_array_equal(file["theirs"][...], np.ones(500))


def test_a_transaction_is_not_applied_over_what_another_program_has_written_since(existing: Path) -> None:
    cut_off(existing, lambda write: write.commit(1))
    with h5py.File(existing, "r+", libver="v110") as file:
        file["theirs"] = np.ones(500)
    refused_untouched(existing)


def test_a_transaction_that_changed_the_journal_alone_is_not_applied_over_it_either(existing: Path) -> None:
    cut_off(existing, lambda write: write.writer.transactions.record(pack_record(FILLED, bytes(32))))
    with h5py.File(existing, "r+", libver="v110") as file:
        file["theirs"] = np.ones(500)
    refused_untouched(existing)


def test_a_file_that_says_it_is_open_for_writing_gets_no_transaction(existing: Path) -> None:
    with Write(existing, name="/new/x") as write:
        write.commit(0)
        bytes_ = bytearray(existing.read_bytes())
        assert bytes_[8] == 3
        marked = bytes_.copy()
        marked[11] |= 1
        existing.write_bytes(marked)
        with pytest.raises(TargetBusyError, match="marked as open for writing"):
            write.commit(1)
        assert existing.read_bytes() == marked
        existing.write_bytes(bytes_)
        write.complete()


def test_a_payload_that_hdf5_writes_twice_is_no_reservation(existing: Path) -> None:
    with Write(existing, name="/new/x") as write:
        before, real = existing.read_bytes(), StagedFile.reserve

        def twice(self: StagedFile, dataset: Any, *arguments: Any) -> int:
            def write(*chunk: Any) -> None:
                for _ in range(2):
                    dataset.write_direct_chunk(*chunk)

            return real(self, mock.Mock(write_direct_chunk=write), *arguments)

        with mock.patch.object(StagedFile, "reserve", twice), pytest.raises(IntegrityError, match="2 times instead of"):
            write.commit(0)
        assert existing.read_bytes() == before


def test_a_place_that_another_program_gave_away_is_not_written_again(existing: Path) -> None:
    """The journal still names it; what is there by now is others'."""
    with Write(existing, name="/new/x", compression="gzip") as write:
        row = write.commit(0)[0]
        nbytes, offset = int(row["nbytes"]), int(row["offset"])
        with h5py.File(existing, "r+", libver="v110") as file:
            chunk = file[write.writer.transactions.journal.path_of(0)]
            # HDF5 moves a chunk whose payload has become longer.
            chunk.id.write_direct_chunk((0, 0), longer(write.payloads(0))[0].data)
            assert chunk.id.get_chunk_info(0).byte_offset != offset
        theirs = b"\x77" * nbytes
        os.pwrite(write.writer.transactions.files.file, theirs, offset)
        write.commit_missing()
        assert os.pread(write.writer.transactions.files.file, nbytes, offset) == theirs
        write.finish()
        write.check()
    with h5py.File(existing) as file:
        np.testing.assert_array_equal(file["old"][...], np.arange(1000))
