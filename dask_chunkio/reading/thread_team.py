"""Threads that help the thread of a caller: it works itself, and waits for no helper that has not begun."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["ThreadTeam", "call_each"]

Item = TypeVar("Item")


class ThreadTeam:
    """The thread of a caller and its helpers; several callers may use one team at once.

    To call a function in another thread takes tens of microseconds, as long as a fast codec takes for a chunk.  So
    each helper is called once, and takes one item after the other.

    Parameters
    ----------
    threads : int
        Number of threads that work for a caller, at least two.
    name : str
        Prefix of the names of the threads.

    Examples
    --------
    >>> found = []
    >>> ThreadTeam(2, "squares").each(lambda n: found.append(n * n), range(4))
    >>> sorted(found)
    [0, 1, 4, 9]
    """

    def __init__(self, threads: int, name: str) -> None:
        self._helpers = threads - 1
        self._executor = concurrent.futures.ThreadPoolExecutor(self._helpers, name)

    def each(self, function: Callable[[Item], object], items: Iterable[Item]) -> None:
        """Call a function with each item, and return when all calls have ended.

        After an error no other call begins, and the error is raised when those that run have ended.
        """
        left = deque(items)

        def work() -> None:
            try:
                while True:
                    try:
                        item = left.popleft()
                    except IndexError:
                        return
                    function(item)
            except BaseException:
                left.clear()
                raise

        helpers = [self._executor.submit(work) for _ in range(min(self._helpers, len(left) - 1))]
        try:
            work()
        finally:
            begun = [helper for helper in helpers if not helper.cancel()]
            concurrent.futures.wait(begun)
        for helper in begun:
            helper.result()


def call_each(team: ThreadTeam | None, function: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call a function with each item, by a team, or in this thread if there is none."""
    if team is not None:
        team.each(function, items)
        return
    for item in items:
        function(item)
