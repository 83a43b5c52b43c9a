"""The parts of datasets that are there already, as a write that is going to replace them finds them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import h5py

from dask_chunkio.errors import ChunkIOError, TargetBusyError, TargetError
from dask_chunkio.grid import Shape
from dask_chunkio.storage.dataset import DatasetLayout, describe_region
from dask_chunkio.storage.journal import read_journal
from dask_chunkio.storage.target import Target

__all__ = ["find_parts"]

Wanted = tuple[Any, Any, Shape]


def find_parts(target: Target, wanted: Mapping[str, Wanted]) -> dict[str, DatasetLayout]:
    """Describe parts of datasets.

    Parameters
    ----------
    target : Target
        The file.
    wanted : mapping
        For the name of each dataset: ``region`` and ``append`` as the user says them, and the shape of the source.

    Raises
    ------
    TargetError
        If there is no such file or dataset.
    TargetBusyError
        If another program has the file open for writing.
    ArgumentError
        If there is no such part.
    """
    if not wanted:
        return {}
    if not os.path.isfile(target.path):
        raise TargetError(f"there is no file {target.path}, so nothing to write a region into; leave region= out")
    begun = _begun(target) if target.resume else {}
    try:
        with h5py.File(target.path, "r") as file:
            return {name: _part(file, name, one, begun.get(name)) for name, one in wanted.items()}
    except OSError as error:
        if isinstance(error, ChunkIOError):
            raise
        raise TargetBusyError(
            f"{target.path} cannot be opened ({error}); close it in the program that has it open"
        ) from error


def _part(file: h5py.File, name: str, wanted: Wanted, begun: tuple[Shape, Shape, Shape] | None) -> DatasetLayout:
    region, append, source = wanted
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise TargetError(f"{file.filename} has no dataset {name}, so nothing to write into; leave region= out")
    return describe_region(dataset, region, append, source, begun)


def _begun(target: Target) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Return the regions of a write that was cut off: what it appends to has grown already."""
    if not target.is_begun:
        return {}
    with read_journal(target.journal) as journal:
        made = journal.created.datasets if journal.created is not None else ()
        return {one.name: (one.region[0], one.region[1], one.region[2]) for one in made if one.region}
