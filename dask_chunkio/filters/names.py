"""Names of filter plugins as values of ``compression``, such as ``compression="zstd"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.filters.plugin import PLUGIN_NAMES

__all__ = ["KNOWN_NAMES", "resolve_compression"]

_CODES = {name: code for code, name in PLUGIN_NAMES.items() if name != "lzf"}
_H5PY = ("gzip", "lzf", "szip")
KNOWN_NAMES = tuple(sorted([*_CODES, *_H5PY]))


def resolve_compression(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the name of a plugin by its number and options, which h5py accepts.

    Parameters
    ----------
    options : mapping
        Keywords of `h5py.Group.create_dataset`.  If ``compression`` is the name of a plugin,
        ``compression_opts`` may be a level (for plugins with levels), a mapping of the keywords of
        the class in hdf5plugin, or a tuple of the filter's own numbers.

    Returns
    -------
    dict
        The keywords; names of h5py's own filters and all other keywords are unchanged.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If there is no such name, hdf5plugin does not accept the options, or it is not installed.

    Examples
    --------
    >>> resolve_compression({"compression": "gzip", "compression_opts": 4})
    {'compression': 'gzip', 'compression_opts': 4}
    >>> resolve_compression({"compression": "zstd", "compression_opts": (3,)})
    {'compression': 32015, 'compression_opts': (3,)}
    >>> resolve_compression({"compression": "zstd", "compression_opts": 9})
    {'compression': 32015, 'compression_opts': (9,)}
    """
    found, name = dict(options), options.get("compression")
    if isinstance(name, (list, tuple, set, dict)):
        raise ArgumentTypeError(f"compression={name!r} is not the name or number of one filter")
    if not isinstance(name, str) or name in _H5PY:
        return found
    code = _CODES.get(name)
    if code is None:
        raise ArgumentError(f"compression={name!r} is not known; known are {', '.join(KNOWN_NAMES)}")
    chosen = options.get("compression_opts")
    if isinstance(chosen, tuple):
        return {**found, "compression": code}
    if isinstance(chosen, int) and not isinstance(chosen, bool):
        chosen = {"clevel": chosen}
    if chosen is not None and not isinstance(chosen, Mapping):
        raise ArgumentTypeError(
            f"compression_opts={chosen!r} is not one of {name}'s; give a level, a mapping of the keywords of "
            f"hdf5plugin's class, or a tuple of the filter's own numbers"
        )
    return {**found, **_by_keywords(code, str(name), chosen or {})}


def _by_keywords(code: int, name: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    try:
        import hdf5plugin
    except ImportError as error:
        raise ArgumentError(
            f"compression={name!r} needs hdf5plugin for its options: pip install hdf5plugin, or give "
            f"compression={code} with compression_opts= as a tuple of the filter's own numbers"
        ) from error
    try:
        (kind,) = hdf5plugin.get_filters(code)
    except ValueError as error:
        raise ArgumentError(
            f"compression={name!r}: hdf5plugin {hdf5plugin.version} does not have it; give compression={code} with "
            f"compression_opts= as a tuple of the filter's own numbers"
        ) from error
    try:
        made = kind(**keywords)
    except TypeError as error:
        raise ArgumentTypeError(f"compression_opts={dict(keywords)!r} is not one of {name}'s: {error}") from error
    except (ValueError, AssertionError) as error:
        raise ArgumentError(f"compression_opts={dict(keywords)!r} is not one of {name}'s: {error}") from error
    return {"compression": made.filter_id, "compression_opts": tuple(made.filter_options)}
