import os
import subprocess
import sys

import pytest

CHUNKS = 50
# Prints how many pages chunks of 1 MiB take from the system, before and after.
PROGRAM = f"""
import resource
from dask_chunkio.execution.malloc import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({CHUNKS}):
        b"x" * (1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
print(before, keep_freed(), faults())
"""


def run(threshold: str | None) -> tuple[int, bool, int]:
    environ = {name: value for name, value in os.environ.items() if name != "MALLOC_TRIM_THRESHOLD_"}
    environ |= {} if threshold is None else {"MALLOC_TRIM_THRESHOLD_": threshold}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, check=True, capture_output=True, text=True)
    before, is_changed, after = done.stdout.split()
    return int(before), is_changed == "True", int(after)


@pytest.mark.skipif(
    sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="only glibc is told what to keep"
)
def test_under_a_nanny_chunks_are_not_taken_from_the_system_each_time() -> None:
    before, is_changed, after = run("65536")
    assert is_changed
    assert before >= 100 * CHUNKS
    assert after < before / 10


@pytest.mark.skipif(sys.platform == "win32", reason="there is no module resource")
@pytest.mark.parametrize("threshold", [None, pytest.param("65537", marks=pytest.mark.heavy)])
def test_what_a_user_chose_stays(threshold: str | None) -> None:
    assert not run(threshold)[1]
