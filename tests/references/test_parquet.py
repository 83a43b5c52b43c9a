"""References as parquet, which fsspec reads one file at a time."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dask_chunkio import to_hdf5
from dask_chunkio.errors import ArgumentError, TargetExistsError
from dask_chunkio.references import parquet_format
from tests.support.references.files import NUMBERS, expected, make, make_readable, read, read_apart, require_equal

pytest.importorskip("fastparquet", reason="references as parquet need fastparquet (the extra references)")


def test_a_reader_without_hdf5_finds_what_h5py_finds(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        make_readable(file)
        file["base64"] = np.frombuffer(b"base64:AAAA", "u1")
    make(path, tmp_path / "x.parquet")
    require_equal(read_apart(tmp_path / "x.parquet", tmp_path), expected(path))


def test_several_files_for_one_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_format, "_RECORD_ROWS", 7)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        one = file.create_dataset("x", (60, 50), "i4", chunks=(9, 8), fillvalue=-1)
        one[:20], one[50:] = NUMBERS[:20], NUMBERS[50:]
    make(path, tmp_path / "x.parquet", inline_nbytes=0)
    assert len(list((tmp_path / "x.parquet" / "x").iterdir())) > 2
    require_equal(read(tmp_path / "x.parquet"), expected(path))


def test_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        to_hdf5("x.h5", "/g/x", NUMBERS, chunks=(16, 25), compression="gzip", references="x.parquet/", overwrite=True)
    require_equal(read("x.parquet"), expected("x.h5"))
    assert sorted(os.listdir()) == ["x.h5", "x.parquet"]


def test_only_references_are_replaced(tmp_path: Path) -> None:
    path, mine = tmp_path / "x.h5", tmp_path / "x.parquet" / "mine"
    with h5py.File(path, "w") as file:
        file["x"] = NUMBERS
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(TargetExistsError, match="holds no references"):
        make(path, mine.parent)
    assert mine.exists()


def test_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules: dict[str, Any] = {"fastparquet": None}
    for name, value in modules.items():
        monkeypatch.setitem(__import__("sys").modules, name, value)
    with pytest.raises(ArgumentError, match=r"install dask_chunkio\[references\]"):
        to_hdf5(tmp_path / "x.h5", "/x", NUMBERS, references=tmp_path / "x.parquet")
