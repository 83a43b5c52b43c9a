"""The blocks of dask arrays: the tasks that compute them, and the memory of blocks that several tasks need."""

from __future__ import annotations

import collections
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask.base import optimize
from dask.core import flatten, reverse_dict
from dask.highlevelgraph import HighLevelGraph
from dask.order import order
from dask.task_spec import Alias

from dask_chunkio.dask_compat import dask_array
from dask_chunkio.geometry.grid import ChunkGrid
from dask_chunkio.model import DatasetJob
from dask_chunkio.sources.base import Source
from dask_chunkio.sources.dask_array import DaskArraySource

__all__ = [
    "ArrayBlocks",
    "aligned_array",
    "array_blocks",
    "array_optimizer",
    "block_keys",
    "has_layers",
    "needs",
    "without_aliases",
]

Key = Any


@dataclass(frozen=True, slots=True)
class ArrayBlocks:
    """The tasks that compute the blocks of all dask arrays of a write.

    Parameters
    ----------
    tasks : mapping
        The optimized tasks by their keys.
    keys : tuple of tuple
        For each dataset the keys of its blocks, in the order of its buffers; empty if its source is not a dask array.
    sizes : mapping
        Bytes of the blocks of known size, by their keys.
    cutting : frozenset
        The keys of the tasks that select parts of blocks.  Their results may be views that keep the block alive.
    """

    tasks: Mapping[Key, Any]
    keys: tuple[tuple[Key, ...], ...]
    sizes: Mapping[Key, int]
    cutting: frozenset[Key]

    def kept_nbytes(self, tasks: Mapping[Key, Any], held: Collection[Key], threads: int, is_local: bool) -> int:
        """Estimate the maximum memory of blocks that are kept for later tasks, in bytes.

        Parameters
        ----------
        tasks : mapping
            All tasks of the write, as they run.
        held : collection
            The keys of the blocks that are held within tasks.
        threads : int
            Number of tasks that run at once.
        is_local : bool
            Whether a local scheduler of dask runs them, which keeps less in memory than a cluster.
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
        """Yield the keys of blocks that several tasks need, of committed blocks that other tasks need, and of inputs.

        An input is kept if its task needs several, and has to wait for the others.
        """
        committed = set(itertools.chain.from_iterable(self.keys))
        waiting = {
            other
            for task in tasks.values()
            if len(inputs := needs(task) & self.tasks.keys()) > 1
            for other in inputs - self.sizes.keys() - self.cutting
        }
        return (key for key in tasks if uses[key] > (key not in committed) or key in waiting)

    def _all_sizes(self) -> dict[Key, int]:
        """Return the sizes of the results of all tasks, in bytes.

        An unknown size is estimated: as large as the largest result computed from it, but not larger than the sum of
        its own inputs.
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
        """Return the maximum memory of blocks that are alive at once if tasks run one by one, in bytes."""
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
    """Return the position of each task in the order in which dask's local schedulers run them with one thread.

    Tasks without inputs run in dask's order.  A task that becomes ready later runs before them.
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
    """Return the tasks without aliases, except those in `outputs`, and the target of each alias."""
    others = _aliases(tasks)
    left = {key: _substituted(task, others) for key, task in tasks.items() if key not in others or key in outputs}
    return left, others


def array_blocks(sources: Sequence[Source], jobs: Sequence[DatasetJob]) -> ArrayBlocks:
    """Return the blocks of all dask arrays among the sources, optimized together.

    If arrays that share tasks were optimized one by one, each would be fused with the shared tasks, which would then
    run several times.

    Parameters
    ----------
    sources : sequence of Source
        One source for each dataset.
    jobs : sequence of DatasetJob
        One job for each dataset.
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
    cutting |= set(_selecting(tasks))
    return ArrayBlocks(
        tasks, tuple(keys.get(number, ()) for number in range(len(jobs))), sizes, frozenset(cutting - sizes.keys())
    )


def _selecting(tasks: Mapping[Key, Any]) -> Iterator[Key]:
    """Yield the keys of tasks that select a part of a block."""
    if tasks:
        functions = (operator.getitem, dask_array().chunk.getitem)
        yield from (key for key, task in tasks.items() if getattr(task, "func", None) in functions)


def _optimized(arrays: Sequence[Any]) -> tuple[dict[Key, Any], list[tuple[Key, ...]]]:
    """Return the tasks of arrays, optimized, and the keys of the blocks of each."""
    if not arrays:
        return {}, []
    if all(map(has_layers, arrays)):
        keys = list(map(block_keys, arrays))
        # `dask.optimize` would optimize the arrays one by one.
        merged = HighLevelGraph.merge(*(array.__dask_graph__() for array in arrays))
        return dict(array_optimizer()(merged, list(itertools.chain.from_iterable(keys)))), keys
    done = optimize(*arrays, traverse=False)
    return {key: task for array in done for key, task in array.__dask_graph__().items()}, list(map(block_keys, done))


def _aliases(tasks: Mapping[Key, Any]) -> dict[Key, Key]:
    """Return the keys that are aliases, with their targets: fusion gives the task of a block another key."""
    found = {key: _target(tasks, key) for key in tasks}
    return {key: target for key, target in found.items() if target != key}


def _target(tasks: Mapping[Key, Any], key: Key) -> Key:
    while type(task := tasks[key]) is Alias and task.target in tasks:
        key = task.target
    return key


def _substituted(task: Any, others: Mapping[Key, Key]) -> Any:
    changed = {key: others[key] for key in needs(task) if key in others}
    return task.substitute(changed) if changed else task


def array_optimizer() -> Callable[..., Any]:
    """Return the function that optimizes the graphs of dask arrays."""
    found: Callable[..., Any] = dask_array().Array.__dask_optimize__
    return found


def has_layers(array: Any) -> bool:
    """Return whether dask can optimize the array together with others by their layers."""
    return isinstance(array, dask_array().Array) and isinstance(array.__dask_graph__(), HighLevelGraph)


def aligned_array(array: Any, job: DatasetJob) -> Any:
    """Return the array, or the part of it that is written, with one block for each buffer.

    The array is always rechunked with the method "tasks".  With a client, dask would choose a shuffle, which fails on
    any other scheduler, and which computes the whole array again if a worker is lost.
    """
    if job.box is not None and not job.has_own_data:
        array = array[tuple(slice(start, stop) for start, stop in job.box)]
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
