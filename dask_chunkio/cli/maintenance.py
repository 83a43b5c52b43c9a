"""Commands for interrupted writes, and for files and folders: status, recover, discard, verify, check."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import click
from dask.utils import format_bytes

from dask_chunkio.cli.options import progress_option
from dask_chunkio.cli.terminal import in_one_line, say
from dask_chunkio.errors import ChunkIOError, TargetError
from dask_chunkio.paths import local_path
from dask_chunkio.printable import local_time, missing_in_words
from dask_chunkio.read import verify as verify_file
from dask_chunkio.storage import recovery
from dask_chunkio.storage.inspection.probe import CheckedFolder, check_folder
from dask_chunkio.storage.inspection.status import UnfinishedWrite
from dask_chunkio.storage.inspection.status import status as status_of
from dask_chunkio.storage.journal.draft_manifest import DraftPurpose

__all__ = ["check", "discard", "recover", "status", "verify"]

_PROBLEMS_SHOWN = 20
_SAME_SCRIPT = "the same script with draft(..., resume=True)"
_KINDS = {
    "new": "a new file",
    "existing": "datasets added to an existing file",
    "draft": "a draft",
    "store": "a zarr store",
}


@click.command()
@click.argument("file", type=click.Path())
def status(file: str) -> None:
    """Show which part of an unfinished write of FILE is committed, when it was committed, and by which processes."""
    found = status_of(file)
    if found is None and not os.path.exists(local_path("FILE", file)):
        raise TargetError(f"there is no file {file}, and no unfinished write of it")
    say(f"No unfinished write of {file}." if found is None else "\n".join(_lines(file, found)))


def _lines(file: str, found: UnfinishedWrite) -> list[str]:
    state = "running" if found.running else "complete, but its folder remains" if found.finished else "interrupted"
    purpose = found.purpose
    what = _KINDS[found.mode] if purpose is None else f"a {purpose}, begun {_time_of(purpose)}"
    lines = [f"{found.path}: {what}; {state}", f"  side files  {found.folder}"]
    lines += _lines_of_draft(found)
    for number, owner in enumerate(found.owners):
        lines.append(f"  {'resumed' if number else 'begun':10s}  {str(owner).removeprefix('started ')}")
    for dataset in found.datasets:
        share = 100 * dataset.committed / dataset.chunks if dataset.chunks else 100.0
        lines.append(
            f"  {dataset.name}  {dataset.shape} {dataset.dtype}: {dataset.committed} of {dataset.chunks} chunks "
            f"committed ({share:.1f} %), {format_bytes(dataset.stored_nbytes)}"
        )
    lines += _lines_of_parts(found)
    lines.append(f"  last commit {local_time(found.last_commit) if found.last_commit else 'none'}")
    if found.last_alive:
        lines.append(f"  last alive  {local_time(found.last_alive)}")
    if found.log_nbytes:
        lines.append(
            f"  an interrupted transaction is in the log ({format_bytes(found.log_nbytes)}); the next one completes it"
        )
    if not found.running:
        first = "run the jobs of the missing parts again, " if found.missing_parts else ""
        lines.append(f"  {first}resume it with {_again(file, found)}, or remove it with dask-chunkio discard {file}")
    return lines


def _again(file: str, found: UnfinishedWrite) -> str:
    """Return in words how to go on with a write."""
    if found.purpose is not None:
        words = found.purpose.words_to_go_on
        return f"dask-chunkio resume {file}, that is {words}" if found.purpose.command else words
    if found.command:
        return f"dask-chunkio resume {file}"
    return "the same call of to_hdf5 with resume=True" if found.draft is None else _SAME_SCRIPT


def _time_of(purpose: DraftPurpose) -> str:
    return local_time(datetime.fromtimestamp(purpose.begun, UTC))


def _lines_of_draft(found: UnfinishedWrite) -> list[str]:
    if found.draft is None:
        return []
    if found.draft.state == "structure":
        return ["  structure   not complete yet; if it was cut off, it is begun anew"]
    return ["  structure   complete"] + [f"  filled      {', '.join(names)}" for names in found.draft.fills]


def _lines_of_parts(found: UnfinishedWrite) -> list[str]:
    if not found.part_count:
        return []
    missing = found.missing_parts
    left = f"; {missing_in_words(missing)}" if missing else ""
    lines = [f"  parts       {found.part_count - len(missing)} of {found.part_count} committed{left}"]
    return lines + [f"  part {part.number:<6d} {part}" for part in found.parts]


@click.command()
@click.argument("file", type=click.Path())
@click.option("--output", type=click.Path(), metavar="PATH", help="Move the file to PATH, and end the write.")
def recover(file: str, output: str | None) -> None:
    """Apply or drop an interrupted transaction, so that the HDF5 file can be opened.

    Chunks that were not committed read as the fill value. The write can still be resumed, unless --output has moved
    the file. Datasets that are being added to an existing FILE stay hidden in it.
    """
    done = recovery.recover(file, output)
    for name, path in done.datasets.items():
        say(f"{name}: in {done.path}:{path}")
    say(f"{done.committed} of {done.chunks} chunks hold their data; the others read as the fill value.")


@click.command()
@click.argument("file", type=click.Path())
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Remove the side files even if they are damaged, or FILE was changed.")
def discard(file: str, yes: bool, force: bool) -> None:
    """Remove the data of an unfinished write of FILE; the earlier contents of FILE are not changed."""
    folder = recovery.leftovers(local_path("FILE", file))
    if folder is None:
        recovery.discard(file, force=force)
        say(f"There is nothing to remove: no unfinished write of {file}.")
        return
    what = f"{folder} ({_purpose_of(file)}{format_bytes(_nbytes(folder))})"
    if not yes and not click.confirm(in_one_line(f"Remove {what}?")):
        raise click.ClickException("nothing was removed")
    removed = recovery.discard(file, force=force)
    say(f"Removed {removed}." if removed else f"There is nothing to remove: no unfinished write of {file}.")


def _purpose_of(file: str) -> str:
    """Return what a draft is made for, in words; nothing for damaged side files, which can be removed, too."""
    try:
        found = status_of(file)
    except ChunkIOError:
        return ""
    return "" if found is None or found.purpose is None else f"the unfinished {found.purpose}, "


def _nbytes(folder: str) -> int:
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)


@click.command()
@click.argument("file", type=click.Path())
@progress_option
def verify(file: str, progress: bool | None) -> None:
    """Check every chunk of FILE: with its checksum if a write of FILE is unfinished, otherwise by decoding it.

    The exit code is 1 if there is a problem, 3 if a dataset cannot be checked because a plugin is missing.
    """
    found = verify_file(file, progress=progress)
    how = "compared with their checksums" if found.by_checksum else "decoded"
    problems = f"{len(found.problems) or 'no'} problem{'' if len(found.problems) == 1 else 's'}"
    say(f"{found.path}: {found.checked} chunks {how}, {problems}.")
    for line in found.problems[:_PROBLEMS_SHOWN]:
        say(f"  {line}")
    if len(found.problems) > _PROBLEMS_SHOWN:
        say(f"  and {len(found.problems) - _PROBLEMS_SHOWN} more")
    for line in found.undecodable:
        say(f"  not checked: {line}")
    if not found.ok:
        raise click.exceptions.Exit(1 if found.problems else 3)


@click.command()
@click.argument("folder", type=click.Path())
def check(folder: str) -> None:
    """Test in FOLDER whether its file system has what a write needs, and show what is guaranteed there.

    The command removes all files that it makes in FOLDER. The exit code is 1 if files cannot be written there.
    """
    found = check_folder(local_path("FOLDER", folder))
    width = max(len(probe.about) for probe in found.probes)
    lines = [f"{found.path}: {found.file_system.type or 'a file system of unknown type'}"]
    lines += [f"  {probe.about:{width}s}  {probe.found}" for probe in found.probes]
    lines.append(f"  {'locks between hosts':{width}s}  {_locks_of_hosts(found)}")
    say("\n".join([*lines, *_promises(found)]))
    if not found.ok:
        raise click.exceptions.Exit(1)


def _locks_of_hosts(found: CheckedFolder) -> str:
    if found.file_system.is_local:
        return "not needed: other hosts cannot write here"
    if found.file_system.has_local_locks:
        return "no: it is mounted such that locks hold on this host only"
    return "not tested: run this on each host, and see the mount's options"


def _promises(found: CheckedFolder) -> list[str]:
    if not found.ok:
        return ["Features with 'no' are needed: write to another file system, and move the file when it is complete."]
    lines = ["Guaranteed here with durability='process': a committed buffer survives the death of any process."]
    if found.file_system.is_memory:
        lines.append(
            "Not guaranteed: durability='power'. The file system is in memory, and is lost in a power failure."
        )
    else:
        lines.append("Guaranteed here with durability='power': it survives a power failure too, if fsync is reliable.")
    if not found.file_system.is_local:
        lines.append("If the workers of a cluster are on several hosts, each commit waits for fsync in both cases.")
    if found.file_system.has_local_locks:
        lines.append(
            "Not guaranteed: that calls on two hosts exclude each other. One cluster may write here; the lock of its "
            "scheduler makes its workers exclude each other."
        )
    return lines
