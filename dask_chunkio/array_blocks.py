"""The blocks of dask arrays: the tasks that compute them, and what several tasks need of them."""

from __future__ import annotations

import collections
import itertools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask.array.core import Array
from dask.base import optimize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.order import order
from dask.task_spec import Alias, List, Task, TaskRef

from dask_chunkio.grid import ChunkGrid
from dask_chunkio.sources.lazy import LazySource
from dask_chunkio.sources.source import Source
from dask_chunkio.tasks import DatasetJob

__all__ = ["ArrayBlocks", "aligned_array", "array_blocks", "block_keys", "has_layers"]

Key = Any
# Number of a dataset, number of a buffer.
Place = tuple[int, int]


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
        The keys of the tasks that cut blocks for rechunking.  What they return may keep the block alive.
    """

    tasks: Mapping[Key, Any]
    keys: tuple[tuple[Key, ...], ...]
    sizes: Mapping[Key, int]
    cutting: frozenset[Key]
    _uses: Mapping[Key, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        uses = collections.Counter(itertools.chain.from_iterable(map(_needs, self.tasks.values())))
        object.__setattr__(self, "_uses", uses)

    def places(self) -> dict[Key, list[Place]]:
        """Return for each block the dataset and the buffer, or several, to which it is committed."""
        found = collections.defaultdict(list)
        for dataset, keys in enumerate(self.keys):
            for buffer, key in enumerate(keys):
                found[key].append((dataset, buffer))
        return dict(found)

    def is_callable(self, key: Key) -> bool:
        """Whether a task computes the block that another task may call; those of a shuffle run by themselves."""
        return type(self.tasks.get(key)) is Task

    def is_needed(self, key: Key) -> bool:
        """Whether another task of the arrays needs the block."""
        return self._uses[key] > 0

    def kept_nbytes(self, threads: int) -> int:
        """Return about the most bytes that blocks take which are kept for tasks that need them later.

        Parameters
        ----------
        threads : int
            How many tasks run at once.
        """
        committed = self.places()
        sizes = self._all_sizes()
        kept = {key: sizes[key] for key in self.tasks if self._uses[key] > (key not in committed) and sizes[key]}
        if not kept:
            return 0
        return min(self._peak(kept) + (threads - 1) * max(kept.values()), sum(kept.values()))

    def _all_sizes(self) -> dict[Key, int]:
        """Return the sizes of what tasks return: where that is not known, about as much as the largest made of it."""
        sizes = dict(self.sizes)
        ranks = order(dict(self.tasks))
        for key in sorted(self.tasks, key=ranks.__getitem__, reverse=True):
            size = sizes.setdefault(key, 0)
            for other in _needs(self.tasks[key]) - self.sizes.keys():
                sizes[other] = max(sizes.get(other, 0), size)
        return sizes

    def _peak(self, kept: Mapping[Key, int]) -> int:
        """Return the most bytes of blocks that are alive at once when tasks run one by one in dask's order."""
        ends = [key for key in self.tasks if not self._uses[key]]
        tasks = {**self.tasks, "finish": Task("finish", len, List(*map(TaskRef, ends)))}
        ranks = order(tasks)
        last = self._last_uses(tasks, ranks)
        changes = collections.Counter[int]()
        for key, size in kept.items():
            changes[ranks[key]] += size
            changes[last[key] + 1] -= size
        return max(itertools.accumulate(changes[rank] for rank in sorted(changes)))

    def _last_uses(self, tasks: Mapping[Key, Any], ranks: Mapping[Key, int]) -> dict[Key, int]:
        last = dict(ranks)
        for key in sorted(tasks.keys() - {"finish"}, key=ranks.__getitem__, reverse=True):
            until = last[key] if key in self.cutting else ranks[key]
            for other in _needs(tasks[key]):
                last[other] = max(last[other], until)
        return last


def _needs(task: Any) -> frozenset[Key]:
    return frozenset(getattr(task, "dependencies", ()))


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
        if isinstance(source, LazySource) and len(job.buffers)
    }
    tasks, found = _optimized([aligned for _, aligned in arrays.values()])
    others = _aliases(tasks)
    tasks = {key: _substituted(task, others) for key, task in tasks.items() if key not in others}
    keys = {n: tuple(others.get(key, key) for key in of_array) for n, of_array in zip(arrays, found, strict=True)}
    sizes = {others.get(key, key): n for pair in arrays.values() for array in pair for key, n in _sizes(array)}
    cutting = {key for array, aligned in arrays.values() if aligned is not array for key in _added(array, aligned)}
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
    changed = {key: others[key] for key in _needs(task) if key in others}
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
