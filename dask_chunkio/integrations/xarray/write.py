"""One call of `dask_chunkio.integrations.xarray.to_netcdf`: a draft, its structure, and the arrays that fill it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import h5py
from dask.delayed import Delayed, delayed

import dask_chunkio
from dask_chunkio.dask_compat import distributed, in_worker
from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.events import Listener
from dask_chunkio.integrations.xarray.structure import AppliedError, Form, Node, Part, make_structure
from dask_chunkio.keywords import DatasetKeywords
from dask_chunkio.references.of_draft import DraftReferences
from dask_chunkio.results import WriteResult, already_complete
from dask_chunkio.validation import check_type

__all__ = ["NetcdfKeywords", "NetcdfWrite", "RunKeywords"]

_OF_DRAFTS = ("resume", "durability", "wait", "references", "references_url")


class RunKeywords(TypedDict, total=False):
    """Keywords of `to_netcdf` that say how a write runs; they mean the same as in `to_hdf5`."""

    scheduler: Any
    memory_limit: int | str | None
    progress: bool | None
    callback: Listener | None
    compute_kwargs: Mapping[str, Any] | None
    durability: Literal["process", "power"] | None
    wait: bool | None
    resume: bool
    references: Any
    references_url: Any


class NetcdfKeywords(RunKeywords, total=False):
    """Keywords of `to_netcdf` but for ``compute``, which decides what it returns."""

    group: str | None
    encoding: Mapping[Any, Any] | None
    unlimited_dims: Iterable[Any] | Mapping[Any, Any] | None
    append_dim: Any
    token: str | None
    format: str | None
    engine: str | None
    layout: Literal["cloud", "cmip7"] | None
    invalid_netcdf: bool
    write_inherited_coords: bool


@dataclass(frozen=True, slots=True)
class NetcdfWrite:
    """A write of datasets to one file.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    mode : str
        ``"w"``, ``"a"`` or ``"x"``.
    nodes : tuple of Node
        What is written to which group.
    form : Form
        How the file is made.
    keywords : mapping
        How the write runs.
    """

    path: str
    mode: Literal["x", "w", "a"]
    nodes: tuple[Node, ...]
    form: Form
    keywords: RunKeywords

    def __post_init__(self) -> None:
        if unknown := self.keywords.keys() - RunKeywords.__annotations__.keys():
            raise ArgumentTypeError(
                f"to_netcdf has no keyword {', '.join(sorted(unknown))}; use those of xarray with engine='h5netcdf' "
                f"or {', '.join(RunKeywords.__annotations__)}"
            )

    def run(self) -> WriteResult:
        """Write the file."""
        filling: dict[str, Any] = {name: one for name, one in self.keywords.items() if name not in _OF_DRAFTS}
        with contextlib.suppress(AppliedError), self._draft() as draft:
            is_new, adds = draft.is_new, self.mode == "a"
            parts = make_structure(draft.path, self.nodes, self.form, adds=adds, is_complete=not is_new)
            if not parts:
                return WriteResult(self.path, (), 0.0)
            encoding = {one.name: _keywords(one) for one in parts}
            try:
                return draft.fill({one.name: one.source for one in parts}, encoding=encoding, **filling)
            except (ArgumentError, ArgumentTypeError):
                if is_new:
                    # The structure is made again in no time: the next call need not resume this one.
                    draft.keep()
                    dask_chunkio.discard(self.path)
                raise
        self._refer_again()
        return already_complete(self.path, ())

    def _refer_again(self) -> None:
        """Make the references of a file to which an earlier call has appended the same."""
        made = DraftReferences(self.keywords.get("references"), self.keywords.get("references_url"))
        made.write(self.path, {})

    def _draft(self) -> dask_chunkio.Draft:
        drafting: dict[str, Any] = {name: one for name, one in self.keywords.items() if name in _OF_DRAFTS}
        return dask_chunkio.draft(self.path, mode=self.mode, layout=self.form.layout, **drafting)

    def delayed(self) -> Delayed:
        """Return a task that writes the file where it runs, with the workers of its cluster if it has one."""
        scheduler = self.keywords.get("scheduler")
        is_sendable = scheduler is None or isinstance(scheduler, str)
        check_type("scheduler", scheduler, is_sendable, "a name if compute=False; give a client to compute()")
        found: Delayed = delayed(self.run_in_task, pure=False, traverse=False)()
        return found

    def run_in_task(self) -> WriteResult:
        """Write the file from a task: a worker gives its thread up and lets its cluster write."""
        if self.keywords.get("scheduler") is not None or not in_worker():
            return self.run()
        with distributed().worker_client() as client:
            return replace(self, keywords={**self.keywords, "scheduler": client}).run()


def _keywords(part: Part) -> DatasetKeywords:
    found: DatasetKeywords = {}
    if part.region is not None:
        found["region"] = part.region
    elif part.source.dtype.kind == "U":
        # numpy's own strings have no type in HDF5.
        found["dtype"] = h5py.string_dtype()
    return found
