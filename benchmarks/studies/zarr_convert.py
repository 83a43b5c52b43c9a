"""Conversion between zarr and HDF5, side by side: python -m benchmarks.studies.zarr_convert.

An array is stored once in each format with the same codec.  Then it is converted both ways: by `convert`, which copies
the chunks as they are stored; by `convert` with another level, which decodes and encodes them; by a loop over rows of
chunks with h5py and zarr; and by xarray.  Files lie in memory, so that codecs and overhead are measured.  Ratios are
those of the runs of one round.
"""

from __future__ import annotations

import argparse
import functools
import operator
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dask
import h5py
import hdf5plugin
import numcodecs
import numpy as np
import xarray as xr
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

OURS = "convert"
_HEAD = ("codec, target, method", "seconds", "min-max", "MB/s", f"its time / {OURS}'s", "min-max")
_FORMAT: Literal[2] = 2
# Name: keywords of h5py; filter and compressor of zarr; keywords of `convert` with another level.
CODECS: dict[str, tuple[dict[str, Any], tuple[Any, Any], dict[str, Any]]] = {
    "gzip 4 + shuffle": (
        {"compression": "gzip", "compression_opts": 4, "shuffle": True},
        (numcodecs.Shuffle(2), numcodecs.Zlib(4)),
        {"compression": "gzip", "compression_opts": 3, "shuffle": True},
    ),
    "zstd 3": (
        dict(hdf5plugin.Zstd(3)),
        (None, numcodecs.Zstd(3)),
        {"compression": "zstd", "compression_opts": 2},
    ),
    "blosc lz4": (
        dict(hdf5plugin.Blosc("lz4", 5)),
        (None, numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE)),
        {"compression": "blosc", "compression_opts": {"cname": "lz4", "clevel": 4}},
    ),
}
# What is asked of copying: so many times as fast as encoding anew.
LEAST = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parse(argv)
    nbytes, runs = (8 << 20, 1) if options.tiny else (int(options.mb * 1e6), options.runs)
    array = make("recording", nbytes)
    chunks = chunk_shape("recording", array)
    times: dict[tuple[str, str, str], list[float]] = {}
    with (
        working_folder(options.folder, 8 * nbytes) as folder,
        dask.config.set(num_workers=options.threads, scheduler="threads"),
        zarr.config.set({"threading.max_workers": options.threads}),
    ):
        for name in CODECS:
            _write(folder, array, chunks, name)
            measures = {
                (name, *key): functools.partial(_timed, one, folder, array)
                for key, one in _methods(folder, name, chunks, options.threads).items()
            }
            times |= interleaved(measures, runs)
    rows = [_row(key, times, array.nbytes) for key in times]
    title = (
        f"{array.nbytes / 1e6:.0f} MB of a recording in chunks of {chunks}; {options.threads} threads, {runs} "
        f"interleaved runs.\n{machine()}, zarr {zarr.__version__}, xarray {xr.__version__}; {busy()}."
    )
    text = "\n".join((title, "", markdown_table(_HEAD, rows), "", *_judged(times)))
    print(text)
    save(text, {", ".join(key): taken for key, taken in times.items()}, options.markdown, options.json)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.zarr_convert", description=__doc__)
    parser.add_argument("--mb", type=float, default=400.0, help="size of the array (default: 400)")
    parser.add_argument("--threads", type=int, default=2, help="of all that take a number (default: 2)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved rounds (default: 5)")
    add_usual_options(parser)
    return parser.parse_args(argv)


def _write(folder: Path, array: Any, chunks: tuple[int, ...], name: str) -> None:
    of_h5py, (shuffle, compressor), _ = CODECS[name]
    variable = xr.DataArray(array, dims=("time", "channel"), name="x")
    encoding: dict[str, Any] = {"chunks": chunks, "compressors": compressor}
    if shuffle is not None:
        encoding["filters"] = [shuffle]
    store: Any = folder / "in.zarr"
    variable.to_zarr(store, mode="w", zarr_format=_FORMAT, encoding={"x": encoding})
    with h5py.File(folder / "in.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=chunks, **of_h5py)
        for axis, dimension in enumerate(variable.dims):
            scale = file.create_dataset(str(dimension), (array.shape[axis],), ">f4")
            scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{array.shape[axis]:10d}")
            file["x"].dims[axis].attach_scale(scale)


def _methods(
    folder: Path, name: str, chunks: tuple[int, ...], threads: int
) -> dict[tuple[str, str], tuple[Callable[[Path], object], Path]]:
    """Return what converts, and to which target, by the name of the format and of the method."""
    store, file = folder / "in.zarr", folder / "in.h5"
    to_hdf5, to_zarr = folder / "out.h5", folder / "out.zarr"
    of_zarr: dict[str, Any] = {"threads": threads, "zarr_format": _FORMAT}
    other = CODECS[name][2]
    return {
        ("HDF5", OURS): (partial(dcio.convert, store, progress=False), to_hdf5),
        ("HDF5", f"{OURS}, other level"): (partial(dcio.convert, store, progress=False, **other), to_hdf5),
        ("HDF5", "loop"): (partial(_loop_to_hdf5, store, name, chunks), to_hdf5),
        ("HDF5", "xarray"): (partial(_xarray_to_hdf5, store, name, chunks), to_hdf5),
        ("zarr", OURS): (partial(dcio.convert, file, **of_zarr), to_zarr),
        ("zarr", f"{OURS}, other level"): (partial(dcio.convert, file, **of_zarr, **other), to_zarr),
        ("zarr", "loop"): (partial(_loop_to_zarr, file, name, chunks), to_zarr),
        ("zarr", "xarray"): (partial(_xarray_to_zarr, file, name, chunks), to_zarr),
    }


def _loop_to_hdf5(store: Path, name: str, chunks: tuple[int, ...], target: Path) -> None:
    array: Any = zarr.open_group(store, mode="r")["x"]
    with h5py.File(target, "w") as file:
        found = file.create_dataset("x", array.shape, array.dtype, chunks=chunks, **CODECS[name][0])
        for start in range(0, len(found), chunks[0]):
            found[start : start + chunks[0]] = array[start : start + chunks[0]]


def _loop_to_zarr(source: Path, name: str, chunks: tuple[int, ...], target: Path) -> None:
    shuffle, compressor = CODECS[name][1]
    with h5py.File(source) as file:
        found = file["x"]
        array: Any = zarr.create_array(
            target, name="x", shape=found.shape, dtype=found.dtype, chunks=chunks, zarr_format=_FORMAT,
            filters=None if shuffle is None else [shuffle], compressors=compressor,
        )  # fmt: skip
        for start in range(0, len(found), chunks[0]):
            array[start : start + chunks[0]] = found[start : start + chunks[0]]


def _xarray_to_hdf5(store: Path, name: str, chunks: tuple[int, ...], target: Path) -> None:
    with xr.open_zarr(store) as dataset:
        clean = dataset.drop_encoding()
        clean.to_netcdf(target, engine="h5netcdf", encoding={"x": {"chunksizes": chunks, **CODECS[name][0]}})


def _xarray_to_zarr(source: Path, name: str, chunks: tuple[int, ...], target: Path) -> None:
    shuffle, compressor = CODECS[name][1]
    encoding: dict[str, Any] = {"chunks": chunks, "compressors": compressor}
    if shuffle is not None:
        encoding["filters"] = [shuffle]
    of_chunks = dict(zip(("time", "channel"), chunks, strict=True))
    with xr.open_dataset(source, engine="h5netcdf", chunks=of_chunks) as dataset:
        dataset.drop_encoding().to_zarr(target, zarr_format=_FORMAT, encoding={"x": encoding})


def _timed(method: tuple[Callable[[Path], object], Path], folder: Path, array: Any) -> float:
    call, target = method
    taken = seconds(partial(call, target))
    _check(target, array)
    for path in (folder / "out.h5", folder / "out.zarr"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return taken


def _check(target: Path, array: Any) -> None:
    last = slice(-5, None)
    if target.is_dir():
        opened: Any = zarr.open_group(target, mode="r")
        found = opened["x"][last]
    else:
        with h5py.File(target) as file:
            found = file["x"][last]
    if not np.array_equal(found, array[last]):
        sys.exit(f"{target} has other values")


def _row(key: tuple[str, str, str], times: Mapping[tuple[str, str, str], Sequence[float]], nbytes: int) -> list[str]:
    taken = times[key]
    ratios = [*map(operator.truediv, taken, times[*key[:2], OURS])]
    speed = f"{nbytes / 1e6 / middle(taken):.0f}"
    return [", ".join(key), f"{middle(taken):.3f}", spread(taken), speed, f"{middle(ratios):.2f}", spread(ratios)]


def _judged(times: Mapping[tuple[str, str, str], Sequence[float]]) -> list[str]:
    """Say whether copying is as much faster as is asked."""
    words = []
    for name in CODECS:
        for target in ("HDF5", "zarr"):
            encoded = times[name, target, f"{OURS}, other level"]
            found = middle([*map(operator.truediv, encoded, times[name, target, OURS])])
            words.append(f"{'PASS' if found >= LEAST else 'MISS'}  {name}, {target}: {found:.2f} x (at least {LEAST})")
    return words


if __name__ == "__main__":
    sys.exit(main())
