"""Two workers against one: python -m benchmarks.studies.workers.

The recording of ``dask-chunkio demo``, in buffers of 64 MB, through a `LocalCluster` of processes
with one thread each.  The time of one worker, divided by twice that of two, is the efficiency;
clusters are started before the clock is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from distributed import Client, LocalCluster

import dask_chunkio
from benchmarks.studies.measure import interleaved, machine, markdown_table, middle, save, spread, working_folder
from benchmarks.studies.systems import remove
from dask_chunkio.cli.demo_recording import TILE, Recording

__all__ = ["main"]

_LEAST = 0.9
_LEVELS = (1, 4)
_FRAMES = 10 * TILE[0]  # of a buffer: 63 MB


def _timed(client: Client, path: Path, buffers: int, level: int) -> Callable[[], float]:
    def write() -> float:
        source = Recording(_FRAMES * buffers, buffer_shape=(_FRAMES, 384))
        started = time.perf_counter()
        dask_chunkio.to_hdf5(
            path, "/x", source, compression="gzip", compression_opts=level, scheduler=client, progress=False
        )
        taken = time.perf_counter() - started
        remove(path)
        return taken

    return write


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parser().parse_args(argv)
    buffers, runs = (2, 1) if options.tiny else (options.buffers, options.runs)
    quiet = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with (
        working_folder(options.folder, buffers << 26) as folder,
        LocalCluster(n_workers=1, **quiet) as one,
        LocalCluster(n_workers=2, **quiet) as two,
        Client(one, set_as_default=False) as first,
        Client(two, set_as_default=False) as second,
    ):
        clients = {1: first, 2: second}
        measures = {
            (level, count): _timed(client, folder / "x.h5", buffers, level)
            for level in _LEVELS
            for count, client in clients.items()
        }
        taken = interleaved(measures, runs)
    efficiency = {level: middle(taken[level, 1]) / (2 * middle(taken[level, 2])) for level in _LEVELS}
    rows = [
        [f"gzip {level}", str(count), f"{middle(taken[level, count]):.2f}", spread(taken[level, count]),
         f"{efficiency[level]:.2f}" if count == 2 else ""] for level, count in measures
    ]  # fmt: skip
    verdicts = [
        f"{'PASS' if found >= _LEAST else 'MISS'}  gzip {level}: efficiency {found:.2f} (at least {_LEAST})"
        for level, found in efficiency.items()
    ]
    head = ["codec", "workers", "seconds", "min-max", "efficiency"]
    size = f"{buffers} buffers of 64 MB, {runs} interleaved runs."
    print(text := "\n".join([size, machine(), "", markdown_table(head, rows), "", *verdicts]))
    save(text, {"efficiency": efficiency, "rows": rows}, options.markdown, options.json)
    return int(not options.tiny and min(efficiency.values()) < _LEAST)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.workers", description=__doc__)
    parser.add_argument("--buffers", type=int, default=16, help="of 64 MB (default: 16)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--folder", help="where to write (default: /dev/shm, or else the temporary folder)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, too")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--tiny", action="store_true", help="a quick run that only shows that everything works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
