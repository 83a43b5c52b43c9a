"""The keywords of `to_hdf5` and `plan`, as editors and type checkers see them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from numpy.typing import DTypeLike

from dask_chunkio.events import Listener

__all__ = ["DatasetKeywords", "PlanKeywords", "WriteKeywords"]


class DatasetKeywords(TypedDict, total=False):
    """Keywords of one dataset; all of them are optional.

    The keywords from ``compression`` to ``track_order`` have the same meaning as in `h5py.Group.create_dataset`.
    """

    chunks: int | tuple[int, ...] | Literal["auto", True]
    """Shape of the HDF5 chunks, in elements; chosen automatically for ``"auto"``, the default."""
    buffer_shape: int | tuple[int, ...]
    """Shape of the buffers, in elements, a multiple of the chunk shape; chosen automatically by default."""
    dtype: DTypeLike
    """Type of the elements in the file; the source's by default."""
    attrs: Mapping[str, Any]
    """Attributes of the dataset."""
    read: Literal["concurrent", "serial", "ordered"]
    """Whether buffers are read by several tasks at once, one at a time, or one after the other in order."""
    region: Any
    """Part of an existing dataset: the index in ``dataset[region] = source``."""
    append: bool | int
    """True, or an axis: write after the end of a dataset, which is created if it does not exist."""
    compression: str | int | Mapping[str, Any] | None
    """Name of a filter, its number, a level of gzip, or an object of hdf5plugin's; None, the default, for none."""
    compression_opts: Any
    """Parameters of the filter, for example the level of gzip."""
    shuffle: bool | None
    """Whether bytes of equal significance are stored side by side before they are compressed."""
    fletcher32: bool | None
    """Whether each chunk has a checksum."""
    scaleoffset: int
    """Number of decimals, or of bits, that the scale-offset filter keeps."""
    fillvalue: Any
    """Value of elements that were never written."""
    fill_time: Literal["alloc", "ifset", "never"]
    """When HDF5 writes fill values."""
    maxshape: int | tuple[int | None, ...] | Literal[True]
    """Shape to which the dataset can grow; None for an axis without limit."""
    track_times: bool
    """Whether the dataset has a modification time."""
    track_order: bool
    """Whether attributes keep the order in which they were created."""
    allow_unknown_filter: bool
    """Whether to accept a filter that HDF5 does not find."""


class RunKeywords(DatasetKeywords, total=False):
    """Keywords of `to_hdf5` that say how a write runs; a plan does not depend on them."""

    callback: Listener | None
    compute_kwargs: Mapping[str, Any] | None
    durability: Literal["process", "power"] | None
    fuse: bool
    progress: bool | None
    wait: bool | None


class PlanKeywords(RunKeywords, total=False):
    """Keywords of `plan` that are not its own parameters; those of a run are accepted and ignored."""

    compute: bool


class WriteKeywords(RunKeywords, total=False):
    """Keywords of `to_hdf5` but for ``compute``, which decides what it returns."""

    encoding: Mapping[str, DatasetKeywords] | None
    layout: Literal["cloud", "cmip7"] | None
    libver: str | tuple[str, str] | None
    memory_limit: int | str | None
    overwrite: bool
    part: tuple[int, int] | Literal["slurm"] | None
    references: str | os.PathLike[str] | None
    references_url: str | None
    resume: bool
    scheduler: Any
    token: str | None
