"""A caller and its helpers: every item once, errors, and helpers that never begin."""

import threading

import pytest

from dask_chunkio.reading.thread_team import ThreadTeam, call_each


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_each_item_once(threads: int, count: int) -> None:
    found: list[int] = []
    ThreadTeam(threads, "x").each(found.append, iter(range(count)))
    assert sorted(found) == list(range(count))


def test_the_caller_works_with_its_helpers() -> None:
    together, names = threading.Barrier(3), set()

    def work(_: int) -> None:
        together.wait(30)
        names.add(threading.current_thread().name.rpartition("_")[0])

    ThreadTeam(3, "helper").each(work, range(3))
    assert names == {threading.current_thread().name.rpartition("_")[0], "helper"}


@pytest.mark.parametrize("fails", ["the caller", "a helper"])
def test_after_an_error_nothing_begins_and_all_that_run_are_waited_for(fails: str) -> None:
    together, has_failed = threading.Barrier(2), threading.Event()
    ended: list[int] = []
    begun: list[int] = []
    caller = threading.current_thread()

    def work(number: int) -> None:
        begun.append(number)
        if len(begun) > 2:  # taken by the other one before the error had emptied the queue
            return
        together.wait(30)
        if (threading.current_thread() is caller) == (fails == "the caller"):
            has_failed.set()
            raise KeyError(number)
        assert has_failed.wait(30)
        ended.append(number)

    with pytest.raises(KeyError):
        ThreadTeam(2, "x").each(work, range(100))
    assert len(ended) == 1
    assert len(begun) < 100


def test_helpers_that_are_busy_are_not_waited_for() -> None:
    team, is_free, is_busy = ThreadTeam(2, "x"), threading.Event(), threading.Barrier(3)
    found: list[int] = []

    def keep_busy(_: int) -> None:
        is_busy.wait(30)
        assert is_free.wait(30)

    other = threading.Thread(target=team.each, args=(keep_busy, range(2)))
    other.start()
    is_busy.wait(30)
    team.each(found.append, range(10))
    assert found == list(range(10))
    is_free.set()
    other.join()


def test_without_a_team_the_caller_works_alone() -> None:
    found: list[threading.Thread] = []
    call_each(None, lambda _: found.append(threading.current_thread()), range(2))
    assert found == [threading.current_thread()] * 2
