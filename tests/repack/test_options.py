"""The options of h5repack for the file, and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

import dask_chunkio as dcio
from dask_chunkio.cli.main import main
from dask_chunkio.errors import ArgumentError, ArgumentTypeError

NUMBERS = np.arange(6000, dtype="<i4").reshape(60, 100)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for name in "abc":
            file[name] = NUMBERS
    return tmp_path / "old.h5"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["repack", *map(str, words), "--no-progress"])


def chunks_of(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        assert all(np.array_equal(file[name], NUMBERS) for name in file)
        return {name: (file[name].chunks, file[name].compression) for name in file}


def test_rules_come_from_a_file(old: Path, tmp_path: Path) -> None:
    new, rules = tmp_path / "new.h5", tmp_path / "rules.txt"
    rules.write_text("-f a:GZIP=1\n-l /a:CHUNK=10x20   -l b:CHUNK=5x5\n--layout 'c:CONTI'\n", "utf-8")
    done = run(old, new, "-e", rules, "-f", "b:SHUF", "-f", "b:GZIP=2")
    assert done.exit_code == 0, done.output
    assert chunks_of(new) == {"a": ((10, 20), "gzip"), "b": ((5, 5), "gzip"), "c": (None, None)}


@pytest.mark.parametrize("text", ["-f", "GZIP=1", "-f GZIP=1 --verify", "'", "--help"])
def test_a_file_with_something_else_is_refused(text: str, old: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.txt"
    rules.write_text(text, "utf-8")
    done = run(old, tmp_path / "new.h5", "-e", rules)
    assert done.exit_code == 2
    assert f"--file {rules}" in done.output.replace("\n", " ")
    assert not (tmp_path / "new.h5").exists()


@pytest.mark.parametrize("words", [("-i", "{old}", "-o", "{new}"), ("{old}", "-o", "{new}"), ("-i", "{old}", "{new}")])
def test_files_may_be_options(words: tuple[str, ...], old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.h5"
    done = run(*(word.format(old=old, new=new) for word in words), "-f", "GZIP=1")
    assert done.exit_code == 0, done.output
    assert {compression for _, compression in chunks_of(new).values()} == {"gzip"}


@pytest.mark.parametrize("words", [(), ("-o", "x.h5"), ("-i", "x.h5", "y.h5", "z.h5"), ("x.h5", "y.h5", "-o", "z.h5")])
def test_files_are_given_once(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert "once each" in done.output


def test_bounds_have_short_options(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.h5"
    assert run(old, new, "-j", "1", "-k", "2").exit_code == 0
    with h5py.File(new) as file:
        assert file.id.get_create_plist().get_version()[0] == 2


@pytest.mark.parametrize(("words", "size"), [((), 1024), (("-b", "4096"), 4096)])
def test_a_user_block_comes_from_a_file(words: tuple[str, ...], size: int, old: Path, tmp_path: Path) -> None:
    new, block = tmp_path / "new.h5", tmp_path / "block"
    block.write_bytes(b"#! a program\n" * 50)
    done = run(old, new, "-u", block, *words, "-f", "GZIP=1")
    assert done.exit_code == 0, done.output
    assert new.read_bytes()[:size] == block.read_bytes().ljust(size, b"\0")
    with h5py.File(new) as file:
        assert file.userblock_size == size
        assert np.array_equal(file["a"], NUMBERS)
    with pytest.raises(ArgumentError, match="would replace the user block"):
        dcio.repack(new, tmp_path / "again.h5", user_block_file=block)


def test_the_size_of_blocks_of_metadata(old: Path, tmp_path: Path) -> None:
    sizes = []
    for size in (None, 1 << 18):
        new = tmp_path / f"{size}.h5"
        dcio.repack(old, new, meta_block_size=size, filters="GZIP=1")
        chunks_of(new)
        sizes.append(new.stat().st_size)
    assert sizes[0] < sizes[1] <= sizes[0] + (1 << 18)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"meta_block_size": 0}, "from 1"),
        ({"meta_block_size": "1"}, "whole number"),
        ({"user_block_file": "no such file"}, "cannot be read"),
        ({"user_block_file": __file__, "user_block": 512}, "a user block at most 512"),
        ({"user_block_file": Path(__file__).parent}, "a file that fits"),
        ({"user_block_file": 5}, "user_block_file"),
    ],
)
def test_options_that_cannot_be_used(keywords: dict[str, Any], words: str, old: Path, tmp_path: Path) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=words):
        dcio.repack(old, tmp_path / "new.h5", **keywords)
    assert not (tmp_path / "new.h5").exists()


def test_verbose_shows_all_datasets(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for number in range(25):
            file[f"x{number}"] = NUMBERS
    short = run(tmp_path / "old.h5", tmp_path / "short.h5", "-f", "GZIP=1").output
    long = run(tmp_path / "old.h5", tmp_path / "long.h5", "-f", "GZIP=1", "-v").output
    assert "and 5 more" in short
    assert long.count(" -> ") == 25


def test_no_isolation_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process is asked")

    monkeypatch.setattr("dask_chunkio.repacking.structure_process.call_isolated", refuse)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["x"] = np.arange(10)
    words = [
        "repack",
        str(tmp_path / "old.h5"),
        str(tmp_path / "new.h5"),
        "--no-isolation",
        "-f",
        "GZIP=1",
        "--no-progress",
    ]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    with h5py.File(tmp_path / "new.h5") as file:
        assert file["x"][...].tolist() == list(range(10))
