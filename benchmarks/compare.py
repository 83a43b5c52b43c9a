"""One array in memory, written by dask_chunkio, dask, h5py and hdmf, side by side.

Run as ``python -m benchmarks.compare``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np

from benchmarks import data
from benchmarks.measure import (
    PeakMemory,
    busy,
    interleaved,
    machine,
    markdown_table,
    middle,
    save,
    seconds,
    spread,
    working_folder,
)
from benchmarks.writers import BASELINE, DATASET, PLAIN, Job, Writer, writers

_HEAD = ("writer", "seconds", "min-max", "MB/s", "x dask", "file MB", "size / dask", "memory MB")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured."""

    kind: str
    size_mb: float
    runs: int
    threads: int
    chunks: tuple[int, ...] | None

    def job(self) -> Job:
        """Make the data."""
        array = data.make(self.kind, int(self.size_mb * 1e6))
        return Job.of(array, self.chunks or data.chunk_shape(array))


@dataclass(frozen=True, slots=True)
class Row:
    """What one writer came to."""

    name: str
    seconds: list[float]
    file_nbytes: int
    peak_nbytes: int


def main() -> int:
    """Measure, print, and return the exit code."""
    options = _parse()
    setting = Setting(options.data, options.size_mb, options.runs, options.threads, options.chunks)
    if options.tiny:
        setting = Setting(options.data, 4, 2, 2, options.chunks)
    need = int(setting.size_mb * 1e6) * 2 + (64 << 20)
    with working_folder(options.folder, need) as folder, dask.config.set(num_workers=setting.threads):
        # Before the data is made here: a child would start with the peak of its parent.
        peaks = _peaks(setting, folder, share_process=options.tiny)
        job = setting.job()
        sizes = {writer.name: _checked_size(writer, job, folder) for writer in writers()}
        times = interleaved({writer.name: _timed(writer, job, folder) for writer in writers()}, setting.runs)
    rows = [Row(name, times[name], sizes[name], peaks[name]) for name in times]
    targets, missed = _targets({row.name: row for row in rows})
    text = "\n".join((_title(setting, job), "", _table(rows, job.array.nbytes), "", *targets))
    print(text)
    figures = {"setting": _title(setting, job), "rows": [_figures(row, job.array.nbytes) for row in rows]}
    save(text, figures, options.markdown, options.json)
    return int(missed and not options.tiny)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=float, default=240, help="size of the array (default: 240)")
    parser.add_argument("--runs", type=int, default=7, help="interleaved rounds (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of dask's scheduler (default: 2)")
    parser.add_argument("--data", choices=data.KINDS, default="noise", help="what is written (default: noise)")
    parser.add_argument("--chunks", type=_shape, help="chunk shape, as 8192,64 (default: about 1 MB of whole rows)")
    parser.add_argument("--folder", help="where to write (default: /dev/shm, or else the temporary folder)")
    parser.add_argument("--tiny", action="store_true", help="a quick run that only shows that everything works")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, too")
    return parser.parse_args()


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _timed(writer: Writer, job: Job, folder: Path) -> Callable[[], float]:
    def measure() -> float:
        path = folder / "timed.h5"
        taken = seconds(partial(writer.write, str(path), job))
        # Not timed: a file in memory takes a while to free.
        path.unlink()
        return taken

    return measure


def _checked_size(writer: Writer, job: Job, folder: Path) -> int:
    """Write once, to warm up and to see that the file holds the array."""
    path = folder / "checked.h5"
    writer.write(str(path), job)
    with h5py.File(path, "r") as file:
        dataset = file[DATASET]
        equal_nan = job.array.dtype.kind == "f"
        step = max(1, (32 << 20) // max(1, job.array[:1].nbytes))
        for start in range(0, len(job.array), step):
            part = slice(start, start + step)
            if not np.array_equal(dataset[part], job.array[part], equal_nan=equal_nan):
                sys.exit(f"{writer.name} wrote something else than the array, in rows {part.start} to {part.stop}")
    size = path.stat().st_size
    path.unlink()
    return size


def _peaks(setting: Setting, folder: Path, share_process: bool) -> dict[str, int]:
    """Measure each writer in a process of its own, since memory that one has freed another takes again."""
    context, names = multiprocessing.get_context("spawn"), [writer.name for writer in writers()]
    tasks = None if share_process else 1
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=tasks) as pool:
        measure = partial(_measure_peak, setting, folder=folder)
        return dict(zip(names, pool.map(measure, names), strict=True))


def _measure_peak(setting: Setting, name: str, *, folder: Path) -> int:
    job, path = setting.job(), str(folder / "peak.h5")
    (writer,) = (writer for writer in writers() if writer.name == name)
    with dask.config.set(num_workers=setting.threads):
        peak = PeakMemory()
        writer.write(path, job)
        more = peak.more()
    os.unlink(path)
    return more


def _title(setting: Setting, job: Job) -> str:
    shape, chunks = ("x".join(map(str, lengths)) for lengths in (job.array.shape, job.chunks))
    return (
        f"{setting.kind}: {shape} {job.array.dtype}, {job.array.nbytes / 1e6:.0f} MB, in chunks of {chunks}; "
        f"{setting.threads} threads, {setting.runs} interleaved runs.\n{machine()}; {busy()}."
    )


def _table(rows: list[Row], nbytes: int) -> str:
    baseline = next(row for row in rows if row.name == BASELINE)
    lines = []
    for row in rows:
        taken = middle(row.seconds)
        cells = (
            f"{taken:.3f}",
            spread(row.seconds),
            f"{nbytes / 1e6 / taken:.0f}",
            f"{middle(baseline.seconds) / taken:.2f}",
            f"{row.file_nbytes / 1e6:.2f}",
            f"{row.file_nbytes / baseline.file_nbytes:.4f}",
            f"{row.peak_nbytes / 1e6:.0f}",
        )
        lines.append((row.name, *cells))
    return markdown_table(_HEAD, lines)


def _figures(row: Row, nbytes: int) -> dict[str, Any]:
    taken = middle(row.seconds)
    return {
        "name": row.name,
        "seconds": taken,
        "spread": [min(row.seconds), max(row.seconds)],
        "mb_per_s": nbytes / 1e6 / taken,
        "of_raw": row.file_nbytes / nbytes,
        "peak_nbytes": row.peak_nbytes,
        "runs": row.seconds,
    }


def _targets(rows: dict[str, Row]) -> tuple[list[str], bool]:
    """Return a line for each target, and whether one was missed."""
    wanted = (
        ("gzip 4", BASELINE, 3.0, 1.01),
        ("gzip 1", BASELINE, 8.0, 1.10),
        ("uncompressed", PLAIN, 1.0, 1.01),
    )
    lines, missed = [], False
    for ours, theirs, speed, size in wanted:
        row, other = rows[f"dask_chunkio {ours}"], rows[theirs]
        faster = middle(other.seconds) / middle(row.seconds)
        larger = row.file_nbytes / other.file_nbytes
        passed = faster >= speed and larger <= size
        missed |= not passed
        lines.append(
            f"{'PASS' if passed else 'FAIL'}: {ours} is {faster:.2f} x as fast as {theirs} (at least {speed:.1f}), "
            f"at {larger:.4f} of its size (at most {size:.2f})"
        )
    return lines, missed


if __name__ == "__main__":
    sys.exit(main())
