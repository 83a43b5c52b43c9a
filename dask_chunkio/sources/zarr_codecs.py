"""Codecs of zarr arrays as filters of HDF5, and back: which of them make the same bytes.

Everything here is decided from metadata, and from the first bytes of a payload.  A payload of zlib, zstd or blosc has
the same bytes in both formats.  A gzip stream has another header than a zlib stream, so that codec is not one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat, Data, Filter, most_added
from dask_chunkio.filters.deflate import DEFLATE
from dask_chunkio.filters.fletcher32 import FLETCHER32
from dask_chunkio.filters.shuffle import SHUFFLE
from dask_chunkio.geometry.grid import Shape

__all__ = ["BLOSC", "BLOSC_COMPRESSORS", "BLOSC_SHUFFLES", "ZSTD", "Codec", "ZarrForm", "codecs_of", "filters_of"]
__all__ += ["form_of_metadata", "has_equal_filters", "is_readable_payload"]

BLOSC, ZSTD = 32001, 32015
_COMPRESSORS = (DEFLATE, BLOSC, ZSTD)
_CODES = {"zlib": DEFLATE, "shuffle": SHUFFLE, "fletcher32": FLETCHER32, "zstd": ZSTD, "blosc": BLOSC}
_NAMES = {code: name for name, code in _CODES.items()}
_OF_NUMCODECS = "numcodecs."
# The same level as the default, by each library's own word for it.
_ZLIB_DEFAULT, _ZSTD_DEFAULT = (-1, 6), (0, 3)
# The numbers of blosc's compressors and shuffles in both formats, and what its filter takes if it is told nothing.
BLOSC_COMPRESSORS = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")
BLOSC_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")
_BLOSC_DEFAULT = (5, 1, 0)
_BLOSC_OPTIONS, _BLOSC_HEADER = 7, 16
_CHECKSUM = 4
_UNSIGNED = 1 << 32


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec of zarr that has a filter of HDF5 as its equal.

    Parameters
    ----------
    code : int
        HDF5's identifier of the filter.
    options : tuple of int
        A level for deflate and zstd, the size of an element for shuffle; level, shuffle and compressor for blosc.
    """

    code: int
    options: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The name in numcodecs."""
        return _NAMES[self.code]


@dataclass(frozen=True, slots=True)
class ZarrForm:
    """How the chunks of a zarr array are stored, if HDF5 can store them so.

    Parameters
    ----------
    chunk_shape : tuple of int
        Shape of every chunk, in elements.
    dtype : numpy.dtype
        Type of the elements as they are stored.
    codecs : tuple of Codec
        The codecs, in the order in which they encode.
    """

    chunk_shape: Shape
    dtype: np.dtype[Any]
    codecs: tuple[Codec, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of an unfiltered chunk."""
        return int(np.prod(self.chunk_shape, dtype=object)) * self.dtype.itemsize

    @property
    def most_nbytes(self) -> int:
        """The number of bytes that a payload may have."""
        return self.nbytes + sum(most_added(codec.code, self.nbytes) for codec in self.codecs)

    def is_stored_as(self, form: ChunkFormat) -> bool:
        """Return whether a dataset of this format has the same payloads, made with the same options.

        Parameters
        ----------
        form : ChunkFormat
            The format of the dataset.
        """
        return (
            form.chunk_shape == self.chunk_shape and form.dtype == self.dtype and codecs_of(form.filters) == self.codecs
        )


def form_of_metadata(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> ZarrForm | None:
    """Return how HDF5 would store the chunks of a zarr array.

    Parameters
    ----------
    metadata : mapping
        The metadata of the array, of format 2 or 3, as zarr writes them.
    dtype : numpy.dtype
        Type of its elements in memory.

    Returns
    -------
    ZarrForm or None
        None if HDF5 has no filters that make the same bytes.

    Examples
    --------
    >>> metadata = {"zarr_format": 2, "chunks": [10], "order": "C", "filters": None}
    >>> form_of_metadata({**metadata, "compressor": {"id": "zlib", "level": 4}}, np.dtype(">i2"))
    ZarrForm(chunk_shape=(10,), dtype=dtype('>i2'), codecs=(Codec(code=1, options=(4,)),))
    >>> form_of_metadata({**metadata, "compressor": {"id": "gzip", "level": 4}}, np.dtype(">i2")) is None
    True
    """
    found = _form_2(metadata, dtype) if metadata.get("zarr_format") == 2 else _form_3(metadata, dtype)
    return found if found is not None and has_equal_filters(found) else None


def _form_2(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> ZarrForm | None:
    shape = tuple(metadata["chunks"])
    if dtype.hasobject or dtype.kind in "TU" or (metadata.get("order", "C") != "C" and len(shape) > 1):
        return None
    steps = [*(metadata.get("filters") or ()), *([metadata["compressor"]] if metadata.get("compressor") else ())]
    codecs = [_codec(str(step.get("id")), step, dtype.itemsize) for step in steps]
    return _form(shape, dtype, codecs)


def _form_3(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> ZarrForm | None:
    grid, codecs = metadata["chunk_grid"], list(metadata["codecs"])
    if grid["name"] != "regular" or not codecs or codecs[0]["name"] != "bytes" or dtype.hasobject or dtype.kind in "TU":
        return None
    if metadata.get("storage_transformers"):
        return None
    endian = (codecs[0].get("configuration") or {}).get("endian")
    stored = dtype if endian is None else dtype.newbyteorder("<" if endian == "little" else ">")
    found = [
        _codec(str(step["name"]), step.get("configuration") or {}, dtype.itemsize)
        if step["name"] in ("zstd", "blosc") or step["name"].startswith(_OF_NUMCODECS)
        else None
        for step in codecs[1:]
    ]
    return _form(tuple(grid["configuration"]["chunk_shape"]), stored, found)


def _form(shape: Sequence[Any], dtype: np.dtype[Any], codecs: Sequence[Codec | None]) -> ZarrForm | None:
    found = tuple(one for one in codecs if one is not None)
    return ZarrForm(tuple(map(int, shape)), dtype, found) if len(found) == len(codecs) else None


def _codec(name: str, options: Mapping[str, Any], itemsize: int) -> Codec | None:
    code = _CODES.get(name.removeprefix(_OF_NUMCODECS))
    if code == DEFLATE:
        return Codec(code, (_level(options.get("level", 1), _ZLIB_DEFAULT),))
    if code == ZSTD:
        return Codec(code, (_level(options.get("level", 0), _ZSTD_DEFAULT),))
    if code == SHUFFLE:
        return Codec(code, (int(options.get("elementsize", 4)),))
    if code == BLOSC:
        return _blosc(options, itemsize)
    return None if code is None else Codec(code)


def _blosc(options: Mapping[str, Any], itemsize: int) -> Codec | None:
    compressor, shuffle = str(options.get("cname", "lz4")), options.get("shuffle", 1)
    if isinstance(shuffle, str):
        shuffle = BLOSC_SHUFFLES.index(shuffle) if shuffle in BLOSC_SHUFFLES else None
    elif shuffle == -1:
        shuffle = 2 if itemsize == 1 else 1
    if compressor not in BLOSC_COMPRESSORS or shuffle not in range(len(BLOSC_SHUFFLES)):
        return None
    return Codec(BLOSC, (int(options.get("clevel", 5)), int(shuffle), BLOSC_COMPRESSORS.index(compressor)))


def _level(level: Any, default: tuple[int, int]) -> int:
    own, meaning = default
    return meaning if level is None or int(level) == own else int(level)


def has_equal_filters(form: ZarrForm) -> bool:
    """Return whether HDF5 sets the same options for these codecs, and the length of what each one takes is known.

    Parameters
    ----------
    form : ZarrForm
        The codecs, and what they encode.
    """
    codes = [codec.code for codec in form.codecs]
    sizes = [codec.options for codec in form.codecs if codec.code == SHUFFLE]
    return (
        all(size == (form.dtype.itemsize,) for size in sizes)
        and SHUFFLE not in codes[1:]
        and sum(code in _COMPRESSORS for code in codes) <= 1
        and codes.count(FLETCHER32) <= 1
    )


def codecs_of(filters: Sequence[Filter]) -> tuple[Codec, ...] | None:
    """Return the codecs that make the same bytes as the filters of a dataset.

    Parameters
    ----------
    filters : sequence of Filter
        The filters, in the order in which they encode.

    Returns
    -------
    tuple of Codec or None
        None if zarr has no such codec, or cannot have them in this order.

    Examples
    --------
    >>> codecs_of([Filter(2, 1, (4,), "shuffle"), Filter(1, 1, (9,), "deflate")])
    (Codec(code=2, options=(4,)), Codec(code=1, options=(9,)))
    >>> codecs_of([Filter(4, 1, (141, 32, 32, 16), "szip")]) is None
    True
    """
    found = []
    for one in filters:
        if one.code not in _NAMES:
            return None
        options = _same_options(one)
        if options is None:
            return None
        found.append(Codec(one.code, options))
    return tuple(found)


def _same_options(one: Filter) -> tuple[int, ...] | None:
    if one.code == FLETCHER32:
        return ()
    if one.code == BLOSC:
        level, shuffle, compressor = _BLOSC_DEFAULT if len(one.options) < _BLOSC_OPTIONS else one.options[4:7]
        is_known = shuffle < len(BLOSC_SHUFFLES) and compressor < len(BLOSC_COMPRESSORS)
        return (level, shuffle, compressor) if is_known else None
    if one.code == ZSTD:
        level = one.options[0] if one.options else _ZSTD_DEFAULT[1]
        return (_level(level - _UNSIGNED if level >= _UNSIGNED // 2 else level, _ZSTD_DEFAULT),)
    # HDF5 sets the options of only the first of two shuffles.
    return one.options[:1] or None


def filters_of(codecs: Sequence[Codec]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield number and options of the filters that make the same bytes as codecs, as HDF5 takes them.

    Parameters
    ----------
    codecs : sequence of Codec
        The codecs, in the order in which they encode.

    Examples
    --------
    >>> list(filters_of([Codec(2, (4,)), Codec(32001, (9, 1, 5))]))
    [(2, ()), (32001, (0, 0, 0, 0, 9, 1, 5))]
    """
    for codec in codecs:
        if codec.code in (SHUFFLE, FLETCHER32):
            yield codec.code, ()
        elif codec.code == BLOSC:
            yield codec.code, (0, 0, 0, 0, *codec.options)
        else:
            yield codec.code, tuple(option % _UNSIGNED for option in codec.options)


def is_readable_payload(form: ZarrForm, data: Data) -> bool:
    """Check what can be checked of a payload without decoding it.

    Parameters
    ----------
    form : ZarrForm
        How it is stored.
    data : bytes-like
        The payload.

    Returns
    -------
    bool
        False if zarr can decode it but HDF5 cannot, such as a zstd frame that does not say its size.

    Raises
    ------
    IntegrityError
        If it cannot be what the codecs make; the message does not name the chunk.
    """
    if len(data) > form.most_nbytes:
        raise IntegrityError(f"it has {len(data)} bytes or more, and {form.most_nbytes} at most can be right")
    nbytes, view = form.nbytes, memoryview(data)
    for codec in reversed(form.codecs):
        if codec.code in _COMPRESSORS:
            before = form.codecs[: form.codecs.index(codec)]
            nbytes += _CHECKSUM * sum(one.code == FLETCHER32 for one in before)
            return _HEADERS[codec.code](view, nbytes)
        view = view[:-_CHECKSUM] if codec.code == FLETCHER32 else view
    if len(view) != nbytes:
        raise IntegrityError(f"it holds {len(view)} bytes, and its chunk has {nbytes}")
    return True


def _is_zlib(view: memoryview, nbytes: int) -> bool:  # noqa: ARG001
    # RFC 1950: the method, a checksum of these two bytes, and no dictionary.
    if len(view) < 2 or view[0] & 15 != 8 or (view[0] << 8 | view[1]) % 31 or view[1] & 32:
        raise IntegrityError("it does not begin as a zlib stream does")
    return True


def _is_blosc(view: memoryview, nbytes: int) -> bool:
    if len(view) < _BLOSC_HEADER:
        raise IntegrityError(f"it has {len(view)} bytes, fewer than the header of blosc")
    whole, stored = (int.from_bytes(view[at : at + 4], "little") for at in (4, 12))
    if whole != nbytes or stored != len(view):
        raise IntegrityError(
            f"its blosc header says {stored} bytes for {whole}, but it has {len(view)}, and its chunk {nbytes}"
        )
    return True


def _is_zstd(view: memoryview, nbytes: int) -> bool:
    # RFC 8878, 3.1.1: magic number, descriptor, window, dictionary, size of the content.
    if len(view) < 6 or bytes(view[:4]) != b"\x28\xb5\x2f\xfd":
        raise IntegrityError("it does not begin as a zstd frame does")
    descriptor = view[4]
    is_single, size = bool(descriptor & 32), (0, 2, 4, 8)[descriptor >> 6]
    if descriptor & 3 or (not size and not is_single):
        return False
    at, size = 5 + (not is_single), size or 1
    content = int.from_bytes(view[at : at + size], "little") + (256 if size == 2 else 0)
    if content != nbytes:
        raise IntegrityError(f"its zstd frame says {content} bytes, and its chunk has {nbytes}")
    return True


_HEADERS = {DEFLATE: _is_zlib, BLOSC: _is_blosc, ZSTD: _is_zstd}
