"""The demo: one recording written by us and by `dask.array.to_hdf5`, side by side."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import dask
import dask.array as da
import h5py
import numpy as np
from dask.diagnostics.progress import ProgressBar
from dask.utils import format_bytes

from dask_chunkio.cli.demo_recording import RATE_HZ, RepeatedRecording, save_excerpt
from dask_chunkio.cli.options import progress_option, threads_option, workers_option
from dask_chunkio.cli.scheduler import LOCAL, describe, running_scheduler, thread_count
from dask_chunkio.cli.terminal import say
from dask_chunkio.errors import IntegrityError, TargetError
from dask_chunkio.execution.progress import wants_progress
from dask_chunkio.geometry.grid import Array, Selection
from dask_chunkio.write import plan, to_hdf5

__all__ = ["Comparison", "Measured", "demo", "run_demo"]

_CHANNELS = 384
_LEVELS = (4, 1)
_SAMPLES, _SAMPLE_FRAMES = 20, 1000
_DATASET = "/raw"
_EXCERPT = "excerpt.npy"


@dataclass(frozen=True, slots=True)
class Measured:
    """One write, as a user would time it.

    Parameters
    ----------
    path : str
        The file.
    nbytes, file_nbytes : int
        Bytes of the elements, and of the file.
    seconds : float
        From the call to its return.
    """

    path: str
    nbytes: int
    file_nbytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes of the elements that were written in a second."""
        return self.nbytes / self.seconds

    @property
    def ratio(self) -> float:
        """How many bytes of elements stand in one byte of the file."""
        return self.nbytes / self.file_nbytes


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both writes at one gzip level; `theirs` is None if it was left out."""

    level: int
    ours: Measured
    theirs: Measured | None


def run_demo(
    size_mb: int,
    compare_mb: int,
    *,
    folder: str | None,
    keep: bool,
    scheduler: Any,
    threads: int,
    workers: str,
    progress: bool,
) -> list[Comparison]:
    """Write, compare, read back, and print what came out.

    The data is made before any clock starts, and is the same memory for both sides.

    Parameters
    ----------
    size_mb : int
        Size of the recording, in megabytes of 1e6 bytes.
    compare_mb : int
        How much of it `dask.array.to_hdf5` writes; 0 to leave that out.
    folder : str or None
        Where to make the folder with the files; None for the system's place for such.
    keep : bool
        Leave the files there.
    scheduler : str or Client
        Runs our writes.
    threads : int
        How many threads it has in all; dask gets as many.
    workers : str
        The same in words.
    progress : bool
        Show bars.

    Returns
    -------
    list of Comparison
        One for each gzip level.

    Raises
    ------
    TargetError
        If there is no place for the files.
    IntegrityError
        If a file read back differs from the recording.
    """
    with _working_folder(folder, keep, size_mb + compare_mb) as place:
        recording, part = _recordings(f"{place}/{_EXCERPT}", size_mb, compare_mb)
        _print_head(recording, part, workers, threads)
        compared = []
        for level in _LEVELS:
            ours = _timed(f"{place}/gzip-{level}.h5", recording, _by_us(level, scheduler, progress))
            theirs = None
            if part is not None:
                theirs = _timed(f"{place}/gzip-{level}-dask.h5", part, _by_dask(level, threads, progress))
            compared.append(Comparison(level, ours, theirs))
        _print_table(compared)
        _check_samples(recording, part, compared)
        if keep:
            os.remove(f"{place}/{_EXCERPT}")
            say(f"Kept in {place}: {', '.join(sorted(os.listdir(place)))}")
    return compared


def _recordings(path: str, size_mb: int, compare_mb: int) -> tuple[RepeatedRecording, RepeatedRecording | None]:
    """Return the recording and the part of it that dask writes, over the same memory."""
    frames, part = (max(size * 1_000_000 // (2 * _CHANNELS), _SAMPLE_FRAMES) for size in (size_mb, compare_mb))
    save_excerpt(path, max(frames, part), _CHANNELS)
    return RepeatedRecording(path, frames), RepeatedRecording(path, part) if compare_mb else None


@contextlib.contextmanager
def _working_folder(parent: str | None, keep: bool, size_mb: int) -> Iterator[str]:
    try:
        place = tempfile.mkdtemp(prefix="dask-chunkio-demo-", dir=parent)
    except OSError as error:
        raise TargetError(f"cannot make a folder in {parent}: {error.strerror}") from error
    try:
        # The files take about half the size of the data, at two levels.  What they leave has room for the excerpt.
        free_mb = shutil.disk_usage(place).free // 1_000_000
        if free_mb < size_mb:
            raise TargetError(
                f"the demo needs {size_mb} MB and {os.path.dirname(place)} has {free_mb} MB free; "
                f"give a smaller --size-mb, or another --folder"
            )
        yield place
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


_Write = Callable[[str, RepeatedRecording], object]


def _by_us(level: int, scheduler: Any, progress: bool) -> _Write:
    def write(path: str, recording: RepeatedRecording) -> None:
        _announce(f"gzip {level}, dask_chunkio", progress)
        to_hdf5(
            path,
            _DATASET,
            recording,
            compression="gzip",
            compression_opts=level,
            shuffle=True,
            scheduler=scheduler,
            progress=progress,
        )

    return write


def _by_dask(level: int, threads: int, progress: bool) -> _Write:
    def write(path: str, recording: RepeatedRecording) -> None:
        _announce(f"gzip {level}, dask.array.to_hdf5", progress)
        bar = ProgressBar(out=sys.stderr) if progress else contextlib.nullcontext()
        # Threads, since it fails with any Client.
        with dask.config.set(scheduler="threads", num_workers=threads), bar:
            _lazy(recording, threads).to_hdf5(
                path,
                _DATASET,
                chunks=recording.chunk_shape,
                compression="gzip",
                compression_opts=level,
                shuffle=True,
            )

    return write


def _lazy(recording: RepeatedRecording, threads: int) -> Any:
    """Return the recording as a dask array, in the blocks that we would use as buffers."""
    with dask.config.set(num_workers=threads):
        (planned,) = plan("unused.h5", _DATASET, recording, scheduler="threads").datasets
    lengths = zip(recording.maxshape, planned.buffers.buffer_shape, strict=True)
    blocks = tuple(tuple(min(block, n - start) for start in range(0, n, block)) for n, block in lengths)
    return da.map_blocks(_block, recording=recording, chunks=blocks, dtype=recording.dtype, meta=np.empty((0, 0), "i2"))


def _block(recording: RepeatedRecording, block_info: Any = None) -> Array:
    return recording._get_data(tuple(slice(*place) for place in block_info[None]["array-location"]))


def _timed(path: str, recording: RepeatedRecording, write: _Write) -> Measured:
    started = time.perf_counter()
    write(path, recording)
    seconds = time.perf_counter() - started
    return Measured(path, _nbytes(recording), os.path.getsize(path), seconds)


def _announce(what: str, progress: bool) -> None:
    if progress:
        say(what, error=True)


def _print_head(recording: RepeatedRecording, part: RepeatedRecording | None, workers: str, threads: int) -> None:
    frames, channels = recording.maxshape
    chunk = "x".join(map(str, recording.chunk_shape))
    say(
        f"A made-up recording: {channels} channels of int16, {frames / RATE_HZ:.1f} s at {RATE_HZ // 1000} kHz, "
        f"{format_bytes(_nbytes(recording))}."
    )
    say(f"Written in chunks of {chunk}, with shuffle and gzip, by {workers}.")
    if part is not None:
        how_much = "it, too" if part.maxshape == recording.maxshape else f"its first {format_bytes(_nbytes(part))}"
        among = "" if workers.startswith(f"{threads} thread") else f" with {threads} threads"
        say(f"dask.array.to_hdf5 writes {how_much}{among}; compare rates and ratios.")


def _nbytes(recording: RepeatedRecording) -> int:
    return math.prod(recording.maxshape) * recording.dtype.itemsize


def _print_table(compared: list[Comparison]) -> None:
    say(f"\n{'':28}{'data':>12}{'file':>12}{'ratio':>7}{'time':>10}{'rate':>15}")
    for pair in compared:
        say(_row(f"gzip {pair.level}  dask_chunkio", pair.ours))
        if pair.theirs is not None:
            faster = f"   {pair.ours.rate / pair.theirs.rate:.1f} x as fast"
            say(_row("        dask.array.to_hdf5", pair.theirs) + faster)
    both = ", and is the same for both" if compared[0].theirs else ""
    say(f"The data is in memory before the clock starts{both}.\n")


def _row(label: str, measured: Measured) -> str:
    return (
        f"{label:28}{format_bytes(measured.nbytes):>12}{format_bytes(measured.file_nbytes):>12}{measured.ratio:>7.2f}"
        f"{measured.seconds:>8.2f} s{format_bytes(int(measured.rate)):>13}/s"
    )


def _check_samples(recording: RepeatedRecording, part: RepeatedRecording | None, compared: list[Comparison]) -> None:
    """Read random samples of all files with h5py, and compare them with the recording."""
    ours = [pair.ours.path for pair in compared]
    theirs = [pair.theirs.path for pair in compared if pair.theirs is not None]
    _check_files(recording, ours)
    if part is not None:
        # Where both have data, so that they are compared with each other too.
        _check_files(part, ours + theirs)
    also = " and to dask's" if theirs else ""
    say(
        f"{_SAMPLES} random samples of {_SAMPLE_FRAMES} frames of each file, read back by h5py, are equal to the "
        f"recording{also}."
    )


def _check_files(recording: RepeatedRecording, paths: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        datasets = [stack.enter_context(h5py.File(path, "r"))[_DATASET] for path in paths]
        for selection, dataset in itertools.product(_random_selections(recording), datasets):
            if not np.array_equal(dataset[selection], recording._get_data(selection)):
                raise IntegrityError(f"{dataset.file.filename} differs from the recording in {selection}")


def _random_selections(recording: RepeatedRecording) -> list[Selection]:
    frames, channels = recording.maxshape
    starts = np.random.default_rng().integers(0, frames - _SAMPLE_FRAMES, _SAMPLES, endpoint=True)
    return [(slice(start, start + _SAMPLE_FRAMES), slice(0, channels)) for start in starts.tolist()]


@click.command()
@click.option(
    "--size-mb",
    type=click.IntRange(min=1),
    default=1024,
    metavar="N",
    show_default=True,
    help="Size of the recording, in MB of 10⁶ bytes.",
)
@click.option(
    "--compare-mb", type=click.IntRange(min=0), metavar="N",
    help="Size of the part that dask.array.to_hdf5 writes; 0 for nothing.  [default: 256, or all if that is less]",
)  # fmt: skip
@click.option("--folder", type=click.Path(exists=True, file_okay=False), help="Folder to use.  [default: temporary]")
@click.option("--keep", is_flag=True, help="Keep the files, and print their paths.")
@workers_option
@threads_option
@click.option(
    "--scheduler",
    type=click.Choice(LOCAL),
    default="threads",
    show_default=True,
    help="Scheduler that runs our writes.",
)
@progress_option
def demo(size_mb: int, compare_mb: int | None, folder: str | None, keep: bool, **options: Any) -> None:
    """Write a synthetic recording, and time dask.array.to_hdf5 on the same data."""
    scheduler = options["scheduler"], options["workers"], options["threads"]
    with running_scheduler(*scheduler) as running:
        run_demo(
            size_mb,
            min(size_mb, 256 if compare_mb is None else compare_mb),
            folder=folder,
            keep=keep,
            scheduler=running,
            threads=thread_count(*scheduler),
            workers=describe(*scheduler),
            progress=wants_progress(options["progress"]),
        )
