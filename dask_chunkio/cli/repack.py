"""The command repack, with the options of h5repack."""

from __future__ import annotations

from typing import Any

import click
from dask.utils import format_bytes

from dask_chunkio.cli.options import (
    memory_limit_option,
    progress_option,
    scheduler_file_option,
    scheduler_option,
    threads_option,
    workers_option,
)
from dask_chunkio.cli.scheduler import running_scheduler
from dask_chunkio.cli.terminal import say
from dask_chunkio.repacking.repack import repack as repack_file
from dask_chunkio.repacking.results import RepackResult

__all__ = ["repack"]

# h5repack's numbers for the versions of the format, by their place.
_BOUNDS = ("earliest", "v108", "v110", "v112", "v114", "v200")
_DATASETS_SHOWN = 20


@click.command(short_help="Copy an HDF5 file with other chunks and filters.")
@click.argument("input", metavar="IN", type=click.Path())
@click.argument("output", metavar="[OUT]", type=click.Path(), required=False)
@click.option(
    "--filter",
    "-f",
    "filters",
    multiple=True,
    metavar="[OBJECTS:]FILTER",
    help="GZIP=1-9, SHUF, FLET, SZIP=PIXELS,EC|NN, NBIT, SOFF=FACTOR,IN|DS, UD=ID,FLAG,COUNT,VALUES or NONE; for all "
    "datasets, or for those that OBJECTS names: paths or patterns, separated by commas.",
)
@click.option(
    "--layout",
    "-l",
    "layouts",
    multiple=True,
    metavar="[OBJECTS:]LAYOUT",
    help="CHUNK=10x20, CONTI or COMPA.",
)
@click.option(
    "--minimum",
    "-m",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Keep the filters and layouts of datasets of less than N bytes.",
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Copy only these objects, with all below them.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave these objects out, with all below them.")
@click.option("--latest", "-L", is_flag=True, help="Use the latest version of the file format.")
@click.option(
    "--low",
    type=click.IntRange(0, len(_BOUNDS) - 1),
    metavar="BOUND",
    help="Oldest version of the format for new objects: 0 for the earliest, 1 for that of HDF5 1.8, 2 for 1.10.  "
    "[default: as in IN]",
)
@click.option(
    "--high",
    type=click.IntRange(0, len(_BOUNDS) - 1),
    metavar="BOUND",
    help="Latest version of the format for new objects.  [default: the latest]",
)
@click.option(
    "--fs_strategy",
    "-S",
    type=click.Choice(["FSM_AGGR", "PAGE", "AGGR", "NONE"]),
    help="File space strategy.  [default: as in IN]",
)
@click.option("--fs_persist", "-P", type=click.IntRange(0, 1), metavar="0|1", help="Persist free space.")
@click.option("--fs_threshold", "-T", type=click.IntRange(min=0), metavar="N", help="Smallest free space to track.")
@click.option("--fs_pagesize", "-G", type=click.IntRange(min=512), metavar="N", help="Size of a page of file space.")
@click.option("--block", "-b", "user_block", type=click.IntRange(min=0), metavar="N", help="Size of the user block.")
@click.option("--in-place", is_flag=True, help="Replace IN itself, when the copy is complete.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted repack, which had the same arguments.")
@click.option("--verify", is_flag=True, help="Compare the copy with IN before it gets its name.")
@click.option("--dry-run", is_flag=True, help="Write nothing; show the estimated sizes.")
@click.option(
    "--no-isolation",
    "isolated",
    flag_value=False,
    type=click.BOOL,
    default=None,
    help="Read IN in this process, which a damaged file may crash; saves a fraction of a second.",
)
@click.option("--wait", is_flag=True, default=None, help="Wait while another program writes OUT.")
@click.option(
    "--durability",
    type=click.Choice(["process", "power"]),
    help="Failure that committed data survive.  [default: process]",
)
@workers_option
@threads_option
@scheduler_option
@scheduler_file_option
@memory_limit_option
@progress_option
def repack(**options: Any) -> None:  # fmt: skip
    """Copy the whole HDF5 file IN to OUT, with the chunks and filters that are asked for.

    The options are those of h5repack.  Datasets are encoded in parallel.  OUT appears only when it is complete.
    """
    scheduler = tuple(options.pop(name) for name in ("scheduler", "workers", "threads", "scheduler_file"))
    options["libver"] = _libver(options.pop("latest"), options.pop("low"), options.pop("high"))
    options["fs_page_size"] = options.pop("fs_pagesize")
    with running_scheduler(*scheduler) as running:
        result = repack_file(options.pop("input"), options.pop("output"), scheduler=running, **options)
    say("\n".join(_lines(result)))


def _libver(latest: bool, low: int | None, high: int | None) -> tuple[str, str] | None:
    """Return the bounds of the format; -L goes before the others, as in h5repack."""
    if latest:
        return "latest", "latest"
    if low is None and high is None:
        return None
    return _BOUNDS[low or 0], "latest" if high is None else _BOUNDS[high]


def _lines(result: RepackResult) -> list[str]:
    lines = [str(result)]
    for one in result.datasets[:_DATASETS_SHOWN]:
        after = "unknown" if one.stored_after is None else format_bytes(one.stored_after)
        about = "about " if result.dry_run and one.stored_after is not None else ""
        lines.append(f"  {one.name}  {one.shape}: {format_bytes(one.stored_before)} -> {about}{after}")
    if len(result.datasets) > _DATASETS_SHOWN:
        lines.append(f"  and {len(result.datasets) - _DATASETS_SHOWN} more")
    return lines + [f"  note: {note}" for note in result.notes]
