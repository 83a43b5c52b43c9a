"""More than the workers' memory, on a laptop cluster: python -m benchmarks.studies.small_memory.

Two workers of one thread each write 4 GB from a generated source in buffers of 64 MB, and then
from a dask array that is a reduction of another.  Every change of a worker's status and everything
that it spills is recorded.  The long run: --size-gb 16 --memory-limit 600MB.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import dask.array as da
import h5py
import numpy as np
import psutil
from dask.utils import parse_bytes
from distributed import Client, LocalCluster, WorkerPlugin

import dask_chunkio

CHANNELS = 128
# What the libraries that a first task imports take, beside data.
_SLACK = 48 << 20
ROWS = 262_144  # of 256 bytes: a buffer of 64 MB


class Generated(dask_chunkio.GenericDataChunkIterator):
    """Smooth int16 signals that any worker can compute from the selection alone."""

    def __init__(self, rows: int, **options: Any) -> None:
        self.rows = rows
        super().__init__(**options)

    def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        times, channels = selection
        rows = np.arange(times.start, times.stop)
        period = (np.arange(4096) * 37 % 4096 // 16).astype("i2")
        tile = period[:, np.newaxis] + np.arange(channels.start, channels.stop, dtype="i2")
        data = np.take(tile, rows % 4096, axis=0)
        # No two chunks are alike: one in the place of another is found out.
        data += (rows // 4096).astype("i2")[:, np.newaxis]
        return data

    def _get_maxshape(self) -> tuple[int, ...]:
        return (self.rows, CHANNELS)

    def _get_dtype(self) -> np.dtype[Any]:
        return np.dtype("i2")


class Watch(WorkerPlugin):
    """Records every status of a worker, and its largest resident size."""

    name = "watch"

    def setup(self, worker: Any) -> None:
        """Follow every change of status by its setter."""
        self.statuses: list[str] = []
        watched = type(worker)
        if not hasattr(watched, "_status_before_watch"):
            watched._status_before_watch = watched.status
            watched.status = property(watched._status_before_watch.fget, _recording(watched._status_before_watch))
        worker.watched_statuses = self.statuses


def _recording(before: Any) -> Any:
    def set_status(worker: Any, value: Any) -> None:
        getattr(worker, "watched_statuses", []).append(str(value))
        before.fset(worker, value)

    return set_status


def observe(dask_worker: Any) -> dict[str, Any]:
    """Return what a worker has seen (runs there)."""
    spilled = getattr(dask_worker.data, "spilled_total", None)
    return {
        "statuses": list(dask_worker.watched_statuses),
        "spilled": sum(spilled) if spilled is not None else 0,
        "spills": int(getattr(dask_worker.data, "cumulative_metrics", {}).get(("disk-write", "count"), 0)),
        "peak": peak_nbytes(),
        "pid": os.getpid(),
    }


def peak_nbytes() -> int:
    """Return the largest resident size that this process has had."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except OSError:
        return int(psutil.Process().memory_info().rss)


def reduced(rows: int) -> Any:
    """Return the same numbers as a dask array: the sum of two, one of which is zero."""
    source = Generated(rows, chunk_shape=(4096, CHANNELS), buffer_shape=(4096, CHANNELS))

    def block(block_info: Any = None) -> np.ndarray[Any, Any]:
        _, times, channels = (slice(*bounds) for bounds in block_info[None]["array-location"])
        data = source._get_data((times, channels))
        return np.stack([data, np.zeros_like(data)])

    lengths = [min(ROWS // 4, rows - start) for start in range(0, rows, ROWS // 4)]
    pair = da.map_blocks(block, dtype="i2", chunks=((2,), tuple(lengths), (CHANNELS,)), meta=np.zeros((0, 0, 0), "i2"))
    return pair.sum(axis=0, dtype="i2")


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print what each worker took, and say whether it stayed inside the bounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.small_memory", description=__doc__)
    parser.add_argument("--size-gb", type=float, default=4)
    parser.add_argument("--memory-limit", default="512MB", help="of each worker (default: 512MB)")
    parser.add_argument("--folder", help="where the file goes (about a tenth of the size); by default a temporary one")
    parser.add_argument("--tiny", action="store_true", help="0.25 GB, to see that it works")
    options = parser.parse_args(argv)
    rows = int((0.25 if options.tiny else options.size_gb) * 1e9) // (2 * CHANNELS)
    source = Generated(rows, chunk_shape=(4096, CHANNELS), buffer_shape=(min(ROWS, rows // 4096 * 4096), CHANNELS))
    limit = parse_bytes(options.memory_limit)
    failed = write(source, source, limit, options.folder)
    return write(reduced(rows), source, limit, options.folder) or failed


def write(given: Any, source: Generated, limit: int, where: str | None) -> int:
    """Write on a cluster of its own, print what each worker took, and return 1 if a bound is broken."""
    with (
        tempfile.TemporaryDirectory(dir=where) as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=limit, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(Watch())
        before = {seen["pid"]: seen["peak"] for seen in client.run(observe).values()}
        keywords: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        path = os.path.join(folder, "out.h5")
        planned = dask_chunkio.plan(path, "/x", given, scheduler=client, **keywords)
        print(planned)
        started = time.perf_counter()
        result = dask_chunkio.to_hdf5(path, "/x", given, scheduler=client, **keywords)
        seconds = time.perf_counter() - started
        seen = list(client.run(observe).values())
        print(f"{result.nbytes / 1e9:.2f} GB in {seconds:.1f} s, {result.stored_nbytes / 1e6:.0f} MB in the file")
        equal = is_equal(path, source)
    own = 0 if given is source else 5 * max(map(max, given.chunks)) * CHANNELS * 2
    bound = planned.projected_nbytes + own
    words = f"the plan projects {planned.projected_nbytes / 1e6:.0f} MB"
    if own:
        words += f", and the array's own blocks take {own / 1e6:.0f} MB"
    return report(seen, before, (limit, bound, words), equal)


def is_equal(path: str, source: Generated) -> bool:
    """Read everything back, in bounded memory."""
    with h5py.File(path, "r") as file:
        dataset = file["x"]
        selections = dask_chunkio.BufferGrid(dask_chunkio.ChunkGrid(dataset.shape, dataset.chunks), (ROWS, CHANNELS))
        return all(np.array_equal(dataset[selection], source._get_data(selection)) for selection in selections)


def report(seen: list[dict[str, Any]], before: dict[int, int], bounds: tuple[int, int, str], equal: bool) -> int:
    """Print the verdict of each bound; return 1 if one is broken."""
    limit, bound, words = bounds
    verdicts = [
        (equal, "the file reads back equal"),
        ({worker["pid"] for worker in seen} == set(before), "no worker was restarted"),
    ]
    for worker in seen:
        pid, peak = worker["pid"], worker["peak"]
        risen = peak - before.get(pid, 0)
        verdicts += [
            (worker["spilled"] == worker["spills"] == 0, f"worker {pid}: {worker['spilled']} bytes spilled"),
            (not any("paused" in status for status in worker["statuses"]), f"worker {pid}: never paused"),
            (peak <= limit, f"worker {pid}: peak {peak / 1e6:.0f} MB of {limit / 1e6:.0f} MB"),
            (risen <= bound + _SLACK, f"worker {pid}: its memory rose by {risen / 1e6:.0f} MB; {words}"),
        ]
    for passed, words in verdicts:
        print(f"{'PASS' if passed else 'MISS'}  {words}")
    return 0 if all(passed for passed, _ in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
