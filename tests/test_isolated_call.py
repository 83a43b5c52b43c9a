"""Calls in a process of its own, which crashes, hangs, is killed, or cannot be started."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from dask_chunkio import isolated_call
from dask_chunkio.errors import IntegrityError, TargetError, WorkerError
from dask_chunkio.isolated_call import Answer, call_isolated, is_isolated
from tests.support.processes import in_child, program, run_python, wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork the process itself serves")
MODULE, FILE = "tests.support.isolated_answers", "/x/y.h5"


def ask(do: str, memory: int = 1 << 30, **more: Any) -> Answer:
    return call_isolated(MODULE, {"do": do, **more}, FILE, memory)


def echo(words: Any = "", length: int = 0) -> list[Any]:
    return list(ask("echo", words=words, length=length)[0])


def test_words_and_arrays_come_whole_and_one_process_answers_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, arrays = ask("echo", words="\udc80ä", length=1_000_000)
    assert words[0] == "\udc80ä"
    assert words[3] == str(tmp_path), "HDF5 looks there for the files that a file names"
    assert np.array_equal(np.frombuffer(arrays[0], np.int64), np.arange(1_000_000))
    assert [*map(bytes, arrays[1:])] == [b"", b"abc"]
    assert echo()[1:3] == words[1:3]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE])
def test_a_crash_names_file_and_object_and_the_next_call_is_answered(number: int) -> None:
    with pytest.raises(
        IntegrityError, match=f"/x/y.h5 at /a: HDF5 crashes, with signal {int(number)}; the file is dam"
    ):
        ask("crash", at="/a", signal=number)
    assert echo("again")[0] == "again"


def test_an_exit_without_an_error_is_a_crash() -> None:
    with pytest.raises(IntegrityError, match="HDF5 crashes, with exit code 0"):
        ask("leave")


@pytest.mark.parametrize(("do", "seconds"), [("loop", 0.2), ("wait", 0.02)])
def test_what_finds_no_end_is_ended(do: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_call, "_SECONDS", seconds)
    with pytest.raises(IntegrityError, match=r"/x/y\.h5 at /g/a: HDF5 takes more time than any valid file needs"):
        ask(do, at="/g/a")
    assert echo("again")[0] == "again"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound the memory of a process")
def test_memory_is_bounded() -> None:
    with pytest.raises(IntegrityError, match=r"/x/y\.h5: /a takes more memory than any valid file needs"):
        ask("allocate", memory=1 << 28, at="/a", nbytes=1 << 30)
    assert ask("allocate", memory=1 << 29, nbytes=1 << 28)[0] == 1 << 28


def test_errors_arrive_as_what_they_are() -> None:
    with pytest.raises(TargetError, match=r"^/x/y\.h5 is no file; give another one$"):
        ask("refuse")
    with pytest.raises(TargetError, match=r"^/x/y\.h5: cannot create /z: no space$"):
        ask("refuse", words="cannot create /z: no space")
    with pytest.raises(IntegrityError, match=r"/x/y\.h5: /a cannot be read \(KeyError: 'no object'\); the file is dam"):
        ask("fail", at="/a")


def test_a_worker_that_met_damage_does_not_answer_for_another_file() -> None:
    before = echo()
    with pytest.raises(IntegrityError):
        ask("fail")
    after = echo()
    assert after[1] != before[1]
    assert after[2] == before[2]


def test_a_process_that_somebody_kills_is_no_damage() -> None:
    with pytest.raises(WorkerError, match=r"reads /x/y\.h5 was ended by signal 9 at /a; if the system did so for want"):
        ask("crash", at="/a", signal=signal.SIGKILL)


def test_a_process_that_was_killed_between_two_calls_is_replaced() -> None:
    _, worker, process, _ = echo()
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: psutil.Process(process).status() == psutil.STATUS_ZOMBIE)
    words, *found, _ = echo("again")
    assert words == "again"
    assert not {worker, process} & set(found), "a worker that nobody watches has answered"
    with pytest.raises(TargetError):
        ask("refuse")
    assert echo("and again")[0] == "and again"


def test_ctrl_c_while_a_process_starts_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def press(_: Any) -> None:
        raise KeyboardInterrupt

    isolated_call._processes.end()
    before, threads = {child.pid for child in psutil.Process().children()}, threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(isolated_call._Process, "_answer", press)
        with pytest.raises(KeyboardInterrupt):
            echo()
    assert {child.pid for child in psutil.Process().children()} == before
    wait_until(lambda: threading.active_count() <= threads)


def test_threads_have_a_process_each() -> None:
    found: list[list[Any]] = []
    threads = [threading.Thread(target=lambda n=n: found.append(echo(n, 100_000))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one[0] for one in found) == [0, 1, 2, 3]


def ask_in_child(parent: int) -> None:
    assert echo("child")[2] != parent


def test_a_forked_child_has_a_process_of_its_own() -> None:
    mine = echo()[2]
    assert in_child(ask_in_child, mine) == 0
    assert echo()[2] == mine


KILLED = """
import os, signal, sys, threading, time
from tests.test_isolated_call import ask, echo
print(*echo()[1:3], flush=True)
if sys.argv[1] != "idle":
    threading.Thread(target=ask, args=("loop",), daemon=True).start()
sys.stdin.readline()
if sys.argv[1] == "forked":
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("state", [pytest.param("idle", marks=pytest.mark.heavy), "busy", "forked"])
def test_the_process_ends_with_its_parent(state: str) -> None:
    with program("-c", KILLED, state) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        numbers = [int(word) for word in process.stdout.readline().split()]
        if state != "idle":
            used = [psutil.Process(numbers[0]).cpu_times().user]
            wait_until(lambda: psutil.Process(numbers[0]).cpu_times().user > used[0] + 0.1, "it loops")
        process.stdin.write("\n")
        process.stdin.flush()
        child = int(process.stdout.readline()) if state == "forked" else None
        wait_until(lambda: not any(map(psutil.pid_exists, numbers)), "both have ended")
        if child is not None:
            os.kill(child, signal.SIGKILL)  # which is still there


# Where none can be started


@pytest.fixture
def none_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_call, "_processes", isolated_call._Processes())


@pytest.mark.usefixtures("none_idle")
def test_a_frozen_program_reads_in_its_own_process_unless_it_must_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not is_isolated(None)
    assert not is_isolated(False)
    with pytest.raises(WorkerError, match=r"cannot start Python.*give isolated=False"):
        is_isolated(True)


@pytest.mark.usefixtures("none_idle")
@pytest.mark.parametrize("error", [PermissionError(1, "Operation not permitted"), RuntimeError("no subinterpreters")])
def test_without_permission_to_start_processes_one_warning_is_given(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with caplog.at_level(logging.WARNING, "dask_chunkio"):
        assert not is_isolated(None)
        assert not is_isolated(None)
    assert len(caplog.messages) == 1
    assert "isolated=False" in caplog.messages[0]
    with pytest.raises(WorkerError, match=r"cannot start .*python"):
        ask("echo")


@pytest.mark.usefixtures("none_idle")
def test_python_that_cannot_import_what_it_needs_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_call, "_MODULES", ("dask_chunkio.nothing",))
    with pytest.raises(WorkerError, match="ended with 1 as it started"):
        ask("echo")


@pytest.mark.usefixtures("none_idle")
def test_a_program_that_is_no_python_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_call, "_START", 0.05)
    monkeypatch.setattr(isolated_call, "child_command", lambda *_: ["sleep", "1000"])
    with pytest.raises(WorkerError, match=f"ended with {-signal.SIGKILL} as it started"):
        ask("echo")


BLOCKING = """
import signal
from dask_chunkio import errors, isolated_call
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGPROF, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGPROF})
isolated_call._SECONDS = 0.1
from tests.test_isolated_call import ask, echo
for do in ("loop", "crash"):
    try:
        ask(do, signal=11)
    except errors.IntegrityError as error:
        print(error, flush=True)
print(echo("well")[0])
"""


def test_signals_that_the_parent_ignores_or_blocks_end_a_loop_all_the_same() -> None:
    lines = run_python("-c", BLOCKING, timeout=100, check=True).stdout.splitlines()
    assert "takes more time" in lines[0]
    assert "with signal 11" in lines[1]
    assert lines[2] == "well"
