"""A Dataset of six dask arrays to netCDF, by xarray and by us: python -m benchmarks.studies.netcdf.

The blocks are read from files in memory, so that hardly anything but the write is timed.  All have the same chunks and
filters; one row of ours has a lower level of gzip.  Ratios are those of the runs of one round.
"""

from __future__ import annotations

import argparse
import contextlib
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray

from benchmarks.studies.data import make
from benchmarks.studies.measure import (
    add_usual_options,
    busy,
    interleaved,
    machine,
    markdown_table,
    ratio_row,
    save,
    seconds,
    working_folder,
)
from dask_chunkio.cli.scheduler import running_scheduler
from dask_chunkio.integrations.xarray import to_netcdf

OURS, FAST = "dask_chunkio", "dask_chunkio, level 1"
THEIRS = ("to_netcdf, netcdf4", "to_netcdf, h5netcdf")
_HEAD = ("scheduler, writer", "seconds", "min-max", "MB/s", "file, MB", f"its time / {OURS}'s", "min-max")
_FLOATS = ("temperature", "pressure", "humidity", "wind_u", "wind_v")
_PLANE = (256, 512)
_STEPS, _STEPS_OF_CHUNK = 32, 2

Write = Callable[[str], object]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parse(argv)
    nbytes, runs = (60 << 20, 1) if options.tiny else (int(options.gb * 1e9), options.runs)
    with working_folder(options.folder, 3 * nbytes) as folder:
        dataset = _dataset(folder, nbytes)
        with _writes(dataset, options.workers, options.level) as writes:
            sizes: dict[tuple[str, str], int] = {}
            measures = {key: partial(_timed, write, folder, key, sizes) for key, write in writes.items()}
            _check(dataset, writes, folder)
            times = interleaved(measures, runs)
    rows = [
        ratio_row(
            ", ".join(key), taken, [*map(operator.truediv, taken, times[key[0], OURS])], sizes[key], dataset.nbytes
        )
        for key, taken in times.items()
    ]
    title = (
        f"{dataset.nbytes / 1e9:.2f} GB in six variables, gzip {options.level} + shuffle, {options.workers} threads or "
        f"worker processes, {runs} interleaved runs.\n{machine()}, xarray {xarray.__version__}; {busy()}."
    )
    text = "\n".join((title, "", markdown_table(_HEAD, rows)))
    print(text)
    figures = {", ".join(key): {"seconds": taken, "nbytes": sizes[key]} for key, taken in times.items()}
    save(text, figures, options.markdown, options.json)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.netcdf", description=__doc__)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the Dataset (default: 4)")
    parser.add_argument("--level", type=int, default=4, help="level of gzip (default: 4, that of xarray)")
    parser.add_argument("--workers", type=int, default=2, help="threads, or processes (default: 2)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved rounds (default: 5)")
    add_usual_options(parser)
    return parser.parse_args(argv)


def _dataset(folder: Path, nbytes: int) -> xarray.Dataset:
    """Return five variables of float32 and one of int16, whose blocks are read from two files."""
    steps = max(_STEPS, round(nbytes / (22 * _PLANE[0] * _PLANE[1] * _STEPS)) * _STEPS)
    shape = (steps, *_PLANE)
    for kind, dtype in (("float", "f4"), ("noise", "i2")):
        count = int(np.prod(shape))
        made = make(kind, count * np.dtype(dtype).itemsize).reshape(-1)[:count]
        np.save(folder / f"{kind}.npy", made.reshape(shape))
    kinds = dict.fromkeys(_FLOATS, ("float", "f4")) | {"counts": ("noise", "i2")}
    dims = ("time", "lat", "lon")
    variables = {
        name: (dims, _lazy(str(folder / f"{kind}.npy"), shape, dtype, number))
        for number, (name, (kind, dtype)) in enumerate(kinds.items())
    }
    coords = {"time": np.arange(steps), "lat": np.arange(_PLANE[0]) * 0.5, "lon": np.arange(_PLANE[1]) * 0.5}
    return xarray.Dataset(variables, coords=coords)


def _lazy(path: str, shape: tuple[int, ...], dtype: str, turned: int) -> Any:
    chunks = ((_STEPS,) * (shape[0] // _STEPS), (shape[1],), (shape[2],))
    return da.map_blocks(_block, path, turned, chunks=chunks, dtype=dtype, meta=np.empty((0, 0, 0), dtype))


def _block(path: str, turned: int, block_info: Any = None) -> Any:
    """Read the block of a file; each variable has the blocks turned by another angle."""
    first, last = block_info[None]["array-location"][0]
    return np.roll(np.load(path, mmap_mode="r")[first:last], 40 * turned, axis=2)


@contextlib.contextmanager
def _writes(dataset: xarray.Dataset, workers: int, level: int) -> Iterator[dict[tuple[str, str], Write]]:
    """Give each way to write the dataset, by the names of the scheduler and of the writer."""
    with dask.config.set(num_workers=workers), running_scheduler("processes", workers, 1) as client:
        found: dict[tuple[str, str], Write] = {}
        for name, scheduler in {"threads": "threads", "processes": client}.items():
            for engine in THEIRS:
                short = engine.partition(", ")[2]
                found[name, engine] = partial(_theirs, dataset, scheduler, short, _encoding(dataset, level))
            for ours, chosen in {OURS: level, FAST: 1}.items():
                found[name, ours] = partial(_ours, dataset, scheduler, _encoding(dataset, chosen))
        yield found


def _encoding(dataset: xarray.Dataset, level: int) -> dict[str, Any]:
    """Return the encodings; a copy for each call, because xarray changes them."""
    one = {"zlib": True, "complevel": level, "shuffle": True, "chunksizes": (_STEPS_OF_CHUNK, *_PLANE)}
    return {str(name): dict(one) for name in dataset.data_vars}


def _theirs(dataset: xarray.Dataset, scheduler: Any, engine: Any, encoding: Mapping[str, Any], path: str) -> None:
    is_client = hasattr(scheduler, "as_current")
    with scheduler.as_current() if is_client else dask.config.set(scheduler=scheduler):
        dataset.to_netcdf(path, engine=engine, encoding={name: dict(one) for name, one in encoding.items()})


def _ours(dataset: xarray.Dataset, scheduler: Any, encoding: Mapping[str, Any], path: str) -> None:
    to_netcdf(dataset, path, encoding=encoding, scheduler=scheduler, progress=False)


def _timed(write: Write, folder: Path, key: tuple[str, str], sizes: dict[tuple[str, str], int]) -> float:
    path = folder / "out.nc"
    taken = seconds(lambda: write(str(path)))
    sizes[key] = path.stat().st_size
    path.unlink()
    return taken


def _check(dataset: xarray.Dataset, writes: Mapping[tuple[str, str], Write], folder: Path) -> None:
    """Compare what we write, on each scheduler, with the dataset; this also warms the workers up."""
    path = folder / "out.nc"
    for name in dict.fromkeys(name for name, _ in writes):
        writes[name, FAST](str(path))
        with xarray.open_dataset(path, engine="h5netcdf", chunks={"time": _STEPS}) as found:
            if not found.identical(dataset):
                sys.exit(f"what dask_chunkio wrote with {name} is not the dataset")
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
