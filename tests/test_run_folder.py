import os
import tempfile
from pathlib import Path

import pytest

from tests.support.files import MEMORY
from tests.support.processes import program, run_python
from tests.support.run_folder import make_run_folder

MAKE = """
import sys
from pathlib import Path
from tests.support.run_folder import make_run_folder
folder, remove = make_run_folder(Path(sys.argv[1]))
(folder / "file").write_text("kept")
print(folder, flush=True)
if sys.stdin.readline() == "end\\n":
    remove()
"""


def test_it_is_removed_at_the_end(tmp_path: Path) -> None:
    folder, remove = make_run_folder(tmp_path)
    (folder / "below").mkdir()
    (folder / "below" / "file").write_text("some")
    remove()
    assert not os.listdir(tmp_path)


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="folders have no locks")
    other = tmp_path / "dask-other"
    other.mkdir()
    with program("-c", MAKE, tmp_path) as killed:
        assert killed.stdout is not None
        left = Path(killed.stdout.readline().strip())
        kept, keep_no_longer = make_run_folder(tmp_path)
        assert (left / "file").read_text() == "kept", "its run goes on"
    folder, remove = make_run_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([kept, folder, other])
    remove()
    keep_no_longer()
    assert os.listdir(tmp_path) == ["dask-other"]


def test_where_folders_have_no_locks_none_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "dask-chunkio-tests-left"
    left.mkdir()
    monkeypatch.setattr("tests.support.run_folder.fcntl", None)
    folder, remove = make_run_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([left, folder])
    remove()
    assert list(tmp_path.iterdir()) == [left]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_others_come_through_it_and_list_nothing(tmp_path: Path) -> None:
    folder, remove = make_run_folder(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o711
    remove()


def test_files_of_this_run_and_of_its_children_are_in_it() -> None:
    folder = tempfile.gettempdir()
    assert Path(folder).name.startswith("dask-chunkio-tests-")
    assert MEMORY is not None
    assert Path(MEMORY).name.startswith("dask-chunkio-tests-")
    assert run_python("-c", "import tempfile; print(tempfile.gettempdir())", check=True).stdout.strip() == folder


HOLD = """
import multiprocessing, sys
lock = multiprocessing.get_context("spawn").Lock()
print(lock._semlock.name, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="semaphores are files on Linux only")
def test_a_program_that_is_killed_leaves_no_semaphore() -> None:
    with program("-c", HOLD) as killed:
        assert killed.stdout is not None
        name = killed.stdout.readline().strip().removeprefix("/")
        assert Path(f"/dev/shm/sem.{name}").exists()
    assert not Path(f"/dev/shm/sem.{name}").exists()
