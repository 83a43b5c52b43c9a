"""The arguments of `to_hdf5` and `plan`, checked and converted to one form."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.filters.names import resolve_compression
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.keywords import DatasetKeywords, WriteKeywords
from dask_chunkio.paths import local_path
from dask_chunkio.sources.adapt import as_source
from dask_chunkio.sources.base import Source, check_read_mode
from dask_chunkio.sources.stream import Announced, is_open_ended, is_stream
from dask_chunkio.sources.wrapped import combined, unwrapped
from dask_chunkio.storage.regions import of_unknown_length
from dask_chunkio.storage.tokens import TOKENS
from dask_chunkio.validation import check_flag

__all__ = ["DatasetRequest", "describe_fill", "parse_filename", "parse_names", "parse_requests"]

_OWN = frozenset({"append", "attrs", "buffer_shape", "chunks", "dtype", "read", "region"})
# Keywords of h5py.Group.create_dataset that pass through under their own names.
_H5PY = frozenset(DatasetKeywords.__annotations__) - _OWN
# Keywords of the whole call, which do not belong to a dataset.
_OF_CALL = frozenset(WriteKeywords.__annotations__) - frozenset(DatasetKeywords.__annotations__) | {"compute"}


@dataclass(frozen=True, slots=True)
class DatasetRequest:
    """One dataset that the user requests.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    source : Source
        The source of the data.
    chunks : tuple of int or None
        Chunk shape; None to choose one automatically.
    buffer_shape : tuple of int or None
        Buffer shape; None to choose one automatically.
    dtype : numpy.dtype
        Type of the elements in the file.
    read : str or None
        Read mode; None for the read mode of the source.
    attrs : mapping
        Attributes.
    options : mapping
        Keywords for `h5py.Group.create_dataset`, with the name of a plugin resolved.
    region, append : object
        Position in an existing dataset, as the user gave it; None for a new dataset.
    given : frozenset of str
        Keywords for a new dataset that the user gave.
    """

    name: str
    source: Source
    chunks: Shape | None
    buffer_shape: Shape | None
    dtype: np.dtype[Any]
    read: Any = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    region: Any = None
    append: Any = None
    given: frozenset[str] = frozenset()

    @property
    def may_be_there(self) -> bool:
        """Whether the request writes into an existing dataset, or may do so."""
        return self.region is not None or self.append is not None


def parse_filename(filename: Any) -> str:
    """Return the absolute path of the file.

    Raises
    ------
    ArgumentTypeError
        If `filename` is not a path.
    ArgumentError
        If `filename` is empty, names a folder, or is a URL.
    """
    path = os.path.abspath(local_path("filename", filename))
    # A symbolic link is kept: the write replaces the file that the link points to.
    return os.path.realpath(path) if os.path.islink(path) else path


def parse_requests(
    args: tuple[Any, ...],
    encoding: Mapping[str, Mapping[str, Any]] | None,
    keywords: Mapping[str, Any],
    may_begin_streams: bool = True,
) -> list[DatasetRequest]:
    """Convert the arguments of a call to requests, one for each dataset.

    Parameters
    ----------
    args : tuple
        ``(name, source)``, or one mapping of names to sources.
    encoding : mapping, optional
        Keywords for single datasets.
    keywords : mapping
        Keywords for all datasets.
    may_begin_streams : bool
        Whether the first DataChunk of a stream may be read, if no argument gives its shape and dtype.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is invalid.
    """
    data = _data(args)
    of_each = _of_each(encoding, data)
    common = dict(keywords)
    if len(args) == 1 and common.get("attrs"):
        raise ArgumentError("attrs= goes with one dataset; for several use encoding={'/x': {'attrs': {...}}}")
    wrapped = {name: unwrapped(value, name) for name, value in data.items()}
    asked = {name: combined(said, {**common, **of_each.get(name, {})}) for name, (_, said) in wrapped.items()}
    for name, options in asked.items():
        _refuse_unknown(name, options)
        check_read_mode(options.get("read"), name)
    # Streams come last: to make a request can consume the first DataChunk, and other errors must be found before that.
    values = sorted(((name, value) for name, (value, _) in wrapped.items()), key=lambda item: is_stream(item[1]))
    requests = {name: _request(name, value, asked[name], may_begin_streams) for name, value in values}
    return [requests[name] for name in data]


def parse_names(args: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the absolute names of the datasets of a call.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the arguments name none.
    """
    return tuple(_data(args))


def describe_fill(
    args: tuple[Any, ...], encoding: Any, keywords: Mapping[str, Any], in_parts: bool = False
) -> tuple[str, ...]:
    """Return in words what a call writes, to recognize it when it is made again.

    `in_parts` says that several jobs make it together, each with a region of its own.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the arguments name no datasets.

    Examples
    --------
    >>> describe_fill(("x", np.zeros((3, 2), "i4")), None, {"region": np.s_[:3]})
    ('/x (3, 2) int32 into slice(None, 3, None)',)
    """
    data, described = _data(args), []
    of_each = _of_each(encoding, data)
    for name, value in data.items():
        region = {**keywords, **of_each.get(name, {})}.get("region")
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        words = [name] + [str(one) for one in (shape, dtype) if one is not None]
        if region is not None:
            words = [name, str(dtype), "in regions"] if in_parts else [*words, "into", repr(region)]
        described.append(" ".join(words))
    return tuple(described)


def _of_each(encoding: Any, data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    words = "encoding= is a mapping of the names of datasets to their keywords, as {'/x': {'compression': 'gzip'}}"
    if not isinstance(encoding, Mapping | None):
        raise ArgumentTypeError(f"{words}, not a {type(encoding).__name__}")
    for name, options in (encoding or {}).items():
        if not isinstance(options, Mapping):
            raise ArgumentTypeError(f"{words}; it has {options!r} for {name!r}")
    found = {_absolute(name): options for name, options in (encoding or {}).items()}
    if strange := sorted(found.keys() - data.keys()):
        raise ArgumentError(f"encoding= names {', '.join(strange)}, but the datasets are {', '.join(data)}")
    return found


def _data(args: tuple[Any, ...]) -> dict[str, Any]:
    if len(args) == 1 and isinstance(args[0], Mapping):
        pairs = list(args[0].items())
    elif len(args) == 2 and isinstance(args[0], str):
        pairs = [(args[0], args[1])]
    else:
        raise ArgumentTypeError("give a name and a source, as to_hdf5(filename, '/x', source), or {'/x': source, ...}")
    if not pairs:
        raise ArgumentError("no datasets were given; give {'/x': source, ...}")
    data: dict[str, Any] = {}
    for name, value in pairs:
        if (absolute := _absolute(name)) in data:
            raise ArgumentError(f"{absolute} is given twice; give each dataset a name of its own")
        data[absolute] = value
    for name in data:
        parts = name.split("/")
        if above := next((other for n in range(2, len(parts)) if (other := "/".join(parts[:n])) in data), None):
            raise ArgumentError(f"{above} is a dataset of this call, so {name} cannot be in it; choose another name")
    return data


def _absolute(name: Any) -> str:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"the name of a dataset is a str, not {name!r}")
    parts = [part for part in name.split("/") if part]
    if not parts or "\0" in name or {".", ".."} & set(parts) or not _is_utf8(name):
        raise ArgumentError(f"{name!r} cannot be the name of a dataset; use a path such as '/x' or '/group/x'")
    return "/" + "/".join(parts)


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _request(name: str, value: Any, keywords: dict[str, Any], may_begin: bool) -> DatasetRequest:
    options = _resolved(name, {key: option for key, option in keywords.items() if key in _H5PY and option is not None})
    _check_maxshape(name, options.get("maxshape"))
    for flag in ("shuffle", "fletcher32"):
        check_flag(f"{name}: {flag}", options.get(flag))
    dtype = _dtype(name, keywords.get("dtype"))
    source = as_source(value, name, Announced(_row_shape(keywords.get("maxshape")), dtype, may_begin))
    region, append = keywords.get("region"), keywords.get("append")
    append = None if append is False else append
    if TOKENS in (keywords.get("attrs") or {}):
        raise ArgumentError(f"{name}: attrs= has {TOKENS!r}, which is reserved for the tokens of calls; leave it out")
    if region is not None:
        if is_open_ended(source):
            raise ArgumentError(of_unknown_length(name))
        _refuse_new_properties(name, keywords, append)
    elif not is_open_ended(source):
        _check_within_maxshape(name, source.shape, options.get("maxshape"))
    return DatasetRequest(
        name,
        source,
        _chunks(name, keywords.get("chunks", "auto"), source),
        _shape(name, "buffer_shape", keywords.get("buffer_shape")),
        source.dtype if dtype is None else dtype,
        keywords.get("read"),
        _attrs(name, keywords.get("attrs")),
        options,
        region,
        append,
        frozenset(_given(keywords)),
    )


def _resolved(name: str, options: dict[str, Any]) -> dict[str, Any]:
    try:
        return resolve_compression(options)
    except (ArgumentError, ArgumentTypeError) as error:
        raise type(error)(f"{name}: {error}") from error


def _refuse_new_properties(name: str, keywords: Mapping[str, Any], append: Any) -> None:
    if append is not None:
        raise ArgumentError(f"{name}: give region= or append=, not both")
    if strange := sorted(_given(keywords)):
        raise ArgumentError(
            f"{name}: {', '.join(f'{key}=' for key in strange)} is for a new dataset, but region= writes into an "
            f"existing one, which keeps its own properties; leave it out"
        )


def _given(keywords: Mapping[str, Any]) -> set[str]:
    """Return the given keywords that are meant for a new dataset."""
    given = {key for key, value in keywords.items() if value is not None and not (key == "chunks" and _is_auto(value))}
    return given & (_H5PY | {"attrs", "chunks", "dtype"})


def _refuse_unknown(name: str, keywords: Mapping[str, Any]) -> None:
    for keyword in keywords:
        if keyword not in _H5PY | _OWN:
            # Imported here: only a mistake needs it.
            import difflib

            known = _H5PY | _OWN | _OF_CALL
            near = difflib.get_close_matches(keyword, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
            hint = "; it belongs to the call, not to encoding=" if keyword in _OF_CALL else hint
            raise ArgumentTypeError(f"{name}: unknown keyword {keyword!r}{hint}")


def _is_auto(chunks: Any) -> bool:
    return chunks is True or (isinstance(chunks, str) and chunks == "auto")


def _chunks(name: str, chunks: Any, source: Source) -> Shape | None:
    if _is_auto(chunks):
        return None
    if chunks is None or chunks is False:
        raise ArgumentError(
            f"{name}: chunks={chunks} asks for a dataset without chunks, which is not written in parallel; "
            f"use 'auto' or a tuple"
        )
    shape = _shape(name, "chunks", chunks)
    if shape is not None and len(shape) != len(source.shape):
        raise ArgumentError(f"{name}: chunks={shape} has {len(shape)} axes, the source {len(source.shape)}")
    return shape


def _shape(name: str, keyword: str, value: Any) -> Shape | None:
    if value is None:
        return None
    values = (value,) if isinstance(value, (int, np.integer)) else value
    try:
        shape = tuple(map(_length, values))
    except TypeError as error:
        raise ArgumentTypeError(f"{name}: {keyword}={value!r} is not a tuple of whole numbers") from error
    if any(length < 1 for length in shape):
        raise ArgumentError(f"{name}: {keyword}={shape} has a length below 1")
    return shape


def _length(value: Any) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError("a truth value")
    return operator.index(value)


def _dtype(name: str, dtype: Any) -> np.dtype[Any] | None:
    if dtype is None:
        return None
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise ArgumentTypeError(f"{name}: dtype={dtype!r} is not one of numpy's") from error
    return found


def _row_shape(maxshape: Any) -> Shape | None:
    """Return the lengths of all axes except the first, if `maxshape` gives them."""
    whole = (maxshape,) if isinstance(maxshape, (int, np.integer)) and not isinstance(maxshape, bool) else maxshape
    if not isinstance(whole, (tuple, list)) or not whole:
        return None
    is_said = all(isinstance(length, (int, np.integer)) and length >= 0 for length in whole[1:])
    return tuple(map(int, whole[1:])) if is_said else None


def _attrs(name: str, attrs: Any) -> dict[str, Any]:
    if not isinstance(attrs, Mapping | None):
        raise ArgumentTypeError(f"{name}: attrs={attrs!r} is not a mapping of names to values")
    return dict(attrs or {})


def _maxshape(maxshape: Any) -> tuple[Any, ...] | None:
    """Return maxshape as a tuple; None if it gives no lengths."""
    if maxshape is None or maxshape is True:
        return None
    return tuple(maxshape) if isinstance(maxshape, (tuple, list)) else (maxshape,)


def _check_maxshape(name: str, maxshape: Any) -> None:
    for axis, most in enumerate(_maxshape(maxshape) or ()):
        if most is not None and (isinstance(most, bool) or not isinstance(most, (int, np.integer)) or most < 0):
            raise ArgumentTypeError(
                f"{name}: maxshape={maxshape!r} has {most!r} along axis {axis}; give a length, or None for no limit"
            )


def _check_within_maxshape(name: str, shape: Shape, maxshape: Any) -> None:
    if (most := _maxshape(maxshape)) is None:
        return
    if len(most) != len(shape):
        raise ArgumentError(f"{name}: maxshape={maxshape} has {len(most)} axes, the source {len(shape)}")
    for axis, (length, bound) in enumerate(zip(shape, most, strict=True)):
        if bound is not None and length > bound:
            raise ArgumentError(
                f"{name}: maxshape={maxshape} allows {bound} along axis {axis}, but the source has {length}"
            )
