"""What references to 100,000 chunks cost a write: python -m benchmarks.studies.references.

The same dataset is written without references, with kerchunk's JSON and, if fastparquet is there, with its parquet, in
turn.  The cost is that of one step at the end of the write, which is timed by itself: it is far less than two writes
differ.  A scan of the finished file, as write_references makes it, is timed as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import dask_chunkio
from benchmarks.studies.measure import (
    add_usual_options,
    busy,
    interleaved,
    machine,
    markdown_table,
    middle,
    save,
    working_folder,
)
from dask_chunkio.execution import tasks
from dask_chunkio.references.write import references_of_write

_MOST_SHARE = 0.05
_ELEMENTS = 2048
_HEAD = ("references", "write, s", "min-max", "step, ms", "min-max", "step / write")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if references cost more than they may."""
    options = _parse(argv)
    count, runs = (2000, 2) if options.tiny else (options.chunks, options.runs)
    formats = [".json", *([".parquet"] if importlib.util.find_spec("fastparquet") else [])]
    data = np.random.default_rng(0).integers(0, 4000, (count, _ELEMENTS), np.uint16)
    steps: dict[str, list[float]] = {name: [] for name in formats}
    scans: list[float] = []
    with working_folder(options.folder, 3 * data.nbytes + (64 << 20)) as folder:
        # The first write with parquet imports its packages.
        for ending in formats:
            _written(folder, data[:100], ending, {ending: []})
        measures = {ending: partial(_written, folder, data, ending, steps) for ending in ("", *formats)}
        times = interleaved(measures, runs)
        for _ in range(runs):
            begun = time.perf_counter()
            dask_chunkio.write_references(folder / "x.h5", folder / "scan.json")
            scans.append(time.perf_counter() - begun)
    text, worst = _report(times, steps, scans, count, runs)
    print(text)
    save(text, {"writes": times, "steps": steps, "scans": scans}, options.markdown, options.json)
    return int(not options.tiny and worst > _MOST_SHARE)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.references", description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000, help="chunks of 4 kB (default: 100000)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved rounds (default: 5)")
    add_usual_options(parser)
    return parser.parse_args(argv)


def _written(folder: Path, data: np.ndarray[Any, Any], ending: str, steps: dict[str, list[float]]) -> float:
    """Write the file anew; return the seconds, and note those of the step that makes references."""

    def timed(*arguments: Any) -> tuple[str, ...]:
        begun = time.perf_counter()
        found = references_of_write(*arguments)
        steps[ending].append(time.perf_counter() - begun)
        return found

    (folder / "x.h5").unlink(missing_ok=True)
    wanted: dict[str, Any] = {"references": folder / f"x{ending}"} if ending else {}
    form: dict[str, Any] = {"chunks": (1, _ELEMENTS), "compression": "gzip", "compression_opts": 1, "shuffle": True}
    with mock.patch.object(tasks, "references_of_write", timed):
        begun = time.perf_counter()
        dask_chunkio.to_hdf5(folder / "x.h5", "/x", data, progress=False, **form, **wanted)
        return time.perf_counter() - begun


def _report(
    times: dict[str, list[float]], steps: dict[str, list[float]], scans: list[float], count: int, runs: int
) -> tuple[str, float]:
    rows, shares = [], [0.0]
    for ending, taken in times.items():
        row = [ending or "none", f"{middle(taken):.2f}", f"{min(taken):.2f}-{max(taken):.2f}"]
        if ending:
            mine = steps[ending]
            shares.append(middle(mine) / middle(times[""]))
            row += [f"{1000 * middle(mine):.0f}", f"{1000 * min(mine):.0f}-{1000 * max(mine):.0f}"]
            row.append(f"{100 * shares[-1]:.1f} %")
        rows.append([*row, *["-"] * (len(_HEAD) - len(row))])
    title = f"{count} chunks of 4 kB, gzip 1 + shuffle, {runs} interleaved runs.\n{machine()}; {busy()}."
    scan = f"write_references of the file, as JSON, in a process of its own: {middle(scans):.2f} s."
    met = "met" if max(shares) <= _MOST_SHARE else "missed"
    goal = f"Target: the step takes at most {100 * _MOST_SHARE:.0f} % of the write: {met}."
    return "\n".join((title, "", markdown_table(_HEAD, rows), "", scan, goal)), max(shares)


if __name__ == "__main__":
    sys.exit(main())
