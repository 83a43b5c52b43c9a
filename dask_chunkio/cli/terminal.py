"""Output of the command line.  Names and contents of files must reach the terminal only through this module."""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

from dask_chunkio.printable import printable

__all__ = ["LEFTOVERS", "in_one_line", "in_options", "options_of", "say"]

# Where a command keeps lines for the report of an error, in the metadata of click's context.
LEFTOVERS = "dask_chunkio.leftovers"

# The option --dtype is that of a raw source; the keyword dtype of `to_hdf5` is the option --out-dtype.
_OTHER_KEYWORDS = {"out_dtype": "dtype", "dtype": None}
_QUOTES = "'\""
_VALUE = r"""(?:(\([^()]*\)|'[^']*'|"[^"]*"|[\w.]+)(?![\w/]))?"""


def say(words: str = "", error: bool = False) -> None:
    """Write one or more lines, without control characters.

    Parameters
    ----------
    words : str
        The text to write.
    error : bool
        Whether to write to standard error.
    """
    click.echo(printable(words, most=1 << 20), err=error)


def in_one_line(words: str) -> str:
    """Return text without line ends."""
    return printable(" ".join(words.split("\n")))


def options_of(commands: click.Group) -> dict[str, str]:
    """Return the option for each keyword of the Python functions, such as ``--wait`` for ``wait``."""
    found, context = {}, click.Context(commands)
    for name in commands.list_commands(context):
        command = commands.get_command(context, name)
        for parameter in command.params if command else ():
            keyword = _OTHER_KEYWORDS.get(str(parameter.name), parameter.name)
            if isinstance(parameter, click.Option) and keyword is not None:
                found[keyword] = parameter.opts[0]
    return found


def in_options(words: str, options: Mapping[str, str]) -> str:
    """Replace keywords of Python functions in a message by the options of the command line.

    Parameters
    ----------
    words : str
        Message of an error, with keywords as in a Python call.
    options : mapping of str to str
        Result of `options_of`.

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
    # A name with an underscore is a keyword and not an English word.
    names = "|".join(name for name in options if "_" in name)
    return re.sub(rf"(?<![\w/.-])({names})\b(?!=)", lambda found: options[found[1]], words) if names else words
