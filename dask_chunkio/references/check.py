"""Checks, before a write begins, that references can describe what it is going to write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import h5py

from dask_chunkio.errors import ArgumentError, ChunkIOError
from dask_chunkio.references.elements import problem_of_dtype
from dask_chunkio.references.kerchunk_codecs import codecs_of, may_skip
from dask_chunkio.references.model import Unsupported
from dask_chunkio.references.output import require_replaceable
from dask_chunkio.storage.hdf5.dataset import DatasetLayout
from dask_chunkio.storage.target import Target

__all__ = ["output_problem", "reference_words", "require_referable"]


def require_referable(layouts: Iterable[DatasetLayout]) -> None:
    """Refuse datasets that readers of references could not read.

    Raises
    ------
    ArgumentError
        If there is one; the message says what to change.
    """
    for layout in layouts:
        if (problem := _problem(layout)) is not None:
            raise ArgumentError(f"{layout.name}: references= cannot describe it: {problem}")


def _problem(layout: DatasetLayout) -> str | None:
    text = h5py.check_string_dtype(layout.form.dtype)
    if text is not None and text.length is None:
        return None
    if layout.form.dtype.hasobject:
        return "its elements have a variable length or are references of HDF5"
    try:
        codecs_of(layout.form)
    except Unsupported as reason:
        return str(reason)
    return problem_of_dtype(layout.form.dtype)


def output_problem(target: Target) -> str:
    """Return in words why the references of a write cannot be written now; empty if they can."""
    try:
        require_replaceable(target.references, target.path)
    except ChunkIOError as error:
        return str(error)
    return ""


def reference_words(target: Target, layouts: Sequence[DatasetLayout]) -> str:
    """Return what a plan says of the references of a write; empty without any."""
    if not target.references:
        return ""
    words = f"References to its chunks in {target.references}"
    for layout in layouts:
        if layout.is_chunked and (name := may_skip(layout.form.filters)) is not None:
            words += (
                f"; {layout.name} has none if {name} makes some of its chunks smaller and others not: gzip and zstd "
                f"have no such chunks"
            )
    return words
