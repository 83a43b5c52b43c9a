"""The arguments of ``dask-chunkio repack`` that ask for the same as a call, to go on with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dask_chunkio.repacking.new_file import FileOptions
from dask_chunkio.repacking.patterns import Selection
from dask_chunkio.repacking.rules import Rules

__all__ = ["LIBVERS", "command_of"]

# The versions of the format, at the places that are h5repack's numbers for them.
LIBVERS = ("earliest", "v108", "v110", "v112", "v114", "v200")
_OF_FILE = {
    "strategy": "--fs_strategy",
    "threshold": "--fs_threshold",
    "page_size": "--fs_pagesize",
    "user_block": "--block",
    "user_block_file": "--ublock",
    "meta_block_size": "--metadata_block_size",
}


def command_of(
    source: str, path: str, *, rules: Rules, selection: Selection, options: FileOptions, others: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the arguments.

    Parameters
    ----------
    source, path : str
        Absolute paths of the file and of the copy.
    rules : Rules
        The rules.
    selection : Selection
        What is copied.
    options : FileOptions
        The options for the file.
    others : mapping
        Further options by their names: a flag that is true, or the value of an option.

    Examples
    --------
    >>> selection = Selection(exclude=("/x",))
    >>> command_of("/a.h5", "/b.h5", rules=Rules(), selection=selection, options=FileOptions(), others={"verify": True})
    ('repack', '/a.h5', '/b.h5', '--exclude=/x', '--verify')
    """
    words = [*_of_rules(rules), *_of_selection(selection), *_of_file(options), *_of_others(others)]
    return ("repack", source, *([] if source == path else [path]), *words)


def _of_rules(rules: Rules) -> Iterator[str]:
    yield from (f"--{'filter' if rule.layout is None else 'layout'}={rule.words}" for rule in rules.rules)
    if rules.minimum:
        yield f"--minimum={rules.minimum}"


def _of_selection(selection: Selection) -> Iterator[str]:
    yield from (f"--include={pattern}" for pattern in selection.include)
    yield from (f"--exclude={pattern}" for pattern in selection.exclude)


def _of_file(options: FileOptions) -> Iterator[str]:
    if options.libver == ("latest", "latest"):
        yield "--latest"
    elif options.libver is not None:
        low, high = options.libver
        yield f"--low={LIBVERS.index(low)}"
        if high != "latest":
            yield f"--high={LIBVERS.index(high)}"
    if options.persist is not None:
        yield f"--fs_persist={int(options.persist)}"
    for name, option in _OF_FILE.items():
        if (value := getattr(options, name)) is not None:
            yield f"{option}={value}"


def _of_others(others: Mapping[str, Any]) -> Iterator[str]:
    for name, value in others.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            yield option if value is True else f"{option}={value}"
