"""What the command line says.  No other module writes to the terminal what is in a file, or what a file is called."""

from __future__ import annotations

import click

from dask_chunkio.printable import printable

__all__ = ["in_one_line", "say"]


def say(words: str = "", error: bool = False) -> None:
    """Write a line, or several, without anything that a terminal obeys.

    Parameters
    ----------
    words : str
        What to write.
    error : bool
        Whether it goes to standard error.
    """
    click.echo(printable(words, most=1 << 20), err=error)


def in_one_line(words: str) -> str:
    """Return words without line ends."""
    return printable(" ".join(words.split("\n")))
