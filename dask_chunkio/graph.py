"""A write as a dask graph: create, one chain for each buffer, finish.

::

    create-<name> ──► read-<name> ──► commit-<name> ──► finish-<name>

The chain of a buffer is one task (``fuse=True``), so that no scheduler can store, move or
pile up a buffer between its read and its commit.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dask.base import optimize
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, List, Task, TaskRef

from dask_chunkio.blocks import commit_block, write_block
from dask_chunkio.grid import ChunkGrid
from dask_chunkio.ordered import write_in_order
from dask_chunkio.sources.lazy import LazySource
from dask_chunkio.sources.source import Source
from dask_chunkio.tasks import (
    Creation,
    DatasetJob,
    commit_buffer,
    create_target,
    finish_target,
    read_buffer,
    write_buffer,
)

__all__ = ["buffer_of", "build_graph"]

Key = Any
Layer = dict[Key, Any]


@dataclass(slots=True)
class _Layers:
    """The layers of a graph while it is built."""

    layers: dict[str, Layer]
    dependencies: dict[str, set[str]]

    def add(self, name: str, tasks: Layer, after: Iterable[str]) -> None:
        if tasks:
            self.layers[name] = tasks
            self.dependencies[name] = {other for other in after if other in self.layers}


def build_graph(creation: Creation, sources: Sequence[Source], fuse: bool = True) -> Delayed:
    """Return the write as a `Delayed` whose value is the `WriteResult`.

    Parameters
    ----------
    creation : Creation
        The file and its datasets.
    sources : sequence of Source
        One for each dataset.
    fuse : bool
        Whether the chain of each buffer is one task.
    """
    token = creation.target.write_id
    graph = _Layers({}, {})
    label = _label(creation.jobs[0].layout.name) if len(creation.jobs) == 1 else "file"
    create, finish = f"create-{label}-{token}", f"finish-{label}-{token}"
    graph.add(create, {create: Task(create, create_target, creation)}, ())
    commits: list[Key] = []
    for number, (job, source) in enumerate(zip(creation.jobs, sources, strict=True)):
        commits += _add_dataset(graph, create, (number, job), source, (token, fuse))
    receipts = List(*map(TaskRef, commits))
    task = Task(finish, finish_target, TaskRef(create), receipts, DataNode(None, creation.specs))
    graph.add(finish, {finish: task}, list(graph.layers))
    return Delayed(finish, HighLevelGraph(graph.layers, graph.dependencies), layer=finish)


def buffer_of(key: Key, token: str, jobs: Sequence[DatasetJob]) -> tuple[int, int] | None:
    """Return the numbers of the dataset and of the buffer that a task is for, or None for another task.

    Parameters
    ----------
    key : object
        Of the task.
    token : str
        The target's ``write_id``.
    jobs : sequence of DatasetJob
        One for each dataset.
    """
    if not isinstance(key, tuple):
        return None
    for number, job in enumerate(jobs):
        suffix = _suffix(job, token)
        if key[0] in (f"read-{suffix}", f"commit-{suffix}"):
            return number, key[-1]
    return None


def _suffix(job: DatasetJob, token: str) -> str:
    return f"{_label(job.layout.name)}-{token}"


def _ranks(count: int) -> list[tuple[str, int]]:
    """Return what makes dask run buffers in the order of the file, as far as it has a choice.

    `dask.order` takes what stands side by side by its key, as text, from the last to the first.
    """
    width = len(str(count))
    return [(f"{count - buffer:0{width}d}", buffer) for buffer in range(count)]


def _label(name: str) -> str:
    return name.strip("/").replace("/", ".")


def _add_dataset(
    graph: _Layers, create: Key, numbered: tuple[int, DatasetJob], source: Source, how: tuple[str, bool]
) -> list[Key]:
    number, job = numbered
    token, fuse = how
    suffix = _suffix(job, token)
    if isinstance(source, LazySource):
        return _add_blocks(graph, create, numbered, source.array, (suffix, fuse))
    name, commit = f"source-{suffix}", f"commit-{suffix}"
    if job.read == "ordered":
        graph.add(name, {name: DataNode(name, source)}, ())
        task = Task(commit, write_in_order, TaskRef(create), number, TaskRef(name))
        graph.add(commit, {commit: task}, (create, name))
        return [commit]
    read, reads, commits, ranks = f"read-{suffix}", {}, {}, _ranks(len(job.buffers))
    shared = False
    for buffer in range(len(job.buffers)):
        part = source.part(job.selection(buffer))
        shared |= part is None
        arguments = (TaskRef(create), number, buffer, TaskRef(name) if part is None else DataNode(None, part))
        key = (commit, *ranks[buffer])
        if fuse:
            commits[key] = Task(key, write_buffer, *arguments)
        else:
            of_read = (read, *ranks[buffer])
            reads[of_read] = Task(of_read, read_buffer, *arguments)
            commits[key] = Task(key, commit_buffer, *arguments[:3], TaskRef(of_read))
    if shared:
        # Once in the graph: put into each task, it would be pickled once for each.
        graph.add(name, {name: DataNode(name, source)}, ())
    graph.add(read, reads, (create, name))
    graph.add(commit, commits, (create, name, read))
    return list(commits)


def _add_blocks(
    graph: _Layers, create: Key, numbered: tuple[int, DatasetJob], array: Any, how: tuple[str, bool]
) -> list[Key]:
    """Hang a commit on each block of a dask array, in place of reads of our own."""
    number, job = numbered
    suffix, fuse = how
    commit = f"commit-{suffix}"
    if not len(job.buffers):
        return []
    tasks, keys = _block_tasks(array, job)
    single = _used_once(tasks, keys) if fuse else set()
    commits = {}
    for buffer, (key, rank) in enumerate(zip(keys, _ranks(len(keys)), strict=True)):
        mine = (commit, *rank)
        place = TaskRef(create), number, buffer
        if key in single:
            block = tasks.pop(key)
            needed = tuple(block.dependencies)
            # As data: what stands in the graph as a task is computed before anything can be asked of the file.
            wrapped = DataNode(None, (block, needed))
            commits[mine] = Task(mine, write_block, *place, wrapped, List(*map(TaskRef, needed)))
        else:
            commits[mine] = Task(mine, commit_block, *place, TaskRef(key))
    blocks = f"blocks-{suffix}"
    graph.add(blocks, tasks, ())
    graph.add(commit, commits, (create, blocks))
    return list(commits)


def _block_tasks(array: Any, job: DatasetJob) -> tuple[Layer, list[Key]]:
    """Return the array's optimized tasks and the keys of its blocks, one for each buffer, in C order."""
    cells = [ChunkGrid((end,), (length,)) for length, end in zip(job.buffer_shape, job.buffers.shape, strict=True)]
    region = job.layout.region
    starts = (0,) * len(cells) if region is None else tuple(map(operator.sub, region.start, region.origin))
    wanted = tuple(
        tuple(cell[0].stop - max(cell[0].start, start) for cell in along)
        for along, start in zip(cells, starts, strict=True)
    )
    if array.chunks != wanted:
        array = array.rechunk(wanted)
    (array,) = optimize(array)
    return dict(array.__dask_graph__()), list(flatten(array.__dask_keys__()))


def _used_once(tasks: Layer, keys: list[Key]) -> set[Key]:
    """Return the blocks that are tasks, and that no other task of the array needs."""
    needed = set(itertools.chain.from_iterable(getattr(task, "dependencies", ()) for task in tasks.values()))
    return {key for key in keys if key not in needed and isinstance(tasks.get(key), Task)}
