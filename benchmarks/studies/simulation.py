"""A discrete-event simulation of workers that take transactions."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Costs", "simulate"]


@dataclass(frozen=True, slots=True)
class Costs:
    """What the simulation is fed with, in seconds.

    Parameters
    ----------
    transactions : sequence of float
        Processor time in a transaction, one for each that was measured.
    outside : float
        Processor time of a commit outside of its transaction.
    record : float
        To read what another worker reserved in one transaction.
    handover : float
        From the end of a transaction to the beginning of the next, where somebody waits for it.
    """

    transactions: Sequence[float]
    outside: float
    record: float
    handover: float


class _Cores:
    """Processors that take whoever asks first, until it has done."""

    def __init__(self, count: int | None) -> None:
        self._free = None if count is None else [0.0] * count

    def work(self, at: float, seconds: float) -> float:
        """Return when work is done that begins at a time, or as soon as a processor is free."""
        if self._free is None:
            return at + seconds
        done = max(at, self._free[0]) + seconds
        heapq.heapreplace(self._free, done)
        return done


class _Simulation:
    """Workers that pause, read the journal, wait for their turn, have it, place, and pause again."""

    def __init__(self, workers: int, pause: float, costs: Costs, cores: int | None, seed: int) -> None:
        self._chosen, self._pause, self._costs, self._cores = random.Random(seed), pause, costs, _Cores(cores)
        self._seen, self._committed = [0] * workers, 0
        self._waiting: deque[int] = deque()
        self._is_taken = False
        self._events = [(self._chosen.random() * pause, number, "wakes", number) for number in range(workers)]
        heapq.heapify(self._events)
        self._count = workers

    def run(self, buffers: int) -> float:
        """Return when so many are committed."""
        begun, at = 0, 0.0
        while self._events:
            at, _, what, worker = heapq.heappop(self._events)
            if what == "wakes" and begun < buffers:
                begun += 1
                self._add(self._cores.work(at, self._costs.outside / 2 + self._read(worker)), "asks", worker)
            elif what == "asks" and self._is_taken:
                self._waiting.append(worker)
            elif what == "asks":
                self._take(at, worker)
            elif what == "ends":
                self._end(at, worker)
        return at

    def _take(self, at: float, worker: int) -> None:
        self._is_taken = True
        transaction = self._chosen.choice(self._costs.transactions) + self._read(worker)
        self._add(self._cores.work(at, transaction), "ends", worker)

    def _end(self, at: float, worker: int) -> None:
        self._committed += 1
        self._seen[worker] = self._committed
        self._is_taken = False
        if self._waiting:
            self._take(at + self._costs.handover, self._waiting.popleft())
        placed = self._cores.work(at, self._costs.outside / 2)
        self._add(placed + self._chosen.uniform(0.5, 1.5) * self._pause, "wakes", worker)

    def _read(self, worker: int) -> float:
        others, self._seen[worker] = self._committed - self._seen[worker], self._committed
        return others * self._costs.record

    def _add(self, at: float, what: str, worker: int) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, what, worker))


def simulate(
    workers: int, buffers: int, pause: float, costs: Costs, *, cores: int | None = None, seed: int = 0
) -> float:
    """Return the seconds that workers take to commit buffers.

    Parameters
    ----------
    workers, buffers : int
        How many there are.
    pause : float
        Mean seconds between two commits of a worker: half to one and a half times that.
    costs : Costs
        What was measured.
    cores : int, optional
        Processors that all share; by default each has one.
    seed : int
        Of the random numbers.
    """
    # The last ones pause in vain: that is how the processes of `run` end, too.
    return _Simulation(min(workers, buffers), pause, costs, cores, seed).run(buffers)
