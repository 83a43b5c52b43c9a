"""A SpikeInterface recording to NWB, by NeuroConv and by us: python -m benchmarks.studies.nwb.

The recording is NeuroConv's generated one.  It is converted with NeuroConv's defaults and, as another row, with shuffle
and level 1; and to Zarr by hdmf-zarr, with several jobs.  Needs ``pip install "dask_chunkio[neuroconv]" spikeinterface
hdmf-zarr``.  Ratios are those of the runs of one round.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import operator
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from neuroconv.tools.nwb_helpers import (
    configure_and_write_nwbfile,
    configure_backend,
    get_default_backend_configuration,
)
from neuroconv.tools.testing.mock_interfaces import MockRecordingInterface

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
from dask_chunkio.integrations.neuroconv import parallel_backend

THEIRS, ZARR, OURS, FAST = "NeuroConv", "hdmf-zarr", "dask_chunkio", "dask_chunkio, shuffle, level 1"
_HEAD = ("writer", "seconds", "min-max", "MB/s", "file, MB", "time of NeuroConv / its time", "min-max")
_CHANNELS, _RATE, _ITEMSIZE = 64, 30_000.0, 4
_DATA = "acquisition/ElectricalSeries/data"
_BEGAN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)

Write = Callable[[Path], object]
Backend = Callable[[], contextlib.AbstractContextManager[Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parse(argv)
    nbytes, runs = (40_000_000, 1) if options.tiny else (int(options.gb * 1e9), options.runs)
    interface = MockRecordingInterface(
        num_channels=_CHANNELS, sampling_frequency=_RATE, durations=(nbytes / (_CHANNELS * _RATE * _ITEMSIZE),)
    )
    writes = _writes(interface, options.workers)
    with working_folder(options.folder, 3 * nbytes) as folder:
        _check(interface, writes, folder)
        sizes: dict[str, int] = {}
        measures = {name: functools.partial(_timed, name, write, folder, sizes) for name, write in writes.items()}
        times = interleaved(measures, runs)
    rows = [
        ratio_row(name, taken, [*map(operator.truediv, times[THEIRS], taken)], sizes[name], nbytes)
        for name, taken in times.items()
    ]
    title = (
        f"{nbytes / 1e9:.2f} GB of float32, {_CHANNELS} channels, {options.workers} threads or jobs, {runs} "
        f"interleaved runs.\n{machine()}; {busy()}."
    )
    text = "\n".join((title, "", markdown_table(_HEAD, rows)))
    print(text)
    save(
        text,
        {name: {"seconds": taken, "nbytes": sizes[name]} for name, taken in times.items()},
        options.markdown,
        options.json,
    )
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.nwb", description=__doc__)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the recording (default: 4)")
    parser.add_argument("--workers", type=int, default=2, help="threads, or jobs of hdmf-zarr (default: 2)")
    parser.add_argument("--runs", type=int, default=3, help="interleaved rounds (default: 3)")
    add_usual_options(parser)
    return parser.parse_args(argv)


def _writes(interface: Any, workers: int) -> dict[str, Write]:
    scheduled = {"compute_kwargs": {"num_workers": workers}}
    return {
        THEIRS: functools.partial(_converted, interface, contextlib.nullcontext, {}),
        ZARR: functools.partial(_to_zarr, interface, workers),
        OURS: functools.partial(_converted, interface, functools.partial(parallel_backend, **scheduled), {}),
        FAST: functools.partial(
            _converted,
            interface,
            functools.partial(parallel_backend, **scheduled),
            {"compressors": ["shuffle", "gzip"], "compressor_options": [None, {"level": 1}]},
        ),
    }


def _file(interface: Any) -> Any:
    metadata = interface.get_metadata()
    metadata["NWBFile"]["session_start_time"] = _BEGAN
    return interface.create_nwbfile(metadata=metadata)


def _converted(interface: Any, backend: Backend, filters: Mapping[str, Any], path: Path) -> None:
    """Convert the recording as `BaseDataInterface.run_conversion` does, with NeuroConv's own backend configuration."""
    file = _file(interface)
    configuration = get_default_backend_configuration(file, backend="hdf5")
    for name, value in filters.items():
        for dataset in configuration.dataset_configurations.values():
            setattr(dataset, name, value)
    with backend():
        configure_and_write_nwbfile(file, nwbfile_path=path, backend_configuration=configuration)


def _to_zarr(interface: Any, jobs: int, path: Path) -> None:
    """Convert the recording with hdmf-zarr; NeuroConv does not pass the number of jobs on to it."""
    from hdmf_zarr.nwb import NWBZarrIO

    file = _file(interface)
    configure_backend(file, backend_configuration=get_default_backend_configuration(file, backend="zarr"))
    with NWBZarrIO(str(path), mode="w") as io:
        io.write(file, number_of_jobs=jobs)


def _timed(name: str, write: Write, folder: Path, sizes: dict[str, int]) -> float:
    path = folder / "out.nwb"
    taken = seconds(lambda: write(path))
    if path.is_dir():
        sizes[name] = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
        shutil.rmtree(path)
    else:
        sizes[name] = path.stat().st_size
        path.unlink()
    return taken


def _check(interface: Any, writes: Mapping[str, Write], folder: Path) -> None:
    """Compare what we write with the recording; this also warms everything up."""
    recording, step = interface.recording_extractor, int(_RATE)
    for name in (OURS, FAST):
        path = folder / "out.nwb"
        writes[name](path)
        with h5py.File(path) as file:
            data = file[_DATA]
            for start in range(0, len(data), step):
                stop = min(start + step, len(data))
                if not np.array_equal(data[start:stop], recording.get_traces(start_frame=start, end_frame=stop)):
                    sys.exit(f"what {name} wrote is not the recording")
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
