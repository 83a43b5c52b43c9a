"""Options of the commands, and functions that parse their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import numpy as np

from dask_chunkio.cli.locations import Location, parse_location
from dask_chunkio.errors import ArgumentError
from dask_chunkio.filters.names import KNOWN_NAMES
from dask_chunkio.geometry.share import Share
from dask_chunkio.planning.share import parse_part
from dask_chunkio.storage.hdf5.file_layout import parse_layout

__all__ = [
    "compression",
    "dtype",
    "layout",
    "lengths",
    "location",
    "part",
    "progress_option",
    "running_options",
    "threads_option",
    "workers_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])
_Values = Callable[[click.Context, click.Parameter, Any], Any]


def location(_ctx: click.Context, _param: click.Parameter, value: str) -> Location:
    """Parse FILE or FILE:/PATH."""
    try:
        return parse_location(value)
    except ArgumentError as error:
        raise click.BadParameter(str(error)) from error


def part(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Share | None:
    """Parse NUMBER/COUNT or slurm."""
    if value is None or value == "slurm":
        return parse_part(value)
    number, slash, count = value.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise click.BadParameter(f"{value!r} is not a number and a count, such as 3/100, nor slurm")
    try:
        return parse_part((int(number), int(count)))
    except ArgumentError as error:
        raise click.BadParameter(str(error)) from error


def layout(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Parse the name of a layout."""
    try:
        return parse_layout(value)
    except ArgumentError as error:
        raise click.BadParameter(str(error)) from error


def lengths(least: int = 1, may_be_open: bool = False, words: tuple[str, ...] = ()) -> _Values:
    """Return a function that parses lengths separated by commas; with `may_be_open`, one of them may be -1."""

    def parse(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
        if value is None or value in words:
            return value
        try:
            shape = tuple(int(length) for length in value.removesuffix(",").split(","))
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 1000,64") from error
        is_open = may_be_open and shape.count(-1) == 1
        if any(length < least for length in shape if not (is_open and length == -1)):
            once = ", except for one -1" if may_be_open else ""
            raise click.BadParameter(f"{value!r}: lengths are at least {least}{once}")
        return shape

    return parse


def dtype(_ctx: click.Context, _param: click.Parameter, value: str | None) -> np.dtype[Any] | None:
    """Parse the name of a numpy dtype."""
    try:
        found: np.dtype[Any] | None = None if value is None else np.dtype(value)
    except (TypeError, ValueError, SyntaxError) as error:
        raise click.BadParameter(f"{value!r} is not a numpy dtype, such as int16, <f4 or >u2") from error
    return found


def compression(_ctx: click.Context, _param: click.Parameter, value: str) -> str | int | None:
    """Parse the name or the number of a filter, or none."""
    if value in KNOWN_NAMES or value == "none":
        return None if value == "none" else value
    if value.isdecimal():
        return int(value)
    raise click.BadParameter(f"{value!r} is not none, {', '.join(KNOWN_NAMES)}, or the number of an HDF5 filter")


workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of workers: threads, or processes with --scheduler processes.  [default: one per core]",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of each worker process; with --scheduler threads the same as --workers.  [default: 1]",
)
_scheduler_option = click.option(
    "--scheduler",
    default="threads",
    show_default=True,
    metavar="threads|processes|synchronous|ADDRESS",
    help="Scheduler that runs the write; ADDRESS is that of a running dask scheduler, such as tcp://host:8786.",
)
_scheduler_file_option = click.option(
    "--scheduler-file", type=click.Path(), metavar="FILE",
    help="Instead of --scheduler: the file in which a running dask scheduler has written its address.",
)  # fmt: skip
_memory_limit_option = click.option(
    "--memory-limit", metavar="SIZE",
    help="Memory that one worker process may use, such as 2GB; buffers are chosen to fit.  [default: the free memory]",
)  # fmt: skip
progress_option = click.option(
    "--progress/--no-progress", default=None, help="Show a progress bar.  [default: on a terminal]"
)


def running_options(command: Command) -> Command:
    """Give a command the options that say where it runs: the scheduler, its workers and their memory."""
    options = (workers_option, threads_option, _scheduler_option, _scheduler_file_option, _memory_limit_option)
    for option in reversed(options):
        command = option(command)
    return command
