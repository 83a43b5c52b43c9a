"""What the command line says.  No other module writes to the terminal what is in a file, or what a file is called."""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

from dask_chunkio.printable import printable

__all__ = ["in_one_line", "in_options", "options_of", "say"]

# (Raw sources have a dtype of their own.)
_OTHER_KEYWORDS = {"out_dtype": "dtype", "dtype": None}
_QUOTES = "'\""
_VALUE = r"""(?:(\([^()]*\)|'[^']*'|"[^"]*"|[\w.]+)(?![\w/]))?"""


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


def options_of(commands: click.Group) -> dict[str, str]:
    """Return the option that stands for each keyword of Python's functions: ``--wait`` for ``wait``."""
    found = {}
    for command in commands.commands.values():
        for parameter in command.params:
            keyword = _OTHER_KEYWORDS.get(str(parameter.name), parameter.name)
            if isinstance(parameter, click.Option) and keyword is not None:
                found[keyword] = parameter.opts[0]
    return found


def in_options(words: str, options: Mapping[str, str]) -> str:
    """Return what a message says to Python's users as it is said on the command line.

    Parameters
    ----------
    words : str
        Of an error, with keywords as they stand in a call.
    options : mapping of str to str
        From `options_of`.

    Examples
    --------
    >>> in_options("wait (wait=True), or give chunks=(1, 2)", {"wait": "--wait", "chunks": "--chunks"})
    'wait (--wait), or give --chunks 1,2'
    """

    def option(found: re.Match[str]) -> str:
        value = found[2] or ""
        if value.startswith("("):
            value = value[1:-1].replace(" ", "").rstrip(",")
        return f"{options[found[1]]} {value.strip(_QUOTES) if value != 'True' else ''}".rstrip()

    words = re.sub(rf"(?<![\w/.])({'|'.join(options)})={_VALUE}", option, words)
    # A name with an underscore is a keyword, and no English word.
    names = "|".join(name for name in options if "_" in name)
    return re.sub(rf"(?<![\w/.-])({names})\b(?!=)", lambda found: options[found[1]], words) if names else words
