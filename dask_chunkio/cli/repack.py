"""The command repack, with the options of h5repack."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from dask.utils import format_bytes

from dask_chunkio.cli.options import progress_option, running_options
from dask_chunkio.cli.scheduler import running_scheduler
from dask_chunkio.cli.terminal import say
from dask_chunkio.repacking.command_words import LIBVERS
from dask_chunkio.repacking.repack import repack as repack_file
from dask_chunkio.repacking.results import RepackResult

__all__ = ["repack"]

_DATASETS_SHOWN = 20


@click.command()
@click.argument("input", metavar="IN", type=click.Path(), required=False)
@click.argument("output", metavar="[OUT]", type=click.Path(), required=False)
@click.option("-i", "input_option", type=click.Path(), metavar="IN", help="Another way to give IN.")
@click.option("-o", "output_option", type=click.Path(), metavar="OUT", help="Another way to give OUT.")
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
    "--file", "-e", "rules_file", type=click.Path(), metavar="FILE",
    help="Take further options -f and -l from the text file FILE.",
)  # fmt: skip
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
    "-j",
    type=click.IntRange(0, len(LIBVERS) - 1),
    metavar="BOUND",
    help="Oldest version of the format for new objects: 0 for the earliest, 1 for that of HDF5 1.8, 2 for 1.10.  "
    "[default: as in IN]",
)
@click.option(
    "--high",
    "-k",
    type=click.IntRange(0, len(LIBVERS) - 1),
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
@click.option("--ublock", "-u", "user_block_file", type=click.Path(), metavar="FILE",
    help="File with the user block, if IN has none.",
)  # fmt: skip
@click.option("--metadata_block_size", "-M", "meta_block_size", type=click.IntRange(min=1), metavar="N",
    help="Size of the blocks of space for metadata.  [default: HDF5's]",
)  # fmt: skip
@click.option("--verbose", "-v", is_flag=True, help="Show all datasets that change, not only the first ones.")
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
@running_options
@progress_option
def repack(**options: Any) -> None:  # fmt: skip
    """Copy the whole HDF5 file IN to OUT, with the chunks and filters that are asked for.

    The options are those of h5repack.  Datasets are encoded in parallel.  OUT appears only when it is complete.
    """
    scheduler = tuple(options.pop(name) for name in ("scheduler", "workers", "threads", "scheduler_file"))
    options["libver"] = _libver(options.pop("latest"), options.pop("low"), options.pop("high"))
    options["fs_page_size"] = options.pop("fs_pagesize")
    pair = _names(options)
    add_rules_of_file(options, options.pop("rules_file"))
    most = None if options.pop("verbose") else _DATASETS_SHOWN
    with running_scheduler(*scheduler) as running:
        result = repack_file(*pair, scheduler=running, **options)
    say("\n".join(_lines(result, most)))


def _names(options: dict[str, Any]) -> tuple[str, str | None]:
    """Return IN and OUT, which h5repack takes as arguments or as options."""
    given = [options.pop(name) for name in ("input_option", "input", "output", "output_option")]
    source, *others = [name for name in given if name is not None] or [None]
    if source is None or len(others) > 1 or given[:2] == [None, None]:
        raise click.UsageError("give IN and OUT once each: as arguments, or as -i IN and -o OUT")
    return source, (others or [None])[0]


def add_rules_of_file(options: dict[str, Any], path: str | None) -> None:
    """Add the options ``-f`` and ``-l`` that a text file has, separated by spaces or lines, to those of the command.

    Raises
    ------
    click.UsageError
        If the file cannot be read, or has something else.
    """
    if path is None:
        return
    try:
        words = shlex.split(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--file {path} cannot be read: {error}") from error
    parser = click.Command("rules", params=[one for one in repack.params if one.name in ("filters", "layouts")])
    try:
        found = parser.make_context(path, words, help_option_names=[]).params
    except click.ClickException as error:
        raise click.UsageError(f"--file {path} has more than options -f and -l: {error.format_message()}") from error
    for name in ("filters", "layouts"):
        options[name] = (*options[name], *found[name])


def _libver(latest: bool, low: int | None, high: int | None) -> tuple[str, str] | None:
    """Return the bounds of the format; -L goes before the others, as in h5repack."""
    if latest:
        return "latest", "latest"
    if low is None and high is None:
        return None
    return LIBVERS[low or 0], "latest" if high is None else LIBVERS[high]


def _lines(result: RepackResult, most: int | None) -> list[str]:
    lines = [str(result)]
    for one in result.datasets[:most]:
        after = "unknown" if one.stored_after is None else format_bytes(one.stored_after)
        about = "about " if result.dry_run and one.stored_after is not None else ""
        lines.append(f"  {one.name}  {one.shape}: {format_bytes(one.stored_before)} -> {about}{after}")
    if most is not None and len(result.datasets) > most:
        lines.append(f"  and {len(result.datasets) - most} more (-v shows them)")
    return lines + [f"  note: {note}" for note in result.notes]
