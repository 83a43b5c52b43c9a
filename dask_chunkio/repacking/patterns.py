"""Patterns of paths in a file."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dask_chunkio.errors import ArgumentError

__all__ = ["Selection", "matches"]


def matches(pattern: str, path: str) -> bool:
    """Return whether a path fits a pattern.

    Parameters
    ----------
    pattern : str
        A path, with or without the first slash.  ``*``, ``?`` and ``[abc]`` stand for characters of one name, and the
        name ``**`` for any number of names.
    path : str
        Absolute path of an object.

    Examples
    --------
    >>> matches("a/*", "/a/b"), matches("/a/*", "/a/b/c"), matches("/**/c", "/a/b/c"), matches("a[1]", "/a[1]")
    (True, False, True, True)
    """
    whole = f"/{pattern.strip('/')}"
    # A name may hold the characters of patterns.
    return path == whole or _compiled(whole).fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects are copied.

    Parameters
    ----------
    include : tuple of str
        Patterns of the objects that are copied, with all that is below them; empty for all.
    exclude : tuple of str
        Patterns of the objects that are left out, with all that is below them.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def takes(self, path: str) -> bool:
        """Return whether an object is copied; of one that is, everything above it was asked for, too."""
        lines = list(_line(path))
        if any(matches(pattern, one) for pattern in self.exclude for one in lines):
            return False
        return not self.include or any(matches(pattern, one) for pattern in self.include for one in lines)

    def may_lead(self, path: str) -> bool:
        """Return whether a group may hold objects that are copied."""
        if any(matches(pattern, one) for pattern in self.exclude for one in _line(path)):
            return False
        return self.takes(path) or any(_leads(path, pattern) for pattern in self.include)


def _line(path: str) -> Sequence[str]:
    """Return a path, and all those above it but for the root."""
    names = path.strip("/").split("/")
    return ["/" + "/".join(names[:count]) for count in range(1, len(names) + 1)]


def _leads(path: str, pattern: str) -> bool:
    """Return whether a path below this one can fit a pattern."""
    names, parts = path.strip("/").split("/"), pattern.strip("/").split("/")
    for name, part in zip(names, parts, strict=False):
        if part == "**":
            return True
        if not matches(part, f"/{name}"):
            return False
    return len(names) < len(parts)


@functools.lru_cache(256)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern."""
    parts = ["(?:/[^/]*)*" if name == "**" else f"/{_of_name(name)}" for name in pattern[1:].split("/")]
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise ArgumentError(f"the pattern {pattern!r} is not a valid one: {error}; close its brackets") from error


def _of_name(name: str) -> str:
    found, at = "", 0
    while at < len(name):
        end = name.find("]", at + 2) if name[at] == "[" else -1
        if end > 0:
            inside = re.sub(r"[\\[&~|]|--", r"\\\g<0>", name[at + 1 : end])
            found += f"[{'^' + inside[1:] if inside[0] == '!' else inside}]"
            at = end
        else:
            found += {"*": "[^/]*", "?": "[^/]"}.get(name[at], re.escape(name[at]))
        at += 1
    return found
