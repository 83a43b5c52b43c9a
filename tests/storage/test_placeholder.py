"""Memory that stands for a payload: it is never touched, and long enough."""

import mmap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dask_chunkio.storage.hdf5 import placeholder as module
from tests.support.other_systems import imported_anew


@pytest.mark.parametrize("system", ["posix", "windows"])
def test_a_placeholder_has_its_length_and_takes_no_writes(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """Simulated: the maps of Windows have no flags."""
    if system == "windows":
        monkeypatch.delattr(mmap, "MAP_PRIVATE")
    copy = imported_anew(module)
    for nbytes in (1, 1000, (64 << 20) + 1):
        made = copy.placeholder(nbytes)
        assert len(made) == nbytes
        assert not made.flags.writeable
        assert made[-1] == 0
        target, address = copy.target_placeholder(nbytes)
        assert len(target) >= nbytes
        assert target.ctypes.data == address
        target[nbytes - 1] = 1


def test_threads_that_need_a_longer_one_at_once_share_it() -> None:
    copy = imported_anew(module)
    begin = threading.Barrier(8)

    def take(_: int) -> int:
        begin.wait()
        return int(copy.placeholder(1000).ctypes.data)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(take, range(8)))) == 1
    assert len(copy._placeholders) == 1
    assert np.shares_memory(copy.placeholder(10), copy.placeholder(20))
