"""Processes that tests start, fork, wait for, stop and kill."""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE = 60


# Start


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a process that finds the tests by the name `tests`, wherever it runs."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **variables}


def python(*words: object) -> list[str]:
    """Return the command of a Python process, such as ``python("-m", "tests.support.storm.storm", "--kills", 3)``."""
    return [sys.executable, *map(str, words)]


def run_python(*words: object, timeout: float | None = None, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a Python process, and return how it ended and what it said.

    It writes to files: a process that it leaves behind would keep a pipe open, and the caller waiting.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        ended = subprocess.run(
            python(*words), env=environment(), stdout=output, stderr=errors, timeout=timeout, check=False
        )
        output.seek(0)
        errors.seek(0)
        done = subprocess.CompletedProcess(ended.args, ended.returncode, output.read(), errors.read())
    if check:
        done.check_returncode()
    return done


@contextlib.contextmanager
def program(
    *words: object, cwd: str | Path | None = None, stderr: Any = subprocess.PIPE, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a Python process; at the end it and all that it has started are killed, even if they are stopped.

    Parameters
    ----------
    *words
        After ``python``.
    cwd : path, optional
        Where it runs.
    stderr : int
        As for `subprocess.Popen`.
    **variables : str
        Of its environment.
    """
    process = subprocess.Popen(
        python(*words), env=environment(**variables), cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=stderr, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        semaphores = _semaphores(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for path in semaphores:
            path.unlink(missing_ok=True)


def _semaphores(group: int) -> list[Path]:
    """Return the files of the semaphores that processes of a group have: what would remove them is killed with them."""
    # By the numbers of the files: a process maps a semaphore under a name that it loses as the semaphore gets its own.
    mapped: set[int] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(maps.parent.name)) == group:
                lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
                mapped |= {int(line.split()[4]) for line in lines if " /dev/shm/" in line}
    entries = os.scandir("/dev/shm") if mapped else ()
    return [Path(entry) for entry in entries if entry.name.startswith("sem.mp-") and entry.inode() in mapped]


def import_for_writes() -> None:
    """Import what a write imports as it begins; else each forked child would, which takes longer than its write."""
    for name in ("dask_chunkio.write", "distributed"):
        importlib.import_module(name)


def forked(function: Callable[..., object], *arguments: Any) -> int:
    """Run a function in a forked process, and return its id; the process ends with 1 where the function raises."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def in_child(function: Callable[..., object], *arguments: Any) -> int:
    """Run a function in a forked process, and return its exit code: negative, the signal that ended it."""
    return exit_code(forked(function, *arguments))


def exit_code(child: int) -> int:
    """Wait for a forked process, and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Wait


def wait_until(condition: Callable[..., Any], what: str = "it came to be", *logs: Path) -> Any:
    """Return what `condition` returns as soon as it is true.

    Parameters
    ----------
    condition : callable
        Takes nothing.
    what : str
        What is waited for, in the words of the error.
    *logs : Path
        Files of which the error shows the end.
    """
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > end:
            said = "\n".join(log.read_text(encoding="utf-8")[-3000:] for log in logs if log.exists())
            raise AssertionError(f"waited {PATIENCE} s in vain until {what}\n{said}")
        time.sleep(0.01)
    return found


def wait_for_words(path: str | Path) -> str:
    """Return what is in a file as soon as there is a line."""
    file = Path(path)
    wait_until(lambda: file.exists() and file.read_text(encoding="utf-8").endswith("\n"), f"{file.name} was written")
    return file.read_text(encoding="utf-8")


def stopped(marker: str | Path) -> int:
    """Return the id of the process that has stopped itself and left the marker."""
    pid = int(wait_for_words(marker))
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "it stopped")
    return pid


def outcome(marker: str | Path) -> Any:
    """Return error and message of the task that was stopped, when it has ended."""
    path = Path(f"{marker}.outcome")
    wait_until(path.exists, "the task that was stopped ended")
    return json.loads(path.read_text(encoding="utf-8"))


def waits_for_a_file(pid: int, path: str | Path) -> bool:
    """Whether a process waits for another's ``flock`` on a file."""
    inode = os.stat(path).st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1:3] == ["->", "FLOCK"] and int(words[5]) == pid and int(words[6].rpartition(":")[2]) == inode:
            return True
    return False


class Call(threading.Thread):
    """A call in a thread of its own; `result` returns or raises as it does."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        super().__init__(daemon=True)
        self._call: Callable[[], Any] = lambda: function(*arguments, **keywords)
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), "the call does not return"
        if self._error is not None:
            raise self._error
        return self._result


# Stop and kill


def resume(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent dies (Linux: ``prctl(2)``)."""
    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def end_children() -> None:
    """Kill and reap every process below this one, even if it is stopped; see `adopt_orphans`."""
    while children := psutil.Process().children():
        for child in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
