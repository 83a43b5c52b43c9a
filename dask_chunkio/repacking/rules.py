"""The options of h5repack: which filters and which layout each dataset gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.repacking.patterns import matches

__all__ = ["FilterChoice", "LayoutChoice", "Rules", "Wanted", "parse_rules", "parse_texts"]

_EXAMPLE = "'GZIP=4' or '/a,/b:CHUNK=10x20'"
_OPTIONAL = 1
_DEFLATE, _SHUFFLE, _FLETCHER32, _SZIP, _NBIT, _SCALEOFFSET = 1, 2, 3, 4, 5, 6
_SZIP_MASKS = {"EC": 4, "NN": 32}
_SCALES = {"IN": 2, "DS": 0}
# The most that HDF5 stores: 32 filters, and an unsigned 32-bit integer for each of their numbers.
_MOST_FILTERS, _MOST_NUMBER, _MOST_CODE = 32, (1 << 32) - 1, 65535
_MOST_AXES = 32


@dataclass(frozen=True, slots=True)
class FilterChoice:
    """One filter, as it is given to HDF5 (before the filter itself adds what it finds in the dataset)."""

    code: int
    flags: int = _OPTIONAL
    options: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """One layout; `chunks` is the shape of the chunks, for ``"chunked"``."""

    kind: Literal["chunked", "contiguous", "compact"]
    chunks: Shape = ()


@dataclass(frozen=True, slots=True)
class _Rule:
    """What one option says; `objects` are the patterns it is for, none for all datasets."""

    objects: tuple[str, ...]
    filter: FilterChoice | None = None
    layout: LayoutChoice | None = None
    removes: bool = False
    words: str = ""

    def is_for(self, names: Sequence[str]) -> bool:
        return any(matches(pattern, name) for pattern in self.objects for name in names)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted for one dataset.

    Parameters
    ----------
    filters : tuple of FilterChoice or None
        Its pipeline; None to keep its own.
    layout : LayoutChoice or None
        Its layout; None to keep its own.
    filters_named, layout_named : bool
        Whether a pattern asks for it, and not an option for all datasets: then it is an error if it cannot be done.
    """

    filters: tuple[FilterChoice, ...] | None = None
    layout: LayoutChoice | None = None
    filters_named: bool = False
    layout_named: bool = False

    @property
    def is_named(self) -> bool:
        """Whether a pattern asks for anything."""
        return self.filters_named or self.layout_named

    def __bool__(self) -> bool:
        return self.filters is not None or self.layout is not None


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules.

    Parameters
    ----------
    rules : tuple
        The options, in their order.
    minimum : int
        Datasets of fewer bytes keep their filters and layout.
    """

    rules: tuple[_Rule, ...] = ()
    minimum: int = 0

    def __bool__(self) -> bool:
        return bool(self.rules)

    def wanted(self, *names: str) -> Wanted:
        """Return the filters and the layout for a dataset with these names.  Rules that name it take precedence.

        Examples
        --------
        >>> rules = parse_rules(["SHUF", "GZIP=4", "/raw/*:NONE"], ["/raw/x:CHUNK=10x20"])
        >>> [one.code for one in rules.wanted("/lfp").filters], rules.wanted("/raw/x").filters
        ([2, 1], ())
        >>> rules.wanted("/raw/x").layout.chunks
        (10, 20)
        """
        filters, filters_named = self._chosen(names, lambda rule: rule.layout is None)
        layouts, layout_named = self._chosen(names, lambda rule: rule.layout is not None)
        pipeline = tuple(rule.filter for rule in filters if rule.filter is not None)
        layout = layouts[-1].layout if layouts else None
        return Wanted(pipeline if filters else None, layout, filters_named, layout_named)

    def _chosen(self, names: Sequence[str], is_of_kind: Callable[[_Rule], bool]) -> tuple[list[_Rule], bool]:
        of_kind = [rule for rule in self.rules if is_of_kind(rule)]
        named = [rule for rule in of_kind if rule.is_for(names)]
        return (named, True) if named else ([rule for rule in of_kind if not rule.objects], False)

    @property
    def codes(self) -> frozenset[int]:
        """HDF5's numbers of all filters."""
        return frozenset(rule.filter.code for rule in self.rules if rule.filter is not None)

    @property
    def patterns(self) -> frozenset[str]:
        """All patterns."""
        return frozenset(pattern for rule in self.rules for pattern in rule.objects)


def parse_rules(filters: Iterable[str] = (), layouts: Iterable[str] = (), minimum: int = 0) -> Rules:
    """Parse the values of h5repack's options ``-f`` and ``-l``.

    Parameters
    ----------
    filters : iterable of str
        Such as ``"GZIP=4"``, ``"/a,/b:SHUF"`` or ``"NONE"``.
    layouts : iterable of str
        Such as ``"CHUNK=10x20"``, ``"/a:CONTI"`` or ``"COMPA"``.
    minimum : int
        As `Rules.minimum`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If one is not of h5repack's form.
    """
    rules = [_parsed("filters", text, _filter_rule) for text in parse_texts("filters", filters)]
    rules += [_parsed("layouts", text, _layout_rule) for text in parse_texts("layouts", layouts)]
    if sum(rule.filter is not None for rule in rules) > _MOST_FILTERS:
        raise ArgumentError(f"filters= has more than {_MOST_FILTERS} filters, the most that HDF5 applies")
    return Rules(tuple(rules), minimum)


def parse_texts(name: str, values: Any, example: str = _EXAMPLE) -> tuple[str, ...]:
    """Return the texts of an argument: one, or any number of them.

    Raises
    ------
    ArgumentTypeError
        If it is something else.

    Examples
    --------
    >>> parse_texts("filters", "NONE"), parse_texts("filters", ["SHUF", "GZIP=4"])
    (('NONE',), ('SHUF', 'GZIP=4'))
    """
    if not isinstance(values, Iterable):
        raise ArgumentTypeError(f"{name}={values!r} is no sequence of texts; give texts such as {example}")
    texts = (values,) if isinstance(values, str) else tuple(values)
    if strange := [value for value in texts if not isinstance(value, str)]:
        raise ArgumentTypeError(f"{name}= has {strange[0]!r}; give texts such as {example}")
    return texts


def _parsed(name: str, text: str, rule: Callable[[tuple[str, ...], str, str], _Rule]) -> _Rule:
    # The parameters have no colon, but the names of objects may.
    objects, colon, choice = text.rpartition(":")
    named = tuple(one for one in objects.split(",") if one.strip("/")) if colon else ()
    if colon and not named:
        raise ArgumentError(f"{name}: {text!r} names no objects before the colon; leave it out, to mean all datasets")
    word, _, parameters = choice.partition("=")
    try:
        return replace(rule(named, word, parameters), words=text)
    except ValueError as error:
        raise ArgumentError(f"{name}: {text!r}: {error}") from error


def _layout_rule(objects: tuple[str, ...], word: str, parameters: str) -> _Rule:
    if word == "CHUNK":
        lengths = _numbers(parameters, "x", "CHUNK=10x20")
        if not all(0 < length <= _MOST_NUMBER for length in lengths) or len(lengths) > _MOST_AXES:
            raise ValueError(f"the lengths of chunks are from 1 to {_MOST_NUMBER}, along at most {_MOST_AXES} axes")
        return _Rule(objects, layout=LayoutChoice("chunked", lengths))
    if word in ("CONTI", "COMPA"):
        _require_none(word, parameters)
        return _Rule(objects, layout=LayoutChoice("contiguous" if word == "CONTI" else "compact"))
    raise ValueError(f"{word!r} is not a layout: give CHUNK=10x20, CONTI or COMPA")


def _filter_rule(objects: tuple[str, ...], word: str, parameters: str) -> _Rule:
    if word == "NONE":
        _require_none(word, parameters)
        return _Rule(objects, removes=True)
    if word not in _FILTERS:
        raise ValueError(f"{word!r} is not a filter: give {', '.join(_FILTERS)} or NONE")
    return _Rule(objects, _FILTERS[word](word, parameters))


def _gzip(_: str, parameters: str) -> FilterChoice:
    (level,) = _numbers(parameters, ",", "GZIP=4", 1)
    if level > 9:
        raise ValueError("the level is from 0 to 9")
    return FilterChoice(_DEFLATE, options=(level,))


def _szip(_: str, parameters: str) -> FilterChoice:
    pixels, coding = _number_and_word(parameters, _SZIP_MASKS, "SZIP=8,NN")
    if pixels % 2 or not 2 <= pixels <= 32:
        raise ValueError("the number of pixels per block is even, from 2 to 32")
    return FilterChoice(_SZIP, options=(_SZIP_MASKS[coding], pixels))


def _scaleoffset(_: str, parameters: str) -> FilterChoice:
    factor, scale = _number_and_word(parameters, _SCALES, "SOFF=3,DS")
    return FilterChoice(_SCALEOFFSET, options=(_SCALES[scale], factor))


def _user_defined(_: str, parameters: str) -> FilterChoice:
    values = _numbers(parameters, ",", "UD=307,0,1,9")
    if len(values) < 3 or len(values) != 3 + values[2]:
        raise ValueError(
            "UD takes the number of the filter, 1 if it is optional or 0, how many values follow, and the values: "
            "UD=307,0,1,9"
        )
    if not 0 < values[0] <= _MOST_CODE or values[1] > 1:
        raise ValueError(f"the number of a filter is from 1 to {_MOST_CODE}, and its flag 0 or 1")
    return FilterChoice(values[0], values[1], values[3:])


def _plain(word: str, parameters: str) -> FilterChoice:
    _require_none(word, parameters)
    code = {"SHUF": _SHUFFLE, "FLET": _FLETCHER32, "NBIT": _NBIT}[word]
    return FilterChoice(code, 0 if code == _FLETCHER32 else _OPTIONAL)


_FILTERS: dict[str, Callable[[str, str], FilterChoice]] = {
    "GZIP": _gzip,
    "SZIP": _szip,
    "SHUF": _plain,
    "FLET": _plain,
    "NBIT": _plain,
    "SOFF": _scaleoffset,
    "UD": _user_defined,
}


def _require_none(word: str, parameters: str) -> None:
    if parameters:
        raise ValueError(f"{word} takes no parameters, and {parameters!r} is given")


def _numbers(text: str, separator: str, example: str, count: int | None = None) -> tuple[int, ...]:
    words = text.split(separator)
    if not all(word.isascii() and word.isdecimal() for word in words) or (count is not None and len(words) != count):
        raise ValueError(f"give whole numbers, as in {example}")
    numbers = tuple(map(int, words))
    if any(number > _MOST_NUMBER for number in numbers):
        raise ValueError(f"a number is larger than {_MOST_NUMBER}, the largest that HDF5 stores")
    return numbers


def _number_and_word(text: str, choices: dict[str, int], example: str) -> tuple[int, str]:
    number, _, word = text.partition(",")
    if word not in choices:
        raise ValueError(f"give a number and {' or '.join(choices)}, as in {example}")
    return _numbers(number, ",", example, 1)[0], word
