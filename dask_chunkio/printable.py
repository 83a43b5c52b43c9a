"""Text from files, made safe to show: what others have put into a name never reaches a terminal as it is."""

from __future__ import annotations

from typing import Any

__all__ = ["printable"]

# A message is read by people; a name of a megabyte in it says nothing more than its ends.
_MOST = 6000
_KEPT = "\n\t"


def printable(text: Any, most: int = _MOST) -> str:
    r"""Return text without control characters, and not longer than people read.

    Characters that a terminal obeys, that turn the direction of writing, that are invisible or that no encoding has
    are written as Python writes them (``\x1b``, ``\u202e``).  Line ends and tabs stay.

    Parameters
    ----------
    text : object
        A str, or what has one.
    most : int
        How many characters are shown; of what is longer the middle is left out.

    Examples
    --------
    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    >>> printable("x" * 100, most=20)
    'xxxxxxxxxx... (80 characters left out) ...xxxxxxxxxx'
    """
    words = str(text)
    if len(words) > most:
        half = most // 2
        words = f"{words[:half]}... ({len(words) - 2 * half} characters left out) ...{words[-half:]}"
    if words.isprintable():
        return words
    return "".join(map(_shown, words))


def _shown(character: str) -> str:
    if character.isprintable() or character in _KEPT:
        return character
    return character.encode("unicode_escape").decode("ascii")
