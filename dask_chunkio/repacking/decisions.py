"""What becomes of each dataset of a file, by the rules; noted for the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py

from dask_chunkio.errors import ArgumentError, ChunkIOError
from dask_chunkio.filters.chunking import cut_chunk
from dask_chunkio.filters.encoders import encoder_for
from dask_chunkio.repacking.elements import elements_of, is_sparse
from dask_chunkio.repacking.layouts import Described, Plan, describe, file_in_memory, is_large, planned, try_to_make
from dask_chunkio.repacking.patterns import Selection, matches
from dask_chunkio.repacking.results import RepackedDataset
from dask_chunkio.repacking.rules import Rules
from dask_chunkio.repacking.walk import links_of
from dask_chunkio.storage.hdf5.dataset import describe as layout_of

__all__ = ["Decisions"]

_SAMPLE = 3


@dataclass(frozen=True, slots=True)
class _Changed:
    """A dataset that changes; it holds no object of HDF5, as h5py looks at all of them whenever a file is closed."""

    name: str
    shape: tuple[int, ...]
    nbytes: int
    stored: int
    is_filled: bool
    estimate: int | None


class Decisions:
    """Decides what becomes of each dataset, and notes it.

    Parameters
    ----------
    rules : Rules
        The rules.
    chunk_nbytes : int
        Size of a chunk whose shape is not given.
    estimates : bool
        Whether to estimate the stored size of what changes.

    Attributes
    ----------
    filled : list of str
        The datasets that are filled in parallel.
    notes : list of str
        What cannot be done for datasets that no pattern names.
    """

    def __init__(self, rules: Rules, chunk_nbytes: int, estimates: bool = False) -> None:
        self._rules, self._chunk_nbytes, self._estimates = rules, chunk_nbytes, estimates
        self._changed: list[_Changed] = []
        self._memory = file_in_memory()
        self.filled: list[str] = []
        self._unused = rules.patterns
        self._names: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def __call__(self, found: Described) -> Plan:
        """Decide what becomes of a dataset.

        Raises
        ------
        ArgumentError
            If what a pattern asks for cannot be done.
        """
        names = (found.name, *self._names.get(found.name, ()))
        if self._unused:
            self._unused = frozenset(one for one in self._unused if not any(matches(one, name) for name in names))
        wanted = self._rules.wanted(*names)
        plan = planned(found, wanted, self._rules.minimum, self._chunk_nbytes, self._memory)
        self.notes += plan.notes
        if plan.way == "filled":
            self.filled.append(found.name)
        if plan.properties is not found.properties:
            stored = found.dataset.get_storage_size()
            estimate = _estimated(found, plan, self._memory) if self._estimates else None
            is_filled = plan.way == "filled"
            self._changed.append(_Changed(found.name, found.shape or (), found.nbytes, stored, is_filled, estimate))
        return plan

    def leaves(self, dataset: Any) -> bool:
        """Return whether a dataset of numbers stays as it is, and is so small that HDF5 copies it at once."""
        return not self._rules and not is_large(dataset)

    def find_names(self, source: h5py.File, selection: Selection) -> None:
        """Find the datasets that have several names (hard links): a pattern may mean any of them."""
        if not self._rules.patterns:
            return
        for found in links_of(source, selection):
            if found.first is not None:
                first = found.first.decode("utf-8", "surrogateescape")
                self._names.setdefault(first, []).append(found.text)

    def require_all_used(self) -> None:
        """Make sure that each pattern fits a dataset.

        Raises
        ------
        ArgumentError
            If one does not.
        """
        if self._unused:
            raise ArgumentError(f"no dataset fits {', '.join(sorted(self._unused))} of filters= or layouts=")

    def survey(self, source: h5py.File, selection: Selection) -> None:
        """Decide for all datasets of a file, without copying anything."""
        for found in links_of(source, selection):
            if not found.is_hard or found.first is not None:
                continue
            item = h5py.h5o.open(found.group, found.name)
            found.made = isinstance(item, h5py.h5g.GroupID)
            if isinstance(item, h5py.h5d.DatasetID):
                kind = item.get_type()
                if self.leaves(item):
                    continue
                self(describe(found.text, item, kind, elements_of(kind, found.text)))

    def results(self, file: h5py.File | None) -> tuple[RepackedDataset, ...]:
        """Describe what has changed: as it is in the new file, or, without one, by the estimates."""
        stored = [one.estimate if file is None else file[one.name].id.get_storage_size() for one in self._changed]
        return tuple(
            RepackedDataset(one.name, one.shape, one.nbytes, one.stored, after, one.is_filled)
            for one, after in zip(self._changed, stored, strict=True)
        )


def _estimated(found: Described, plan: Plan, memory: Any) -> int | None:
    """Return the estimated stored size of a dataset, from a few of its chunks; None if there is no estimate."""
    if plan.way == "empty" or plan.properties.get_layout() != h5py.h5d.CHUNKED:
        return 0 if plan.way == "empty" else found.nbytes
    if found.elements.part is not None or (found.chunks and is_sparse(found.dataset, found.shape or (), found.chunks)):
        return None
    layout = layout_of(h5py.Dataset(try_to_make(memory, found, plan.properties, plan.is_fixed)))
    count = len(layout.chunks)
    if not layout.form.filters or not layout.is_chunked:
        return None if layout.form.filters else count * layout.form.nbytes
    try:
        return sum(_encoded(found, layout, number) for number in _spread(count)) * count // min(count, _SAMPLE)
    except (ChunkIOError, OSError):
        return None


def _spread(count: int) -> Sequence[int]:
    """Return numbers of chunks, spread over all."""
    sample = min(_SAMPLE, count)
    return [(2 * number + 1) * count // (2 * sample) for number in range(sample)]


def _encoded(found: Described, layout: Any, number: int) -> int:
    cell = layout.chunks[number]
    data = h5py.Dataset(found.dataset)[cell]
    return int(encoder_for(layout.form, {}).encode(cut_chunk(data, cell, cell, layout.form)).nbytes)
