"""The calls of a storm: several writes into one file, each made again until it ends well."""

import contextlib
import faulthandler
import inspect
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from tests.support.iterators import FromArray
from tests.support.processes import forked

FILE = "out.h5"
COLUMNS, ROWS = 12, 24
CHUNKS, BUFFER = (5, 7), (5, 12)
GZIP: dict[str, Any] = {"chunks": CHUNKS, "compression": "gzip"}
TOKENS = "token" in inspect.signature(dcio.to_hdf5).parameters
# A process of a cluster was killed before there was a call.
NO_CLUSTER = "no cluster"
# A gate that nobody opens ends by itself, and so does a child that nobody ends.
SECONDS = 60


class Stormy(FromArray):
    """An array whose reading takes its time; at one buffer it forks a child, or waits at a gate.

    Parameters
    ----------
    data : numpy.ndarray
        What is read.
    folder : str
        Of the storm.
    job : int
        Number of the call.
    gate, fork : int or None
        First row of the buffer at which it waits, or forks a child that outlives it.
    pause : float
        Seconds for each buffer.
    """

    def __init__(
        self,
        data: NDArray[Any],
        folder: str,
        job: int,
        *,
        gate: int | None = None,
        fork: int | None = None,
        pause: float = 0.0,
    ) -> None:
        self.folder, self.job = folder, job
        self.gate, self.fork, self.pause = gate, fork, pause
        shape = tuple(map(min, BUFFER, data.shape))
        super().__init__(data, buffer_shape=shape, chunk_shape=tuple(map(min, CHUNKS, shape)))

    def _get_data(self, selection: Any) -> Any:
        if selection[0].start == self.fork:
            fork_child(self.folder)
        if selection[0].start == self.gate:
            wait_at(gate_of(self.folder, self.job))
        time.sleep(self.pause)
        return super()._get_data(selection)


def gate_of(folder: str | Path, job: int) -> str:
    return os.path.join(folder, f"gate-{job}")


def wait_at(gate: str) -> None:
    """Stand at a gate until it is removed."""
    Path(gate).write_text(str(os.getpid()))
    end = time.monotonic() + SECONDS
    while os.path.exists(gate) and time.monotonic() < end:
        time.sleep(0.01)


def fork_child(folder: str) -> None:
    """Leave a child that has everything open that its parent has, and lives until the storm is over."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            end = time.monotonic() + SECONDS
            while not os.path.exists(os.path.join(folder, "over")) and time.monotonic() < end:
                time.sleep(0.1)
        os._exit(0)


@dataclass(frozen=True)
class Job:
    """One write into the file.

    Parameters
    ----------
    number : int
        Tells it from all others.
    kind : str
        ``"append"``, ``"region"``, ``"new"`` or ``"overwrite"``.
    """

    number: int
    kind: str

    @property
    def name(self) -> str:
        return {"append": "/series", "region": "/map"}.get(self.kind, f"/{self.kind}/{self.number}")

    @property
    def rows(self) -> slice:
        """Which rows of the map it writes: no bounds of chunks, so that neighbours share some."""
        return slice(self.number * ROWS + 3, (self.number + 1) * ROWS + 3)

    @property
    def data(self) -> NDArray[Any]:
        """Nowhere the fill value, and each row is found in no other job."""
        rows = 1 + self.number * 100 + np.arange(ROWS)
        return (rows[:, None] * 16 + np.arange(COLUMNS)).astype("i4")

    def call(self, path: Any, source: Any, **more: Any) -> Any:
        """Make the call."""
        hows: dict[str, dict[str, Any]] = {
            "append": {"append": True} | ({"token": f"job {self.number}"} if TOKENS else {}),
            "region": {"region": (self.rows, slice(None))},
            "new": GZIP,
            "overwrite": {**GZIP, "overwrite": True},
        }
        keywords = {"progress": False, "resume": True, **hows[self.kind], **more}
        return dcio.to_hdf5(path, self.name, source, **keywords)


def begin(path: Path, jobs: Sequence[Job]) -> None:
    """Make other people's file, with what the jobs append to, write into and replace."""
    with h5py.File(path, "w", libver="v110" if jobs[0].number % 2 else None) as file:
        file.attrs["by"] = "others"
        file["gone"] = np.arange(1000)
        file["theirs"] = np.arange(3000)
        file.create_dataset("g/packed", data=np.arange(4000).reshape(-1, 8), chunks=(9, 5), compression="gzip")
        file["g"].attrs["note"] = "kept"
        file.create_dataset("series", data=np.zeros((7, COLUMNS), "i4"), maxshape=(None, COLUMNS), shuffle=True, **GZIP)
        last = max(job.number for job in jobs)
        file.create_dataset("map", data=np.full(((last + 2) * ROWS, COLUMNS), -1, "i4"), fletcher32=True, **GZIP)
        for job in jobs:
            if job.kind == "overwrite":
                file[job.name] = np.arange(5) + job.number
        del file["gone"]


def attempt(job: Job, folder: str, said: str, scheduler: str, seed: float) -> None:
    """Make the call of a job in this process, which is the only thing that it is for, and say how it ends."""
    os.setsid()
    draw = random.Random(seed)
    starts = range(0, ROWS, BUFFER[0])
    forks = draw.choice(starts) if draw.random() < 0.15 and scheduler in ("synchronous", "threads") else None
    gate = draw.choice(starts) if draw.random() < 0.2 else None
    words = "never"
    stacks = open(f"{said}.stacks", "w")  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, stacks)
    # A SIGINT may come at any line.
    with contextlib.suppress(KeyboardInterrupt):
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            pause = draw.choice([0, 0, 0.01, 0.05])
            source = Stormy(job.data, folder, job.number, gate=gate, fork=forks, pause=pause)
            words = NO_CLUSTER
            with _scheduler(scheduler) as chosen, dask.config.set(num_workers=2):
                words = "never"
                job.call(os.path.join(folder, FILE), source, wait=True, scheduler=chosen)
            words = "ok"
        except KeyboardInterrupt:
            words = "interrupted"
        except BaseException as error:
            if words != NO_CLUSTER:
                words = f"{type(error).__name__}: {error}"
            traceback.print_exc(file=stacks)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path(f"{said}.part").write_text(words)
    os.replace(f"{said}.part", said)


@contextlib.contextmanager
def _scheduler(name: str) -> Iterator[Any]:
    if name != "cluster":
        yield name
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        yield client


def forked_deaf(function: Callable[..., object], *arguments: Any) -> int:
    """Run a function in a process of its own, which SIGINT does not reach at first, and return its id."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = forked(function, *arguments)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return child
