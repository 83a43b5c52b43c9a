"""The tasks that commit the blocks of dask arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dask_chunkio.execution.tasks import commit_buffer, nothing_done, write_buffer
from dask_chunkio.geometry.grid import Selection, selection_shape
from dask_chunkio.model import Receipt, WriteLayout
from dask_chunkio.sources.base import Reader, check_buffer, read_named
from dask_chunkio.sources.dask_array import Block

__all__ = ["commit_block", "pass_block", "write_block"]


# Number of a dataset, number of a buffer.
Place = tuple[int, int]
# A block that is derived from one other block and committed: its task, the key of the other block, its places.
Derived = tuple[Any, Any, Sequence[Place]]


def commit_block(layout: WriteLayout, dataset: int, buffer: int, block: Any) -> Receipt:
    """Check that a block computed by dask agrees with its array, and commit it."""
    if layout.complete:
        return nothing_done(dataset, buffer)
    job = layout.jobs[dataset]
    selection = job.selection(buffer)
    dtypes = job.source_dtype, job.layout.form.dtype
    data = check_buffer(block, selection_shape(selection), dtypes, job.where(buffer, selection))
    return commit_buffer(layout, dataset, buffer, data)


def write_block(
    layout: WriteLayout,
    places: Sequence[Place],
    block: tuple[Any, Sequence[Any]],
    values: Sequence[Any],
    derived: Sequence[Derived] = (),
) -> list[Receipt]:
    """Compute a block and commit it; then compute and commit the blocks derived from it.

    `block` has the task of the block, and the keys of the values that it needs.  If the block is committed at all its
    places already, it is not computed again: after a resumption or the loss of a worker.
    """
    source = _block(block, values)
    if len(places) == 1 and not derived:
        return [write_buffer(layout, *places[0], source)]
    once = _Once(source)
    return [*_written(layout, places, once), *_derived(layout, derived, once)]


def pass_block(
    layout: WriteLayout,
    places: Sequence[Place],
    block: tuple[Any, Sequence[Any]],
    values: Sequence[Any],
    derived: Sequence[Derived] = (),
) -> Any:
    """Compute a block, commit it and the blocks derived from it, and return it for other tasks that need it."""
    source = _Once(_block(block, values))
    for dataset, buffer in places:
        job = layout.jobs[dataset]
        selection = job.selection(buffer)
        commit_block(layout, dataset, buffer, read_named(source, selection, job.where(buffer, selection)))
    _derived(layout, derived, source)
    return source.read(())


def _written(layout: WriteLayout, places: Sequence[Place], source: Reader) -> list[Receipt]:
    return [write_buffer(layout, *place, source) for place in places]


def _derived(layout: WriteLayout, derived: Sequence[Derived], source: Reader) -> list[Receipt]:
    """Compute and commit the blocks derived from a block, one after the other."""
    return [
        receipt
        for task, key, places in derived
        for receipt in _written(layout, places, _Once(_Made(task, key, source)))
    ]


@dataclass(frozen=True, slots=True)
class _Made:
    """A reader of a derived block, which calls `task` with the block of this key."""

    task: Any
    key: Any
    source: Reader

    def read(self, selection: Selection) -> Any:
        return self.task({self.key: self.source.read(selection)})


class _Once:
    """A reader that reads a block at its first call, and then returns the same block."""

    def __init__(self, block: Reader) -> None:
        self._block = block
        self._found: Any = None

    def read(self, selection: Selection) -> Any:
        if self._found is None:
            self._found = self._block.read(selection)
        return self._found


def _block(block: tuple[Any, Sequence[Any]], values: Sequence[Any]) -> Block:
    task, needed = block
    return Block(task, dict(zip(needed, values, strict=True)))
