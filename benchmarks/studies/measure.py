"""Interleaved timing, peak memory in a process of its own, and tables."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import h5py

__all__ = [
    "PeakMemory",
    "add_usual_options",
    "busy",
    "interleaved",
    "machine",
    "markdown_table",
    "middle",
    "ratio_row",
    "save",
    "seconds",
    "spread",
    "working_folder",
]

_PACKAGES = ("h5py", "hdf5plugin", "numpy", "dask", "distributed", "hdmf", "zarr", "tensorstore", "isal", "deflate")
Key = TypeVar("Key")

_HIGH_WATER = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def add_usual_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that most studies have."""
    parser.add_argument("--folder", help="where to write (default: /dev/shm, or else the temporary folder)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, too")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, to see that it works")


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    # Garbage of the call before is not this one's.
    gc.collect()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleaved(measures: Mapping[Key, Callable[[], float]], runs: int) -> dict[Key, list[float]]:
    """Run every measure once a round, forwards and backwards in turn, so that drift and neighbours hit all alike."""
    results: dict[Key, list[float]] = {name: [] for name in measures}
    for number in range(runs):
        names = list(measures)[:: -1 if number % 2 else 1]
        for name in names:
            results[name].append(measures[name]())
        print(f"round {number + 1} of {runs}", file=sys.stderr)
    return results


def middle(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Return the least and the greatest value."""
    return f"{min(values):.3f}-{max(values):.3f}"


class PeakMemory:
    """The most memory that this process had since the object was made, in bytes.

    Linux can forget an earlier peak; elsewhere the peak is that of the whole process, which a child
    may even inherit from its parent.
    """

    def __init__(self) -> None:
        gc.collect()
        with contextlib.suppress(OSError):
            _RESET.write_text("5")
        self.start = _peak()

    def more(self) -> int:
        """Return how much the peak rose."""
        return _peak() - self.start


def _peak() -> int:
    if _HIGH_WATER.exists():
        found = next(line for line in _HIGH_WATER.read_text().splitlines() if line.startswith("VmHWM"))
        return int(found.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@contextlib.contextmanager
def working_folder(folder: str | None, nbytes: int) -> Iterator[Path]:
    """Make a folder for the files, in a memory file system where there is one, and remove it."""
    memory = "/dev/shm"
    parent = folder or (memory if os.access(memory, os.W_OK) else tempfile.gettempdir())
    free = shutil.disk_usage(parent).free
    if free < nbytes:
        sys.exit(f"{parent} has {free / 1e6:.0f} MB free, but {nbytes / 1e6:.0f} MB are needed; give another --folder")
    place = tempfile.mkdtemp(prefix="dask-chunkio-benchmark-", dir=parent)
    try:
        yield Path(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def ratio_row(name: str, taken: Sequence[float], ratios: Sequence[float], stored: int, nbytes: int) -> tuple[str, ...]:
    """Return a row: a name; the times of the runs, in seconds; the speed; the size of the file; and the ratios."""
    between = [f"{min(each):.2f} to {max(each):.2f}" for each in (taken, ratios)]
    speed, size = f"{nbytes / 1e6 / middle(taken):.0f}", f"{stored / 1e6:.1f}"
    return name, f"{middle(taken):.2f}", between[0], speed, size, f"{middle(ratios):.2f}", between[1]


def machine() -> str:
    """Say where and with what this is measured."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [f"Python {platform.python_version()}", f"HDF5 {h5py.version.hdf5_version}"]
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return f"{_processor()}, {cores} cores, {platform.system()}; {', '.join(found)}"


def busy() -> str:
    """Say how busy the machine was, these measurements included."""
    if not hasattr(os, "getloadavg"):
        return "load unknown"
    return f"load {os.getloadavg()[1]:.1f} on average over five minutes"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model n")]
        if names:
            return names[0]
    return platform.machine()


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its columns aligned; the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, rules)]
    for row in rows:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append([row[0].ljust(widths[0]), *rest])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(text: str, results: Any, markdown: str | None, json_file: str | None) -> None:
    """Write the text and the figures where the user wants them."""
    if markdown:
        Path(markdown).write_text(text + "\n", encoding="utf-8")
    if json_file:
        Path(json_file).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
