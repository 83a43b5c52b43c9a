"""Limits that a process sets for itself."""

import signal
import sys
import textwrap

import pytest

from tests.support.processes import run_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")


def limited(script: str) -> tuple[int, str]:
    head = "import resource\nfrom dask_chunkio.process_limits import *\n"
    ended = run_python("-c", head + textwrap.dedent(script))
    return ended.returncode, ended.stdout + ended.stderr


def test_a_process_that_goes_on_is_ended() -> None:
    """Also one that has taken more before."""
    code, _ = limited("""
        while resource.getrusage(resource.RUSAGE_SELF).ru_utime < 1.2:
            pass
        limit_processor_time(1)
        while True:
            pass
    """)
    assert code == -signal.SIGXCPU


def test_time_is_given_anew() -> None:
    assert limited("""
        limit_processor_time(1)
        limit_processor_time(100)
        while resource.getrusage(resource.RUSAGE_SELF).ru_utime < 2.2:
            pass
    """) == (0, "")


def test_memory_ends() -> None:
    assert limited("""
        limit_memory(1 << 30)
        try:
            bytes(2 << 30)
        except MemoryError:
            print("no more")
    """) == (0, "no more\n")


def test_a_lower_limit_of_the_user_stays() -> None:
    assert limited("""
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        limit_memory(4 << 30)
        assert resource.getrlimit(resource.RLIMIT_AS) == (1 << 30, 1 << 30)
    """) == (0, "")


def test_no_core_is_written() -> None:
    assert limited("write_no_core()\nassert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0") == (0, "")
