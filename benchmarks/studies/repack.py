"""Whole files copied with other chunks and filters, side by side with h5repack: python -m benchmarks.studies.repack.

A recording is written once, with gzip 6 and shuffle.  Then h5repack and ``dask-chunkio repack`` copy the file with the
same options, and a file of many small objects.  A last pair compares ``dask-chunkio verify`` with the write that made
the file.  Whole processes are timed, with the start of Python; files lie in memory.  Ratios are those of the runs of
one round.
"""

from __future__ import annotations

import argparse
import operator
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import dask_chunkio as dcio
from benchmarks.studies.data import chunk_shape, make
from benchmarks.studies.measure import (
    add_usual_options,
    busy,
    interleaved,
    machine,
    markdown_table,
    middle,
    save,
    spread,
    working_folder,
)

OURS, THEIRS, WRITE, VERIFY = "dask-chunkio repack", "h5repack", "dask-chunkio write", "dask-chunkio verify"
LARGE, SMALL, MADE, CHECKED = "in.h5", "small.h5", "made.h5", "verify, gzip 4"
_HEAD = ("what, program", "seconds", "min-max", "MB/s", "peak, MB", f"its time / {OURS}'s", "min-max")
_PROGRAM = (sys.executable, "-m", "dask_chunkio")
# Options of both programs; what is asked, if anything: so many times as fast as h5repack.
CASES: dict[str, tuple[tuple[str, ...], float | None]] = {
    "gzip 6 to 4": (("-f", "SHUF", "-f", "GZIP=4"), 4.0),
    "gzip 6 to 1": (("-f", "SHUF", "-f", "GZIP=1"), 10.0),
    "other chunks": (("-l", "CHUNK={other}"), 4.0),
    # h5repack encodes these anew; without options it copies what is stored, as fast as memory.
    "the same filters": (("-f", "SHUF", "-f", "GZIP=6"), 30.0),
    "no options": ((), None),
    "small objects": ((), 1.0),
}
# The most that a check may take, as a part of the write that made the file.
_MOST_OF_WRITE = 1 / 3
_OF_GROUP = 1000

Key = tuple[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parse(argv)
    nbytes, runs, objects = (
        (8 << 20, 1, 300) if options.tiny else (int(options.mb * 1e6), options.runs, options.objects)
    )
    array = make("recording", nbytes)
    peaks: dict[Key, list[int]] = {}
    with working_folder(options.folder, 6 * nbytes) as folder:
        _write(folder, array, objects)
        measures = dict(_measures(folder, array, options.threads, peaks))
        _check(folder, array, measures)
        times = interleaved(measures, runs)
        sizes = {key: (folder / SMALL).stat().st_size if key[0] == "small objects" else array.nbytes for key in times}
    rows = [_row(key, times, sizes[key], peaks[key]) for key in times]
    title = (
        f"{array.nbytes / 1e6:.0f} MB of a recording in chunks of {chunk_shape('recording', array)}, and {objects:,} "
        f"datasets of ten numbers; {options.threads} threads, {runs} interleaved runs of whole processes.\n"
        f"{machine()}, {_version_of_theirs()}; {busy()}."
    )
    text = "\n".join((title, "", markdown_table(_HEAD, rows), "", *_judged(times)))
    print(text)
    figures = {", ".join(key): {"seconds": taken, "peak_nbytes": peaks[key][-runs:]} for key, taken in times.items()}
    save(text, figures, options.markdown, options.json)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.repack", description=__doc__)
    parser.add_argument("--mb", type=float, default=1000.0, help="size of the recording (default: 1000)")
    parser.add_argument("--objects", type=int, default=100_000, help="number of small datasets (default: 100000)")
    parser.add_argument("--threads", type=int, default=2, help="of our programs (default: 2)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved rounds (default: 5)")
    add_usual_options(parser)
    return parser.parse_args(argv)


def _write(folder: Path, array: Any, objects: int) -> None:
    gzip: dict[str, Any] = {"compression": "gzip", "compression_opts": 6, "shuffle": True}
    dcio.to_hdf5(folder / LARGE, "/x", array, chunks=chunk_shape("recording", array), progress=False, **gzip)
    np.save(folder / "in.npy", array)
    with h5py.File(folder / SMALL, "w") as file:
        for number in range(objects):
            made = file.create_dataset(f"{number // _OF_GROUP}/{number}", data=np.arange(10) + number)
            made.attrs["unit"], made.attrs["rate"] = "V", 1000.0


def _measures(
    folder: Path, array: Any, threads: int, peaks: dict[Key, list[int]]
) -> Iterator[tuple[Key, partial[float]]]:
    shape, chunks = array.shape, chunk_shape("recording", array)
    other = "x".join(map(str, (max(1, chunks[0] // 6), *shape[1:])))
    of_ours = ("--threads", str(threads), "--no-progress")
    for case, (words, _) in CASES.items():
        pair = str(folder / (SMALL if case == "small objects" else LARGE)), str(folder / "out.h5")
        chosen = [word.format(other=other) for word in words]
        commands = {OURS: [*_PROGRAM, "repack", *pair, *chosen, *of_ours], THEIRS: [THEIRS, *chosen, *pair]}
        for program, command in commands.items():
            if program == OURS or shutil.which(program):
                yield (case, program), partial(_timed, (case, program), command, folder / "out.h5", peaks)
    gzip = ("--compression", "gzip", "--compression-opts", "4", "--shuffle")
    write = [*_PROGRAM, "write", str(folder / "in.npy"), f"{folder / 'out.h5'}:/x", *gzip, *of_ours]
    yield (CHECKED, WRITE), partial(_timed, (CHECKED, WRITE), write, folder / "out.h5", peaks)
    verify = [*_PROGRAM, "verify", str(folder / MADE), "--no-progress"]
    yield (CHECKED, VERIFY), partial(_timed, (CHECKED, VERIFY), verify, None, peaks)


def _timed(key: Key, command: Sequence[str], made: Path | None, peaks: dict[Key, list[int]]) -> float:
    """Run a program, note its peak of memory, and remove what it has made; return how long it took, in seconds."""
    seconds, nbytes = _run(command)
    peaks.setdefault(key, []).append(nbytes)
    if made is not None:
        made.unlink()
    return seconds


# Linux counts the memory of the parent, too: until the program begins, the child shares it.  So the parent is small.
_LAUNCHER = """
import os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, code, used = os.wait4(child, 0)
print(time.perf_counter() - started, used.ru_maxrss, os.waitstatus_to_exitcode(code))
"""


def _run(command: Sequence[str]) -> tuple[float, int]:
    """Run a program; return how long it took, in seconds, and the most memory that it had, in bytes."""
    words = [sys.executable, "-I", "-S", "-c", _LAUNCHER, shutil.which(command[0]) or command[0], *command[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    seconds, most, code = done.stdout.split()
    if code != "0":
        sys.exit(f"{' '.join(command)} failed: {done.stderr}")
    return float(seconds), int(most) * (1 if sys.platform == "darwin" else 1024)


def _check(folder: Path, array: Any, measures: Mapping[Key, partial[float]]) -> None:
    """Compare what we make with the data, which brings the programs into memory; make the file that is verified."""
    made = folder / "out.h5"
    for case in CASES:
        _run(measures[case, OURS].args[1])
        with h5py.File(folder / (SMALL if case == "small objects" else LARGE)) as old, h5py.File(made) as new:
            if case == "small objects":
                alike = len(new) == len(old) and all(len(new[name]) == len(old[name]) for name in old)
            else:
                alike = np.array_equal(new["x"][-5:], array[-5:])
            if not alike:
                sys.exit(f"{case}: the copy is not the file")
        made.unlink()
    _run(measures[CHECKED, WRITE].args[1])
    made.rename(folder / MADE)


def _row(key: Key, times: Mapping[Key, Sequence[float]], nbytes: int, peaks: Sequence[int]) -> list[str]:
    taken, base = times[key], times[key[0], OURS if key[0] in CASES else WRITE]
    ratios = [*map(operator.truediv, taken, base)]
    speed, peak = f"{nbytes / 1e6 / middle(taken):.0f}", f"{max(peaks) / 1e6:.0f}"
    return [", ".join(key), f"{middle(taken):.3f}", spread(taken), speed, peak, f"{middle(ratios):.2f}", spread(ratios)]


def _judged(times: Mapping[Key, Sequence[float]]) -> Iterator[str]:
    """Say whether what is asked holds."""
    for case, (_, least) in CASES.items():
        if least is not None and (case, THEIRS) in times:
            found = middle([*map(operator.truediv, times[case, THEIRS], times[case, OURS])])
            yield f"{'PASS' if found >= least else 'MISS'}  {case}: {found:.2f} x h5repack (at least {least:g})"
    part = middle([*map(operator.truediv, times[CHECKED, VERIFY], times[CHECKED, WRITE])])
    words = "PASS" if part <= _MOST_OF_WRITE else "MISS"
    yield f"{words}  verify: {part:.2f} of the time of the write (at most {_MOST_OF_WRITE:.2f})"


def _version_of_theirs() -> str:
    if shutil.which(THEIRS) is None:
        return "without h5repack (install hdf5-tools)"
    told = subprocess.run([THEIRS, "--version"], capture_output=True, text=True, check=False)
    return told.stdout.strip() or THEIRS


if __name__ == "__main__":
    sys.exit(main())
