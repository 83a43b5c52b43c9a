"""Every prefix of the calls of whole writes leaves what is documented, and the same call ends well."""

import os
import random
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import python, run_python
from tests.support.replay.call_recorder import build, can_record, record
from tests.support.replay.call_replayer import Tree
from tests.support.replay.replay_cases import CASES

pytestmark = pytest.mark.skipif(not can_record(), reason="calls are recorded on Linux, by a library that cc compiles")
# How many times as much the heavy test tries.
TIMES = int(os.environ.get("DASK_CHUNKIO_TIMES", "1"))
SCRIPT = "tests.support.replay.replay_writes"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build(tmp_path_factory.mktemp("recorder"))


def recorded(library: Any, folder: Any, program: Any) -> tuple[Any, ...]:
    root = folder / "root"
    root.mkdir()
    (root / "old").write_bytes(b"old")
    tree = Tree.at(root)
    command = python("-c", textwrap.dedent(program), root)
    calls = record(library, root, folder / "log", command)
    for call in calls:
        tree.add(call)
    return calls, tree, Tree.at(root)


EVERYTHING = """
    import os, shutil, sys
    os.chdir(sys.argv[1])
    file = os.open("a", os.O_RDWR | os.O_CREAT)
    os.write(file, b"12345")
    os.pwrite(file, b"abc", 3)
    os.pwritev(file, [b"de", b"f"], 100)
    os.writev(file, [b"67", b"8"])
    os.ftruncate(file, 90)
    os.posix_fallocate(file, 0, 200)
    os.fsync(file)
    with open("a", "ab") as end:
        end.write(b"the end")
    os.mkdir("folder")
    folder = os.open("folder", os.O_RDONLY)
    os.rename("a", "b", dst_dir_fd=folder)
    os.link("b", "c", src_dir_fd=folder)
    shutil.copyfile("folder/b", "copy")
    os.copy_file_range(file, os.open("copied", os.O_RDWR | os.O_CREAT), 50, 10)
    os.chmod("c", 0o600)
    os.fsync(folder)
    same = os.dup(folder)
    os.close(folder)
    os.link("b", "d", src_dir_fd=same, dst_dir_fd=same)
    os.write(os.dup2(file, 99), b"by another descriptor")
    for name in "b", "d":
        os.unlink(name, dir_fd=same)
    os.fsync(same)
    os.rmdir("folder")
    open("old", "w").close()
    os.replace("copy", "old")
"""


def test_what_is_replayed_is_what_is_on_the_disk(library: Any, tmp_path: Path) -> None:
    calls, replayed, found = recorded(library, tmp_path, EVERYTHING)
    assert replayed.key == found.key
    kinds = {call.kind for call in calls}
    assert kinds == {"create", "write", "size", "rename", "link", "remove", "mkdir", "fsync", "mode"}


def test_processes_and_threads_are_recorded_in_the_order_of_the_kernel(library: Any, tmp_path: Path) -> None:
    program = """
        import os, sys, threading
        path = os.path.join(sys.argv[1], "old")
        def write(number):
            file = os.open(path, os.O_RDWR)
            for _ in range(100):
                os.pwrite(file, bytes([number]) * 10, 0)
        if child := os.fork():
            several = [threading.Thread(target=write, args=(number,)) for number in range(3)]
            [one.start() for one in several], [one.join() for one in several]
            os.waitpid(child, 0)
        else:
            write(9)
    """
    calls, replayed, found = recorded(library, tmp_path, program)
    assert len(calls) == 400
    assert len({call.process for call in calls}) == 2
    assert replayed.key == found.key


@pytest.mark.parametrize(
    "program", ["os.truncate(path, 1)", "os.symlink(path, path + '2')", "mmap.mmap(os.open(path, os.O_RDWR), 3)"]
)
def test_what_cannot_be_replayed_is_an_error(library: Any, tmp_path: Path, program: str) -> None:
    with pytest.raises(AssertionError, match="cannot be replayed"):
        recorded(library, tmp_path, f"import mmap, os, sys; path = sys.argv[1] + '/old'; {program}")


def test_a_call_that_goes_past_the_recorder_shows(library: Any, tmp_path: Path) -> None:
    program = """
        import ctypes, os, sys
        file = os.open(sys.argv[1] + "/old", os.O_RDWR)
        ctypes.CDLL(None).syscall(18, file, b"new", ctypes.c_long(3), ctypes.c_long(0))
    """
    _, replayed, found = recorded(library, tmp_path, program)
    assert replayed.key != found.key


def replay(seed: int, *words: Any) -> Any:
    done = run_python("-m", SCRIPT, "--seed", seed, *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_a_few_states() -> None:
    assert " 0 failed" in replay(1, "--most", "2", "append, region and new")


@pytest.mark.heavy
def test_many_states() -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    replay(seed, "--most", str(15 * TIMES), *random.Random(seed).sample(list(CASES), 4))
