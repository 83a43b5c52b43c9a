"""References to damaged files: an error in words, or references to bytes that are in the file; never a crash."""

import os
import random
from pathlib import Path

import h5py
import numpy as np
import pytest

from dask_chunkio import write_references
from dask_chunkio.errors import IntegrityError, TargetError
from dask_chunkio.references import datasets
from dask_chunkio.references.scan import scan_file
from tests.support.references.files import make_readable, refs

RUNS = int(os.environ.get("DASK_CHUNKIO_FUZZ_RUNS", "100"))
SEED = int(os.environ.get("DASK_CHUNKIO_SEED", random.randrange(1 << 30)))


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        make_readable(file)
    return (tmp_path / "whole.h5").read_bytes()


def judged(path: Path) -> bool:
    """Make references; return whether they were made, after a look at where their chunks are."""
    output = path.with_suffix(".json")
    output.unlink(missing_ok=True)
    try:
        write_references(path, output, skip_unsupported=True)
    except (IntegrityError, TargetError) as error:
        words = str(error)
    else:
        words = ""
    assert output.exists() == (not words)
    if words:
        assert str(path) in words
        return False
    size = path.stat().st_size
    places = [value for value in refs(output).values() if isinstance(value, list)]
    assert all(offset > 0 and nbytes > 0 and offset + nbytes <= size for _, offset, nbytes in places)
    return True


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_was_cut_off(share: float, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.h5"
    path.write_bytes(whole[: int(share * len(whole))])
    assert not judged(path)


@pytest.mark.parametrize("data", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_no_hdf5_file(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(data)
    assert not judged(path)


@pytest.mark.heavy
def test_damaged_bytes(whole: bytes, tmp_path: Path) -> None:
    drawn, path = random.Random(SEED), tmp_path / "x.h5"
    for number in range(RUNS):
        data = bytearray(whole)
        for _ in range(drawn.choice((1, 4, 30))):
            data[drawn.randrange(len(data))] = drawn.choice((0, 255, drawn.randrange(256)))
        path.write_bytes(data)
        try:
            judged(path)
        except Exception as error:
            error.add_note(f"DASK_CHUNKIO_SEED={SEED}, run {number}")
            raise


def test_a_count_that_no_file_has_room_for_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(100), chunks=(10,))
    monkeypatch.setattr(datasets, "count_stored", lambda _: 1 << 40)
    monkeypatch.setattr(datasets, "list_stored", lambda _: pytest.fail("the chunks are listed"))
    with pytest.raises(IntegrityError, match="claims 1099511627776 chunks, and a file of"):
        scan_file(str(path), "u", 500)


def test_a_shape_of_any_size_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (1 << 61,), "u1", chunks=(1,), maxshape=(None,))
        file.create_dataset("y", (1 << 60,), "u1")
        file.create_dataset("z", (1 << 40, 1 << 40), "u1", chunks=(1, 1))
    done = write_references(path, tmp_path / "x.json", skip_unsupported=True)
    assert done.chunks == 0
    assert "more chunks than zarr can number" in done.left_out[0]
