"""Threads of a call: whatever is raised in one, and wherever, its futures end."""

from __future__ import annotations

import queue
import threading
from typing import Any

import dask.array as da
import dask.base
import pytest

from dask_chunkio.execution.threads import Threads


def test_calls_run_side_by_side_and_in_the_callers_context() -> None:
    both = threading.Barrier(2)
    with Threads(2, "test") as threads:
        found = [threads.submit(both.wait, 60) for _ in range(2)]
        assert sorted(one.result(60) for one in found) == [0, 1]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
def test_what_a_call_raises_arrives(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    with Threads(1, "test") as threads:
        failed = threads.submit(fail).exception(60)
        assert type(failed) is error
        assert threads.submit(int).result(60) == 0


def test_what_is_raised_between_two_calls_ends_the_futures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that a thread has taken and not begun would be waited for without end."""
    threads = Threads(1, "test")

    class Losing:
        def put(self, _: Any) -> None:
            pass

        def get(self) -> None:
            raise MemoryError

    monkeypatch.setattr(threads, "_work", Losing())
    with pytest.raises(MemoryError):
        threads.submit(int).result(60)


def test_a_result_is_handed_over_when_there_is_memory_for_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """dask's callback puts it into a queue, on which the main thread waits."""
    put = queue.Queue.put
    refused: list[Any] = []

    def without_memory(self: queue.Queue[Any], item: Any, *arguments: Any) -> None:
        if threading.current_thread() is not threading.main_thread() and len(refused) < 3:
            refused.append(item)
            raise MemoryError
        put(self, item, *arguments)

    monkeypatch.setattr(queue.Queue, "put", without_memory)
    x = da.arange(40, chunks=10)
    with Threads(2, "test") as threads:
        assert dask.base.compute(x.sum(), scheduler="threads", pool=threads) == (780,)
    assert len(refused) == 3
