"""Our wall time against that of the codecs alone: python -m benchmarks.studies.efficiency.

Each chunk is encoded on one core, without any file; that time, shared by all threads, is the
least that a write can take.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import dask
import h5py

from benchmarks.studies import data
from benchmarks.studies.codecs import CODECS, Codec
from benchmarks.studies.measure import (
    add_usual_options,
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
from benchmarks.studies.systems import OURS, SYSTEMS, Job, Pool
from benchmarks.studies.workload import Workload, prepare
from dask_chunkio.filters.chunk_format import ChunkFormat, Encoder
from dask_chunkio.filters.encoders import encoder_for
from dask_chunkio.filters.hdf5_encoder import read_filters

__all__ = ["LEAST", "alone", "efficiency", "seconds_alone"]

LEAST = 0.9
_CODECS = [codec.name for codec in CODECS.values() if codec.h5py]
_HEAD = ("codec", "threads", "codec alone, MB/s on one core", "ours, MB/s", "seconds, min-max", "efficiency")


def alone(job: Job, codec: Codec) -> tuple[float, float]:
    """Return the seconds that the codec takes for the array on one core, and the bytes that it makes of each."""
    encoder, taken, raw, stored = _encoder(job, codec), 0.0, 0, 0
    for chunk in data.whole_chunks(job.array, job.chunks):
        started = time.perf_counter()
        payload = encoder.encode(chunk)
        taken += time.perf_counter() - started
        raw += chunk.nbytes
        stored += payload.nbytes
    # Chunks over the edge count as parts.
    return taken * job.array.nbytes / raw, stored / raw


def seconds_alone(job: Job, codec: Codec) -> float:
    """Return the seconds that the codec takes for the array on one core."""
    return alone(job, codec)[0]


def _encoder(job: Job, codec: Codec) -> Encoder:
    with h5py.File("unused", "w", driver="core", backing_store=False) as file:
        made = file.create_dataset("x", job.chunks, job.array.dtype, chunks=job.chunks, **codec.h5py)
        filters = read_filters(made.id.get_create_plist())
    return encoder_for(ChunkFormat(job.chunks, job.array.dtype, filters), codec.h5py)


def efficiency(codec: Sequence[float], ours: Sequence[float], threads: int) -> float:
    """Return the time of the codec alone, shared by all threads, to ours."""
    return middle(codec) / threads / middle(ours)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parse(argv)
    nbytes, runs = (4_000_000, 2) if options.tiny else (int(options.size_mb * 1e6), options.runs)
    codecs = [CODECS[name] for name in options.codecs]
    with working_folder(options.folder, 3 * nbytes + (64 << 20)) as folder:
        workload = prepare(folder, options.data, nbytes, None)
        measured = interleaved(_measures(workload, codecs, options.threads, folder), runs)
    rows, passed = [], True
    for codec in codecs:
        codec_alone = measured[f"{codec.name}, alone"]
        mb = workload.part_nbytes(codec) / 1e6
        for threads in options.threads:
            ours = measured[f"{codec.name}, {threads}"]
            share = efficiency(codec_alone, ours, threads)
            passed &= share >= LEAST
            speeds = (f"{mb / middle(codec_alone):.0f}", f"{mb / middle(ours):.0f}")
            rows.append((codec.name, str(threads), *speeds, spread(ours), f"{share:.2f}"))
    title = f"{options.data}, {workload.nbytes / 1e6:.0f} MB, {runs} interleaved runs.\n{machine()}; {busy()}."
    verdict = f"{'PASS' if passed else 'MISS'}  each efficiency is at least {LEAST}"
    text = "\n".join((title, "", markdown_table(_HEAD, rows), "", verdict))
    print(text)
    save(text, [dict(zip(_HEAD, row, strict=True)) for row in rows], options.markdown, options.json)
    return int(not passed and not options.tiny)


def _measures(
    workload: Workload, codecs: Sequence[Codec], threads: Sequence[int], folder: Path
) -> dict[str, Callable[[], float]]:
    whole = workload.whole()
    found: dict[str, Callable[[], float]] = {}
    for codec in codecs:
        job = workload.job(codec, Pool(1), whole)
        found[f"{codec.name}, alone"] = partial(seconds_alone, job, codec)
        for count in threads:
            found[f"{codec.name}, {count}"] = partial(_ours, job, codec, count, folder / "timed.h5")
    return found


def _ours(job: Job, codec: Codec, threads: int, path: Path) -> float:
    with dask.config.set(num_workers=threads):
        taken = seconds(lambda: SYSTEMS[OURS].write(str(path), job, codec))
    path.unlink()
    return taken


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.efficiency", description=__doc__)
    parser.add_argument("--data", choices=data.KINDS, default="recording")
    parser.add_argument("--size-mb", type=float, default=192, help="size of the array; slow codecs get a part of it")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--codecs", nargs="+", choices=_CODECS, default=_CODECS, metavar="CODEC", help="some of them")
    parser.add_argument("--runs", type=int, default=5, help="interleaved rounds (default: 5)")
    add_usual_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
