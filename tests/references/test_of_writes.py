"""References that to_hdf5 makes of its own file."""

import os
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest

import dask_chunkio
from dask_chunkio import plan, to_hdf5
from dask_chunkio.errors import ArgumentError, TargetError, TargetExistsError
from dask_chunkio.references import datasets, output
from tests.support.references.files import NUMBERS, expected, read, read_apart, refs, require_equal

FORM: dict[str, Any] = {"chunks": (16, 25), "compression": "gzip", "shuffle": True, "fletcher32": True}


def both(**keywords: Any) -> dict[str, Any]:
    return {"references": "x.json", **FORM, **keywords}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def nothing_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "list_stored", lambda _: pytest.fail("HDF5 is asked for the places of chunks"))


@pytest.mark.usefixtures("nothing_listed")
def test_a_new_file_is_read_without_hdf5_and_was_not_scanned(tmp_path: Path) -> None:
    array = da.from_array(NUMBERS.astype(">f8"), chunks=(20, 50))
    done = to_hdf5("x.h5", {"/g/x": NUMBERS, "/y": array}, **both())
    assert done.notes == ()
    require_equal(read_apart("x.json", tmp_path), expected("x.h5"))
    assert sorted(os.listdir()) == ["read.npz", "x.h5", "x.json"]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_on_every_scheduler(scheduler: str) -> None:
    to_hdf5("x.h5", "/x", NUMBERS, scheduler=scheduler, **both())
    require_equal(read("x.json"), expected("x.h5"))


def test_delayed_and_complete_already() -> None:
    to_hdf5("x.h5", "/x", NUMBERS, compute=False, **both()).compute()
    made = refs("x.json")
    for compute in (True, False):
        os.unlink("x.json")
        again: Any = to_hdf5("x.h5", "/x", NUMBERS, resume=True, compute=compute, **both())
        again = again if compute else again.compute()
        assert again.already_complete
        assert refs("x.json") == made
    os.unlink("x.json")
    for _ in range(2):
        to_hdf5("y.h5", "/x", NUMBERS, token="t", compute=False, **both(references="y.json")).compute()
    assert refs("y.json").keys() == made.keys()


def test_other_datasets_of_an_existing_file_are_there_too() -> None:
    with h5py.File("x.h5", "w") as file:
        file["old/kept"] = NUMBERS
        file.create_dataset("old/rows", (3,), h5py.ref_dtype)
        file["old/text"] = ["a"]
    done = to_hdf5("x.h5", "/x", NUMBERS, **both())
    (note,) = done.notes
    assert note.startswith("the references do not contain /old/rows: its elements")
    right = expected("x.h5")
    del right["old/rows"]
    require_equal(read("x.json"), right)


def test_regions_and_appends() -> None:
    to_hdf5("x.h5", "/x", NUMBERS, maxshape=(None, 50), **both())
    to_hdf5("x.h5", "/x", NUMBERS[:7], append=True, references="x.json")
    to_hdf5("x.h5", "/x", NUMBERS[:20, :10], region=np.s_[3:23, 5:15], references="x.json")
    require_equal(read("x.json"), expected("x.h5"))


def test_parts_make_them_once_the_file_is_whole() -> None:
    for number in range(3):
        assert not os.path.exists("x.json")
        done = to_hdf5("x.h5", "/x", NUMBERS, part=(number, 3), **both())
    assert done.is_whole
    require_equal(read("x.json"), expected("x.h5"))


def test_what_hdf5_writes_itself() -> None:
    text = np.array(["one", "two"], h5py.string_dtype())
    to_hdf5("x.h5", {"/text": text, "/scalar": np.array(3.5)}, references="x.json")
    require_equal(read("x.json"), expected("x.h5"))


@pytest.mark.parametrize(
    ("source", "keywords", "words"),
    [
        (NUMBERS, {"compression": "lzf"}, "/x: references= cannot describe it: no codec .* the filter lzf"),
        (NUMBERS, {"compression": "blosc2"}, "/x: references= cannot describe it: no codec"),
        (NUMBERS.astype(np.longdouble), {}, "/x: references= cannot describe it: zarr has no type"),
        (NUMBERS, {"references": "x.txt"}, r"references='x.txt' has no ending"),
        (NUMBERS, {"references": "x.json", "references_url": ""}, "url='' is empty"),
    ],
    ids=str,
)
def test_what_cannot_be_referenced_is_refused_before_anything_is_written(
    source: Any, keywords: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        to_hdf5("x.h5", "/x", source, **{"references": "x.json", **keywords})
    assert os.listdir() == []


def test_an_output_that_cannot_be_is_refused_before_anything_is_written() -> None:
    Path("x.json").write_text("mine")
    with pytest.raises(TargetExistsError, match="holds no references"):
        to_hdf5("x.h5", "/x", NUMBERS, **both())
    with pytest.raises(TargetError, match="there is no folder"):
        to_hdf5("x.h5", "/x", NUMBERS, **both(references="none/x.json"))
    assert os.listdir() == ["x.json"]


def test_a_failure_leaves_the_file_whole_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output, "pwrite_all", full)
    words = r"x\.h5 is written and whole, but not its references: .*No space left.*dask-chunkio references"
    with pytest.raises(TargetError, match=words):
        to_hdf5("x.h5", "/x", NUMBERS, scheduler="synchronous", **both())
    assert os.listdir() == ["x.h5"]
    with h5py.File("x.h5") as file:
        assert (file["x"][()] == NUMBERS).all()


def test_the_plan() -> None:
    planned = plan("x.h5", "/x", NUMBERS, **both())
    assert f"References to its chunks in {os.path.abspath('x.json')}\n" in repr(planned) + "\n"
    planned = plan("x.h5", "/x", NUMBERS, **both(compression="blosc"))
    assert "/x has none if blosc makes some of its chunks smaller" in repr(planned)
    Path("x.json").write_text("mine")
    assert "holds no references" in plan("x.h5", "/x", NUMBERS, **both()).target_problem
    assert os.listdir() == ["x.json"]


def test_the_url_and_an_unfinished_write() -> None:
    to_hdf5("x.h5", "/x", NUMBERS, **both(references_url="s3://b/", compression=None))
    assert refs("x.json")["x/0.0"][0] == "s3://b/x.h5"
    to_hdf5("y.h5", "/x", NUMBERS, part=(0, 2))
    with pytest.raises(TargetError, match="has an unfinished write"):
        dask_chunkio.write_references("y.h5", "y.json")
