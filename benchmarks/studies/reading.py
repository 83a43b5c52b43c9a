"""Reading of compressed datasets, side by side: python -m benchmarks.studies.reading.

Each array is written once by h5py and, with the same codec, by zarr.  Then everybody reads the whole of it and random
slices.  Files lie in memory, so that decoding and overhead are measured.  Ratios are those of the runs of one round.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import hdf5plugin
import numcodecs
import numpy as np
import pyfive
import zarr

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
    seconds,
    spread,
    working_folder,
)

OURS = "open_array"
_HEAD = ("filter, what is read, reader", "seconds", "min-max", "MB/s", f"its time / {OURS}'s", "min-max")
# Name: the keywords of h5py, and the filter and compressor of zarr's format 2.
FILTERS: dict[str, tuple[dict[str, Any], tuple[Any, Any]]] = {
    "gzip 4 + shuffle": (
        {"compression": "gzip", "compression_opts": 4, "shuffle": True},
        (numcodecs.Shuffle(2), numcodecs.Zlib(4)),
    ),
    "zstd": (dict(hdf5plugin.Zstd(3)), (None, numcodecs.Zstd(3))),
    "blosc2": (
        dict(hdf5plugin.Blosc2(cname="lz4", clevel=5)),
        (None, numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE)),
    ),
    "bitshuffle": (dict(hdf5plugin.Bitshuffle()), (None, numcodecs.Blosc("lz4", 5, numcodecs.Blosc.BITSHUFFLE))),
}
# Readings of which a bound is asked: at least so many times as fast as h5py.
LEAST = {"gzip 4 + shuffle": 3.0, "zstd": 1.8, "blosc2": 1.8, "bitshuffle": 1.8}
# Readers of another format that are to take longer.
_OF_ZARR = ("zarr", "tensorstore")
# MB/s of h5py from which nothing is asked.
_FAST = 1000

Read = Callable[[Any], Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parse(argv)
    nbytes, runs = (8 << 20, 1) if options.tiny else (int(options.mb * 1e6), options.runs)
    array = make("recording", nbytes)
    chunks = chunk_shape("recording", array)
    slices = _slices(array.shape, chunks, 5 if options.tiny else 60)
    times: dict[tuple[str, str, str], list[float]] = {}
    with working_folder(options.folder, 8 * nbytes) as folder:
        for name, (of_h5py, of_zarr) in FILTERS.items():
            path = _write(folder, array, chunks, of_h5py, of_zarr)
            with _readers(path, options.threads) as readers:
                measures = {}
                wanted: dict[str, Sequence[Any]] = {"whole": [(slice(None),)], "slices": slices}
                for what, reads in wanted.items():
                    for reader, read in readers.items():
                        _check(read, array, reads[0])
                        measures[name, what, reader] = partial(seconds, partial(_all, read, reads))
                times |= interleaved(measures, runs)
    sliced = sum(array[one].nbytes for one in slices)
    rows = [_row(key, times, array.nbytes if key[1] == "whole" else sliced) for key in times]
    title = (
        f"{array.nbytes / 1e6:.0f} MB of a recording in chunks of {chunks}; {len(slices)} random slices, "
        f"{sliced / 1e6:.0f} MB; {options.threads} threads, {runs} interleaved runs.\n{machine()}, pyfive "
        f"{pyfive.__version__}; {busy()}."
    )
    text = "\n".join((title, "", markdown_table(_HEAD, rows), "", *_judged(times, array.nbytes)))
    print(text)
    save(text, {", ".join(key): taken for key, taken in times.items()}, options.markdown, options.json)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.reading", description=__doc__)
    parser.add_argument("--mb", type=float, default=400.0, help="size of the array (default: 400)")
    parser.add_argument("--threads", type=int, default=2, help="of all that take a number (default: 2)")
    parser.add_argument("--runs", type=int, default=7, help="interleaved rounds (default: 7)")
    add_usual_options(parser)
    return parser.parse_args(argv)


def _slices(shape: tuple[int, ...], chunks: tuple[int, ...], count: int) -> list[tuple[slice, ...]]:
    """Return random slices, each of the size of about three chunks."""
    draw = np.random.default_rng(1)
    found = []
    for _ in range(count):
        lengths = [min(n, int(draw.integers(1, 3 * c))) for n, c in zip(shape, chunks, strict=True)]
        starts = [int(draw.integers(0, n - length + 1)) for n, length in zip(shape, lengths, strict=True)]
        found.append(tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True)))
    return found


def _write(
    folder: Path, array: Any, chunks: tuple[int, ...], of_h5py: Mapping[str, Any], of_zarr: tuple[Any, Any]
) -> Path:
    path = folder / "in.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=array, chunks=chunks, **of_h5py)
    shuffle, compressor = of_zarr
    filters = None if shuffle is None else [shuffle]
    made = zarr.create_array(
        path.with_suffix(".zarr"), shape=array.shape, dtype=array.dtype, chunks=chunks, zarr_format=2, overwrite=True,
        filters=filters, compressors=compressor,
    )  # fmt: skip
    made[...] = array
    return path


@contextlib.contextmanager
def _readers(path: Path, threads: int) -> Iterator[dict[str, Read]]:
    """Yield what reads a selection, by name, each with its file open if it keeps it open."""
    store = str(path.with_suffix(".zarr"))
    with (
        h5py.File(path) as file,
        pyfive.File(str(path)) as other,
        dask.config.set(num_workers=threads),
        zarr.config.set({"threading.max_workers": threads}),
    ):
        blocks = dcio.from_hdf5(path, "/x")
        opened = zarr.open_array(store, mode="r")
        readers: dict[str, Read] = {
            OURS: dcio.open_array(path, "/x", threads=threads).__getitem__,
            "from_hdf5": lambda one: blocks[one].compute(scheduler="threads"),
            "h5py": file["x"].__getitem__,
            "dask, h5py": _of_dask(da.from_array(file["x"], blocks.chunks)),
            "zarr": opened.__getitem__,
        }
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError, TypeError):
            # It does not know all filters.
            other["x"][:1]
            readers["pyfive"] = other["x"].__getitem__
        if (hidefix := _of_hidefix(path)) is not None:
            readers["hidefix"] = hidefix
        with contextlib.suppress(ImportError, ValueError):
            tensorstore = importlib.import_module("tensorstore")
            of_store = {"driver": "zarr", "kvstore": {"driver": "file", "path": store}}
            context = {"data_copy_concurrency": {"limit": threads}}
            array = tensorstore.open(of_store, context=tensorstore.Context(context)).result()
            readers["tensorstore"] = lambda one: array[one].read().result()
        yield readers


def _of_hidefix(path: Path) -> Read | None:
    """Return hidefix's reader, if it is installed and knows the filters; RAYON_NUM_THREADS limits its threads."""
    try:
        hidefix = importlib.import_module("hidefix")
    except ImportError:
        return None
    with h5py.File(path) as file:
        plist, shape = file["x"].id.get_create_plist(), file["x"].shape
        codes = {plist.get_filter(number)[0] for number in range(plist.get_nfilters())}
    # Others are errors in the middle of a read.
    if codes - {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}:
        return None
    found = hidefix.Index(str(path))["x"]
    return lambda one: found[tuple(slice(*axis.indices(n)) for axis, n in zip(one, shape, strict=False))]


def _of_dask(array: da.Array) -> Read:
    return lambda one: array[one].compute(scheduler="threads")


def _all(read: Read, selections: Sequence[Any]) -> None:
    for one in selections:
        read(one)


def _check(read: Read, array: Any, selection: Any) -> None:
    if not np.array_equal(read(selection), array[selection]):
        sys.exit("a reader returns other values")


def _row(key: tuple[str, str, str], times: Mapping[tuple[str, str, str], Sequence[float]], nbytes: int) -> list[str]:
    taken = times[key]
    ratios = [*map(operator.truediv, taken, times[*key[:2], OURS])]
    speed = f"{nbytes / 1e6 / middle(taken):.0f}"
    return [", ".join(key), f"{middle(taken):.3f}", spread(taken), speed, f"{middle(ratios):.2f}", spread(ratios)]


def _judged(times: Mapping[tuple[str, str, str], Sequence[float]], nbytes: int) -> Iterator[str]:
    """Say whether what is asked holds."""
    yield from _judged_by_h5py(times, nbytes)
    for (name, what, reader), taken in times.items():
        if reader in _OF_ZARR:
            found = middle([*map(operator.truediv, taken, times[name, what, OURS])])
            yield f"{'PASS' if found > 1 else 'MISS'}  {name}, {what}: {found:.2f} x {reader} (more than 1)"


def _judged_by_h5py(times: Mapping[tuple[str, str, str], Sequence[float]], nbytes: int) -> Iterator[str]:
    """Say whether what is asked of the whole array holds."""
    for name, least in LEAST.items():
        theirs = times[name, "whole", "h5py"]
        found = middle([*map(operator.truediv, theirs, times[name, "whole", OURS])])
        speed = nbytes / 1e6 / middle(theirs)
        if speed >= _FAST:
            yield f"      {name}: {found:.2f} x h5py, which reads {speed:.0f} MB/s, so that nothing is asked"
        else:
            yield f"{'PASS' if found >= least else 'MISS'}  {name}: {found:.2f} x h5py (at least {least:.1f})"


if __name__ == "__main__":
    sys.exit(main())
