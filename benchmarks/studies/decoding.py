"""How fast each filter is undone, by us and by HDF5: python -m benchmarks.studies.decoding.

Both decode the same payloads, which HDF5 made, on one thread.  Bytes are counted for each second of the processor's
time, also of the process that decodes for us: on a machine with other work, the clock measures that work.  Runs of both
alternate.  Each decoded chunk is compared with what h5py reads.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import psutil

from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.filters.decoders import decoder_for
from dask_chunkio.storage.hdf5.dataset import describe

CHUNK = 1 << 20

Array = np.ndarray[Any, np.dtype[Any]]

SHUFFLED = {"shuffle": True}
# Keywords of h5py, and the type of the elements.
FILTERS: dict[str, tuple[Mapping[str, Any], str]] = {
    "none": ({}, "<i2"),
    "shuffle": (SHUFFLED, "<i2"),
    "shuffle of float64": (SHUFFLED, "<f8"),
    "fletcher32": ({"fletcher32": True}, "<i2"),
    "gzip 4": ({"compression": "gzip"}, "<i2"),
    "gzip 4 + shuffle": ({"compression": "gzip", **SHUFFLED}, "<i2"),
    "lzf + shuffle": ({"compression": "lzf", **SHUFFLED}, "<i2"),
    "zstd 3": (hdf5plugin.Zstd(3), "<i2"),
    "zstd 3 + shuffle": ({**hdf5plugin.Zstd(3), **SHUFFLED}, "<i2"),
    "lz4": (hdf5plugin.LZ4(), "<i2"),
    "bitshuffle lz4": (hdf5plugin.Bitshuffle(), "<i2"),
    "bitshuffle zstd": (hdf5plugin.Bitshuffle(cname="zstd"), "<i2"),
    "bzip2": (hdf5plugin.BZip2(), "<i2"),
    "blosc lz4": (hdf5plugin.Blosc(cname="lz4"), "<i2"),
    "blosc zstd": (hdf5plugin.Blosc(cname="zstd"), "<i2"),
    "blosc2 lz4": (hdf5plugin.Blosc2(cname="lz4"), "<i2"),
    "blosc2 zstd": (hdf5plugin.Blosc2(cname="zstd"), "<i2"),
    "szip": ({"compression": "szip"}, "<i2"),
    "scaleoffset": ({"scaleoffset": 0}, "<i2"),
    "zfp, accuracy 0.1": (hdf5plugin.Zfp(accuracy=0.1), "<f4"),
    "sz": (hdf5plugin.SZ(absolute=0.1), "<f4"),
    "sz3": (hdf5plugin.SZ3(absolute=0.1), "<f4"),
    "sperr": (hdf5plugin.Sperr(rate=16), "<f4"),
    "fcidecomp": (hdf5plugin.FciDecomp(), "<u2"),
    **({"htj2k": (hdf5plugin.Htj2k(), "<u2")} if hasattr(hdf5plugin, "Htj2k") else {}),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.decoding", description=__doc__)
    parser.add_argument("--chunks", type=int, default=8, help="of 1 MiB, for each filter")
    parser.add_argument("--runs", type=int, default=10, help="of both")
    parser.add_argument("--only", default="", help="filters whose name has this")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, to see that it works")
    options = parser.parse_args(argv)
    count, nbytes, runs = (1, 1 << 14, 1) if options.tiny else (options.chunks, CHUNK, options.runs)
    print("| filter | size | undone by | ours | HDF5 | faster |\n| --- | ---: | --- | ---: | ---: | ---: |")
    for name, (keywords, dtype) in FILTERS.items():
        if options.only in name:
            print(row(name, keywords, recording(dtype, nbytes, count), count, runs), flush=True)
    return 0


def recording(dtype: str, nbytes: int, count: int) -> Array:
    """Return chunks of noise around 1000 with sigma 20, one after the other."""
    rows = nbytes // np.dtype(dtype).itemsize // 128
    return np.random.default_rng(20).normal(1000, 20, (count * rows, 128)).astype(dtype)


def row(name: str, keywords: Mapping[str, Any], data: Array, count: int, runs: int) -> str:
    """Measure one filter, and return its line of the table."""
    chunks = len(data) // count, data.shape[1]
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        file.create_dataset("x", data=data, chunks=chunks, **keywords)
    with h5py.File(target, rdcc_nbytes=0) as file:
        dataset = file["x"]
        starts = range(0, len(data), chunks[0])
        stored = (dataset.id.read_direct_chunk((start, 0)) for start in starts)
        payloads = [Payload(payload, mask) for mask, payload in stored]
        decoder = decoder_for(describe(dataset).form)
        buffer = np.empty(chunks, data.dtype)

        def by_hdf5() -> None:
            for start in starts:
                dataset.read_direct(buffer, np.s_[start : start + chunks[0]])

        def by_us() -> None:
            for payload in payloads:
                decoder.decode(payload)

        for start, payload in zip(starts, payloads, strict=True):
            assert decoder.decode(payload).tobytes() == dataset[start : start + chunks[0]].tobytes(), name
        ours, theirs = seconds(by_us, by_hdf5, runs)
    size = sum(payload.nbytes for payload in payloads) / data.nbytes
    speeds = [data.nbytes / taken / 1e6 for taken in (ours, theirs)]
    return f"| {name} | {size:.2f} | {decoder.name} | {speeds[0]:.0f} | {speeds[1]:.0f} | {theirs / ours:.1f} x |"


def seconds(ours: Callable[[], None], theirs: Callable[[], None], runs: int) -> tuple[float, float]:
    """Return the seconds of the processor's time that a run of each takes."""
    totals = [0.0, 0.0]
    for _ in range(runs):
        for number, function in enumerate((ours, theirs)):
            before, began = time_of_children(), time.process_time()
            function()
            own = time.process_time() - began
            totals[number] += own + time_of_children() - before
    # The system counts the time of other processes in hundredths of a second.
    return max(totals[0] / runs, 1e-9), max(totals[1] / runs, 1e-9)


def time_of_children() -> float:
    """Return the seconds of the processor's time that the processes have taken which this one has started."""
    times = (one.cpu_times() for one in psutil.Process().children(recursive=True))
    return float(sum(one.user + one.system for one in times))


if __name__ == "__main__":
    sys.exit(main())
