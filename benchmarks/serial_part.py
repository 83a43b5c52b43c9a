"""What all workers share, one at a time: python -m benchmarks.serial_part.

Processes commit small buffers to one file, each after a pause that stands for reading and encoding
elsewhere: the lock, the log, the journal and HDF5's metadata are what they have in common.  A
simulation, fed with what a turn takes where two processes ask for it all the time, says how many
buffers a second many more workers would commit, and where they begin to wait for one another.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import multiprocessing
import random
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, markdown_table, middle, save, working_folder
from dask_chunkio.filters.pipeline import Payload
from dask_chunkio.storage import writers
from dask_chunkio.storage.dataset import DatasetLayout, DatasetSpec
from dask_chunkio.storage.target import Target

CHUNK, CHUNKS = 4096, 16  # bytes of a chunk, and chunks in a buffer
_CLOSE = 0.2


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
    """What a run gave: its length, and that of each turn with the wait for it, in seconds."""

    seconds: float
    held: list[float]


def run(setting: Setting, folder: Path) -> Measured:
    """Have processes commit, all from the same moment on."""
    target = Target(str(folder / f"{uuid.uuid4().hex}.h5"), uuid.uuid4().hex)
    spec = DatasetSpec("/x", (setting.buffers * CHUNKS, CHUNK), np.dtype("u1"), (1, CHUNK))
    target, (layout,) = writers.create(target, [spec], False, contextlib.nullcontext)
    # Forks of a process that has imported numpy, h5py and dask once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dask_chunkio", "benchmarks.measure"])
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
    writers.finish(target, [layout], contextlib.nullcontext)
    Path(target.path).unlink()
    return Measured(seconds, [one for held in found for one in held])


def _commit(what: tuple[Target, DatasetLayout, Setting], number: int, channels: tuple[Any, Any]) -> None:
    (target, layout, setting), (ready, results) = what, channels
    writer = writers.writer_for(target)
    payloads = [Payload(bytes(CHUNK)) for _ in range(CHUNKS)]
    chosen, lock = random.Random(number), _Timed()
    ready.wait()
    # Not all at once, as buffers of real work are not.
    time.sleep(chosen.random() * setting.pause)
    for count in range(setting.each):
        buffer = number * setting.each + count
        writer.commit((0, buffer), layout, range(buffer * CHUNKS, (buffer + 1) * CHUNKS), payloads, lambda: lock)
        time.sleep(chosen.uniform(0.5, 1.5) * setting.pause)
    results.put(lock.held)
    writers.release(target.write_id)


class _Timed:
    """Stands where the scheduler's lock would, and sees how long a turn is, waiting for the files' locks included."""

    def __init__(self) -> None:
        self.held: list[float] = []

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.held.append(time.perf_counter() - self._started)


def simulate(workers: int, buffers: int, pause: float, turns: Sequence[float], seed: int = 0) -> float:
    """Return how long `workers` take: each pauses, waits for its turn, has it, and begins again.

    Parameters
    ----------
    workers, buffers : int
        How many there are.
    pause : float
        Mean seconds between two commits of a worker: half to one and a half times that.
    turns : sequence of float
        Measured lengths of a turn, from which one is drawn for each buffer.
    seed : int
        Of the random numbers.
    """
    chosen = random.Random(seed)
    asking = [(chosen.random() * pause, worker) for worker in range(min(workers, buffers))]
    heapq.heapify(asking)
    free, begun = 0.0, len(asking)
    while asking:
        asks, worker = heapq.heappop(asking)
        free = max(free, asks) + chosen.choice(turns)
        if begun < buffers:
            begun += 1
            heapq.heappush(asking, (free + chosen.uniform(0.5, 1.5) * pause, worker))
    return free


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, simulate, compare, and say where workers begin to wait for one another."""
    options = _parser().parse_args(argv)
    counts = [2] if options.tiny else options.processes
    each = 20 if options.tiny else options.buffers
    with working_folder(options.folder, 1 << 30) as folder:
        turns = _turns(each, folder)
        rows = []
        for count in counts:
            runs = [run(Setting(count, each, options.pause), folder).seconds for _ in range(1 if options.tiny else 3)]
            rows.append(_row(count, each, options.pause, turns, middle(runs)))
    far = [_far(workers, options, turns) for workers in ([8] if options.tiny else (2, 8, 32, 64, 128, 256, 512, 1000))]
    print(text := _text(options, turns, rows, far))
    save(text, {"turns": turns, "measured": rows, "simulated": far}, options.markdown, options.json)
    if options.plot:
        draw(rows, far, options.plot)
    return int(not options.tiny and any(abs(row["simulated"] / row["measured"] - 1) > _CLOSE for row in rows))


def _turns(each: int, folder: Path) -> list[float]:
    """Return how long turns are, taken from the time that two processes need who do nothing else."""
    measured = run(Setting(2, 10 * each, 0), folder)
    length = measured.seconds / (20 * each)
    scale = length / (sum(measured.held) / len(measured.held))
    return [one * scale for one in measured.held]


def _row(count: int, each: int, pause: float, turns: Sequence[float], seconds: float) -> dict[str, float]:
    buffers = count * each
    return {
        "processes": count,
        "measured": buffers / seconds,
        "simulated": buffers / simulate(count, buffers, pause, turns),
    }


def _far(workers: int, options: argparse.Namespace, turns: Sequence[float]) -> dict[str, float]:
    """Return what many workers would write of buffers of a real size, each at the speed of one core."""
    pause = options.buffer_mb / options.speed
    seconds = simulate(workers, options.simulated, pause, turns)
    rate = options.simulated * options.buffer_mb / seconds / 1e3
    return {"workers": workers, "gb_per_s": rate, "share": rate / (workers * options.speed / 1e3)}


def _text(
    options: argparse.Namespace, turns: Sequence[float], rows: list[dict[str, float]], far: list[dict[str, float]]
) -> str:
    turn = sum(turns) / len(turns)
    measured = [
        [f"{row['processes']:.0f}", f"{row['measured']:.0f}", f"{row['simulated']:.0f}",
         f"{row['simulated'] / row['measured']:.2f}"] for row in rows
    ]  # fmt: skip
    simulated = [[f"{row['workers']:.0f}", f"{row['gb_per_s']:.2f}", f"{row['share']:.2f}"] for row in far]
    return "\n".join((
        machine(),
        "",
        f"A turn takes {1e3 * turn:.2f} ms; commits of {CHUNKS} chunks after pauses of {1e3 * options.pause:.0f} ms:",
        "",
        markdown_table(["processes", "buffers/s", "simulated", "simulated / measured"], measured),
        "",
        f"Simulated: {options.simulated} buffers of {options.buffer_mb:.0f} MB by workers of {options.speed:.0f} MB/s:",
        "",
        markdown_table(["workers", "GB/s", "of what they could do alone"], simulated),
        "",
        f"Turns alone let pass {1 / turn:.0f} buffers a second: {options.buffer_mb / turn / 1e3:.1f} GB/s.",
    ))  # fmt: skip


def draw(rows: list[dict[str, float]], far: list[dict[str, float]], path: str) -> None:
    """Write the picture (needs matplotlib)."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "dask_chunkio", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    counts = [row["processes"] for row in rows]
    left.plot(counts, [row["measured"] for row in rows], "o", color="#c0392b", label="measured")
    left.plot(counts, [row["simulated"] for row in rows], "-", color="#2c6fbb", label="simulated")
    left.set(xscale="log", yscale="log", xlabel="processes", ylabel="buffers a second", title="small buffers")
    left.legend()
    workers = [row["workers"] for row in far]
    right.plot(workers, [row["gb_per_s"] for row in far], "-", color="#2c6fbb")
    right.set(
        xscale="log", yscale="log", xlabel="workers", ylabel="GB/s before filters", title="simulated, large buffers"
    )
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serial_part", description=__doc__)
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
