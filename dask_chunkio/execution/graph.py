"""The dask graph of a write: a task to create the file, a chain of tasks for each buffer, and a task to finish.

::

    create-<name> ──► read-<name> ──► commit-<name> ──► finish-<name>

With ``fuse=True`` the chain of a buffer is one task, so that no scheduler can store, move or
accumulate buffers between the read and the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, List, Task, TaskRef

from dask_chunkio.execution.block_tasks import commit_block
from dask_chunkio.execution.fusion import FusingOptimizer, fuse_commits, held_blocks, receipt_nodes, with_own_keys
from dask_chunkio.execution.ordered_tasks import write_in_order
from dask_chunkio.execution.tasks import commit_buffer, create_target, finish_target, read_buffer, write_buffer
from dask_chunkio.model import Creation, DatasetJob, WriteLayout
from dask_chunkio.planning.array_blocks import (
    ArrayBlocks,
    aligned_array,
    array_blocks,
    array_optimizer,
    block_keys,
    has_layers,
)
from dask_chunkio.planning.planner import PreparedWrite
from dask_chunkio.sources.base import Source
from dask_chunkio.sources.dask_array import DaskArraySource

__all__ = ["buffer_of", "build_graph", "kept_nbytes"]

Key = Any
Layer = dict[Key, Any]


class DelayedWrite(Delayed):
    """A write that can be computed together with other collections, and is optimized together with their arrays."""

    __slots__ = ()

    @property
    def __dask_optimize__(self) -> Callable[..., Any]:
        return array_optimizer()


class FusedWrite(DelayedWrite):
    """A write whose blocks are committed by the tasks that compute them, if possible."""

    __slots__ = ()

    @property
    def __dask_optimize__(self) -> FusingOptimizer:
        return FusingOptimizer(array_optimizer())


@dataclass(slots=True)
class _Layers:
    """The layers of a graph while it is built."""

    layers: dict[str, Mapping[Key, Any]]
    dependencies: dict[str, set[str]]

    def add(self, name: str, tasks: Layer, after: Iterable[str]) -> None:
        if tasks:
            self.layers[name] = tasks
            self.dependencies[name] = {other for other in after if other in self.layers}

    def add_graph(self, graph: Any) -> None:
        """Add the layers of an array unchanged, so that dask can optimize them."""
        merged = HighLevelGraph.merge(graph)
        self.layers.update(merged.layers)
        self.dependencies.update(merged.dependencies)


def build_graph(
    creation: Creation,
    sources: Sequence[Source],
    fuse: bool = True,
    blocks: ArrayBlocks | None = None,
    begun: WriteLayout | None = None,
) -> Delayed:
    """Return the write as a `Delayed` whose value is the `WriteResult`.

    Parameters
    ----------
    creation : Creation
        The file and its datasets.
    sources : sequence of Source
        One source for each dataset.
    fuse : bool
        Whether the chain of each buffer is one task.
    blocks : ArrayBlocks, optional
        The blocks of all dask arrays, for a write that is computed alone.  By default the graphs of the arrays are
        optimized together with other collections, so that a block that both need is computed once.
    begun : WriteLayout, optional
        The layout of a write that this process has begun and runs itself; by default a task begins or resumes it.
    """
    token = creation.target.write_id
    graph = _Layers({}, {})
    create, finish = creation.key, f"finish-{creation.label}-{token}"
    first = Task(create, create_target, creation) if begun is None else DataNode(create, begun)
    graph.add(create, {create: first}, ())
    commits: list[Any] = []
    for number, (job, source) in enumerate(zip(creation.jobs, sources, strict=True)):
        if not isinstance(source, DaskArraySource):
            commits += map(TaskRef, _add_dataset(graph, create, (number, job), source, (token, fuse)))
    mergeable = blocks is None and _can_be_merged(sources)
    if mergeable:
        commits += map(TaskRef, _add_arrays(graph, create, creation, sources))
    else:
        fused = fuse and blocks is not None
        blocks = array_blocks(sources, creation.jobs) if blocks is None else blocks
        commits += _add_blocks(graph, creation, blocks, fused)
    task = Task(finish, finish_target, TaskRef(create), List(*commits), DataNode(None, creation.specs))
    graph.add(finish, {finish: task}, list(graph.layers))
    kind: type[Delayed] = (FusedWrite if fuse else DelayedWrite) if mergeable else Delayed
    return kind(finish, HighLevelGraph(graph.layers, graph.dependencies), layer=finish)


def kept_nbytes(write: PreparedWrite) -> int:
    """Estimate the maximum memory of blocks of dask arrays that are kept for later tasks, in bytes."""
    creation, blocks, workers = write.creation(exclusive=False), write.blocks(), write.workers
    graph = _Layers({}, {})
    # Keep the keys of the blocks: the sizes of blocks are stored under these keys.
    commits = _add_blocks(graph, creation, blocks, fused=True, has_own_keys=False)
    ends = {creation.key: Task(creation.key, int), "finish": Task("finish", len, TaskRef(creation.key), List(*commits))}
    tasks = {key: task for layer in (*graph.layers.values(), ends) for key, task in layer.items()}
    return blocks.kept_nbytes(tasks, held_blocks(tasks), workers.threads, is_local=workers.client is None)


def buffer_of(key: Key, token: str, jobs: Sequence[DatasetJob]) -> tuple[int, int] | None:
    """Return the numbers of the dataset and of the buffer of a task, or None for other tasks.

    Parameters
    ----------
    key : object
        Key of the task.
    token : str
        The target's ``write_id``.
    jobs : sequence of DatasetJob
        One job for each dataset.
    """
    if not isinstance(key, tuple):
        return None
    for number, job in enumerate(jobs):
        suffix = _suffix(job, number, token)
        if key[0] in (f"read-{suffix}", f"commit-{suffix}"):
            return number, key[-1]
    return None


def _suffix(job: DatasetJob, number: int, token: str) -> str:
    # The number makes the suffix unique: the labels of /a/b and /a.b are equal.
    return f"{job.label}-{token}.{number}"


def _ranks(count: int) -> list[tuple[str, int]]:
    """Return parts of keys that make dask run buffers in the order of the file, if it has a choice.

    `dask.order` sorts equivalent tasks by their keys as text, in descending order.
    """
    width = len(str(count))
    return [(f"{count - buffer:0{width}d}", buffer) for buffer in range(count)]


def _add_dataset(
    graph: _Layers, create: Key, numbered: tuple[int, DatasetJob], source: Source, how: tuple[str, bool]
) -> list[Key]:
    number, job = numbered
    token, fuse = how
    suffix = _suffix(job, number, token)
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
        # The source is one node of the graph: as an argument of each task, it would be pickled for each of them.
        graph.add(name, {name: DataNode(name, source)}, ())
    graph.add(read, reads, (create, name))
    graph.add(commit, commits, (create, name, read))
    return list(commits)


def _can_be_merged(sources: Sequence[Source]) -> bool:
    arrays = [source.array for source in sources if isinstance(source, DaskArraySource)]
    return bool(arrays) and all(map(has_layers, arrays))


def _add_arrays(graph: _Layers, create: Key, creation: Creation, sources: Sequence[Source]) -> list[Key]:
    """Add a commit for each block of the dask arrays, whose graphs are not changed."""
    commits: list[Key] = []
    for number, (job, source) in enumerate(zip(creation.jobs, sources, strict=True)):
        if isinstance(source, DaskArraySource) and len(job.buffers):
            array = aligned_array(source.array, job)
            graph.add_graph(array.__dask_graph__())
            name = f"commit-{_suffix(job, number, creation.target.write_id)}"
            keys = block_keys(array)
            tasks = {
                mine: Task(mine, commit_block, TaskRef(create), number, buffer, TaskRef(key))
                for buffer, (mine, key) in enumerate(zip(_commit_keys(name, len(keys)), keys, strict=True))
            }
            graph.add(name, tasks, (create, *array.__dask_layers__()))
            commits += tasks
    return commits


def _add_blocks(
    graph: _Layers, creation: Creation, blocks: ArrayBlocks, fused: bool, has_own_keys: bool = True
) -> list[Any]:
    """Add the tasks of the dask arrays and a commit for each of their blocks, fused if `fused` is true."""
    create = creation.key
    commits: Layer = {}
    for number, (job, keys) in enumerate(zip(creation.jobs, blocks.keys, strict=True)):
        name = f"commit-{_suffix(job, number, creation.target.write_id)}"
        for buffer, (mine, key) in enumerate(zip(_commit_keys(name, len(keys)), keys, strict=True)):
            commits[mine] = Task(mine, commit_block, TaskRef(create), number, buffer, TaskRef(key))
    unfused = {**blocks.tasks, **commits}
    tasks, gone = fuse_commits(unfused, {create: creation.jobs}) if fused else (unfused, {})
    if has_own_keys:
        tasks = with_own_keys(tasks)
    graph.add(f"blocks-{creation.target.write_id}", {key: tasks[key] for key in tasks if key not in commits}, (create,))
    left = [key for key in commits if key in tasks]
    for name in dict.fromkeys(key[0] for key in left):
        graph.add(name, {key: tasks[key] for key in left if key[0] == name}, list(graph.layers))
    return receipt_nodes(commits, gone)


def _commit_keys(name: str, count: int) -> list[Key]:
    return [(name, *rank) for rank in _ranks(count)]
