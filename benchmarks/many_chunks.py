"""Cost of a chunk, from 10,000 to 100,000 of 4 kB in one file: python -m benchmarks.many_chunks."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

import dask_chunkio

ELEMENTS = 2048


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print a table, and say which targets are met."""
    parser = argparse.ArgumentParser(prog="benchmarks.many_chunks", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    parser.add_argument("--folder", default=memory, help="where files go; by default a memory file system")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, to see that it works")
    options = parser.parse_args(argv)
    few, many = (100, 1000) if options.tiny else (10_000, 100_000)
    measured: dict[int, list[tuple[float, float]]] = {few: [], many: []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write(folder, few)  # not counted: imports
        for _ in range(2 if options.tiny else options.runs):
            for count, runs in measured.items():
                runs.append(write(folder, count))
    return report(measured, few, many, options.tiny)


def write(folder: str, count: int) -> tuple[float, float]:
    """Return microseconds and bytes of the file beyond the payloads, for each chunk."""
    path = os.path.join(folder, "out.h5")
    array = np.arange(count * ELEMENTS, dtype="i2")
    started = time.perf_counter()
    result = dask_chunkio.to_hdf5(path, "/x", array, chunks=(ELEMENTS,), progress=False, scheduler="threads")
    seconds = time.perf_counter() - started
    overhead = os.path.getsize(path) - result.stored_nbytes
    os.unlink(path)
    return seconds / count * 1e6, overhead / count


def report(measured: dict[int, list[tuple[float, float]]], few: int, many: int, tiny: bool) -> int:
    """Print the figures; return 1 if a target is missed."""
    print("| chunks of 4 kB | microseconds a chunk (min to max) | bytes of file overhead a chunk |")
    print("| ---: | ---: | ---: |")
    for count, runs in measured.items():
        costs = [cost for cost, _ in runs]
        middle = statistics.median(costs)
        print(f"| {count} | {middle:.0f} ({min(costs):.0f} to {max(costs):.0f}) | {runs[0][1]:.0f} |")
    ratio = statistics.median(large[0] / small[0] for small, large in zip(measured[few], measured[many], strict=True))
    overhead = measured[many][0][1]
    print(f"{'PASS' if ratio <= 1.5 else 'MISS'}  {many} chunks against {few}: {ratio:.2f} x a chunk (at most 1.5)")
    print(f"{'PASS' if overhead <= 100 else 'MISS'}  file overhead {overhead:.0f} bytes a chunk (at most 100)")
    return 0 if tiny or (ratio <= 1.5 and overhead <= 100) else 1


if __name__ == "__main__":
    sys.exit(main())
