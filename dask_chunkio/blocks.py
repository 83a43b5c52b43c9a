"""The tasks that commit the blocks of dask arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask_chunkio.grid import Selection, selection_shape
from dask_chunkio.sources.lazy import Block
from dask_chunkio.sources.source import check_buffer, read_named
from dask_chunkio.tasks import Receipt, WriteLayout, commit_buffer, nothing_done, write_buffer

__all__ = ["commit_block", "pass_block", "write_block"]


# Number of a dataset, number of a buffer.
Place = tuple[int, int]


def commit_block(layout: WriteLayout, dataset: int, buffer: int, block: Any) -> Receipt:
    """Commit a block that dask computed, if it is what the array announced."""
    if layout.complete:
        return nothing_done(dataset, buffer)
    job = layout.jobs[dataset]
    selection = job.selection(buffer)
    dtypes = job.source_dtype, job.layout.form.dtype
    data = check_buffer(block, selection_shape(selection), dtypes, job.where(buffer, selection))
    return commit_buffer(layout, dataset, buffer, data)


def write_block(
    layout: WriteLayout, places: Sequence[Place], block: tuple[Any, Sequence[Any]], values: Sequence[Any]
) -> list[Receipt]:
    """Compute a block (its task, and the keys of what it needs) and commit it to one dataset or several.

    A write that is resumed or has lost a worker computes no block that is in all of its places.
    """
    source = _block(block, values)
    if len(places) == 1:
        return [write_buffer(layout, *places[0], source)]
    once = _Once(source)
    return [write_buffer(layout, *place, once) for place in places]


def pass_block(
    layout: WriteLayout, places: Sequence[Place], block: tuple[Any, Sequence[Any]], values: Sequence[Any]
) -> Any:
    """Compute a block, commit it and return it for other tasks, which need it too."""
    dataset, buffer = places[0]
    job = layout.jobs[dataset]
    selection = job.selection(buffer)
    found = read_named(_block(block, values), selection, job.where(buffer, selection))
    for place in places:
        commit_block(layout, *place, found)
    return found


class _Once:
    """Reads a block the first time that it is asked for."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._found: Any = None

    def read(self, selection: Selection) -> Any:
        if self._found is None:
            self._found = self._block.read(selection)
        return self._found


def _block(block: tuple[Any, Sequence[Any]], values: Sequence[Any]) -> Block:
    task, needed = block
    return Block(task, dict(zip(needed, values, strict=True)))
