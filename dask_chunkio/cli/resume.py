"""The command resume."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click
import h5py

from dask_chunkio.cli.locations import Location
from dask_chunkio.cli.options import progress_option, running_options
from dask_chunkio.cli.repack import repack
from dask_chunkio.cli.terminal import in_one_line, say
from dask_chunkio.cli.write import run_one_write, write
from dask_chunkio.errors import ArgumentError, IntegrityError
from dask_chunkio.storage.inspection.status import UnfinishedWrite, status
from dask_chunkio.storage.journal.draft_manifest import DraftPurpose

__all__ = ["resume"]


@click.command()
@click.argument("file", type=click.Path())
@running_options
@progress_option
def resume(file: str, **options: Any) -> None:
    """Resume an unfinished write of FILE that 'dask-chunkio write' began, or a repack, with the same arguments.

    The options --scheduler, --workers, --threads and --memory-limit of the first command are not kept; give them again
    if you need them.
    """
    found = status(file)
    if found is None and h5py.is_hdf5(file):
        say(f"{file}: there is no unfinished write of it; nothing was written")
        return
    if found is None:
        raise ArgumentError(f"there is no unfinished write of {file}; start one with 'dask-chunkio write'")
    if found.purpose is not None:
        _run_purpose(found, found.purpose, options)
        return
    context = _kept_command(found)
    src, dst = (_from_folder(context.params[name], found.command_folder) for name in ("src", "dst"))
    if os.path.realpath(dst.file) != found.path:
        raise IntegrityError(f"{found.folder} has the command of a write of {dst.file}, not of {file}; discard it")
    # What other jobs have not written is written, too.
    of_all = {"resume": True, "part": None, "only_plan": False, "kept": found.command}
    run_one_write(src, dst, {**context.params, **options, **of_all})


def _run_purpose(found: UnfinishedWrite, purpose: DraftPurpose, options: Mapping[str, Any]) -> None:
    """Go on with what a draft is made for: only a repack has a command."""
    if not purpose.command:
        words = f"{found.path} is an unfinished {purpose}: go on with {purpose.words_to_go_on}"
        raise click.ClickException(in_one_line(words))
    context = _parsed(found, repack, (*purpose.command[1:], "--resume"))
    target = context.params["output"] or context.params["input"]
    if purpose.command[0] != repack.name or os.path.realpath(target) != found.path:
        raise IntegrityError(f"{found.folder} has the command of another write, {purpose.command}; discard it")
    with context:
        context.invoke(repack, **{**context.params, **options})


def _kept_command(found: UnfinishedWrite) -> click.Context:
    if not found.command:
        words = (
            f"the unfinished write of {found.path} was begun by a script; run that again with resume=True in to_hdf5"
        )
        raise click.ClickException(in_one_line(words))
    return _parsed(found, write, found.command)


def _parsed(found: UnfinishedWrite, command: click.Command, words: Sequence[str]) -> click.Context:
    try:
        return command.make_context(command.name, list(words))
    except (click.ClickException, click.exceptions.Exit, click.Abort) as error:
        raise IntegrityError(f"{found.folder} has an invalid command ({error}); discard it") from error


def _from_folder(location: Location, folder: str) -> Location:
    return location if "://" in location.file else replace(location, file=os.path.join(folder, location.file))
