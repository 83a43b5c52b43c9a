"""Checks whether everything that a call would create exists already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from dask_chunkio.filters.compatibility import exact_words
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.hdf5.dataset import DatasetSpec, describe, previewed
from dask_chunkio.storage.journal.draft_manifest import read_draft
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.tokens import is_applied

__all__ = ["StoredDataset", "completed", "differs", "stored"]


@dataclass(frozen=True, slots=True)
class StoredDataset:
    """A dataset as it is in the file.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    shape : tuple of int
        Shape of the dataset, in elements.
    dtype : numpy.dtype
        Type of its elements.
    nbytes, stored_nbytes : int
        Size of its elements in bytes, and the number of bytes that the file stores for them.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    nbytes: int
    stored_nbytes: int


def stored(dataset: h5py.Dataset) -> StoredDataset:
    """Describe a dataset."""
    shape = tuple(map(int, dataset.shape))
    return StoredDataset(dataset.name, shape, dataset.dtype, int(dataset.nbytes), int(dataset.id.get_storage_size()))


def completed(file: h5py.File, target: Target, specs: Sequence[DatasetSpec]) -> tuple[StoredDataset, ...]:
    """Return the datasets of a call that is complete; an empty tuple if it is not.

    A token decides, whatever shape the datasets have; of a fill, the record of its draft.  Without a token, a call that
    resumes its own write is complete if the existing datasets are those that it would create.

    Raises
    ------
    TargetExistsError
        If the call's token is applied to some of its datasets.
    """
    names = [spec.name for spec in specs]
    if target.fills:
        return tuple(stored(file[name]) for name in names) if _is_recorded(target) else ()
    if not is_applied(file, names, target.token) and not _is_made(file, target, specs):
        return ()
    return tuple(stored(file[name]) for name in names)


def _is_recorded(target: Target) -> bool:
    """Return whether the draft has recorded that this fill is complete, before it has removed its side folder."""
    manifest = read_draft(DraftPaths.of_file(target.path).manifest)
    return manifest is not None and target.fill is not None and len(manifest.fills) > target.fill


def _is_made(file: h5py.File, target: Target, specs: Sequence[DatasetSpec]) -> bool:
    makes = all(spec.there is None and not spec.appends for spec in specs)
    if not target.resume or target.overwrite or target.token is not None or not makes:
        return False
    found = [(file.get(spec.name), spec) for spec in specs]
    return all(isinstance(one, h5py.Dataset) and differs(one, spec) is None for one, spec in found)


def differs(dataset: h5py.Dataset, spec: DatasetSpec, only: Sequence[str] | None = None) -> str | None:
    """Return in words how an existing dataset differs from the one that would be created; None if it does not.

    Parameters
    ----------
    dataset : h5py.Dataset
        The existing dataset.
    spec : DatasetSpec
        Specification of the dataset that would be created.
    only : sequence of str, optional
        The properties to compare: ``shape``, ``maxshape``, ``dtype``, ``chunks``, ``filters``, ``fillvalue``.
    """
    with previewed(spec) as made:
        mine, theirs = _properties(made), _properties(dataset)
        fills = _fill(made, mine), _fill(dataset, theirs)
    if spec.open_ended:
        mine["shape"] = (*theirs["shape"][:1], *mine["shape"][1:])
    for name in mine if only is None else only:
        if mine[name] != theirs[name]:
            return _in_words(name, *(fills if name == "fillvalue" else (mine[name], theirs[name])))
    return None


def _in_words(name: str, mine: Any, theirs: Any) -> str:
    what = {"fillvalue": "fill value"}.get(name, name)
    if _is_nothing(theirs) or _is_nothing(mine):
        found, wanted = (f"no {what}" if _is_nothing(one) else f"the {what} {_shown(one)}" for one in (theirs, mine))
        return f"it has {found}, and would have {wanted}"
    return (
        f"its {what} {'are' if what in ('chunks', 'filters') else 'is'} {_shown(theirs)}, and would be {_shown(mine)}"
    )


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and not value)


def _fill(dataset: h5py.Dataset, properties: dict[str, Any]) -> Any:
    """Return a fill value as a numpy scalar."""
    value = properties["fillvalue"]
    return None if value is None else np.frombuffer(value, dataset.dtype)[0]


def _properties(dataset: h5py.Dataset) -> dict[str, Any]:
    if dataset.shape is None:
        return dict.fromkeys(("shape", "maxshape", "dtype", "chunks", "filters", "fillvalue"))
    form = replace(describe(dataset).form, chunk_shape=())
    return {
        "shape": tuple(map(int, dataset.shape)),
        "maxshape": dataset.maxshape,
        "dtype": exact_words(form.dtype),
        "chunks": dataset.chunks,
        "filters": tuple(map(str, form.filters)),
        "fillvalue": form.fillvalue,
    }


def _shown(value: Any) -> str:
    is_words = isinstance(value, tuple) and all(isinstance(one, str) for one in value)
    return " > ".join(value) if is_words else str(value)
