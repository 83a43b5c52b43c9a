"""The manifest of a folder: read as it was written, or refused with the folder untouched."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import ChunkIOError, IntegrityError, UnfinishedWriteError
from dask_chunkio.storage.journal.manifest import read_manifest
from dask_chunkio.storage.journal.owner import Owner
from tests.support.storage.writes import Write


@pytest.fixture
def folder(target: Path) -> Path:
    """Return the folder of a write that was cut off."""
    with Write(target) as write:
        write.commit(0)
        return Path(write.target.folder)


def refused(target: Path, error: type[ChunkIOError], match: str) -> None:
    """Nothing is done about the write, and nothing that it has committed is lost."""
    folder = Path(f"{target}.writing")
    before = {name: (folder / name).lstat().st_size for name in sorted(os.listdir(folder))}
    calls: list[Callable[[], object]] = [
        lambda: dcio.status(target), lambda: dcio.recover(target), lambda: dcio.discard(target),
        lambda: Write(target), lambda: Write(target, resume=True),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(error, match=match):
            call()
    assert {name: (folder / name).lstat().st_size for name in sorted(os.listdir(folder))} == before


def change(folder: Path, fields: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_manifest_of_another_version_is_for_the_package_that_wrote_it(target: Path, folder: Path) -> None:
    change(folder, {"version": 99})
    words = r"was written in version 99 of its format.*; go on with the dask_chunkio that began the write"
    refused(target, UnfinishedWriteError, words)


@pytest.mark.parametrize(
    "fields",
    [
        {"target": 3},
        {"started": None},
        {"folder": ["a"]},
        {"durability": 1},
        {"write_id": {}},
        {"command": [1]},
        {"command": 5},
        {"mode": "neither"},
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_damaged(target: Path, folder: Path, fields: dict[str, Any]) -> None:
    whole = (folder / "manifest.json").read_bytes()
    change(folder, fields)
    refused(target, IntegrityError, rf"is damaged .*; remove the folder {folder} by hand if nothing in it is needed")
    (folder / "manifest.json").write_bytes(whole)
    with Write(target, resume=True) as write:
        assert write.is_stored(0)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_manifest_that_is_no_file(target: Path, folder: Path, kind: str) -> None:
    path = folder / "manifest.json"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(folder / "journal")
    refused(target, IntegrityError, r"manifest\.json cannot be read: ")


def test_no_manifest_is_none(tmp_path: Path) -> None:
    assert read_manifest(str(tmp_path / "manifest.json")) is None


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 12345"), OSError("No username set")])
def test_a_user_without_a_name_can_write(target: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Containers run as numbers that no file names."""

    def nameless() -> str:
        raise error

    monkeypatch.setattr("getpass.getuser", nameless)
    with Write(target) as write:
        assert write.writer.transactions.journal.owner.user == "unknown"
        write.complete()


@pytest.mark.parametrize("epoch", [-1, 1 << 62])
def test_an_owner_of_an_impossible_epoch(epoch: int) -> None:
    body = Owner.here("id", epoch, False).pack()[24:]
    with pytest.raises(ValueError, match=f"its epoch is {epoch}"):
        Owner.unpack(body)
