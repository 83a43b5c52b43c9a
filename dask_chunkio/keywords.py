"""The keywords of `to_hdf5` and `plan`, as editors and type checkers see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from numpy.typing import DTypeLike

from dask_chunkio.events import Listener

__all__ = ["DatasetKeywords", "PlanKeywords", "WriteKeywords"]


class DatasetKeywords(TypedDict, total=False):
    """Keywords of one dataset; all of them may be left out.

    Those from ``compression`` to ``track_order`` are keywords of `h5py.Group.create_dataset`, and mean the same.
    """

    chunks: int | tuple[int, ...] | Literal["auto", True]
    """Shape of the HDF5 chunks, in elements; ``"auto"``, the default, has it chosen."""
    buffer_shape: int | tuple[int, ...]
    """Shape of the buffers, in elements, whole chunks each; chosen by default."""
    dtype: DTypeLike
    """Type of the elements in the file; the source's by default."""
    attrs: Mapping[str, Any]
    """Attributes of the dataset."""
    read: Literal["concurrent", "serial", "ordered"]
    """Whether buffers are read by several tasks at once, one at a time, or one after the other in order."""
    region: Any
    """Part of a dataset that exists: what stands in ``dataset[region] = source``."""
    append: bool | int
    """True, or an axis: write behind the end of a dataset, which is made if it does not exist."""
    compression: str | int | Mapping[str, Any] | None
    """Name of a filter, its number, a level of gzip, or an object of hdf5plugin's; None, the default, for none."""
    compression_opts: Any
    """What the filter takes: the level of gzip, for example."""
    shuffle: bool
    """Whether bytes of equal significance are stored side by side before they are compressed."""
    fletcher32: bool
    """Whether each chunk has a checksum."""
    scaleoffset: int
    """Decimals, or bits, that the scale-offset filter keeps."""
    fillvalue: Any
    """Value of elements that nobody has written."""
    fill_time: Literal["alloc", "ifset", "never"]
    """When HDF5 writes fill values."""
    maxshape: int | tuple[int | None, ...] | Literal[True]
    """Shape to which the dataset can grow; None along an axis for without limit."""
    track_times: bool
    """Whether the dataset has a modification time."""
    track_order: bool
    """Whether attributes keep the order in which they were made."""
    allow_unknown_filter: bool
    """Whether a filter may be used that HDF5 does not find."""


class PlanKeywords(DatasetKeywords, total=False):
    """Keywords of `to_hdf5` that a plan does not depend on."""

    callback: Listener | None
    compute: bool
    compute_kwargs: Mapping[str, Any] | None
    durability: Literal["process", "power"] | None
    fuse: bool
    progress: bool | None
    wait: bool | None


class WriteKeywords(DatasetKeywords, total=False):
    """Keywords of `to_hdf5` but for ``compute``, which decides what it returns."""

    callback: Listener | None
    compute_kwargs: Mapping[str, Any] | None
    durability: Literal["process", "power"] | None
    encoding: Mapping[str, DatasetKeywords] | None
    fuse: bool
    libver: str | tuple[str, str] | None
    memory_limit: int | str | None
    overwrite: bool
    progress: bool | None
    resume: bool
    scheduler: Any
    token: str | None
    wait: bool | None
