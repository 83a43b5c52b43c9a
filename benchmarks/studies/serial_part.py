"""What all workers share, one at a time: python -m benchmarks.studies.serial_part.

Processes commit small buffers to one file, each after a pause that stands for reading and encoding
elsewhere: the lock, the log, the journal and HDF5's metadata are what they have in common.  A
simulation, fed with the processor time that a commit takes inside its transaction, outside of it, and for
each record of another worker in the journal, says how many buffers a second many more workers would
commit, and where they begin to wait for one another.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster, Lock

from benchmarks.studies.measure import machine, markdown_table, middle, save, working_folder
from benchmarks.studies.simulation import Costs, simulate
from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.storage import session
from dask_chunkio.storage.begin import begin
from dask_chunkio.storage.finish import finish
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec
from dask_chunkio.storage.journal.created import Created, CreatedDataset
from dask_chunkio.storage.journal.journal import Journal, Reservations
from dask_chunkio.storage.target import Target

CHUNK, CHUNKS = 4096, 16  # bytes of a chunk, and chunks in a buffer
_CLOSE = 0.2
_FEW, _MANY = 8, 32


@dataclass(frozen=True, slots=True)
class Setting:
    """One run: how many processes commit how many buffers each, with what pause between two."""

    processes: int
    each: int
    pause: float

    @property
    def buffers(self) -> int:
        """How many buffers are committed in all."""
        return self.processes * self.each


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run gave: its length, and of each commit the processor time in its transaction and in all, in seconds."""

    seconds: float
    transactions: list[float]
    commits: list[float]


def run(setting: Setting, folder: Path) -> Measured:
    """Have processes commit, all from the same moment on."""
    target = Target(str(folder / f"{uuid.uuid4().hex}.h5"), uuid.uuid4().hex)
    spec = DatasetSpec("/x", (setting.buffers * CHUNKS, CHUNK), np.dtype("u1"), (1, CHUNK))
    begun = begin(target, [spec], False, contextlib.nullcontext)
    target, (layout,) = begun.target, begun.made.layouts
    # Forks of a process that has imported numpy, h5py and dask once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dask_chunkio", "benchmarks.studies.measure"])
    ready, results = context.Barrier(setting.processes + 1), context.Queue()
    children = [
        context.Process(target=_commit, args=((target, layout, setting), number, (ready, results)))
        for number in range(setting.processes)
    ]
    for child in children:
        child.start()
    ready.wait()
    started = time.perf_counter()
    found = [results.get() for _ in children]
    seconds = time.perf_counter() - started
    for child in children:
        child.join()
    finish(target, [layout], [spec], contextlib.nullcontext)
    Path(target.path).unlink()
    transactions, commits = ([one for lists in found for one in lists[part]] for part in (0, 1))
    return Measured(seconds, transactions, commits)


def _commit(what: tuple[Target, DatasetLayout, Setting], number: int, channels: tuple[Any, Any]) -> None:
    (target, layout, setting), (ready, results) = what, channels
    writer = session.writer_for(target)
    payloads = [Payload(bytes(CHUNK)) for _ in range(CHUNKS)]
    chosen, lock, commits = random.Random(number), _Timed(), []
    ready.wait()
    # Not all at once, as buffers of real work are not.
    time.sleep(chosen.random() * setting.pause)
    for count in range(setting.each):
        buffer, started = number * setting.each + count, time.process_time()
        writer.commit((0, buffer), layout, range(buffer * CHUNKS, (buffer + 1) * CHUNKS), payloads, lambda: lock)
        commits.append(time.process_time() - started)
        time.sleep(chosen.uniform(0.5, 1.5) * setting.pause)
    results.put((lock.transactions, commits))
    session.release(target.write_id)


class _Timed:
    """Stands where the scheduler's lock would, and sees what processor time a transaction takes."""

    def __init__(self) -> None:
        self.transactions: list[float] = []

    def __enter__(self) -> None:
        self._started = time.process_time()

    def __exit__(self, *error: object) -> None:
        self.transactions.append(time.process_time() - self._started)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, simulate, compare, and say where workers begin to wait for one another."""
    options = _parser().parse_args(argv)
    counts = [2] if options.tiny else options.processes
    each, rounds = (20, 1) if options.tiny else (options.buffers, 3)
    with working_folder(options.folder, 1 << 30) as folder:
        costs = _costs(each, options.pause, folder, rounds)
        rows = []
        for count in counts:
            runs = [run(Setting(count, each, options.pause), folder).seconds for _ in range(rounds)]
            rows.append(_row(count, each, options.pause, costs, middle(runs)))
    cluster = replace(costs, handover=_lock_handover(50 if options.tiny else 300))
    workers = [8] if options.tiny else (2, 8, 32, 64, 128, 256, 512, 1000)
    far = [_far(count, options, cluster) for count in workers]
    print(text := _text(options, (costs, cluster), rows, far))
    save(text, {"costs": asdict(cluster), "measured": rows, "simulated": far}, options.markdown, options.json)
    if options.plot:
        draw(rows, far, options.plot)
    return int(not options.tiny and any(abs(row["simulated"] / row["measured"] - 1) > _CLOSE for row in rows))


def _costs(each: int, pause: float, folder: Path, rounds: int) -> Costs:
    """Measure a commit of a few processes that hardly meet, and the transactions of many that do nothing else.

    A transaction costs half as much again where many other processes have used the caches since the last one, as work
    between two commits would have done: those are the transactions to reckon with.
    """
    few = _typical(Setting(_FEW, 2 * each, pause), folder, rounds)
    busy = _typical(Setting(_MANY, each, 0), folder, rounds)
    # They read in the journal what the others wrote, which the simulation adds itself.
    record = _record()
    outside = _mean(few.commits) - _mean(few.transactions) - (_FEW - 1) * record
    handover = busy.seconds / len(busy.transactions) - _mean(busy.transactions)
    transactions = [max(one - (_MANY - 1) * record, 0) for one in busy.transactions]
    return Costs(transactions, max(outside, 0), record, max(handover, 0))


def _typical(setting: Setting, folder: Path, rounds: int) -> Measured:
    """Return the run of several whose transactions took neither most nor least."""
    runs = sorted((run(setting, folder) for _ in range(rounds)), key=lambda one: _mean(one.transactions))
    return runs[len(runs) // 2]


def _mean(seconds: Sequence[float]) -> float:
    return sum(seconds) / len(seconds)


def _record() -> float:
    """Return the seconds to read what one transaction wrote into the journal, among many."""
    with tempfile.TemporaryFile() as file:
        journal = Journal(file.fileno(), "journal")
        made = CreatedDataset("/x", (64 * CHUNKS, CHUNK), (1, CHUNK), "uint8", "uint8", "", "", True)
        file.write(Created((made,)).pack())
        file.flush()
        journal.refresh()
        taken = []
        for _ in range(20):
            for buffer in range(64):
                rows = [(buffer * CHUNKS + chunk, CHUNK, CHUNK, 1, 0) for chunk in range(CHUNKS)]
                file.write(Reservations.of(0, buffer, rows).pack())
            file.flush()
            started = time.process_time()
            journal.refresh()
            taken.append((time.process_time() - started) / 64)
    return middle(taken)


def _lock_handover(times: int) -> float:
    """Return the seconds from one holder of the scheduler's lock to the next, on a cluster of two processes."""
    quiet = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, **quiet) as cluster, Client(cluster, set_as_default=False) as client:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        futures = [client.submit(_hold, times, worker, workers=[worker], pure=False) for worker in workers]
        taken: list[float] = client.gather(futures)
        return max(taken) / (times * len(workers))


def _hold(times: int, worker: str) -> float:  # noqa: ARG001
    lock, started = Lock("dask_chunkio-benchmark"), time.perf_counter()
    for _ in range(times):
        with lock:
            pass
    return time.perf_counter() - started


def _row(count: int, each: int, pause: float, costs: Costs, seconds: float) -> dict[str, float]:
    buffers = count * each
    simulated = middle([simulate(count, buffers, pause, costs, cores=os.cpu_count(), seed=seed) for seed in range(3)])
    return {"processes": count, "measured": buffers / seconds, "simulated": buffers / simulated}


def _far(workers: int, options: argparse.Namespace, costs: Costs) -> dict[str, float]:
    """Return what many workers would write of buffers of a real size, each at the speed of one core of its own."""
    pause = options.buffer_mb / options.speed
    seconds = simulate(workers, options.simulated, pause, costs)
    rate = options.simulated * options.buffer_mb / seconds / 1e3
    return {"workers": workers, "gb_per_s": rate, "share": rate / (workers * options.speed / 1e3)}


def _text(
    options: argparse.Namespace,
    costs: tuple[Costs, Costs],
    rows: list[dict[str, float]],
    far: list[dict[str, float]],
) -> str:
    local, cluster = costs
    transaction = _mean(local.transactions)
    compared = [
        [f"{row['processes']:.0f}", f"{row['measured']:.0f}", f"{row['simulated']:.0f}",
         f"{row['simulated'] / row['measured']:.2f}"] for row in rows
    ]  # fmt: skip
    simulated = [[f"{row['workers']:.0f}", f"{row['gb_per_s']:.2f}", f"{row['share']:.2f}"] for row in far]
    most = 1 / (transaction + cluster.handover)
    return "\n".join((
        machine(),
        "",
        f"A commit of {CHUNKS} chunks takes {1e3 * transaction:.2f} ms of a processor in its transaction, "
        f"{1e3 * local.outside:.2f} outside, and {1e6 * local.record:.1f} us for each record of another worker; "
        f"a transaction is handed over in {1e3 * local.handover:.2f} ms by the system, "
        f"in {1e3 * cluster.handover:.2f} by dask's scheduler.",
        "",
        f"Commits after pauses of {1e3 * options.pause:.0f} ms, all processes on {os.cpu_count()} cores:",
        "",
        markdown_table(["processes", "buffers/s", "simulated", "simulated / measured"], compared),
        "",
        f"Simulated: {options.simulated} buffers of {options.buffer_mb:.0f} MB by workers of {options.speed:.0f} MB/s, "
        f"each with a core of its own, on a cluster:",
        "",
        markdown_table(["workers", "GB/s", "of what they could do alone"], simulated),
        "",
        f"Transactions alone let pass {most:.0f} buffers a second: {options.buffer_mb * most / 1e3:.1f} GB/s.",
    ))  # fmt: skip


def draw(rows: list[dict[str, float]], far: list[dict[str, float]], path: str) -> None:
    """Write the picture (needs matplotlib)."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "dask_chunkio", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    counts, workers = [row["processes"] for row in rows], [row["workers"] for row in far]
    left.plot(counts, [row["measured"] for row in rows], "o", color="#c0392b", label="measured")
    left.plot(counts, [row["simulated"] for row in rows], "-", color="#2c6fbb", label="simulated")
    left.set(xlabel="processes", ylabel="buffers a second", title="buffers of 16 chunks, pauses between two")
    left.legend()
    right.plot(workers, [row["gb_per_s"] for row in far], ".-", color="#2c6fbb")
    right.set(xlabel="workers", ylabel="GB/s before filters", title="simulated, buffers of real size")
    for axes, ticks in ((left, counts), (right, workers)):
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        axes.grid(axis="y", color="#eeeeee")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.serial_part", description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 8, 32, 64], help="default: 2 8 32 64")
    parser.add_argument("--buffers", type=int, default=30, help="of each process (default: 30)")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two commits (default: 0.05)")
    parser.add_argument("--buffer-mb", type=float, default=64, help="of the simulated workers (default: 64)")
    parser.add_argument("--speed", type=float, default=100, help="MB/s of one of them alone (default: 100)")
    parser.add_argument("--simulated", type=int, default=10**6, help="buffers in all (default: 1000000)")
    parser.add_argument("--folder", help="where to write (default: /dev/shm, or else the temporary folder)")
    parser.add_argument("--tiny", action="store_true", help="a quick run that only shows that everything works")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there, too")
    parser.add_argument("--plot", metavar="FILE", help="draw them there, too (needs matplotlib)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
