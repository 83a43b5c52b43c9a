"""Writes to be recorded, each beside what plain h5py would have made.

Usage: python -m tests.support.replay.replay_cases NAME FOLDER

That makes the write of this name in a folder that `Case.begin` has prepared.
"""

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from tests.support.iterators import Noting
from tests.support.notes import note

FILE, READS = "out.h5", "reads"
TOKENS = "token" in inspect.signature(dcio.to_hdf5).parameters


def as_iterator(name: str, data: NDArray[Any], notes: str, chunks: tuple[int, ...]) -> Any:
    chunks = tuple(map(min, chunks, data.shape))
    return Noting(data, notes, name, chunk_shape=chunks, buffer_shape=(chunks[0], *data.shape[1:]))


def as_dask_array(name: str, data: NDArray[Any], notes: str, chunks: tuple[int, ...]) -> Any:  # noqa: ARG001
    return da.from_array(data, chunks=(2 * chunks[0], -1))


def as_stream(name: str, data: NDArray[Any], notes: str, chunks: tuple[int, ...]) -> Any:  # noqa: ARG001
    """Yield some rows at a time, for a dataset whose length is not known before the end."""
    return (dcio.DataChunk(data[row : row + 3], np.s_[row : row + 3, :]) for row in range(0, len(data), 3))


def as_array(name: str, data: NDArray[Any], notes: str, chunks: tuple[int, ...]) -> Any:  # noqa: ARG001
    return data


@dataclass(frozen=True)
class Case:
    """A write, and the file that it finds.

    Parameters
    ----------
    data : dict
        What is written: array by name.
    begin_with : callable, optional
        Makes the file that is there before.
    created : dict
        Keywords of `h5py.Group.create_dataset` for each dataset.
    placed : dict
        For a dataset that is there: its ``region``, or the axis along which is appended, as ``append``.
    call : dict
        More keywords of the call.
    source : callable
        Makes the source of a dataset.
    scheduler : str
        ``"synchronous"``, ``"threads"``, or ``"cluster"`` for two processes.
    libver : str, optional
        Of a new file.
    has_token : bool
        Whether the call is given a token, though it does not append.
    """

    data: dict[str, NDArray[Any]]
    begin_with: Callable[[Path], object] | None = None
    created: dict[str, dict[str, Any]] = field(default_factory=dict)
    placed: dict[str, dict[str, Any]] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    source: Callable[[str, NDArray[Any], str, tuple[int, ...]], Any] = as_iterator
    scheduler: str = "synchronous"
    libver: str | None = None
    has_token: bool = False

    @property
    def appends(self) -> bool:
        return any("append" in how for how in self.placed.values())

    @property
    def token(self) -> dict[str, str]:
        return {"token": "replayed"} if TOKENS and (self.appends or self.has_token) else {}

    @property
    def is_known(self) -> bool:
        """Whether the same call once more finds everything done, and touches nothing."""
        return bool(self.token) or not (self.call.get("overwrite") or self.placed)

    def begin(self, root: str | Path) -> None:
        if self.begin_with is not None:
            self.begin_with(Path(root, FILE))

    def write(self, root: str | Path, scheduler: str | None = None, **more: Any) -> Any:
        scheduler = scheduler or self.scheduler
        encoding: dict[str, Any] = {}
        sources: dict[str, Any] = {}
        for name, data in self.data.items():
            chunks = self.chunks(name)
            sources[name] = self.source(name, data, os.path.join(root, READS), chunks)
            encoding[name] = self.placed.get(name) or self.created.get(name, {})
        keywords = self.call | self.token | more
        if self.libver:
            keywords["libver"] = self.libver
        path = os.path.join(root, FILE)
        if scheduler != "cluster":
            with dask.config.set(num_workers=2):
                return dcio.to_hdf5(path, sources, encoding=encoding, scheduler=scheduler, progress=False, **keywords)
        from distributed import Client, LocalCluster

        with (
            LocalCluster(2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster,
            Client(cluster) as client,
        ):
            client.wait_for_workers(2)
            return dcio.to_hdf5(path, sources, encoding=encoding, progress=False, **keywords)

    def chunks(self, name: str) -> tuple[int, ...]:
        found: tuple[int, ...] = self.created.get(name, {}).get("chunks") or CHUNKS
        return found

    def by_h5py(self, path: Path) -> None:
        """Do by plain h5py what the write is to do."""
        with h5py.File(path, "a", libver=self.libver) as file:
            for name, data in self.data.items():
                how = self.placed.get(name, {})
                if "append" in how:
                    axis, shape = int(how["append"] is not True and how["append"]), list(file[name].shape)
                    start = shape[axis]
                    shape[axis] += data.shape[axis]
                    file[name].resize(shape)
                    file[name][(slice(None),) * axis + (slice(start, None),)] = data
                elif "region" in how:
                    file[name][how["region"]] = data
                else:
                    if name in file:
                        del file[name]
                    file.create_dataset(name, data=data, **self.created.get(name, {}))


CHUNKS = (4, 8)
GZIP: dict[str, Any] = {"chunks": CHUNKS, "compression": "gzip"}
ALL: dict[str, Any] = {**GZIP, "shuffle": True, "fletcher32": True}


def noise(seed: int, *shape: int, dtype: str = "i4") -> NDArray[Any]:
    return np.random.default_rng(seed).integers(1, 30000, shape).astype(dtype)


def others(path: Path, **keywords: Any) -> None:
    """Other people's file, with space in it that is free."""
    with h5py.File(path, "w", **keywords) as file:
        file.attrs["by"] = "others"
        file["gone"] = noise(1, 300)
        file["theirs"] = noise(2, 200)
        file.create_dataset("g/packed", data=noise(3, 30, 16), chunks=(7, 5), compression="gzip")
        file["g"].attrs["note"] = "kept"
        file.create_dataset("series", data=noise(4, 10, 16), maxshape=(None, 16), **ALL)
        file.create_dataset("wide", data=noise(5, 12, 10), maxshape=(12, None), chunks=(5, 4), compression="gzip")
        file.create_dataset("map", data=noise(6, 20, 16), **GZIP)
        file["map"].attrs["unit"] = "m"
        file.create_dataset("x", data=noise(7, 6))
        del file["gone"]


def others_v110(path: Path) -> None:
    others(path, libver="v110")


def others_with_known_space(path: Path) -> None:
    others(path, libver="v110", fs_strategy="fsm", fs_persist=True)


def others_paged(path: Path) -> None:
    others(path, fs_strategy="page", fs_page_size=1 << 14, fs_persist=True)


def only_x(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = noise(8, 12)


X, Y, Z = noise(10, 30, 16), noise(11, 9, 20, dtype="u2"), noise(12, 13, 8, dtype="f4")
NEW = Case({"/x": X, "/g/y": Y, "/g/h/z": Z}, created={"/x": ALL, "/g/y": {"chunks": CHUNKS}, "/g/h/z": {**GZIP}})
ADDED = Case({"/new": X, "/g/y": Y}, others, created={"/new": ALL, "/g/y": GZIP})
REGION = Case({"/map": noise(13, 14, 7)}, others, placed={"/map": {"region": np.s_[3:17, 2:9]}})
APPEND = Case({"/series": noise(14, 15, 16)}, others, placed={"/series": {"append": True}})
POWER: dict[str, Any] = {"durability": "power"}
CLOUD: dict[str, Any] = {"layout": "cloud"}
CASES = {
    "new": NEW,
    "new, v110, threads": replace(NEW, source=as_dask_array, scheduler="threads", libver="v110"),
    "new, a stream": Case(
        {"/x": X}, created={"/x": {**GZIP, "maxshape": (None, 16)}}, source=as_stream, call={"buffer_shape": (8, 16)}
    ),
    "new, by HDF5": Case(
        {"/words": np.array([f"word {n}" for n in range(20)], dtype=h5py.string_dtype()), "/x": X},
        created={"/x": GZIP, "/words": {"chunks": (5,)}},
        source=as_array,
    ),
    "added": ADDED,
    "added, known free space, threads": replace(ADDED, begin_with=others_with_known_space, scheduler="threads"),
    "overwritten": Case(
        {"/x": X, "/g/packed": noise(15, 11, 12)},
        others,
        created={"/x": ALL, "/g/packed": GZIP},
        call={"overwrite": True},
    ),
    "overwritten, token": Case({"/x": X}, others, created={"/x": ALL}, call={"overwrite": True}, has_token=True),
    "replaced": Case({"/x": X}, only_x, created={"/x": ALL}, call={"overwrite": True}),
    "region": REGION,
    "region, v110, threads": replace(REGION, begin_with=others_v110, scheduler="threads"),
    "region, token": replace(REGION, has_token=True),
    "append": APPEND,
    "append, v110": replace(APPEND, begin_with=others_v110),
    "append, second axis": Case({"/wide": noise(16, 12, 11)}, others, placed={"/wide": {"append": 1}}),
    "append, region and new": Case(
        {"/series": noise(14, 9, 16), "/map": noise(13, 8, 16), "/new": X},
        others,
        created={"/new": GZIP},
        placed={"/series": {"append": True}, "/map": {"region": np.s_[4:12]}},
    ),
    "new, cloud": replace(NEW, call=CLOUD),
    "new, cloud, v110, threads": replace(NEW, source=as_dask_array, scheduler="threads", libver="v110", call=CLOUD),
    "new, cloud, two processes": replace(NEW, scheduler="cluster", call=CLOUD),
    "new, cloud, power": replace(NEW, call=CLOUD | POWER),
    "added, paged": replace(ADDED, begin_with=others_paged),
    "region, paged": replace(REGION, begin_with=others_paged),
    "append, paged": replace(APPEND, begin_with=others_paged),
    "new, two processes": replace(NEW, scheduler="cluster"),
    "added, two processes": replace(ADDED, scheduler="cluster"),
    "region, two processes": replace(REGION, scheduler="cluster"),
    "append, two processes": replace(APPEND, scheduler="cluster"),
    "new, power": replace(NEW, call=POWER),
    "added, power": replace(ADDED, call=POWER),
    "overwritten, power": Case({"/x": X}, others, created={"/x": ALL}, call={"overwrite": True, **POWER}),
    "region, power": replace(REGION, call=POWER),
    "append, power": replace(APPEND, call=POWER),
}


if __name__ == "__main__":
    CASES[sys.argv[1]].write(sys.argv[2])
    note(os.path.join(sys.argv[2], READS), "returned")
