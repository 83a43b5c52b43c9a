"""Text for messages: text from files without control characters, which must not reach a terminal, and times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

__all__ = ["TIME_FORM", "counted", "local_time", "missing_in_words", "printable"]

TIME_FORM = "%Y-%m-%d %H:%M:%S %z"

# Limits the length of messages: a file may contain names of a megabyte.
_MOST = 6000
_KEPT = "\n\t"


def printable(text: Any, most: int = _MOST) -> str:
    r"""Return text of limited length without control characters.

    Control characters of terminals, characters that reverse the direction of writing, invisible characters and
    surrogates are replaced by Python's escapes (``\x1b``, ``\u202e``).  Line ends and tabs are kept.

    Parameters
    ----------
    text : object
        A str, or an object that is converted with ``str``.
    most : int
        Maximum number of characters; the middle of a longer text is left out.

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


def local_time(moment: datetime) -> str:
    """Return a moment in the local time of this process, with the time zone.

    Parameters
    ----------
    moment : datetime.datetime
        An aware one.

    Examples
    --------
    >>> from datetime import UTC
    >>> local_time(datetime(2026, 11, 23, 8, 13, 2, tzinfo=UTC))  # doctest: +ELLIPSIS
    '2026-11-2...:...:02 ...'
    """
    return moment.astimezone().strftime(TIME_FORM)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "array"), counted(2, "array")
    ('1 array', '2 arrays')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def missing_in_words(parts: Sequence[int]) -> str:
    """Say which parts of a write are missing.

    Parameters
    ----------
    parts : sequence of int
        Ascending numbers, at least one.

    Examples
    --------
    >>> missing_in_words([3]), missing_in_words([0, 4, 5, 6])
    ('part 3 is missing', 'parts 0, 4-6 are missing')
    """
    runs: list[list[int]] = []
    for number in parts:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    numbers = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
    return f"part {numbers} is missing" if len(parts) == 1 else f"parts {numbers} are missing"
