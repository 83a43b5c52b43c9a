"""What verify reports, where files are damaged, and where the process that decodes them ends early."""

import os
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio import child_process
from dask_chunkio.errors import TargetError, WorkerError
from dask_chunkio.reading import verification as module
from dask_chunkio.reading import verification_process
from dask_chunkio.reading.verification_process import decode_file
from tests.support.processes import run_python
from tests.support.storage.writes import Write, numbers

SIZE_AT = 40  # where a superblock of version 0 has the size of its file


@pytest.fixture
def file(target: Path) -> Path:
    with h5py.File(target, "w") as made:
        made.create_dataset("a", data=numbers(), chunks=(4, 8), compression="gzip")
        made.create_dataset("b", data=numbers(), chunks=(4, 8))
    return target


def replace_once(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


# An unfinished write


def test_a_folder_in_which_nothing_was_committed_has_no_problem(target: Path) -> None:
    Path(f"{target}.writing").mkdir()
    Path(f"{target}.writing", "lock").touch()
    report = dcio.verify(target)
    assert (report.checked, report.problems, report.by_checksum) == (0, (), True)


def test_files_of_a_write_that_cannot_be_read_are_named(target: Path) -> None:
    with Write(target) as write:
        write.commit(0)
    folder = Path(write.target.folder)
    (folder / "data.h5").rename(target.with_name("kept.h5"))
    with pytest.raises(TargetError, match=f"cannot read {folder}: No such file"):
        dcio.verify(target)
    target.with_name("kept.h5").rename(folder / "data.h5")
    assert dcio.verify(target).checked == 4
    (folder / "journal").rename(folder / "log")
    report = dcio.verify(target)
    assert (report.checked, report.by_checksum) == (0, True)


# Damaged files


def test_a_dataset_of_several_names_is_read_once_and_named_types_are_not(file: Path) -> None:
    with h5py.File(file, "a") as made:
        made["again"] = made["a"]
        made["group/above"] = made["/"]
        made["type"] = np.dtype("i4")
        made["soft"] = h5py.SoftLink("/a")
    report = dcio.verify(file)
    assert (report.checked, report.ok) == (6, True)


def test_a_dataset_larger_than_the_file_is_not_read_for_ever(target: Path) -> None:
    with h5py.File(target, "w", libver="earliest") as made:
        made["x"] = np.zeros(1 << 17)
    os.truncate(target, 4096)
    with open(target, "r+b") as cut:
        cut.seek(SIZE_AT)
        cut.write((4096).to_bytes(8, "little"))
    (problem,) = dcio.verify(target).problems
    # Newer versions of HDF5 notice it themselves.
    assert re.fullmatch(r"/x: cannot be .*(likely file corruption|1048576 bytes, and the whole file 4096).*", problem)


def test_a_chunk_that_no_reader_finds_is_a_problem_though_it_decodes(file: Path) -> None:
    with h5py.File(file) as made:
        offset = made["b"].id.get_chunk_info(1).byte_offset
    # A key of a B-tree of version 1 is length, mask and coordinates; the address follows.
    rest = bytes(16) + int(offset).to_bytes(8, "little")
    replace_once(file, (4).to_bytes(8, "little") + rest, (1 << 20).to_bytes(8, "little") + rest)
    report = dcio.verify(file)
    expected = "/b: the chunk at (1048576, 0) is stored, and is not found by its coordinates"
    assert (report.problems, report.checked) == ((expected,), 6)


def test_an_index_that_cannot_be_read_is_a_problem_of_its_dataset(target: Path) -> None:
    with h5py.File(target, "w", libver="v110") as made:
        made.create_dataset("x", data=numbers(), chunks=(4, 8), maxshape=(None, None))
        made["y"] = 1
    # The leaf of a B-tree of version 2.
    replace_once(target, b"BTLF", b"FLTB")
    report = dcio.verify(target)
    (problem,) = report.problems
    assert problem.startswith("/x: its index of chunks cannot be read (")
    assert report.checked == 1


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, Any]]]:
    """Decode in this process, of which the processor time is not bounded."""

    def decode(path: Path, done: int = 0) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        decode_file(str(path), done, lambda what, words: found.append((what, words)))
        return found

    monkeypatch.setattr(verification_process, "limit_processor_time", lambda _: None)
    return decode


def test_each_step_has_a_bound_by_the_size_of_the_file(
    tmp_path: Path, said: Callable[..., list[tuple[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, bounds = tmp_path / "x.h5", set[int]()
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3 << 20, "u1")
        file.create_dataset("y", (9 << 20,), "u1", chunks=(1 << 20,), compression="gzip")[...] = 1
    monkeypatch.setattr(verification_process, "limit_processor_time", bounds.add)
    said(path)
    # 3 MiB of the file, and as much for the data of a dataset.
    assert {20 + 3, 20 + 3 + 3, 20 + 3 + 9} == bounds


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_the_process_takes_no_more_memory_than_the_machine_has(file: Path) -> None:
    script = """
        import json, resource, sys
        from dask_chunkio.reading import verification_process
        verification_process.memory_nbytes = lambda: 8 << 30
        sys.argv[1] = json.dumps([sys.argv[1], 0, []])
        verification_process.main()
        sys.stderr.write(str(resource.getrlimit(resource.RLIMIT_AS)[0]))
    """
    assert run_python("-c", textwrap.dedent(script), file).stderr == str(8 << 30)


def test_chunks_larger_than_memory_are_not_read(
    file: Path, said: Callable[..., list[tuple[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification_process, "memory_nbytes", lambda: 63)
    problems = [words for what, words in said(file) if what == "problem"]
    assert problems == [f"/{name}: cannot be read (its chunks of 64 bytes do not fit into memory)" for name in "ab"]


def test_datasets_that_an_earlier_process_has_read_are_not_read_again(
    file: Path, said: Callable[..., list[tuple[str, Any]]]
) -> None:
    assert said(file, 1) == [("started", None), ("in", "/b"), ("read", 192), ("checked", 3), ("finished", None)]
    assert said(file, 2) == [("started", None), ("finished", None)]


# The process that decodes


def ends(how: str) -> str:
    """Return a script that reads /a, ends with /b, and goes on with /c in the next process."""
    return f"""
import json, os, signal, sys
path, done, plugins = json.loads(sys.argv[1])
say = lambda *words: print(json.dumps(words), flush=True)
say("started", None)
print("a plugin prints this", flush=True)
if done == 0:
    say("in", "/a")
    say("checked", 3)
    say("in", "/b")
    {how}
say("in", "/c")
say("checked", 1)
say("finished", None)
"""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGXCPU)", "HDF5 exceeded its time limit while it read this dataset"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "HDF5 crashed, with signal 9, while it read this dataset"),
        ("os._exit(3)", "HDF5 crashed, with exit code 3, while it read this dataset"),
    ],
)
def test_what_comes_after_a_dataset_on_which_hdf5_ends_is_read_by_another_process(
    file: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    monkeypatch.setattr(child_process, "_SCRIPT", ends(how))
    report = dcio.verify(file)
    assert report.problems == (f"/b: {words}",)
    assert report.checked == 4


def test_a_file_on_which_hdf5_ends_again_and_again_is_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_SCRIPT", ends("os._exit(3)"))
    monkeypatch.setattr(module, "_MOST_CRASHES", 1)
    report = dcio.verify(file)
    (problem,) = report.problems
    assert problem.endswith("while it read this dataset; what comes after it was not checked")
    assert report.checked == 3


def test_a_process_that_ends_before_it_names_a_dataset_has_read_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "_SCRIPT", "import os; print('[', flush=True); os._exit(3)")
    (problem,) = dcio.verify(file).problems
    assert problem == (
        "the file: HDF5 crashed, with exit code 3, while it listed the content of the file; "
        "what comes after it was not checked"
    )


def test_a_process_that_cannot_be_started_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WorkerError, match=f"cannot start /nowhere/python, which is to decode {file}: .*No such file"):
        dcio.verify(file)
