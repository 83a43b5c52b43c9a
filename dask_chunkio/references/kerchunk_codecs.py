"""Pipelines of HDF5 as codecs of numcodecs, with the names and configurations that kerchunk gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dask_chunkio.filters.chunk_format import ChunkFormat, Filter
from dask_chunkio.filters.deflate import DEFLATE
from dask_chunkio.filters.fletcher32 import FLETCHER32
from dask_chunkio.filters.shuffle import SHUFFLE
from dask_chunkio.references.model import Unsupported

__all__ = ["codecs_of", "may_skip"]

Codec = dict[str, Any]
_BZIP2, _BLOSC, _ZSTD = 307, 32001, 32015
_BLOSC_NAMES = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")
# Filters that never leave a chunk as it is, whatever its data are.
_NEVER_SKIP = (DEFLATE, SHUFFLE, FLETCHER32, _ZSTD)


def codecs_of(form: ChunkFormat, mask: int = 0) -> tuple[Codec, ...]:
    """Return the codecs that undo the pipeline of a dataset.

    Parameters
    ----------
    form : ChunkFormat
        How its chunks are stored.
    mask : int
        The filters that all of its chunks have skipped, as bits.

    Raises
    ------
    Unsupported
        If a filter has no codec.
    """
    active = [one for position, one in enumerate(form.filters) if not mask >> position & 1]
    return tuple(_codec(one, active[:position], form) for position, one in enumerate(active))


def may_skip(filters: Sequence[Filter]) -> str | None:
    """Return the name of the first filter that some chunks may skip, because it would not make them smaller."""
    return next((one.name for one in filters if one.is_optional and one.code not in _NEVER_SKIP), None)


def _codec(one: Filter, before: Sequence[Filter], form: ChunkFormat) -> Codec:
    if one.code == SHUFFLE:
        return _shuffle(one, before, form)
    if (make := _MAKERS.get(one.code)) is not None:
        return make(one)
    raise Unsupported(
        f"no codec of kerchunk or VirtualiZarr undoes the filter {one}; use gzip, zstd or blosc, with or without "
        f"shuffle and fletcher32"
    )


def _shuffle(one: Filter, before: Sequence[Filter], form: ChunkFormat) -> Codec:
    size = one.options[0] if one.options else 0
    # The codec refuses bytes that are no whole number of elements; behind another filter their number is unknown.
    if before or size < 1 or form.nbytes % size:
        raise Unsupported(f"the filter {one.name} is not the first one of {', '.join(map(str, form.filters))}")
    return {"id": "shuffle", "elementsize": size}


def _zlib(one: Filter) -> Codec:
    level = one.options[0] if one.options else 1
    return {"id": "zlib", "level": level if level <= 9 else 9}


def _zstd(one: Filter) -> Codec:
    # Options are unsigned, levels are not; readers need no level.
    level = one.options[0] if one.options else 3
    return {"id": "zstd", "level": level if level <= 22 else 0, "checksum": False}


def _blosc(one: Filter) -> Codec:
    options = (*one.options, *(0, 0, 0, 0, 5, 1, 0)[len(one.options) :])
    _, _, _, nbytes, level, shuffle, name = options[:7]
    if name >= len(_BLOSC_NAMES) or shuffle > 2 or level > 9 or nbytes >= 1 << 31:
        raise Unsupported(f"the filter {one} has options that Blosc does not know")
    return {"id": "blosc", "cname": _BLOSC_NAMES[name], "clevel": level, "shuffle": shuffle, "blocksize": nbytes}


def _bzip2(one: Filter) -> Codec:
    level = one.options[0] if one.options else 9
    return {"id": "bz2", "level": level if 1 <= level <= 9 else 9}


_MAKERS: dict[int, Callable[[Filter], Codec]] = {
    DEFLATE: _zlib,
    # kerchunk cuts off the checksum, unread; this codec compares it.
    FLETCHER32: lambda _: {"id": "fletcher32"},
    _ZSTD: _zstd,
    _BLOSC: _blosc,
    _BZIP2: _bzip2,
}
