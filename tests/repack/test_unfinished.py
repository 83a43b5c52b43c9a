"""Repacks and conversions that were cut off: status says what they are, resume goes on, discard removes them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

import dask_chunkio as dcio
from dask_chunkio.cli.main import main
from dask_chunkio.errors import ArgumentError, IntegrityError, UnfinishedWriteError
from dask_chunkio.repacking.command_words import command_of
from dask_chunkio.repacking.new_file import parse_file_options
from dask_chunkio.repacking.patterns import Selection
from dask_chunkio.repacking.rules import parse_rules
from dask_chunkio.storage.store_folder import StoreFolder

NUMBERS = np.random.default_rng(3).integers(0, 9, (3000, 100)).astype("<i4")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.create_dataset("x", data=NUMBERS, chunks=(100, 100), compression="gzip")
        file["left out"] = 1
    return tmp_path / "old.h5"


def stop(event: object) -> None:
    if isinstance(event, dcio.BufferCommitted):
        raise KeyboardInterrupt


def cut_off(old: Path, **keywords: Any) -> Path:
    new = old.with_name("new.h5")
    output = old if keywords.get("in_place") else new
    asked = {"output": None if output is old else new, "callback": stop, "scheduler": "synchronous", **keywords}
    with dask.config.set({"chunkio.buffer-size": "400kB"}), pytest.raises(KeyboardInterrupt) as caught:
        dcio.repack(old, **asked)
    assert "dask-chunkio repack" in "".join(caught.value.__notes__)
    return output


def run(*words: object, **keywords: Any) -> Result:
    return CliRunner().invoke(main, list(map(str, words)), **keywords)


def test_status_says_what_is_repacked_and_how_to_go_on(old: Path) -> None:
    new = cut_off(old, filters=["SHUF", "GZIP=2"], exclude="/left*", verify=True)
    found = dcio.status(new)
    assert found is not None
    assert found.purpose is not None
    assert (found.purpose.kind, found.purpose.source) == ("repack", str(old))
    told = run("status", new).output
    assert f"{new}: a repack of {old}, begun 2" in told
    words = f"dask-chunkio repack {old} {new} --filter=SHUF --filter=GZIP=2 '--exclude=/left*' --verify --resume"
    assert words in told
    assert f"dask-chunkio resume {new}" in told
    with pytest.raises(UnfinishedWriteError, match=f"a repack of {old}"):
        dcio.repack(old, new)


@pytest.mark.parametrize("in_place", [False, True])
def test_resume_runs_the_same_repack(old: Path, in_place: bool) -> None:
    new = cut_off(old, filters=["SHUF", "GZIP=2"], exclude="/left*", in_place=in_place)
    done = run("resume", new, "--no-progress", "--threads", "1")
    assert done.exit_code == 0, done.output
    with h5py.File(new) as file:
        assert list(file) == ["x"]
        assert (file["x"].shuffle, file["x"].compression_opts) == (True, 2)
        assert np.array_equal(file["x"], NUMBERS)
    assert dcio.status(new) is None
    assert {one.name for one in old.parent.iterdir()} == {"old.h5", new.name}


def test_resume_notices_that_the_file_has_changed(old: Path) -> None:
    new = cut_off(old, filters="GZIP=2")
    with h5py.File(old, "r+") as file:
        file["more"] = 1
    done = run("resume", new)
    assert done.exit_code == 1
    assert "was begun from" in done.output
    assert not new.exists()


def test_discard_says_what_it_removes(old: Path) -> None:
    new = cut_off(old, filters="GZIP=2")
    asked = run("discard", new, input="n\n")
    assert f"the unfinished repack of {old}" in asked.output
    assert dcio.status(new) is not None
    assert run("discard", new, "--yes").exit_code == 0
    assert [one.name for one in old.parent.iterdir()] == ["old.h5"]
    assert dcio.discard(new) is None


@pytest.mark.parametrize(
    "changed",
    [{"purpose": 5}, {"purpose": {"kind": "copy", "source": "x", "begun": 0.0, "command": []}}, {"purpose": {}}],
)
def test_a_damaged_purpose_is_an_error(old: Path, changed: dict[str, Any]) -> None:
    new = cut_off(old, filters="GZIP=2")
    manifest = Path(f"{new}.draft/draft.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text("utf-8")) | changed), "utf-8")
    with pytest.raises(IntegrityError):
        dcio.status(new)
    assert run("discard", new, "--yes").exit_code == 0


def test_a_command_of_another_file_is_not_run(old: Path) -> None:
    new = cut_off(old, filters="GZIP=2")
    moved = new.with_name("moved.h5")
    os.rename(f"{new}.draft", f"{moved}.draft")
    done = run("resume", moved)
    assert done.exit_code == 1
    assert "the command of another write" in done.output


def test_a_conversion_that_was_cut_off(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    store, new = tmp_path / "in.zarr", tmp_path / "new.h5"
    array = zarr.create_array(store, name="x", shape=NUMBERS.shape, chunks=(100, 100), dtype="i4")
    array[:] = NUMBERS
    with dask.config.set({"chunkio.buffer-size": "400kB"}), pytest.raises(KeyboardInterrupt):
        dcio.convert(store, new, callback=stop, scheduler="synchronous", compression="gzip")
    assert f"{new}: a conversion of {store}, begun 2" in run("status", new).output
    done = run("resume", new)
    assert done.exit_code == 1
    assert "the same call of dask_chunkio.convert and resume=True" in done.output
    with pytest.raises(ArgumentError, match="was begun from"):
        dcio.convert(store, new, resume=True, compression="lzf")
    dcio.convert(zarr.open_group(store), new, resume=True, compression="gzip")
    with h5py.File(new) as file:
        assert np.array_equal(file["x"], NUMBERS)


def test_a_conversion_to_a_zarr_store_that_was_cut_off(old: Path, tmp_path: Path) -> None:
    store = tmp_path / "new.zarr"
    with StoreFolder(str(store), source=str(old)):
        told = run("status", store).output
        assert f"{store}: a conversion of {old}, begun 2" in told
        assert "; running" in told
        assert run("discard", store, "--yes").exit_code == 1
        shutil.copytree(f"{store}.converting", tmp_path / "kept")
        (Path(f"{store}.converting") / "store/zarr.json").touch()
    shutil.rmtree(store)
    shutil.move(tmp_path / "kept", f"{store}.converting")
    told = run("status", store).output
    assert "; interrupted" in told
    assert "the same call of dask_chunkio.convert" in told
    assert dcio.discard(store) == f"{store}.converting"
    assert dcio.status(store) is None
    assert [one.name for one in tmp_path.iterdir()] == ["old.h5"]


def test_a_store_that_was_just_replaced_gets_its_name_back(tmp_path: Path) -> None:
    store = tmp_path / "new.zarr"
    old = Path(f"{store}.converting/old")
    old.mkdir(parents=True)
    (old / "zarr.json").write_text("{}", "utf-8")
    assert "a source that is not known" in run("status", store).output
    assert run("discard", store, "--yes").exit_code == 0
    assert (store / "zarr.json").read_text("utf-8") == "{}"
    assert [one.name for one in tmp_path.iterdir()] == ["new.zarr"]


def test_the_command_asks_for_the_same() -> None:
    """What the command line makes of the words is what the call was given."""
    from dask_chunkio.cli.repack import _libver, repack

    rules = parse_rules(["SHUF", "/a,/b:GZIP=3", "UD=32015,0,1,3"], ["/a:CHUNK=5x5", "CONTI"], 100)
    options = parse_file_options(
        libver=("v108", "v110"), fs_strategy="PAGE", fs_persist=False, fs_threshold=2, fs_page_size=8192,
        user_block=1 << 20, user_block_file=__file__, meta_block_size=4096,
    )  # fmt: skip
    selection = Selection(("/a", "/-b"), ("/a/x y",))
    words = command_of("/a.h5", "/b.h5", rules=rules, selection=selection, options=options, others={"overwrite": True})
    found = repack.make_context("repack", list(words[1:])).params
    assert parse_rules(found["filters"], found["layouts"], found["minimum"]) == rules
    assert Selection(found["include"], found["exclude"]) == selection
    again = parse_file_options(
        libver=_libver(found["latest"], found["low"], found["high"]),
        fs_strategy=found["fs_strategy"],
        fs_persist=found["fs_persist"],
        fs_threshold=found["fs_threshold"],
        fs_page_size=found["fs_pagesize"],
        user_block=found["user_block"],
        user_block_file=found["user_block_file"],
        meta_block_size=found["meta_block_size"],
    )
    assert again == options
    assert (found["input"], found["output"], found["overwrite"]) == ("/a.h5", "/b.h5", True)
