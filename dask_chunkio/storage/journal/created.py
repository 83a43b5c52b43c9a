"""The datasets that a write creates when it begins, as its journal describes them to a call that resumes it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from typing import Any

from dask_chunkio.geometry.grid import ChunkGrid, Shape
from dask_chunkio.storage.journal.records import CREATED, json_object, pack_json

__all__ = ["Created", "CreatedDataset"]

_GROUP = re.compile(r"/\.dask_chunkio-[^/]+")


@dataclass(frozen=True, slots=True)
class CreatedDataset:
    """The properties of a dataset that a resumed write and the interrupted one must have in common.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    shape, chunks : tuple of int
        Shapes of the dataset and of its chunks, in elements.
    dtype, source_dtype, filters, fillvalue : str
        Descriptions in words, to be compared and shown.
    is_chunked : bool
        As `DatasetLayout.is_chunked`.
    region : tuple of tuple of int
        Start and stop of a part of an existing dataset, and the shape of that dataset before; else empty.
    open_ended : bool
        Whether the length may still change.
    is_filled : bool
        As `DatasetLayout.is_filled`.
    """

    name: str
    shape: Shape
    chunks: Shape
    dtype: str
    source_dtype: str
    filters: str
    fillvalue: str
    is_chunked: bool
    region: tuple[Shape, ...] = ()
    open_ended: bool = False
    is_filled: bool = False

    @property
    def is_new(self) -> bool:
        """Whether the write has created the dataset, which has no readers until it is complete."""
        return not self.region and not self.is_filled

    @property
    def chunk_count(self) -> int:
        """Number of chunks; a dataset without axes counts as one chunk."""
        return len(ChunkGrid(self.shape, self.chunks))

    def difference(self, other: CreatedDataset) -> str | None:
        """Return in words what differs, or None; a length that was not known differs from no other."""
        if other.open_ended and other.shape and self.shape:
            other = dataclasses.replace(other, shape=(self.shape[0], *other.shape[1:]), open_ended=self.open_ended)
        for part in dataclasses.fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            if mine != theirs:
                return f"{part.name.replace('_', ' ')} was {mine or 'none'} and is {theirs or 'none'} now"
        return None


@dataclass(frozen=True, slots=True)
class Created:
    """The datasets that a write created when it began.

    Parameters
    ----------
    datasets : tuple of CreatedDataset
        The datasets, in the order of their numbers.
    group : str
        The hidden group that holds them until they are complete; empty if the file itself is hidden.
    token : str or None
        Token of the call.
    overwrite : bool
        Whether the call may replace existing datasets.
    """

    datasets: tuple[CreatedDataset, ...]
    group: str = ""
    token: str | None = None
    overwrite: bool = False

    def pack(self) -> bytes:
        """Return the record."""
        return pack_json(CREATED, dataclasses.asdict(self))

    @classmethod
    def unpack(cls, body: bytes) -> Created:
        """Read the body of a record.

        Raises
        ------
        ValueError, TypeError, KeyError
            If its content is impossible.
        """
        found = json_object(body)
        datasets = found["datasets"]
        if set(found) != _FIELDS or type(found["group"]) is not str or not isinstance(datasets, list):
            raise ValueError("it names no datasets")
        if type(found["overwrite"]) is not bool or not isinstance(found["token"], str | None):
            raise ValueError("it describes no valid call")
        # `discard` removes this group: accept no other name.
        if found["group"] and not _GROUP.fullmatch(found["group"]):
            raise ValueError(f"no write creates the group {found['group']!r}")
        return cls(tuple(map(_dataset, datasets)), found["group"], found["token"], found["overwrite"])

    def difference(self, other: Created) -> str | None:
        """Return in words how another call differs from the one that began the write; None if it may resume the write.

        A call may add a token to a write that was begun without one.
        """
        mine, theirs = ([made.name for made in one.datasets] for one in (self, other))
        if mine != theirs:
            return f"it writes {', '.join(mine)}, not {', '.join(theirs)}"
        if self.overwrite != other.overwrite:
            return f"it was begun {'with' if self.overwrite else 'without'} overwrite=True"
        if self.token not in (None, other.token):
            return f"it was begun with token={self.token!r}"
        for made, wanted in zip(self.datasets, other.datasets, strict=True):
            if (words := made.difference(wanted)) is not None:
                return f"{made.name}: {words}"
        return None

    def path(self, number: int) -> str:
        """Return the path of dataset `number` in the HDF5 file during the write."""
        made = self.datasets[number]
        return f"{self.group}/{number}" if self.group and made.is_new else made.name


_FIELDS = {field.name for field in dataclasses.fields(Created)}


def _dataset(found: Any) -> CreatedDataset:
    shapes = {name: tuple(found[name]) for name in ("shape", "chunks")}
    made = CreatedDataset(**{**found, **shapes, "region": tuple(map(tuple, found["region"]))})
    if len(made.region) not in (0, 3) or any(len(one) != len(made.shape) for one in made.region):
        raise ValueError("an invalid region")
    if (
        not all(type(n) is int for n in itertools.chain(made.shape, made.chunks, *made.region))
        or type(made.is_chunked) is not bool
        or type(made.open_ended) is not bool
        or type(made.is_filled) is not bool
    ):
        raise ValueError("a dataset with an invalid shape")
    if not all(type(word) is str for word in (made.name, made.dtype, made.source_dtype, made.filters, made.fillvalue)):
        raise ValueError("a dataset without a valid description")
    made.name.encode()
    return made
