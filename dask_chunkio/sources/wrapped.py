"""Wrappers of hdmf around data: extraction of the data, and of the options for their storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask_chunkio.errors import ArgumentError, ArgumentTypeError

__all__ = ["combined", "unwrapped"]

# Options of `H5DataIO` that have the names and meanings of h5py's keywords.
_HONOURED = {"chunks", "compression", "compression_opts", "fillvalue", "fletcher32", "maxshape", "shuffle"}


def unwrapped(value: Any, dataset: str) -> tuple[Any, dict[str, Any]]:
    """Return the data in hdmf's ``DataIO`` or ``H5DataIO``, and its options as keywords of `to_hdf5`.

    Parameters
    ----------
    value : object
        Any object; an object that is not such a wrapper is returned unchanged, without keywords.
    dataset : str
        Name of the dataset, for messages.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the wrapper holds no data, or has options that cannot be honoured.

    Examples
    --------
    >>> unwrapped([1, 2], "/x")
    ([1, 2], {})
    """
    if not _is_a(value, "DataIO"):
        return value, {}
    kind = type(value).__name__
    data = value.data
    if data is None:
        raise ArgumentError(
            f"{dataset}: this {kind} holds no data, but asks for an empty dataset to be filled later; make that with "
            f"h5py, and write into it with region="
        )
    inner, keywords = unwrapped(data, dataset)
    return inner, combined(keywords, _keywords(value, data, dataset))


def combined(wrapped: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `given` keywords, completed by the `wrapped` keywords that are not given or given as None.

    The options of a filter in `wrapped` are dropped if another filter is given.

    Examples
    --------
    >>> combined({"compression": "gzip", "compression_opts": 9, "shuffle": True}, {"compression": "lzf"})
    {'compression': 'lzf', 'shuffle': True}
    """
    chosen = {name: value for name, value in given.items() if value is not None or name not in wrapped}
    loses_options = chosen.get("compression") not in (None, wrapped.get("compression"))
    kept = {name: value for name, value in wrapped.items() if not (loses_options and name == "compression_opts")}
    return {**kept, **chosen}


def _is_a(value: Any, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.split(".")[0] == "hdmf" for base in type(value).__mro__)


def _keywords(value: Any, data: Any, dataset: str) -> dict[str, Any]:
    """Return the options of a wrapper, except those that hdmf itself has filled in."""
    kind, said = type(value).__name__, dict(value.get_io_params())
    if not _is_a(value, "H5DataIO"):
        if said:
            raise ArgumentTypeError(
                f"{dataset}: a {kind} says how data are stored by another library ({', '.join(sorted(said))}); give "
                f"its .data, and h5py's keywords to to_hdf5 or in an H5DataIO"
            )
        return {}
    if said.pop("link_data", False):
        raise ArgumentError(
            f"{dataset}: link_data=True of this {kind} asks for a link to another file, but to_hdf5 copies "
            f"the data; leave link_data out, or make the link with h5py.ExternalLink"
        )
    if strange := sorted(said.keys() - _HONOURED):
        raise ArgumentTypeError(f"{dataset}: to_hdf5 cannot honour {', '.join(strange)} of this {kind}; leave it out")
    for keyword, recommended in (("chunks", _recommended_chunks(data)), ("maxshape", getattr(data, "maxshape", None))):
        # hdmf fills in the values that the iterator recommends.
        if keyword in said and recommended is not None and said[keyword] == recommended:
            del said[keyword]
    return said


def _recommended_chunks(data: Any) -> Any:
    recommend = getattr(data, "recommended_chunk_shape", None)
    return None if recommend is None else recommend()
