"""Cost of a chunk, from 10,000 to 1,000,000 of 4 kB in one file: python -m benchmarks.studies.many_chunks.

Each write runs in a process of its own, whose memory is that of the writer: the source makes
what is read at the moment.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np

import dask_chunkio
from benchmarks.studies.measure import (
    PeakMemory,
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

COUNTS = (10_000, 100_000, 1_000_000)
ELEMENTS = 2048
_WITHIN = 31 * np.arange(ELEMENTS, dtype="<u2")
_CHECKED_CHUNKS = 2048
_MOST_COST, _MOST_OVERHEAD, _MOST_MB = 1.5, 100, 300


@dataclass(frozen=True, slots=True)
class Measured:
    """One write: seconds, what the file has beyond its payloads, by how much memory rose, and the whole process."""

    chunks: int
    seconds: float
    overhead_nbytes: int
    rise_nbytes: int
    process_nbytes: int

    @property
    def cost(self) -> float:
        """Microseconds a chunk."""
        return self.seconds / self.chunks * 1e6


class Numbers(dask_chunkio.GenericDataChunkIterator):
    """Numbers that differ from chunk to chunk."""

    def __init__(self, chunks: int) -> None:
        self._length = chunks * ELEMENTS
        super().__init__(chunk_shape=(ELEMENTS,))

    def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        (part,) = selection
        # Buffers are whole chunks.  Nothing larger than what is returned is made, since it would count as the writer's.
        numbers = np.arange(part.start // ELEMENTS, part.stop // ELEMENTS).astype("<u2")
        data: np.ndarray[Any, Any] = np.add(_WITHIN, numbers[:, np.newaxis])
        return data.reshape(-1)

    def _get_maxshape(self) -> tuple[int]:
        return (self._length,)

    def _get_dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2")


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print a table, and say which targets are met."""
    options = _parse(argv)
    counts = (100, 1000) if options.tiny else tuple(options.counts)
    runs: list[Measured] = []
    with working_folder(options.folder, counts[-1] * ELEMENTS * 2 + counts[-1] * 200) as folder:

        def measure(count: int) -> float:
            runs.append(_in_a_process(folder, count, options.threads))
            return runs[-1].cost

        measures = {count: lambda count=count: measure(count) for count in counts}
        costs = interleaved(measures, 1 if options.tiny else options.runs)
    table = markdown_table(_HEAD, [_cells(costs[count], count, runs) for count in counts])
    judged = _verdicts(costs, runs)
    words = [f"{'PASS' if passed else 'MISS'}  {text}" for passed, text in judged]
    text = "\n".join((f"{machine()}; {busy()}.", "", table, "", *words))
    print(text)
    figures = [{"chunks": run.chunks, "us": run.cost, "rise_nbytes": run.rise_nbytes} for run in runs]
    save(text, figures, options.markdown, options.json)
    return 0 if options.tiny or all(passed for passed, _ in judged) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.many_chunks", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="how many chunks, from few to many")
    parser.add_argument("--runs", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--threads", type=int, default=2)
    add_usual_options(parser)
    return parser.parse_args(argv)


def _in_a_process(folder: Path, count: int, threads: int) -> Measured:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(write, folder / "out.h5", count, threads).result()


def write(path: Path, count: int, threads: int) -> Measured:
    """Write so many chunks, after a few to warm up, and read them back."""
    with dask.config.set(num_workers=threads):
        _write(path, 100)
        path.unlink()
        peak = PeakMemory()
        taken = seconds(lambda: _write(path, count))
        rise, whole = peak.more(), peak.start + peak.more()
    _check(path, count)
    overhead = path.stat().st_size - count * ELEMENTS * 2
    path.unlink()
    return Measured(count, taken, overhead, rise, whole)


def _write(path: Path, count: int) -> None:
    dask_chunkio.to_hdf5(str(path), "/x", Numbers(count), progress=False, scheduler="threads")


def _check(path: Path, count: int) -> None:
    source, step = Numbers(count), _CHECKED_CHUNKS * ELEMENTS
    with h5py.File(path, "r") as file:
        for start in range(0, count * ELEMENTS, step):
            part = slice(start, min(start + step, count * ELEMENTS))
            if not np.array_equal(file["x"][part], source._get_data((part,))):
                sys.exit(f"the file differs from the array in elements {part.start} to {part.stop}")


_HEAD = ("chunks of 4 kB", "µs a chunk", "min-max", "file overhead, bytes a chunk", "memory rises by, MB", "to, MB")


def _cells(costs: list[float], count: int, runs: list[Measured]) -> tuple[str, ...]:
    own = [run for run in runs if run.chunks == count]
    return (
        str(count),
        f"{middle(costs):.0f}",
        f"{min(costs):.0f}-{max(costs):.0f}",
        f"{own[0].overhead_nbytes / count:.0f}",
        f"{max(run.rise_nbytes for run in own) / 1e6:.0f}",
        f"{max(run.process_nbytes for run in own) / 1e6:.0f}",
    )


def _verdicts(costs: dict[int, list[float]], runs: list[Measured]) -> list[tuple[bool, str]]:
    few, *rest = costs
    found = []
    for count in rest:
        ratio = middle(costs[count]) / middle(costs[few])
        found.append(
            (ratio <= _MOST_COST, f"{count} chunks against {few}: {ratio:.2f} x a chunk (at most {_MOST_COST})")
        )
    overhead = max(run.overhead_nbytes / run.chunks for run in runs if run.chunks != few)
    found.append((overhead <= _MOST_OVERHEAD, f"file overhead {overhead:.0f} bytes a chunk (at most {_MOST_OVERHEAD})"))
    most = max(run.rise_nbytes for run in runs) / 1e6
    found.append((most <= _MOST_MB, f"memory of the writer {most:.0f} MB (at most {_MOST_MB})"))
    return found


if __name__ == "__main__":
    sys.exit(main())
