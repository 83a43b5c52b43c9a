import threading

import pytest

from dask_chunkio.filters.thread_contexts import ThreadContexts


def test_each_thread_has_its_own_which_is_freed_with_it() -> None:
    made = iter((1, 2, 3))
    freed: list[int] = []
    contexts = ThreadContexts(lambda: next(made), freed.append)
    assert [contexts.address, contexts.address] == [1, 1]
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(contexts.address))
    thread.start()
    thread.join()
    assert (seen, freed) == ([2], [2])
    contexts.drop()
    assert freed == [2, 1]
    assert contexts.address == 3


def test_no_memory() -> None:
    with pytest.raises(MemoryError):
        _ = ThreadContexts(lambda: None, print).address
