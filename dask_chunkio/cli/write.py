"""The commands write and plan."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import click

from dask_chunkio.cli.conversion import is_conversion, refuse_for_one_array, run_conversion
from dask_chunkio.cli.inputs import RawLayout, open_source
from dask_chunkio.cli.locations import Location
from dask_chunkio.cli.options import (
    compression,
    dtype,
    layout,
    lengths,
    location,
    part,
    progress_option,
    running_options,
)
from dask_chunkio.cli.scheduler import running_scheduler
from dask_chunkio.cli.terminal import LEFTOVERS, in_options, options_of, say
from dask_chunkio.events import BufferCommitted
from dask_chunkio.execution.progress import logger, wants_progress
from dask_chunkio.execution.supervise import KeptNote
from dask_chunkio.keywords import DatasetKeywords
from dask_chunkio.results import WriteResult, amounts_of
from dask_chunkio.write import RunArguments, run_write
from dask_chunkio.write import plan as plan_of

__all__ = ["plan", "run_one_write", "write"]

_ARGUMENTS = "dask_chunkio.arguments"


class _Kept(click.Command):
    """Command that stores its arguments as they were typed, for `resume`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Kept)
@click.argument("src", callback=location)
@click.argument("dst", metavar="DST[:/PATH]", callback=location)
@click.option(
    "--dtype",
    callback=dtype,
    metavar="DTYPE",
    help="Type of the elements of a raw binary SRC, such as int16 or '>f4'.",
)
@click.option(
    "--shape",
    callback=lengths(0, may_be_open=True),
    metavar="N,N...",
    help="Shape of a raw binary SRC, such as 1000,64; one length may be -1, to find it from the size of the file.",
)
@click.option(
    "--offset",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Bytes before the elements of a raw binary SRC.",
)
@click.option(
    "--chunks",
    callback=lengths(words=("auto",)),
    metavar="N,N...|auto",
    default="auto",
    show_default=True,
    help="Chunk shape, such as 1000,64.",
)
@click.option(
    "--buffer-shape",
    callback=lengths(),
    metavar="N,N...",
    help="Shape of the part that one task reads, a multiple of the chunk shape.  [default: chosen]",
)
@click.option(
    "--compression", callback=compression, metavar="NAME|ID|none", default="none", show_default=True,
    help="Filter, by its name or its HDF5 number.",
)  # fmt: skip
@click.option("--compression-opts", metavar="N[,N...]", help="Options of the filter: e.g. 4 for gzip; nn,8 for szip.")
@click.option("--shuffle/--no-shuffle", default=False, help="Shuffle bytes before compression.")
@click.option("--fletcher32", is_flag=True, help="Store a checksum with each chunk.")
@click.option("--out-dtype", callback=dtype, metavar="DTYPE", help="Type of the elements in DST.  [default: as in SRC]")
@click.option(
    "--layout",
    callback=layout,
    metavar="cloud|cmip7",
    help="Layout of a new file: all metadata in its first page, for readers over a network; cmip7: large chunks, too.",
)
@running_options
@click.option("--overwrite", is_flag=True, help="Replace the dataset if DST has it already.")
@click.option("--resume", is_flag=True, help="Resume an unfinished write of DST, if there is one.")
@click.option(
    "--token",
    metavar="TEXT",
    help="Text that identifies this command; if the dataset has this token already, nothing is written.",
)
@click.option(
    "--part",
    callback=part,
    metavar="NUMBER/COUNT|slurm",
    help="Write only one of COUNT parts, numbered from 0; independent jobs write the others.  'slurm' takes both "
    "from a job array.",
)
@click.option("--references", type=click.Path(), metavar="OUT",
    help="Make references to the chunks of DST: OUT ends with .json or .parquet.",
)  # fmt: skip
@click.option("--references-url", metavar="URL", help="Where readers of the references find DST.  [default: its path]")
@click.option("--wait", is_flag=True, default=None, help="Wait while another program writes DST.")
@click.option(
    "--durability",
    type=click.Choice(["process", "power"]),
    help="Failure that a committed buffer survives: the death of any process, or a power failure too.  "
    "[default: process]",
)
@click.option(
    "--skip-unsupported", is_flag=True,
    help="Of a whole zarr store or HDF5 file: leave out what DST cannot have, and list it.",
)  # fmt: skip
@click.option("--zarr-format", type=click.Choice(["2", "3"]), help="Format of a zarr store DST.  [default: zarr's, 3]")
@progress_option
@click.option("--plan", "only_plan", is_flag=True, help="Print what the command would do, without writing anything.")
def write(src: Location, dst: Location, **options: Any) -> None:
    """Write the array SRC to the dataset PATH of the HDF5 file DST.

    SRC is a .npy file, an HDF5 file (FILE or FILE:/dataset), a zarr store (STORE or STORE:/array),
    or a raw binary file described by --dtype and --shape. By default PATH is the name of SRC.
    DST appears only when it is complete.

    A zarr store of several arrays becomes a whole HDF5 file, and an HDF5 file a zarr store if DST ends
    in .zarr. Each array keeps its filters unless others are given.
    """
    run_one_write(src, dst, {**options, "kept": click.get_current_context().meta[_ARGUMENTS]})


def run_one_write(src: Location, dst: Location, options: dict[str, Any]) -> None:
    """Write an array or a whole store, or show the plan.

    Parameters
    ----------
    src, dst : Location
        The arguments of the command.
    options : dict
        The options of `write`; with ``only_plan``, nothing is written, and ``kept``, the words to keep for `resume`.

    Raises
    ------
    ChunkIOError, click.UsageError
        As the functions that do the work.
    """
    raw = RawLayout(options["dtype"], options["shape"], options["offset"])
    scheduler = options["scheduler"], options["workers"], options["threads"], options["scheduler_file"]
    keywords = _dataset_keywords(options)
    if is_conversion(src, dst):
        with running_scheduler(*scheduler) as running, _logged(options["progress"]):
            run_conversion(src, dst, {**options, "compression_opts": _opts(options)}, running)
        return
    refuse_for_one_array(options)
    with open_source(src, raw) as opened, running_scheduler(*scheduler) as running, _logged(options["progress"]):
        name = dst.path or f"/{opened.name}"
        of_plan = {"scheduler": running} | {word: options[word] for word in _OF_A_PLAN}
        if options["only_plan"]:
            say(_in_options(repr(plan_of(dst.file, name, opened.array, **keywords, **of_plan))))
            return
        of_run = {word: options[word] for word in ("resume", "wait", "durability", "progress")}
        run = RunArguments(command=options["kept"], **of_plan, **of_run)
        with _leftovers_named(dst.file):
            done = run_write(dst.file, (name, opened.array), keywords, run)
    say(_summary(dst.file, done))


def _in_options(words: str) -> str:
    program = click.get_current_context().find_root().command
    return in_options(words, options_of(program) if isinstance(program, click.Group) else {})


def _show_plan(**options: Any) -> None:
    """Show what 'dask-chunkio write' would do with the same arguments, without writing anything.

    Three chunks of SRC are read and encoded to estimate the stored size.
    """
    defaults = {"resume": False, "wait": False, "durability": None, "progress": False}
    run_one_write(options.pop("src"), options.pop("dst"), {**defaults, **options, "only_plan": True, "kept": ()})


_OF_A_PLAN = ("layout", "memory_limit", "overwrite", "token", "part", "references", "references_url")
_OF_A_WRITE_ONLY = ("resume", "wait", "durability", "progress", "only_plan", "skip_unsupported", "zarr_format")
plan = click.Command(
    "plan",
    callback=_show_plan,
    params=[parameter for parameter in write.params if parameter.name not in _OF_A_WRITE_ONLY],
    help=_show_plan.__doc__,
)


@contextlib.contextmanager
def _logged(progress: bool | None) -> Iterator[None]:
    """Write a progress line to standard error at intervals, if there is no bar and no log handler is set."""
    if progress is False or wants_progress(progress) or logger.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.addFilter(_is_news)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether to show a record; the command itself reports the start and the end of the write."""
    event = getattr(record, "chunkio_event", None)
    return isinstance(event, BufferCommitted) or (event is None and record.levelno >= logging.WARNING)


def _dataset_keywords(options: dict[str, Any]) -> DatasetKeywords:
    return {
        "chunks": options["chunks"],
        "buffer_shape": options["buffer_shape"],
        "dtype": options["out_dtype"],
        "compression": options["compression"],
        "compression_opts": _opts(options),
        "shuffle": options["shuffle"] or None,
        "fletcher32": options["fletcher32"] or None,
    }


def _opts(options: dict[str, Any]) -> Any:
    return _compression_opts(options["compression"], options["compression_opts"])


def _compression_opts(compression: str | int | None, text: str | None) -> Any:
    """Return the options in the form that h5py requires for this filter."""
    if text is None:
        return None
    if compression is None:
        raise click.UsageError("--compression-opts requires --compression")
    values = tuple(int(word) if word.lstrip("-").isdecimal() else word for word in text.split(","))
    if isinstance(compression, int) and not all(isinstance(value, int) for value in values):
        raise click.UsageError(f"--compression-opts {text}: the options of filter {compression} are whole numbers")
    # With the name of a filter one number is a level; with the number of a filter it is an option of the filter.
    is_level = isinstance(compression, str) and compression != "szip" and len(values) == 1
    return values[0] if is_level else values


@contextlib.contextmanager
def _leftovers_named(file: str) -> Iterator[None]:
    """Store the resume instructions of an error, which are added to the line that reports it."""
    try:
        yield
    except BaseException as error:
        click.get_current_context().meta[LEFTOVERS] = [
            f"The committed data are kept in {note.folder}; {_again(note, file)}, "
            f"or remove them with: dask-chunkio discard {file}"
            for note in getattr(error, "__notes__", ())
            if isinstance(note, KeptNote)
        ]
        raise


def _again(note: KeptNote, file: str) -> str:
    # `resume` would write what the other jobs have not written yet.
    return "run the same command again" if note.is_part else f"resume the write with: dask-chunkio resume {file}"


def _summary(file: str, result: WriteResult) -> str:
    (dataset,) = result.datasets
    if result.already_complete:
        return f"{file}:{dataset.name}: complete already, {dataset.shape} {dataset.dtype}; nothing was written"
    return f"{file}:{dataset.name}: {amounts_of(result)}"
