"""What a buffer costs on each scheduler: python -m benchmarks.studies.schedulers.

Buffers of one chunk of 4 kB, uncompressed, so that hardly anything but the cost of a buffer is
left.  Two numbers of buffers tell the cost of each from what a write costs once.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import dask_chunkio
from benchmarks.studies.measure import (
    add_usual_options,
    busy,
    interleaved,
    machine,
    markdown_table,
    middle,
    save,
    seconds,
    working_folder,
)
from dask_chunkio.cli.scheduler import running_scheduler

ELEMENTS = 2048
_HEAD = ("scheduler", "µs a buffer", "min-max", "once, ms", "min-max")
BASELINE = "threads, dask.to_hdf5"

Write = Callable[[str, np.ndarray[Any, Any]], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parse(argv)
    few, many, runs = (5, 20, 1) if options.tiny else (options.few, options.many, options.runs)
    array = np.arange(many * ELEMENTS, dtype="i2")
    with (
        working_folder(options.folder, 4 * array.nbytes + (16 << 20)) as folder,
        _schedulers(options.workers) as writes,
    ):
        measures = {
            (name, count): partial(_timed, write, folder / "out.h5", array[: count * ELEMENTS])
            for name, write in writes.items()
            for count in (few, many)
        }
        for measure in measures.values():
            measure()
        times = interleaved(measures, runs)
    rows, figures = [], {}
    for name in writes:
        pairs = list(zip(times[name, few], times[name, many], strict=True))
        each = [(most - least) / (many - few) for least, most in pairs]
        once = [least - few * cost for (least, _), cost in zip(pairs, each, strict=True)]
        rows.append((name, *_cells(each, 1e6, 0), *_cells(once, 1e3, 1)))
        figures[name] = {"buffer_us": middle(each) * 1e6, "once_ms": middle(once) * 1e3}
    title = f"{few} and {many} buffers, {options.workers} workers, {runs} interleaved runs.\n{machine()}; {busy()}."
    text = "\n".join((title, "", markdown_table(_HEAD, rows)))
    print(text)
    save(text, figures, options.markdown, options.json)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.schedulers", description=__doc__)
    parser.add_argument("--few", type=int, default=100, help="buffers of the small write (default: 100)")
    parser.add_argument("--many", type=int, default=1000, help="buffers of the large write (default: 1000)")
    parser.add_argument("--workers", type=int, default=2, help="threads, or processes (default: 2)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved rounds (default: 5)")
    add_usual_options(parser)
    return parser.parse_args(argv)


@contextlib.contextmanager
def _schedulers(workers: int) -> Iterator[dict[str, Write]]:
    """Give a write for each scheduler, and dask's own for comparison."""
    with (
        dask.config.set(num_workers=workers),
        running_scheduler("processes", workers, 1) as processes,
        LocalCluster(
            n_workers=1, threads_per_worker=workers, processes=False, dashboard_address=None, memory_limit=0
        ) as cluster,
        Client(cluster, set_as_default=False) as threads,
    ):
        found: dict[str, Any] = {
            "synchronous": "synchronous",
            "threads": "threads",
            "processes": "processes",
            "distributed, threads": threads,
            "distributed, processes": processes,
        }
        yield {name: partial(_ours, scheduler) for name, scheduler in found.items()} | {BASELINE: _dask}


def _ours(scheduler: Any, path: str, array: np.ndarray[Any, Any]) -> None:
    dask_chunkio.to_hdf5(
        path, "/x", array, chunks=(ELEMENTS,), buffer_shape=(ELEMENTS,), scheduler=scheduler, progress=False
    )


def _dask(path: str, array: np.ndarray[Any, Any]) -> None:
    with dask.config.set(scheduler="threads"):
        da.to_hdf5(path, "/x", da.from_array(array, chunks=ELEMENTS, name=False), chunks=(ELEMENTS,))


def _timed(write: Write, path: Path, array: np.ndarray[Any, Any]) -> float:
    taken = seconds(lambda: write(str(path), array))
    path.unlink()
    return taken


def _cells(values: list[float], unit: float, digits: int) -> tuple[str, str]:
    scaled = [value * unit for value in values]
    return f"{middle(scaled):.{digits}f}", f"{min(scaled):.{digits}f} to {max(scaled):.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
