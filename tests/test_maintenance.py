"""Commands about writes that were cut off, and about files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

import dask_chunkio
from dask_chunkio.cli.main import main
from dask_chunkio.storage import payload_file
from dask_chunkio.storage.filesystem.io import pwrite_each

DATA = np.random.default_rng(0).integers(0, 99, (300, 20)).astype("i2")
WRITE = "write", "a.npy", "out.h5:/g/x", "--compression", "gzip", "--chunks", "30,20", "--buffer-shape", "30,20"

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", DATA)

    def run(*words: str, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, words, input=stdin)
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run


@pytest.fixture(params=["new", "existing"])
def cut_off(request: pytest.FixtureRequest, run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A write whose disk is full as it places the fourth buffer."""
    if request.param == "existing":
        with h5py.File("out.h5", "w") as file:
            file["old"] = [1, 2, 3]
    calls = iter(range(100))

    def full(*arguments: Any) -> None:
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        pwrite_each(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(payload_file, "pwrite_each", full)
        stderr = run(*WRITE, "--scheduler", "synchronous", code=1).stderr
    assert "No space left on device; make space, and go on with --resume" in stderr
    assert (
        "resume the write with: dask-chunkio resume out.h5, or remove them with: dask-chunkio discard out.h5" in stderr
    )
    return Path("out.h5").absolute()


def check(path: Path) -> None:
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["g/x"][...], DATA)
        assert set(file) <= {"g", "old"}
        if "old" in file:
            assert file["old"][...].tolist() == [1, 2, 3]
    assert not path.with_name("out.h5.writing").exists()


def test_status(run: Run, cut_off: Path) -> None:
    found = dask_chunkio.status(cut_off)
    assert found is not None
    text = run("status", "out.h5").stdout
    assert text.startswith(f"{cut_off}: ")
    assert "; interrupted\n" in text
    assert f"by {found.owners[0].user} on " in text
    assert f"(process {os.getpid()})" in text
    assert "/g/x  (300, 20) int16: 4 of 10 chunks committed (40.0 %)" in text
    assert "last commit 20" in text
    assert "resume it with dask-chunkio resume out.h5, or remove it with dask-chunkio discard out.h5" in text


def test_times_are_aware_and_in_utc(cut_off: Path) -> None:
    found = dask_chunkio.status(cut_off)
    assert found is not None
    started = found.owners[0].started
    now = datetime.now(UTC)
    for moment in (started, found.last_commit):
        assert moment is not None
        assert moment.utcoffset() == timedelta(0)
        assert timedelta(0) <= now - moment < timedelta(minutes=5)
    assert found.last_commit is not None
    # The first has whole seconds.
    assert started <= found.last_commit
    assert found.last_alive is None


def test_a_running_write_was_alive_a_moment_ago(tmp_path: Path) -> None:
    path, seen = tmp_path / "out.h5", []

    def look(event: dask_chunkio.WriteEvent) -> None:
        if isinstance(event, dask_chunkio.BufferCommitted):
            seen.append(dask_chunkio.status(path))

    dask_chunkio.to_hdf5(path, "/x", DATA, chunks=(30, 20), buffer_shape=(30, 20), callback=look)
    found = next(one for one in seen if one is not None)
    assert found.running
    assert found.last_alive is not None
    assert timedelta(0) <= datetime.now(UTC) - found.last_alive < timedelta(minutes=5)


def test_status_where_there_is_nothing(run: Run) -> None:
    h5py.File("some.h5", "w").close()
    assert run("status", "some.h5").stdout == "No unfinished write of some.h5.\n"


def test_where_there_is_no_file(run: Run) -> None:
    for command in ("status", "verify", "recover", "resume"):
        failed = run(command, "none.h5", code=1)
        assert failed.stderr.startswith("Error: there is no ")
        assert "none.h5" in failed.stderr
    assert "no unfinished write of none.h5" in run("discard", "none.h5").stdout


def test_resume_keeps_the_arguments_and_the_folder(
    run: Run, cut_off: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    run("resume", os.path.relpath(cut_off), "--workers", "2")
    check(cut_off)
    with h5py.File(cut_off) as file:
        assert (file["g/x"].chunks, file["g/x"].compression) == ((30, 20), "gzip")
    # A job that is started again after it had finished.
    assert "nothing was written" in run("resume", str(cut_off)).stdout


def test_the_write_itself_resumes_too(run: Run, cut_off: Path) -> None:
    assert "holds an unfinished write" in run(*WRITE, code=1).stderr
    run(*WRITE, "--resume", "--durability", "power")
    check(cut_off)
    with h5py.File("out.h5", "a") as file:
        del file["g/x"]
    run(*WRITE, "--resume")
    check(cut_off)


def test_resume_with_other_arguments_names_the_difference(run: Run, cut_off: Path) -> None:
    result = run("write", "a.npy", "out.h5:/g/x", "--compression", "lzf", "--chunks", "30,20", "--resume", code=1)
    assert "/g/x: filters was deflate(4) and is lzf" in result.stderr
    run("resume", "out.h5")
    check(cut_off)


def test_a_write_of_a_script_is_not_resumed_from_here(run: Run) -> None:
    class Broken(dask_chunkio.GenericDataChunkIterator):
        def _get_data(self, selection: object) -> np.ndarray[Any, Any]:  # noqa: ARG002
            raise OSError("gone")

        def _get_maxshape(self) -> tuple[int, ...]:
            return (10,)

        def _get_dtype(self) -> np.dtype[Any]:
            return np.dtype("i2")

    with pytest.raises(dask_chunkio.errors.SourceError):
        dask_chunkio.to_hdf5("out.h5", "/x", Broken(), scheduler="synchronous")
    assert "resume it with the same call of to_hdf5 with resume=True" in run("status", "out.h5").stdout
    assert "was begun by a script; run that again with resume=True" in run("resume", "out.h5", code=1).stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["a.npy", "elsewhere.h5:/g/x"], "has the command of a write of"),
        (["a.npy", "out.h5:/g/x", "--no-such-option"], "has an invalid command"),
        (["--help"], "has an invalid command"),
        (["a.npy"], "has an invalid command"),
    ],
)
def test_a_manifest_that_was_tampered_with_writes_nothing_elsewhere(
    run: Run, cut_off: Path, command: list[str], message: str
) -> None:
    manifest = cut_off.with_name("out.h5.writing") / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "command": command}))
    before = sorted(os.listdir())
    assert message in run("resume", "out.h5", code=1).stderr
    assert sorted(os.listdir()) == before


def test_recover_leaves_a_file_that_opens_and_can_be_resumed(run: Run, cut_off: Path) -> None:
    assert "3 of 10 chunks hold their data; the others read as the fill value." in run("recover", "out.h5").stdout
    found = dask_chunkio.recover("out.h5")
    with h5py.File(found.path) as file:
        values = file[found.datasets["/g/x"]][...]
    np.testing.assert_array_equal(values, np.where(np.arange(300)[:, None] < 90, DATA, 0))
    run("resume", "out.h5")
    check(cut_off)


def test_recover_to_another_name_ends_the_write(run: Run, cut_off: Path) -> None:
    if cut_off.exists():
        stderr = run("recover", "out.h5", "--output", "part.h5", code=1).stderr
        assert "hidden in it until the write is resumed" in stderr
        return
    run("recover", "out.h5", "--output", "part.h5")
    assert sorted(os.listdir()) == ["a.npy", "part.h5"]
    with h5py.File("part.h5") as file:
        np.testing.assert_array_equal(file["g/x"][:90], DATA[:90])
    assert "there is no unfinished write" in run("recover", "out.h5", code=1).stderr


def test_discard_leaves_what_was_there_before(run: Run, cut_off: Path) -> None:
    was_there = cut_off.exists()
    run("discard", "--yes", "out.h5")
    assert sorted(os.listdir()) == (["a.npy", "out.h5"] if was_there else ["a.npy"])
    if was_there:
        with h5py.File("out.h5") as file:
            assert list(file) == ["old"]
    run(*WRITE)
    check(cut_off)


def test_verify_an_unfinished_write(run: Run, cut_off: Path) -> None:
    text = run("verify", "out.h5", code=1).stdout
    assert "4 chunks compared with their checksums, 1 problem." in text
    assert "/g/x: the chunk at (90, 0) is not what was committed" in text
    run("resume", "out.h5")
    assert "chunks decoded, no problems." in run("verify", "out.h5").stdout
    assert dask_chunkio.verify(cut_off).ok


def test_verify_finds_every_chunk_that_cannot_be_decoded(run: Run) -> None:
    run(*WRITE)
    with h5py.File("out.h5") as file:
        places = [file["g/x"].id.get_chunk_info(number).byte_offset for number in (2, 5)]
    with open("out.h5", "r+b") as raw:
        for place in places:
            raw.seek(place)
            raw.write(b"garbage!" * 4)
    text = run("verify", "out.h5", code=1).stdout
    assert "10 chunks decoded, 2 problems." in text
    assert "/g/x: [60:90, 0:20] cannot be read" in text
    assert "/g/x: [150:180, 0:20] cannot be read" in text


def test_verify_what_is_no_hdf5_file(run: Run) -> None:
    assert "there is no file" in run("verify", "none.h5", code=1).stderr
    assert "cannot be opened as an HDF5 file" in run("verify", "a.npy", code=1).stderr


def test_verify_reads_datasets_of_every_kind(run: Run) -> None:
    with h5py.File("kinds.h5", "w") as file:
        file["scalar"] = 3
        file["words"] = ["a", "bcd"]
        file["nothing"] = h5py.Empty("f4")
        file.create_dataset("none", (0, 3), "i2", chunks=(1, 3), maxshape=(None, 3))
        file["whole"] = np.zeros((5, 6))
        file.create_dataset("chunks", data=np.zeros((5, 6)), chunks=(2, 4))
        file["link"] = h5py.SoftLink("/nowhere")
    text = run("verify", "kinds.h5").stdout
    assert "no problems." in text
    assert dask_chunkio.verify("kinds.h5").checked == 1 + 1 + 1 + 6


def test_check_says_what_is_promised_in_a_folder(run: Run) -> None:
    before = os.listdir()
    printed = run("check", ".").stdout
    assert printed.startswith(f"{os.getcwd()}: ")
    for line in ("locks between processes       yes", "removal while open            yes", "durability='process'"):
        assert line in printed
    assert os.listdir() == before
    assert "cannot make a folder in" in run("check", "nowhere", code=1).stderr


def test_check_says_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    printed = run("check", ".", code=1).stdout
    assert "locks between processes       no: " in printed
    assert "write to another file system" in printed
