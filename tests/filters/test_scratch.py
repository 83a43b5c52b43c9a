import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dask_chunkio.filters import scratch
from dask_chunkio.filters.scratch import empty, reused


def addresses(*lengths: int) -> list[int]:
    with reused:
        return [empty(length).ctypes.data for length in lengths]


def test_memory_is_lent_once_in_a_context_and_again_in_the_next() -> None:
    # A thread that has lent nothing yet.
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(addresses, 1000, 1000, 500).result()
        assert len(set(first)) == 3
        assert thread.submit(addresses, 1000, 800, 500).result() == first
        assert thread.submit(addresses, 2000).result()[0] != first[0], "it has become larger"


def test_nothing_is_lent_outside_of_a_context() -> None:
    first = empty(1000)
    first[:] = 7
    with reused:
        empty(1000)[:] = 8
    assert (first == 7).all()
    assert empty(1000) is not empty(1000)


def test_a_context_inside_of_another_one_lends_what_is_left() -> None:
    with reused:
        outer = empty(100)
        outer[:] = 1
        with reused:
            empty(100)[:] = 2
        empty(100)[:] = 3
    assert (outer == 1).all()


def test_each_thread_has_memory_of_its_own() -> None:
    both, found = threading.Barrier(2), []

    def lend() -> None:
        with reused:
            piece = empty(100)
            both.wait()
            found.append(piece.ctypes.data)
            both.wait()

    threads = [threading.Thread(target=lend) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 2


def test_large_pieces_are_not_kept() -> None:
    nbytes = scratch._MOST_KEPT + 1
    with reused:
        assert empty(nbytes).base is None
        assert isinstance(empty(10), np.ndarray)
