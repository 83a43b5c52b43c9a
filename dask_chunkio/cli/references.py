"""The command ``references``: references to the chunks of any HDF5 file."""

from __future__ import annotations

import click

from dask_chunkio.cli.terminal import say
from dask_chunkio.references.write import INLINE_NBYTES, write_references

__all__ = ["references"]

_LINES_SHOWN = 20


@click.command()
@click.argument("file", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(), required=True, metavar="OUT",
    help="Name of the references: ends with .json for a file as kerchunk's, or with .parquet for a folder.",
)  # fmt: skip
@click.option("--url", metavar="URL", help="Where readers find FILE, such as s3://bucket/x.h5.  [default: its path]")
@click.option(
    "--inline-nbytes", type=click.IntRange(min=0), default=INLINE_NBYTES, show_default=True, metavar="N",
    help="Chunks that are stored in fewer bytes become part of the references.",
)  # fmt: skip
@click.option("--skip-unsupported", is_flag=True, help="Leave out datasets that cannot be read through references.")
def references(file: str, output: str, url: str | None, inline_nbytes: int, skip_unsupported: bool) -> None:
    """Write references to all chunks of FILE, with which zarr and xarray read it without HDF5.

    Datasets that readers of references could not read, or would read wrongly, are an error unless --skip-unsupported
    leaves them out.
    """
    done = write_references(file, output, url=url, inline_nbytes=inline_nbytes, skip_unsupported=skip_unsupported)
    say(f"{done.path}: {done.chunks} chunks of {done.arrays} datasets in {done.url}")
    for line in done.left_out[:_LINES_SHOWN]:
        say(f"  left out: {line}")
    if len(done.left_out) > _LINES_SHOWN:
        say(f"  and {len(done.left_out) - _LINES_SHOWN} more")
