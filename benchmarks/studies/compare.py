"""One array in memory, written by each system with each codec, side by side.

Run as ``python -m benchmarks.studies.compare``.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import dask
import h5py
import numpy as np

import dask_chunkio
from benchmarks.studies import data
from benchmarks.studies.codecs import CODECS, Codec
from benchmarks.studies.efficiency import alone, efficiency, seconds_alone
from benchmarks.studies.measure import busy, interleaved, machine, save, seconds, working_folder
from benchmarks.studies.peaks import own_processes, write_and_measure
from benchmarks.studies.rows import ALONE, Row, figures, table
from benchmarks.studies.systems import DATASET, OURS, SYSTEMS, Array, Job, Pool, file_nbytes, missing, remove
from benchmarks.studies.targets import verdicts
from benchmarks.studies.workload import Workload, prepare
from dask_chunkio.cli.scheduler import running_scheduler

_TARGETS_ARE_FOR = ("recording", 2, 0)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured."""

    kind: str
    size_mb: float
    runs: int
    threads: int
    processes: int
    chunks: tuple[int, ...] | None
    codecs: tuple[Codec, ...]
    systems: tuple[str, ...]
    is_tiny: bool

    @property
    def pairs(self) -> list[tuple[str, Codec]]:
        """Every system with every codec that it has."""
        return [(name, codec) for codec in self.codecs for name in self.systems if SYSTEMS[name].knows(codec)]


@dataclass(frozen=True, slots=True)
class Run:
    """The setting, and everything that is made before the clock starts."""

    setting: Setting
    workload: Workload
    whole: Array
    pool: Pool

    @property
    def output(self) -> Path:
        """Where everyone writes, one at a time."""
        return self.workload.folder / "written"

    def job(self, codec: Codec) -> Job:
        """Return what a codec gets."""
        return self.workload.job(codec, self.pool, self.whole)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    setting = _setting(_parser().parse_args(argv))
    options = _parser().parse_args(argv)
    with _running(setting, options.folder) as run:
        rows = {(row.system, row.codec): row for row in _with_times(run, _written(run))}
        title = _title(run)
    judged = verdicts(rows)
    words = [str(verdict) for verdict in judged]
    binding = (setting.kind, setting.threads, setting.processes) == _TARGETS_ARE_FOR
    if not binding:
        words = ["The targets are for the recording on 2 threads; here they only tell.", *words]
    text = "\n".join((title, "", table(rows), "", *words))
    print(text)
    results = {"setting": title, "rows": figures(rows.values()), "targets": [str(verdict) for verdict in judged]}
    save(text, results, options.markdown, options.json)
    return int(binding and not setting.is_tiny and not all(verdict.passed for verdict in judged))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.compare", description=__doc__)
    parser.add_argument("--data", choices=data.KINDS, default="recording", help="what is written (default: recording)")
    parser.add_argument("--size-mb", type=float, default=192, help="size of the array (default: 192)")
    parser.add_argument("--runs", type=int, default=7, help="interleaved rounds (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every system that has some (default: 2)")
    parser.add_argument("--processes", type=int, default=0, help="give us and dask to zarr worker processes instead")
    parser.add_argument("--codecs", nargs="+", choices=CODECS, metavar="CODEC", help=f"some of {', '.join(CODECS)}")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, metavar="SYSTEM", help=f"some of {', '.join(SYSTEMS)}")
    parser.add_argument("--chunks", type=_shape, help="chunk shape, as 8192,64 (default: of about 1 MB)")
    parser.add_argument("--folder", help="where to write (default: /dev/shm, or else the temporary folder)")
    parser.add_argument("--tiny", action="store_true", help="a quick run that only shows that everything works")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, too")
    return parser


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _setting(options: argparse.Namespace) -> Setting:
    systems = [name for name in SYSTEMS if name in (options.systems or SYSTEMS)]
    for name in filter(lambda name: missing(SYSTEMS[name]), systems):
        print(f"{name} is left out: {SYSTEMS[name].needs} is not installed", file=sys.stderr)
    return Setting(
        kind=options.data,
        size_mb=1 if options.tiny else options.size_mb,
        runs=2 if options.tiny else options.runs,
        threads=options.processes or options.threads,
        processes=options.processes,
        chunks=options.chunks,
        codecs=tuple(codec for codec in CODECS.values() if codec.name in (options.codecs or CODECS)),
        systems=tuple(name for name in systems if not missing(SYSTEMS[name])),
        is_tiny=options.tiny,
    )


@contextlib.contextmanager
def _running(setting: Setting, folder: str | None) -> Iterator[Run]:
    nbytes = int(setting.size_mb * 1e6)
    with contextlib.ExitStack() as stack:
        # The array, uncompressed HDF5 files of it and of its parts, and what is written.
        place = stack.enter_context(working_folder(folder, 5 * nbytes + (64 << 20)))
        pool = Pool(setting.threads)
        if setting.processes:
            pool = Pool(setting.processes, stack.enter_context(running_scheduler("processes", setting.processes, 1)))
        stack.enter_context(dask.config.set(num_workers=setting.threads))
        workload = prepare(place, setting.kind, nbytes, setting.chunks)
        whole = workload.whole()
        workload.store(whole, [codec for name, codec in setting.pairs if SYSTEMS[name].needs == "h5repack"])
        yield Run(setting, workload, whole, pool)


def _written(run: Run) -> list[Row]:
    """Write once with each system, measure its memory, and compare what it wrote with the array."""
    rows, setting = [], run.setting
    with own_processes(shared=setting.is_tiny) as processes:
        for system, codec in setting.pairs:
            job, peak = run.job(codec), None
            if setting.processes:
                SYSTEMS[system].write(str(run.output), job, codec)
            else:
                measure = partial(write_and_measure, run.workload, system, codec.name, setting.threads, run.output)
                peak = processes.submit(measure).result()
            _check(run, system, job)
            bound = _bound(job, codec) if system == OURS and not setting.processes else None
            rows.append(Row(system, codec.name, job.array.nbytes, file_nbytes(run.output), (), peak, bound))
            remove(run.output)
    return rows


def _check(run: Run, system: str, job: Job) -> None:
    with contextlib.ExitStack() as stack:
        if SYSTEMS[system].makes_zarr:
            import zarr

            written = zarr.open_array(run.output, mode="r")
        else:
            written = stack.enter_context(h5py.File(run.output, "r"))[DATASET]
        equal_nan = job.array.dtype.kind == "f"
        step = job.chunks[0] * max(1, (32 << 20) // job.array[: job.chunks[0]].nbytes)
        for start in range(0, len(job.array), step):
            part = slice(start, start + step)
            if not np.array_equal(written[part], job.array[part], equal_nan=equal_nan):
                sys.exit(f"{system} wrote something else than the array, in rows {part.start} to {part.stop}")


def _bound(job: Job, codec: Codec) -> int:
    """Return the memory that our plan promises not to exceed."""
    planned = dask_chunkio.plan(
        "unused.h5", DATASET, job.array, chunks=job.chunks, scheduler=job.pool.scheduler, **codec.h5py
    )
    return planned.projected_nbytes


def _with_times(run: Run, rows: list[Row]) -> Iterator[Row]:
    """Time all that was written, interleaved, and the codecs alone."""
    measures = {(row.system, row.codec): _timed(run, row.system, CODECS[row.codec]) for row in rows}
    codecs = [codec for codec in run.setting.codecs if codec.h5py and OURS in run.setting.systems]
    jobs = {codec.name: run.job(codec) for codec in codecs}
    measures |= {(ALONE, codec.name): partial(seconds_alone, jobs[codec.name], codec) for codec in codecs}
    for row in rows:
        # A first call imports, and starts threads.
        job = run.workload.little(run.job(CODECS[row.codec]))
        SYSTEMS[row.system].write(str(run.output), job, CODECS[row.codec])
        remove(run.output)
    times = interleaved(measures, run.setting.runs)
    for row in rows:
        timed = replace(row, seconds=tuple(times[row.system, row.codec]))
        codec_alone = times.get((ALONE, row.codec))
        if row.system == OURS and codec_alone:
            timed = replace(timed, efficiency=efficiency(codec_alone, timed.seconds, run.setting.threads))
        yield timed
        if row.system == OURS and codec_alone:
            stored = int(alone(jobs[row.codec], CODECS[row.codec])[1] * row.nbytes)
            yield Row(ALONE, row.codec, row.nbytes, stored, tuple(codec_alone))


def _timed(run: Run, system: str, codec: Codec) -> Callable[[], float]:
    job = run.job(codec)

    def measure() -> float:
        taken = seconds(partial(SYSTEMS[system].write, str(run.output), job, codec))
        # Not timed: a file in memory takes a while to free.
        remove(run.output)
        return taken

    return measure


def _title(run: Run) -> str:
    setting, workload = run.setting, run.workload
    shape, chunks = ("x".join(map(str, lengths)) for lengths in (workload.shape, workload.chunks))
    workers = f"{setting.processes} worker processes for us and dask to zarr, as many threads for the others"
    if not setting.processes:
        workers = f"{setting.threads} threads" if setting.threads > 1 else "1 thread"
    return (
        f"{setting.kind}: {shape} {workload.dtype}, {workload.nbytes / 1e6:.0f} MB, of which slow codecs write a part, "
        f"in chunks of {chunks}; {workers}; {setting.runs} interleaved runs.\n{machine()}; {busy()}."
    )


if __name__ == "__main__":
    sys.exit(main())
