"""Whole zarr stores and whole HDF5 files on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from dask_chunkio.cli.inputs import count_zarr_arrays
from dask_chunkio.cli.locations import Location
from dask_chunkio.cli.terminal import say
from dask_chunkio.errors import ArgumentError
from dask_chunkio.integrations.zarr import convert, is_zarr_name

__all__ = ["is_conversion", "refuse_for_one_array", "run_conversion"]

# Options of the write of one array, and their values if they are not given.
_OF_ONE_ARRAY: Mapping[str, Any] = {
    "dtype": None,
    "shape": None,
    "offset": 0,
    "chunks": "auto",
    "buffer_shape": None,
    "out_dtype": None,
    "token": None,
    "part": None,
    "only_plan": False,
    "layout": None,
    "references": None,
    "references_url": None,
}
_OPTIONS = {
    "out_dtype": "--out-dtype",
    "buffer_shape": "--buffer-shape",
    "only_plan": "--plan",
    "references_url": "--references-url",
}
_OF_CONVERSIONS = {"skip_unsupported": "--skip-unsupported", "zarr_format": "--zarr-format"}


def is_conversion(src: Location, dst: Location) -> bool:
    """Return whether a command is about a whole store or file: DST is a zarr store, or SRC one of several arrays.

    Parameters
    ----------
    src, dst : Location
        The arguments of the command.

    Raises
    ------
    SourceError
        If SRC is a zarr store that cannot be read.
    """
    if is_zarr_name(dst.file):
        return True
    return src.path is None and dst.path is None and (count_zarr_arrays(src.file) or 0) > 1


def refuse_for_one_array(options: Mapping[str, Any]) -> None:
    """Refuse the options of conversions for the write of one array.

    Raises
    ------
    ArgumentError
        If one is given.
    """
    for name, option in _OF_CONVERSIONS.items():
        if options.get(name):
            raise ArgumentError(f"{option} is for the conversion of a whole zarr store or HDF5 file; leave it out")


def run_conversion(src: Location, dst: Location, options: Mapping[str, Any], scheduler: Any) -> None:
    """Convert a store or a file, and print what was done.

    Parameters
    ----------
    src, dst : Location
        The arguments of the command.
    options : mapping
        Its options.
    scheduler : object
        What runs a conversion to an HDF5 file.

    Raises
    ------
    ArgumentError
        If the options do not go with a conversion.
    """
    _refuse_paths(src, dst)
    for name, default in _OF_ONE_ARRAY.items():
        if options.get(name, default) != default:
            option = _OPTIONS.get(name, f"--{name}")
            raise ArgumentError(f"{option} is for the write of one array; name it as {src.file}:/path, or leave it out")
    _refuse_none()
    run: dict[str, Any] = {"threads": options["workers"] or options["threads"]}
    if not is_zarr_name(dst.file):
        run = {"scheduler": scheduler, **{word: options[word] for word in ("memory_limit", "progress", "wait")}}
    elif options["memory_limit"] is not None or options["scheduler_file"] is not None or options["wait"]:
        raise ArgumentError("a zarr store is made by threads of this process; leave --memory-limit, --scheduler-file "
                            "and --wait out")  # fmt: skip
    words = ("overwrite", "resume", "skip_unsupported", "compression", "compression_opts", "durability")
    chosen = {word: options[word] for word in words}
    flags: dict[str, Any] = {"shuffle": options["shuffle"] or None, "fletcher32": options["fletcher32"] or None}
    form: Any = None if options["zarr_format"] is None else int(options["zarr_format"])
    done = convert(src.file, dst.file, zarr_format=form, **chosen, **flags, **run)
    say(str(done))
    for note in (*done.notes, *(f"left out: {one}" for one in done.skipped)):
        say(note, error=True)


def _refuse_paths(src: Location, dst: Location) -> None:
    if src.path is not None or dst.path is not None:
        raise ArgumentError(
            f"a zarr store is made of a whole HDF5 file: give {src.file} and {dst.file} without paths in them"
        )


def _refuse_none() -> None:
    source = click.get_current_context().get_parameter_source("compression")
    if source is ParameterSource.COMMANDLINE and click.get_current_context().params["compression"] is None:
        raise ArgumentError("--compression none: each array keeps its own filters; leave it out, or choose a filter")
