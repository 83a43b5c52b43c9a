"""Fusion of commits with the tasks that compute their blocks.

If only commits need a block, the task that commits the block computes it.  If other tasks need the block too, the task
that computes it commits it and returns it.  A commit that stayed a task of its own would be placed at the end by
`dask.order`, with all blocks in memory.  A block that is derived from one other block only is treated likewise: one
task computes and commits both.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from dask.core import flatten
from dask.task_spec import Alias, DataNode, List, Task, TaskRef
from dask.utils import ensure_dict

from dask_chunkio.execution.block_tasks import commit_block, pass_block, write_block
from dask_chunkio.execution.tasks import create_target, finish_target, receipt_of
from dask_chunkio.model import DatasetJob, Receipt
from dask_chunkio.planning.array_blocks import needs, without_aliases

__all__ = ["FusingOptimizer", "fuse_commits", "held_blocks", "receipt_nodes", "with_own_keys"]

Key = Any
Place = tuple[int, int]
# The commits that are no longer tasks, with their receipts; without receipts if another task returns them.
Gone = dict[Key, tuple[Receipt, ...]]
# Number of arguments of a task that commits a block, but no block derived from it.
_ALONE = 4
# Functions of tasks whose keys already contain the identifier of their write.
_OF_A_WRITE = (create_target, commit_block, write_block, finish_target)


class FusingOptimizer:
    """An optimizer of dask arrays that also fuses commits.

    Dask groups the collections of one computation by equal optimizers, and calls the first optimizer of each group.
    This optimizer is equal to that of arrays, so that arrays and writes form one group.  In separate groups, blocks
    that an array shares with a write would be fused into the array under other keys, and computed again.

    Parameters
    ----------
    optimize : callable
        The optimizer of arrays.
    """

    def __init__(self, optimize: Callable[..., Any]) -> None:
        self._optimize = optimize

    def __call__(self, graph: Any, keys: Any, **keywords: Any) -> Any:
        """Return the optimized tasks."""
        return _fuse_writes(self._optimize(graph, keys, **keywords), set(flatten([keys])))

    def __eq__(self, other: object) -> bool:
        return self._optimize == (other._optimize if isinstance(other, FusingOptimizer) else other)

    def __hash__(self) -> int:
        return hash(self._optimize)


def _fuse_writes(graph: Any, outputs: Collection[Key]) -> dict[Key, Any]:
    """Fuse the commits of all writes in a graph, and pass the receipts to the last task of each write."""
    tasks = dict(ensure_dict(graph))
    jobs = {key: task.args[0].jobs for key, task in tasks.items() if _calls(task, create_target)}
    found, gone = fuse_commits(tasks, jobs, outputs)
    for key, task in tasks.items():
        if _calls(task, finish_target):
            create, receipts, *others = task.args
            commits = [node.key for node in receipts.args]
            found[key] = Task(key, finish_target, create, List(*receipt_nodes(commits, gone)), *others)
    return with_own_keys(found, outputs)


def fuse_commits(
    tasks: Mapping[Key, Any], jobs: Mapping[Key, Sequence[DatasetJob]], outputs: Collection[Key] = ()
) -> tuple[dict[Key, Any], Gone]:
    """Move each commit into the task that computes its block, if the end of the write depends on that task.

    Parameters
    ----------
    tasks : mapping
        The tasks that compute blocks and the tasks that commit them.
    jobs : mapping
        The datasets of each write, by the key of the task that begins it.
    outputs : collection
        The keys whose values are requested.

    Returns
    -------
    tasks : dict
        The tasks after the fusion.
    gone : mapping
        The commits that are no longer tasks, and their receipts.
    """
    found, _ = without_aliases(tasks, outputs)
    users = _users(found)
    commits = _commits(found, jobs)
    waited_for = {create: _upstream(found, keys) for create, keys in _keys_of_writes(commits).items()}
    gone: Gone = {}
    for (create, block), mine in commits.items():
        if type(found.get(block)) is not Task:  # The tasks of a shuffle cannot be fused.
            continue
        others = users[block].keys() - mine.keys()
        begun, places = TaskRef(create), list(mine.values())
        if not others and block not in outputs:
            first, *more = mine
            found[first] = Task(first, write_block, begun, places, *_as_data(found.pop(block)))
            gone |= dict.fromkeys(more, ())
        elif not others.isdisjoint(waited_for[create]):
            found[block] = Task(block, pass_block, begun, places, *_as_data(found[block]))
            gone |= {key: _receipts(jobs[create], [place]) for key, place in mine.items()}
    found = {key: task for key, task in found.items() if key not in gone}
    for create in jobs:
        joined, committed = _join(found, create, jobs[create], (outputs, waited_for.get(create, set())))
        gone |= joined
        # The receipts of these blocks were constants in the graph; now the tasks return them.
        gone |= {key: () for block in committed for key in commits.get((create, block), ())}
    return found, gone


def _join(
    tasks: dict[Key, Any], create: Key, jobs: Sequence[DatasetJob], wanted: tuple[Collection[Key], Collection[Key]]
) -> tuple[Gone, list[Key]]:
    """Move each task that commits a block derived from one other block only into the task of that other block.

    Returns
    -------
    gone : dict
        The commits that are no longer tasks, and their receipts.
    committed : list
        The other blocks whose receipts the remaining tasks return.
    """
    outputs, waited_for = wanted
    gone: Gone = {}
    committed = []
    for block, users in _users(tasks).items():
        mine = [key for key in users if key in tasks and _is_made_of(tasks[key], create, block)]
        if not mine or block == create or type(tasks.get(block)) is not Task:
            continue
        others = users.keys() - set(mine)
        is_last = not others and block not in outputs
        if not is_last and others.isdisjoint(waited_for):
            continue
        made = tuple((tasks[key].args[2].value[0], block, tasks[key].args[1]) for key in mine)
        gone |= {key: _receipts(jobs, tasks.pop(key).args[1]) for key in mine}
        arguments = _parts(tasks.pop(block), create)
        if is_last:
            gone |= dict.fromkeys(mine, ())
            del gone[mine[0]]
            committed.append(block)
        key, function = (mine[0], write_block) if is_last else (block, pass_block)
        tasks[key] = Task(key, function, TaskRef(create), *arguments, DataNode(None, made))
    return gone, committed


def with_own_keys(tasks: Mapping[Key, Any], outputs: Collection[Key] = ()) -> dict[Key, Any]:
    """Give unique keys to the tasks that commit and return a block, and to all tasks that depend on them.

    A scheduler does not run a task if it has a value for the key, or if only such tasks need the task.  If another
    computation keeps values for the same keys, or computes them at the same time, nothing would be committed.

    Parameters
    ----------
    tasks : mapping
        The tasks after the fusion.
    outputs : collection
        The keys whose values are requested; these keys are kept.
    """
    handing = [key for key, task in tasks.items() if _calls(task, pass_block)]
    users = _users(tasks) if handing else {}
    own: dict[Key, Key] = {}
    left = list(handing)
    while left:
        key = left.pop()
        if key not in own and getattr(tasks[key], "func", None) not in _OF_A_WRITE:
            own[key] = _own_key(key, tasks[handing[0]].args[0].key)
            left += users.get(key, ())
    found = {(mine := own.get(key, key)): task.substitute(own, key=mine) for key, task in tasks.items()}
    return found | {key: Alias(key, own[key]) for key in outputs if key in own}


def _own_key(key: Key, create: str) -> Key:
    token = create.rpartition("-")[2]
    return (f"{key[0]}-{token}", *key[1:]) if isinstance(key, tuple) else f"{key}-{token}"


def held_blocks(tasks: Mapping[Key, Any]) -> set[Key]:
    """Return the keys of blocks that a task computes, and holds while it commits blocks derived from them."""
    return {
        task.args[_ALONE].value[0][1]
        for task in tasks.values()
        if _calls(task, write_block) and len(task.args) > _ALONE
    }


def receipt_nodes(commits: Iterable[Key], gone: Gone) -> list[Any]:
    """Return the arguments of the last task: the results of the remaining commits, and the receipts of fused ones."""
    left = [TaskRef(key) for key in commits if key not in gone]
    return [*left, *(DataNode(None, receipt) for key in commits for receipt in gone.get(key, ()))]


def _calls(task: Any, function: Callable[..., Any]) -> bool:
    return type(task) is Task and task.func is function


def _commits(
    tasks: Mapping[Key, Any], jobs: Mapping[Key, Sequence[DatasetJob]]
) -> dict[tuple[Key, Key], dict[Key, Place]]:
    """Return for each write and block the tasks that commit the block, with the dataset and the buffer of each task."""
    found = collections.defaultdict[tuple[Key, Key], dict[Key, Place]](dict)
    for key, task in tasks.items():
        if _calls(task, commit_block):
            create, dataset, buffer, block = task.args
            if create.key in jobs:
                found[create.key, block.key][key] = dataset, buffer
    return dict(found)


def _keys_of_writes(commits: Mapping[tuple[Key, Key], Mapping[Key, Any]]) -> dict[Key, list[Key]]:
    found = collections.defaultdict[Key, list[Key]](list)
    for (create, _), mine in commits.items():
        found[create] += mine
    return found


def _users(tasks: Mapping[Key, Any]) -> dict[Key, dict[Key, None]]:
    """Return for each key the tasks that need it, in the order of `tasks`."""
    found = collections.defaultdict[Key, dict[Key, None]](dict)
    for key, task in tasks.items():
        for other in needs(task):
            found[other][key] = None
    return found


def _upstream(tasks: Mapping[Key, Any], keys: Iterable[Key]) -> set[Key]:
    """Return the given tasks and all tasks that they need, directly or indirectly."""
    found: set[Key] = set()
    left = list(keys)
    while left:
        key = left.pop()
        if key in tasks and key not in found:
            found.add(key)
            left += needs(tasks[key])
    return found


def _receipts(jobs: Sequence[DatasetJob], places: Iterable[Place]) -> tuple[Receipt, ...]:
    return tuple(receipt_of(jobs, place) for place in places)


def _is_made_of(task: Any, create: Key, block: Key) -> bool:
    """Return whether a task only derives a block from one other block and commits it."""
    return _calls(task, write_block) and len(task.args) == _ALONE and needs(task) == {create, block}


def _parts(task: Task, create: Key) -> tuple[Any, ...]:
    """Return the places of a block, its task, and the values that the task needs."""
    if _calls(task, pass_block) and len(task.args) == _ALONE and task.args[0].key == create:
        parts: tuple[Any, ...] = task.args[1:]
        return parts
    return (), *_as_data(task)


def _as_data(task: Task) -> tuple[DataNode, List]:
    """Return a task as data, which another task calls only if needed: as a task in the graph, it would always run."""
    needed = tuple(needs(task))
    return DataNode(None, (task, needed)), List(*map(TaskRef, needed))
