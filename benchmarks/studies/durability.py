"""What it costs that a write survives: python -m benchmarks.studies.durability.

The same gzip write, in buffers of 64 MB, without any protection (no checksum, no log, no
activity lock: what HDF5 stages is applied at once), with durability="process" and with
durability="power".
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import dask_chunkio
from benchmarks.studies.measure import (
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
from dask_chunkio.storage import writer
from dask_chunkio.storage.journal.redo_record import RedoRecord
from dask_chunkio.storage.redo_log import RedoLog

MOST = 1.03
UNPROTECTED = "unprotected"
KINDS = (UNPROTECTED, "process", "power")


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print a table, and say whether the target is met."""
    options = _parser().parse_args(argv)
    rows, chunk, buffer = (2000, 100, 500) if options.tiny else (1_000_000, 2500, 125_000)
    array = np.random.default_rng(0).integers(-300, 300, (rows, 256), "i2")
    runs = 2 if options.tiny else options.runs
    shape = {"chunks": (chunk, 256), "buffer_shape": (buffer, 256)}
    text = [
        f"{array.nbytes / 1e6:.0f} MB int16 noise, gzip 4 + shuffle, buffers of {buffer * 512 / 1e6:.0f} MB, 2 threads"
    ]
    text.append(f"{machine()}; {busy()}.")
    results = {}
    passed = True
    for place in (options.folder, *([options.disk] if options.disk else [])):
        with working_folder(place, 3 * array.nbytes) as folder:
            measures = {kind: functools.partial(timed, folder, array, kind, shape) for kind in KINDS}
            for measure in measures.values():
                measure()
            measured = interleaved(measures, runs)
        name = place or "memory file system"
        results[name] = measured
        table, ratio = report(measured)
        text += [f"\n{name}:\n", table, ""]
        if place is options.folder:
            passed = ratio <= MOST or options.tiny
            text.append(
                f"{'PASS' if ratio <= MOST else 'FAIL'}: process takes {ratio:.3f} x unprotected (at most {MOST})"
            )
    print("\n".join(text))
    save("\n".join(text), results, options.markdown, options.json)
    return 0 if passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.durability", description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--folder", help="where files go; by default a memory file system")
    parser.add_argument("--disk", help="a folder on a disk, to measure there too what waiting for it costs")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, to see that it works")
    return parser


def timed(folder: Path, array: np.ndarray[Any, Any], kind: str, shape: dict[str, Any]) -> float:
    """Return the seconds that one write takes."""
    path = str(folder / "out.h5")
    with _unprotected() if kind == UNPROTECTED else contextlib.nullcontext():
        durability: Any = "process" if kind == UNPROTECTED else kind
        write: Callable[[], Any] = lambda: dask_chunkio.to_hdf5(  # noqa: E731
            path, "/x", array, compression="gzip", shuffle=True, scheduler="threads", durability=durability,
            progress=False, **shape,
        )  # fmt: skip
        taken = seconds(write)
    os.unlink(path)
    return taken


@contextlib.contextmanager
def _unprotected() -> Iterator[None]:
    """Apply what HDF5 stages without a log, and record no checksums."""

    def apply(self: RedoLog, redo: RedoRecord, durable: bool) -> None:  # noqa: ARG001
        redo.apply(self._disk.descriptor)
        redo.enter(self._journal)

    def bare(cls: Any, *arguments: Any) -> Any:
        descriptor, journal_at, journal, size, runs = arguments
        return cls(journal_at, journal, os.fstat(descriptor).st_size, size, runs)

    with (
        mock.patch.object(RedoLog, "commit", apply),
        mock.patch.object(RedoRecord, "on", classmethod(bare)),
        mock.patch.object(writer, "checksum", return_value=0),
    ):
        yield


def report(measured: dict[str, list[float]]) -> tuple[str, float]:
    """Return the table, and the ratio of the default to no protection: the median of each round's."""
    rows = []
    for kind, taken in measured.items():
        ratios = [own / bare for own, bare in zip(taken, measured[UNPROTECTED], strict=True)]
        rows.append([kind, f"{middle(taken):.3f}", spread(taken), f"{middle(ratios):.3f}", spread(ratios)])
    table = markdown_table(["durability", "seconds", "min-max", "x unprotected", "min-max"], rows)
    process = zip(measured["process"], measured[UNPROTECTED], strict=True)
    return table, statistics.median(own / bare for own, bare in process)


if __name__ == "__main__":
    sys.exit(main())
