"""The blocks of dask arrays: the tasks that compute them, and what several tasks need of them."""

from __future__ import annotations

import collections
import itertools
import math
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask.array.chunk import getitem
from dask.array.core import Array
from dask.base import optimize
from dask.core import flatten, reverse_dict
from dask.highlevelgraph import HighLevelGraph
from dask.order import order
from dask.task_spec import Alias

from dask_chunkio.geometry.grid import ChunkGrid
from dask_chunkio.model import DatasetJob
from dask_chunkio.sources.base import Source
from dask_chunkio.sources.dask_array import DaskArraySource

__all__ = ["ArrayBlocks", "aligned_array", "array_blocks", "block_keys", "has_layers", "needs", "without_aliases"]

Key = Any
_CUTTING = (operator.getitem, getitem)


@dataclass(frozen=True, slots=True)
class ArrayBlocks:
    """The tasks of all dask arrays of a write that nothing else is computed with.

    Parameters
    ----------
    tasks : mapping
        The optimized tasks by their keys.
    keys : tuple of tuple
        For each dataset the keys of its blocks, in the order of its buffers; empty for another source.
    sizes : mapping
        Bytes of the blocks of known size, by their keys.
    cutting : frozenset
        The keys of the tasks that cut blocks.  What they return may keep the block alive.
    """

    tasks: Mapping[Key, Any]
    keys: tuple[tuple[Key, ...], ...]
    sizes: Mapping[Key, int]
    cutting: frozenset[Key]

    def kept_nbytes(self, tasks: Mapping[Key, Any], held: Collection[Key], threads: int, is_local: bool) -> int:
        """Return about the most bytes that blocks take which are kept for tasks that need them later.

        Parameters
        ----------
        tasks : mapping
            All those of the write, as they run.
        held : collection
            The blocks that are held within tasks.
        threads : int
            How many tasks run at once.
        is_local : bool
            Whether a scheduler of dask's own runs them, which keeps less in memory than a cluster.
        """
        uses = collections.Counter(itertools.chain.from_iterable(map(needs, tasks.values())))
        sizes = self._all_sizes()
        kept = {key: sizes[key] for key in self._kept(tasks, uses) if sizes.get(key)}
        inside = [sizes.get(key, 0) for key in held]
        most = min(threads * max(inside, default=0), sum(inside))
        if not kept:
            return most
        positions = _positions(tasks) if is_local else order(dict(tasks))
        return most + min(self._peak(tasks, positions, kept) + (threads - 1) * max(kept.values()), sum(kept.values()))

    def _kept(self, tasks: Mapping[Key, Any], uses: Mapping[Key, int]) -> Iterator[Key]:
        """Yield the keys of what several tasks need, of committed blocks that others need, and of inputs that wait."""
        committed = set(itertools.chain.from_iterable(self.keys))
        waiting = {
            other
            for task in tasks.values()
            if len(inputs := needs(task) & self.tasks.keys()) > 1
            for other in inputs - self.sizes.keys() - self.cutting
        }
        return (key for key in tasks if uses[key] > (key not in committed) or key in waiting)

    def _all_sizes(self) -> dict[Key, int]:
        """Return the sizes of what tasks return.

        Where that is not known, it is about as much as the largest made of it, and no more than it is made of.
        """
        sizes, ranks = dict(self.sizes), order(dict(self.tasks))
        in_order = sorted(self.tasks, key=ranks.__getitem__)
        for key in reversed(in_order):
            size = sizes.setdefault(key, 0)
            for other in needs(self.tasks[key]) - self.sizes.keys():
                sizes[other] = max(sizes.get(other, 0), size)
        for key in in_order:
            inputs = [sizes[other] for other in needs(self.tasks[key]) if other in sizes]
            if key not in self.sizes and inputs and all(inputs):
                sizes[key] = min(sizes[key], sum(inputs))
        return sizes

    def _peak(self, tasks: Mapping[Key, Any], positions: Mapping[Key, int], kept: Mapping[Key, int]) -> int:
        """Return the most bytes of blocks that are alive at once when tasks run one by one."""
        last = self._last_uses(tasks, positions)
        changes = collections.Counter[int]()
        for key, size in kept.items():
            changes[positions[key]] += size
            changes[last[key] + 1] -= size
        return max(itertools.accumulate(changes[position] for position in sorted(changes)))

    def _last_uses(self, tasks: Mapping[Key, Any], positions: Mapping[Key, int]) -> dict[Key, int]:
        last = dict(positions)
        for key in sorted(tasks, key=positions.__getitem__, reverse=True):
            until = last[key] if key in self.cutting else positions[key]
            for other in needs(tasks[key]):
                last[other] = max(last[other], until)
        return last


def _positions(tasks: Mapping[Key, Any]) -> dict[Key, int]:
    """Return the position of each task in the order in which dask's own schedulers run them with one thread.

    It takes dask's order for what can run from the beginning on; what can run later goes first.
    """
    ranks = order(dict(tasks))
    left = {key: len(needs(task)) for key, task in tasks.items()}
    users = reverse_dict({key: needs(task) for key, task in tasks.items()})
    ready = sorted((key for key, count in left.items() if not count), key=ranks.__getitem__, reverse=True)
    positions: dict[Key, int] = {}
    while ready:
        positions[key := ready.pop()] = len(positions)
        for user in sorted(users[key], key=ranks.__getitem__, reverse=True):
            left[user] -= 1
            if not left[user]:
                ready.append(user)
    return positions


def needs(task: Any) -> frozenset[Key]:
    """Return the keys of the tasks that a task needs."""
    return frozenset(getattr(task, "dependencies", ()))


def without_aliases(tasks: Mapping[Key, Any], outputs: Collection[Key] = ()) -> tuple[dict[Key, Any], dict[Key, Key]]:
    """Return the tasks without aliases, but for `outputs`, and the key that each alias stands for."""
    others = _aliases(tasks)
    left = {key: _substituted(task, others) for key, task in tasks.items() if key not in others or key in outputs}
    return left, others


def array_blocks(sources: Sequence[Source], jobs: Sequence[DatasetJob]) -> ArrayBlocks:
    """Return the blocks of all dask arrays among the sources, optimized together.

    Optimized one by one, arrays that have a part in common would each be fused with it, and compute it again.

    Parameters
    ----------
    sources : sequence of Source
        One for each dataset.
    jobs : sequence of DatasetJob
        One for each dataset.
    """
    arrays = {
        number: (source.array, aligned_array(source.array, job))
        for number, (source, job) in enumerate(zip(sources, jobs, strict=True))
        if isinstance(source, DaskArraySource) and len(job.buffers)
    }
    tasks, found = _optimized([aligned for _, aligned in arrays.values()])
    tasks, others = without_aliases(tasks)
    keys = {n: tuple(others.get(key, key) for key in of_array) for n, of_array in zip(arrays, found, strict=True)}
    sizes = {others.get(key, key): n for pair in arrays.values() for array in pair for key, n in _sizes(array)}
    cutting = {key for array, aligned in arrays.values() if aligned is not array for key in _added(array, aligned)}
    cutting |= {key for key, task in tasks.items() if getattr(task, "func", None) in _CUTTING}
    return ArrayBlocks(
        tasks, tuple(keys.get(number, ()) for number in range(len(jobs))), sizes, frozenset(cutting - sizes.keys())
    )


def _optimized(arrays: Sequence[Any]) -> tuple[dict[Key, Any], list[tuple[Key, ...]]]:
    """Return the tasks of arrays, optimized, and the keys of the blocks of each."""
    if all(map(has_layers, arrays)):
        keys = list(map(block_keys, arrays))
        # `dask.optimize` does so one by one.
        merged = HighLevelGraph.merge(*(array.__dask_graph__() for array in arrays))
        return dict(Array.__dask_optimize__(merged, list(itertools.chain.from_iterable(keys)))), keys
    done = optimize(*arrays, traverse=False)
    return {key: task for array in done for key, task in array.__dask_graph__().items()}, list(map(block_keys, done))


def _aliases(tasks: Mapping[Key, Any]) -> dict[Key, Key]:
    """Return the keys that stand for others, with these: fusion gives the task of a block another key."""
    found = {key: _target(tasks, key) for key in tasks}
    return {key: target for key, target in found.items() if target != key}


def _target(tasks: Mapping[Key, Any], key: Key) -> Key:
    while type(task := tasks[key]) is Alias and task.target in tasks:
        key = task.target
    return key


def _substituted(task: Any, others: Mapping[Key, Key]) -> Any:
    changed = {key: others[key] for key in needs(task) if key in others}
    return task.substitute(changed) if changed else task


def has_layers(array: Any) -> bool:
    """Whether it is an array such as dask optimizes with others by their layers."""
    return isinstance(array, Array) and isinstance(array.__dask_graph__(), HighLevelGraph)


def aligned_array(array: Any, job: DatasetJob) -> Any:
    """Return the array with one block for each buffer.

    It is rechunked by tasks, whatever dask would choose: with a client it takes a shuffle, which fails on any other
    scheduler, and computes all of the array anew where a worker is lost.
    """
    cells = [ChunkGrid((end,), (length,)) for length, end in zip(job.buffer_shape, job.buffers.shape, strict=True)]
    region = job.layout.region
    starts = (0,) * len(cells) if region is None else tuple(map(operator.sub, region.start, region.origin))
    wanted = tuple(
        tuple(cell[0].stop - max(cell[0].start, start) for cell in along)
        for along, start in zip(cells, starts, strict=True)
    )
    return array if array.chunks == wanted else array.rechunk(wanted, method="tasks")


def block_keys(array: Any) -> tuple[Key, ...]:
    """Return the keys of an array's blocks, in C order."""
    return tuple(flatten(array.__dask_keys__()))


def _sizes(array: Any) -> Iterator[tuple[Key, int]]:
    itemsize = array.dtype.itemsize
    for key, shape in zip(block_keys(array), itertools.product(*array.chunks), strict=True):
        yield key, math.prod(shape) * itemsize


def _added(array: Any, aligned: Any) -> set[Key]:
    return set(aligned.__dask_graph__()) - set(array.__dask_graph__())
