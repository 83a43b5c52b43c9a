"""Waiting for other processes, by what the system says of them."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent
PATIENCE = 60


def wait_until(condition, what):
    """Return what `condition` returns as soon as it is true."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.01)
    return found


def wait_for_words(path):
    """Return what is in a file as soon as there is a line."""
    path = Path(path)
    wait_until(lambda: path.exists() and path.read_text(encoding="utf-8").endswith("\n"), f"{path.name} was written")
    return path.read_text(encoding="utf-8")


def stopped(marker):
    """Return the id of the process that has stopped itself and left the marker."""
    pid = int(wait_for_words(marker))
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "it stopped")
    return pid


def outcome(marker):
    """Return error and message of the task that was stopped, when it has ended."""
    path = Path(f"{marker}.outcome")
    wait_until(path.exists, "the task that was stopped ended")
    return json.loads(path.read_text(encoding="utf-8"))


def waits_for_a_file(pid, path):
    """Whether a process waits for another's ``flock`` on a file."""
    inode = os.stat(path).st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1:3] == ["->", "FLOCK"] and int(words[5]) == pid and int(words[6].rpartition(":")[2]) == inode:
            return True
    return False


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Call(threading.Thread):
    """A call in a thread of its own; `result` returns or raises as it does."""

    def __init__(self, function, *arguments, **keywords):
        super().__init__(daemon=True)
        self._call = lambda: function(*arguments, **keywords)
        self._result = self._error = None
        self.start()

    def run(self):
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def result(self):
        self.join(PATIENCE)
        assert not self.is_alive(), "the call does not return"
        if self._error is not None:
            raise self._error
        return self._result


@contextlib.contextmanager
def program(*words, **environment):
    """A Python process that finds the modules of this folder; killed at the end, even if it is stopped."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]), **environment}
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def resume(pid):
    os.kill(pid, signal.SIGCONT)


def kill(pid):
    os.kill(pid, signal.SIGKILL)
