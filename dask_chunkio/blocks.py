"""The tasks that commit the blocks of dask arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask_chunkio.grid import selection_shape
from dask_chunkio.sources.lazy import Block
from dask_chunkio.sources.source import check_buffer
from dask_chunkio.tasks import Receipt, WriteLayout, commit_buffer, write_buffer

__all__ = ["commit_block", "write_block"]


def commit_block(layout: WriteLayout, dataset: int, buffer: int, block: Any) -> Receipt:
    """Commit a block that dask computed, if it is what the array announced."""
    job = layout.jobs[dataset]
    selection = job.selection(buffer)
    dtypes = job.source_dtype, job.layout.form.dtype
    data = check_buffer(block, selection_shape(selection), dtypes, job.where(buffer, selection))
    return commit_buffer(layout, dataset, buffer, data)


def write_block(
    layout: WriteLayout, dataset: int, buffer: int, block: tuple[Any, Sequence[Any]], values: Sequence[Any]
) -> Receipt:
    """Compute a block (its task, and the keys of what it needs) and commit it, unless that was done.

    A write that is resumed or has lost a worker computes nothing twice that is in its place.
    """
    task, needed = block
    return write_buffer(layout, dataset, buffer, Block(task, dict(zip(needed, values, strict=True))))
