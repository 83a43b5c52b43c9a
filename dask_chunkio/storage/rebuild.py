"""An index made anew from the journal, where HDF5's own says something else."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.dataset import DatasetLayout
from dask_chunkio.storage.files import pread_into, pwrite_all
from dask_chunkio.storage.journal import Entries, Reservations
from dask_chunkio.storage.records import checksum
from dask_chunkio.storage.turn import Turns

__all__ = ["rebuild_dataset"]


def rebuild_dataset(turns: Turns, number: int, layout: DatasetLayout) -> None:
    """Replace a dataset by one that holds what the journal says, inside a turn.

    Every payload is read from its place, compared with its checksum, and copied to a new
    place that HDF5 hands out; until the commit the old dataset is as it was.

    Raises
    ------
    IntegrityError
        If a payload is not what was written, or a new place lies over an old one.
    """
    table = turns.journal.table(number).copy()
    if turns.journal.created is None:
        raise IntegrityError(f"{layout.name}: the journal does not say what was made")
    path = turns.journal.created.path(number)
    end = os.fstat(turns.file).st_size
    with turns.opened() as state:
        made = _twin(state.h5, path)
        places = [
            state.staged.reserve(made.id, origin, int(row["nbytes"]), int(row["mask"]))
            for origin, row in zip(layout.origins(range(len(table))), table, strict=True)
        ]
        _require_apart(table, places, layout.name)
        # A place below the end of the last commit may still belong to it.
        early = [place >= end for place in places]
        _copy(turns, layout, table, places, early)
        del state.h5[path]
        state.h5.move(_twin_path(path), path)
        rows = [
            (chunk, place, int(row["nbytes"]), int(row["checksum"]), int(row["mask"]))
            for chunk, (place, row) in enumerate(zip(places, table, strict=True))
        ]
        epoch = turns.journal.owner.epoch if turns.journal.owner is not None else 0
        turns.commit(state, Reservations.of(number, 0, rows, epoch, time.time_ns()).pack(), close=True)
    _copy(turns, layout, table, places, [not was for was in early])


def _twin(file: h5py.File, path: str) -> h5py.Dataset:
    """Make an empty dataset with the same properties and attributes."""
    old = file[path]
    identifier = h5py.h5d.create(file.id, None, old.id.get_type(), old.id.get_space(), old.id.get_create_plist())
    made = h5py.Dataset(identifier)
    for name in old.attrs:
        attribute = old.attrs.get_id(name)
        made.attrs.create(name, old.attrs[name], shape=attribute.shape, dtype=attribute.dtype)
    file[_twin_path(path)] = made
    return made


def _twin_path(path: str) -> str:
    return path + ".rebuilt"


def _require_apart(table: Entries, places: list[int], name: str) -> None:
    lengths = table["nbytes"].astype(np.int64)
    old, new = table["offset"].astype(np.int64), np.asarray(places, np.int64)
    order = np.argsort(old)
    starts, ends = old[order], (old + lengths)[order]
    nearest = np.searchsorted(starts, new + lengths, side="left") - 1
    if np.any((nearest >= 0) & (ends[np.maximum(nearest, 0)] > new)):
        raise IntegrityError(
            f"{name}: HDF5's index and the journal disagree, and the payloads that the journal knows lie where HDF5 "
            f"sees free space; discard the write and start it again"
        )


def _copy(turns: Turns, layout: DatasetLayout, table: Entries, places: list[int], wanted: list[bool]) -> None:
    for chunk, row, place in _wanted(table, places, wanted):
        data = bytearray(int(row["nbytes"]))
        count = pread_into(turns.file, memoryview(data), int(row["offset"]))
        if count != len(data) or checksum(data) != int(row["checksum"]):
            raise IntegrityError(
                f"{layout.name}: the payload of the chunk at {layout.origin(chunk)} is not what was written; "
                f"go on with resume=True, which reads its source again"
            )
        pwrite_all(turns.file, memoryview(data), place)


def _wanted(table: Entries, places: list[int], wanted: list[bool]) -> Iterator[tuple[int, Any, int]]:
    return ((n, table[n], places[n]) for n in range(len(table)) if wanted[n])
