"""The program ``dask-chunkio``: its commands, and what it does with errors.

Exit codes: 0 for success, 1 for one of our errors (one line on standard error), 2 for a wrong command line,
130 for an interruption by Ctrl-C.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from dask_chunkio import __version__
from dask_chunkio.cli.terminal import LEFTOVERS, in_one_line, in_options, options_of, say
from dask_chunkio.errors import ChunkIOError

__all__ = ["main"]

_INTERRUPTED = 130
# The module of each command, and its line in the help.
_COMMANDS = {
    "check": ("maintenance", "Show what is guaranteed on the file system of a folder."),
    "demo": ("demo", "Time a write of a synthetic recording."),
    "discard": ("maintenance", "Remove the data of an unfinished write."),
    "plan": ("write", "Show what a write would do."),
    "recover": ("maintenance", "Make the file of an unfinished write readable, without its source."),
    "references": ("references", "Make references to the chunks of a file, for zarr and xarray."),
    "repack": ("repack", "Copy an HDF5 file with other chunks and filters."),
    "resume": ("resume", "Resume a write that the command line began."),
    "status": ("maintenance", "Show the progress of an unfinished write."),
    "verify": ("maintenance", "Check every chunk of a file."),
    "write": ("write", "Write an array from a file to an HDF5 file."),
}


class _Commands(click.Group):
    """Group that imports a command when it is used, and converts errors and Ctrl-C to a line and an exit code.

    The help of the group imports no command: most of them import dask.array, which takes half a second.
    """

    _is_interrupted = False

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002, click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002, click's signature
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"dask_chunkio.cli.{_COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002, click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _COMMANDS.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        self._is_interrupted = False
        try:
            return super().main(*args, **extra)
        except SystemExit:
            # If Ctrl-C is pressed again while the first one is reported, click handles it, with another exit code.
            if self._is_interrupted:
                raise SystemExit(_INTERRUPTED) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ChunkIOError, OSError, MemoryError) as error:
            words = in_options(str(error) or type(error).__name__, options_of(main))
            raise click.ClickException(_in_one_line(words, ctx)) from error
        except KeyboardInterrupt:
            self._is_interrupted = True
            raise _interrupted(ctx) from None
        except click.Abort as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise _interrupted(ctx) from None
            raise click.ClickException("standard input ended without an answer; give --yes") from error


def _interrupted(ctx: click.Context) -> click.exceptions.Exit:
    say(_in_one_line("Interrupted", ctx), error=True)
    return click.exceptions.Exit(_INTERRUPTED)


def _in_one_line(words: str, ctx: click.Context) -> str:
    return in_one_line(". ".join((words, *ctx.meta.get(LEFTOVERS, ()))))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dask-chunkio")
def main() -> None:
    """Write large arrays to one compressed HDF5 file, in parallel."""
