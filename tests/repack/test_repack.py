"""Whole files are copied: everything is kept, filters and layouts are those that h5repack gives."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError, ArgumentTypeError, IntegrityError, TargetExistsError
from tests.support.kills import repacks
from tests.support.repack.files import FILES, MATLAB_HEADER, dumped, is_readable, require_alike, run

needs_tools = pytest.mark.skipif(shutil.which("h5repack") is None, reason="needs hdf5-tools")


def made(name: str, folder: Path) -> Path:
    modules, make = FILES[name]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    path = folder / ("old.nwb" if name == "nwb" else "old.h5")
    make(path)
    return path


def by_h5repack(old: Path, *options: str) -> Path:
    new = old.with_name("theirs.h5")
    subprocess.run(["h5repack", *options, str(old), str(new)], check=True, capture_output=True)
    return new


@needs_tools
@pytest.mark.parametrize("name", FILES)
def test_a_copy_is_alike(name: str, tmp_path: Path) -> None:
    old, new = made(name, tmp_path), tmp_path / "new.h5"
    result = dcio.repack(old, new, verify=True)
    assert result.notes == ()
    assert result.verified
    if is_readable(old):
        require_alike(new, old)
        return
    with h5py.File(old) as file, h5py.File(new) as copy:
        assert list(file) == list(copy)
        found = {path: file.get(path) for path in file}
        datasets = [path for path, one in found.items() if isinstance(one, h5py.Dataset) and one.dtype.kind in "iuf"]
        assert datasets
        for path in datasets:
            assert file[path].shape is copy[path].shape is None or np.array_equal(file[path], copy[path])


OPTIONS = (
    ("-f", "SHUF", "-f", "GZIP=3"),
    ("-f", "NONE"),
    ("-l", "CONTI"),
)


@needs_tools
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("name", [name for name in FILES if "every" not in name])
def test_properties_are_those_of_h5repack(name: str, options: tuple[str, ...], tmp_path: Path) -> None:
    old, new = made(name, tmp_path), tmp_path / "new.h5"
    words = [value for option, value in zip(options[::2], options[1::2], strict=True) if option == "-f"]
    layouts = [value for option, value in zip(options[::2], options[1::2], strict=True) if option == "-l"]
    dcio.repack(old, new, filters=words, layouts=layouts, verify=True, scheduler="synchronous")
    if not is_readable(old):
        pytest.skip("these tools of HDF5 do not read its latest format")
    told = run("h5diff", old, new)
    assert told.returncode == 0, told.stdout
    try:
        theirs = by_h5repack(old, *options)
    except subprocess.CalledProcessError:
        # h5repack 1.10 divides by zero for a dataset without elements.
        return
    assert _without_our_chunks(dumped(new, "-H")) == _without_our_chunks(dumped(theirs, "-H"))


def _without_our_chunks(lines: list[str]) -> list[str]:
    # A dataset that had no chunks gets those of our choice, and h5repack's otherwise.
    return [line for line in lines if "CHUNKED" not in line]


def test_a_user_block_is_kept(tmp_path: Path) -> None:
    old, new = made("matlab", tmp_path), tmp_path / "new.h5"
    dcio.repack(old, new, filters="GZIP=1")
    assert new.read_bytes()[:512] == old.read_bytes()[:512]
    assert new.read_bytes().startswith(MATLAB_HEADER)
    with h5py.File(new) as file:
        assert file[file["cells"][0, 0]].name == "/#refs#/a"
        assert file[file["cells"][1, 0]][2] == 2.0


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file whose datasets are large enough to be filled in parallel."""
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        x = np.arange(600_000, dtype="<i4").reshape(1000, 600)
        raw = file.create_dataset("a/raw", data=x, chunks=(100, 60), maxshape=(None, 600), compression="gzip")
        raw.attrs["self"], raw.attrs["region"] = raw.ref, raw.regionref[10:20, 3]
        file["plain"], file["alias"] = x.astype("<f8"), raw
        sparse = file.create_dataset("sparse", (1 << 30, 1 << 20), "<f4", chunks=(64, 64))
        sparse[5:9, 5:9] = 7
    return path


def test_large_datasets_are_written_by_tasks(large: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.h5"
    seen: list[object] = []
    layouts = ["/a/raw:CHUNK=50x600", "sparse:CHUNK=8x8"]
    result = dcio.repack(large, new, filters=["SHUF", "GZIP=4"], layouts=layouts, verify=True, callback=seen.append)
    ways = {one.name: one.in_parallel for one in result.datasets}
    assert ways == {"/alias": True, "/plain": True, "/sparse": False}
    assert seen
    with h5py.File(large) as old, h5py.File(new) as file:
        assert file["a/raw"].chunks == (50, 600)
        assert file["a/raw"].compression_opts == 4
        assert np.array_equal(file["a/raw"], old["a/raw"])
        assert np.array_equal(file["plain"], old["plain"])
        assert file["alias"] == file["a/raw"]
        assert file[file["a/raw"].attrs["self"]] == file["a/raw"]
        assert file["a/raw"].maxshape == (None, 600)
        assert file["a/raw"].regionref.selection(file["a/raw"].attrs["region"]) == (10, 1)
        assert file["sparse"].chunks == (8, 8)
        assert file["sparse"][:16, :16].sum() == 7 * 16
    assert new.stat().st_size < 3 * large.stat().st_size


def test_a_dry_run_writes_nothing(large: Path, tmp_path: Path) -> None:
    result = dcio.repack(large, dry_run=True, filters=["SHUF", "GZIP=4"])
    assert result.dry_run
    real = dcio.repack(large, tmp_path / "new.h5", filters=["SHUF", "GZIP=4"])
    guessed = {one.name: one.stored_after for one in result.datasets}
    for one in real.datasets:
        guess = guessed[one.name]
        assert guess is None or one.stored_after is None or 0.5 < guess / one.stored_after < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.h5", "old.h5"]


def test_in_place(large: Path) -> None:
    with h5py.File(large) as file:
        before = file["plain"][:]
    result = dcio.repack(large, in_place=True, filters=["/plain:GZIP=4"])
    assert result.nbytes_after < result.nbytes_before
    with h5py.File(large) as file:
        assert file["plain"].compression == "gzip"
        assert np.array_equal(file["plain"], before)
    assert [path.name for path in large.parent.iterdir()] == ["old.h5"]


def test_what_is_left_out(large: Path, tmp_path: Path) -> None:
    with h5py.File(large, "r+") as file:
        file["refers"] = np.array([file["plain"].ref, file["a"].ref], h5py.ref_dtype)
    result = dcio.repack(large, tmp_path / "new.h5", exclude=["/plain", "/spa*"], verify=True)
    assert result.notes == ("1 references to objects that are not copied, or not there, have become empty",)
    with h5py.File(tmp_path / "new.h5") as file:
        assert set(file) == {"a", "alias", "refers"}
        assert not file["refers"][0]
        assert file[file["refers"][1]].name == "/a"
    dcio.repack(large, tmp_path / "some.h5", include="/a/*")
    with h5py.File(tmp_path / "some.h5") as file:
        assert list(file) == ["a"]


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"filters": 7}, "filters=7 is no sequence of texts"),
        ({"layouts": None}, "layouts=None is no sequence of texts"),
        ({"include": 7}, "include=7 is no sequence of texts"),
        ({"exclude": [7]}, "exclude= has 7"),
        ({"filters": "ZIP=4"}, "is not a filter"),
        ({"filters": "GZIP"}, "GZIP=4"),
        ({"filters": "GZIP=10"}, "from 0 to 9"),
        ({"filters": "/nowhere:GZIP=4"}, "no dataset fits /nowhere"),
        ({"filters": "UD=307,0,2,9"}, "how many values follow"),
        ({"layouts": "CHUNK=10"}, None),
        ({"layouts": "/a/raw:CHUNK=10"}, "have 1 axes"),
        ({"layouts": "/plain:CHUNK=2000x10"}, "longer than its 1000 elements"),
        ({"layouts": "/plain:COMPA"}, "a compact dataset at most"),
        ({"fs_strategy": "PAGES"}, "is not one of"),
        ({"libver": "v1"}, "is not one of"),
        ({"user_block": 100}, "power of 2"),
        ({"include": "/a["}, None),
    ],
)
def test_arguments(keywords: dict[str, Any], words: str | None, large: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.h5"
    if words is None:
        dcio.repack(large, new, **keywords)
        return
    with pytest.raises((ArgumentError, ArgumentTypeError), match=words) as caught:
        dcio.repack(large, new, **keywords)
    assert "damaged" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["old.h5"]


def test_rules_of_a_generator_are_used(large: Path, tmp_path: Path) -> None:
    rules: Any = (one for one in ["SHUF", "GZIP=1"])
    dcio.repack(large, tmp_path / "new.h5", filters=rules, layouts=["/plain:CHUNK=50x50"])
    with h5py.File(tmp_path / "new.h5") as file:
        assert (file["plain"].shuffle, file["plain"].compression, file["plain"].chunks) == (True, "gzip", (50, 50))


def test_names(large: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="is the file to copy"):
        dcio.repack(large, large)
    with pytest.raises(ArgumentError, match="output is missing"):
        dcio.repack(large)
    (tmp_path / "new.h5").touch()
    with pytest.raises(TargetExistsError, match=r"new\.h5 exists"):
        dcio.repack(large, tmp_path / "new.h5")
    dcio.repack(large, tmp_path / "new.h5", overwrite=True)
    with pytest.raises(ArgumentError, match="not an HDF5 file"):
        dcio.repack(__file__, tmp_path / "other.h5")


def test_a_resumed_repack_asks_for_the_same(large: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.h5"

    def stop(event: object) -> None:
        if isinstance(event, dcio.BufferCommitted):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dcio.repack(large, new, filters="GZIP=4", callback=stop, scheduler="synchronous")
    with pytest.raises(ArgumentError, match="was begun from"):
        dcio.repack(large, new, filters="GZIP=5", resume=True)
    dcio.repack(large, new, filters="GZIP=4", resume=True, verify=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.h5", "old.h5"]


def test_links_are_never_followed(tmp_path: Path) -> None:
    """Nor are files read that a damaged or hostile file names."""
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    with h5py.File(old, "w") as file:
        file["out"] = h5py.ExternalLink("/etc/passwd", "/x")
        file["around"], file["a"] = h5py.SoftLink("around"), file["/"]
        file.create_group("b")["up"] = file["/"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_external(b"/etc/passwd", 0, 80)
        h5py.h5d.create(file.id, b"passwd", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((80,)), plist)
    result = dcio.repack(old, new, filters="GZIP=4", layouts="CONTI", verify=True)
    assert result.counts["groups"] == 1
    with h5py.File(new) as file:
        assert file.get("out", getlink=True).filename == "/etc/passwd"
        assert file["passwd"].external is not None
    assert b"root:" not in new.read_bytes()


def test_damaged_files_end_in_one_error(large: Path, tmp_path: Path) -> None:
    whole = large.read_bytes()
    large.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(dcio.errors.ChunkIOError, match=r"old\.h5"):
        dcio.repack(large, tmp_path / "new.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["old.h5"]


def test_a_type_that_is_too_deep() -> None:
    from dask_chunkio.repacking.references import special_part

    deep = h5py.h5t.NATIVE_INT8
    for _ in range(70):
        deep = h5py.h5t.vlen_create(deep)
    with pytest.raises(IntegrityError, match="levels"):
        special_part(deep, "x")


@needs_tools
def test_the_command_has_the_options_of_h5repack(large: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from dask_chunkio.cli.main import main

    new = tmp_path / "new.h5"
    words = ["-f", "SHUF", "-f", "GZIP=1", "-l", "/plain:CHUNK=50x50", "-S", "PAGE", "-G", "4096", "--verify"]
    done = CliRunner().invoke(main, ["repack", str(large), str(new), *words, "--no-progress"])
    assert done.exit_code == 0, done.output
    assert "/plain" in done.output
    with h5py.File(new) as file:
        assert file["plain"].chunks == (50, 50)
        assert file.id.get_create_plist().get_file_space_page_size() == 4096
    failed = CliRunner().invoke(main, ["repack", str(large), str(new), "-f", "GZIP=4"])
    assert failed.exit_code == 1
    assert "--overwrite" in failed.output or "exists" in failed.output


@pytest.mark.heavy
@needs_tools
def test_repacks_that_are_killed_are_resumed() -> None:
    assert repacks.main(["--kills", "25"]) == 0
