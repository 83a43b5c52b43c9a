"""The filters that are nearest to the codecs of a zarr array, and the codecs nearest to the filters of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dask_chunkio.filters.chunk_format import Filter
from dask_chunkio.filters.deflate import DEFLATE
from dask_chunkio.filters.fletcher32 import FLETCHER32
from dask_chunkio.filters.shuffle import SHUFFLE
from dask_chunkio.sources.zarr_codecs import BLOSC, ZSTD, Codec, codecs_of, form_of_metadata

__all__ = ["nearest_codecs", "nearest_filters"]

_CHECKSUMS = frozenset({"fletcher32", "crc32", "crc32c", "adler32", "jenkins_lookup3"})
# Compressors that HDF5 has not, or not in all installations, and their nearest.
_OTHERS = frozenset({"lz4", "bz2", "lzma", "zfpy", "pcodec", "packbits", "snappy", "lzf", "blosc2"})
# n-bit and scale-offset.
_OF_ELEMENTS = (5, 6)
_LEVEL = 4
_NEAREST_LEVEL = 3


def nearest_filters(metadata: Mapping[str, Any], itemsize: int) -> tuple[Codec, ...]:
    """Return codecs with equal filters in HDF5 that are nearest to those of a zarr array.

    A gzip stream becomes deflate of the same level, another checksum fletcher32, and another compressor shuffle and
    deflate of level 4.  Codecs that change elements (delta, quantize) are left out: their decoded elements are stored.

    Parameters
    ----------
    metadata : mapping
        The metadata of the array.
    itemsize : int
        Bytes of an element; 0 for strings of any length.

    Examples
    --------
    >>> nearest_filters({"zarr_format": 2, "filters": None, "compressor": {"id": "gzip", "level": 7}}, 4)
    (Codec(code=1, options=(7,)),)
    """
    compressors: list[Codec] = []
    shuffles = checks = False
    for name, options in _steps(metadata):
        shuffles |= name == "shuffle"
        checks |= name in _CHECKSUMS
        if (found := _compressor(name, options, itemsize)) is not None:
            compressors.append(found)
        elif name in _OTHERS:
            shuffles = True
            compressors.append(Codec(DEFLATE, (_LEVEL,)))
    return _pipeline(shuffles and itemsize > 1, itemsize, compressors, checks and itemsize > 0)


def _compressor(name: str, options: Mapping[str, Any], itemsize: int) -> Codec | None:
    if name == "gzip":
        name, options = "zlib", {"level": options.get("level", 5)}
    if name not in ("zlib", "zstd", "blosc"):
        return None
    if name == "blosc" and not itemsize:
        # HDF5's filter divides by the size of elements.
        return Codec(DEFLATE, (_LEVEL,))
    metadata = {"zarr_format": 2, "chunks": (1,), "compressor": {**options, "id": name}}
    form = form_of_metadata(metadata, np.dtype(f"V{max(itemsize, 1)}"))
    return Codec(DEFLATE, (_LEVEL,)) if form is None else form.codecs[0]


def _steps(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if metadata.get("zarr_format") == 2:
        steps = [*(metadata.get("filters") or ()), *([metadata["compressor"]] if metadata.get("compressor") else ())]
        yield from ((str(step.get("id")), step) for step in steps)
        return
    for step in metadata.get("codecs", ()):
        configuration = step.get("configuration") or {}
        yield str(step.get("name")).removeprefix("numcodecs."), configuration
        yield from _steps({"codecs": configuration.get("codecs", ())})


def nearest_codecs(filters: Sequence[Filter], itemsize: int) -> tuple[Codec, ...]:
    """Return the codecs that are nearest to the filters of a dataset.

    A compressor that zarr has not in HDF5's form becomes zstd of level 3.  Scale-offset and n-bit, which change
    elements, are left out.

    Parameters
    ----------
    filters : sequence of Filter
        The filters, in the order in which they encode.
    itemsize : int
        Bytes of an element; 0 for strings of any length.

    Examples
    --------
    >>> nearest_codecs([Filter(2, 1, (4,), "shuffle"), Filter(32000, 1, (), "lzf")], 4)
    (Codec(code=2, options=(4,)), Codec(code=32015, options=(3,)))
    """
    codes = [one.code for one in filters]
    compressors = [
        found[0] if (found := codecs_of([one])) else Codec(ZSTD, (_NEAREST_LEVEL,))
        for one in filters
        if one.code not in (SHUFFLE, FLETCHER32, *_OF_ELEMENTS)
    ]
    return _pipeline(SHUFFLE in codes and itemsize > 1, itemsize, compressors, FLETCHER32 in codes)


def _pipeline(shuffles: bool, itemsize: int, compressors: Sequence[Codec], checks: bool) -> tuple[Codec, ...]:
    compressor = compressors[:1]
    # blosc shuffles itself.
    is_blosc = any(one.code == BLOSC for one in compressor)
    first = (Codec(SHUFFLE, (itemsize,)),) if shuffles and not is_blosc else ()
    return (*first, *compressor, *((Codec(FLETCHER32),) if checks else ()))
