"""References to the chunks of one dataset, for each layout that HDF5 has."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat
from dask_chunkio.filters.hdf5_encoder import read_filters
from dask_chunkio.geometry.grid import Array, Shape
from dask_chunkio.references.attributes import FILL_ATTRIBUTE, attribute_of
from dask_chunkio.references.dimensions import PhonyDimensions, dimensions_of
from dask_chunkio.references.elements import problem_of_dtype
from dask_chunkio.references.kerchunk_codecs import codecs_of
from dask_chunkio.references.model import ArrayReferences, ChunkTable, Unsupported
from dask_chunkio.references.text import TEXT_CODEC, encoded_text
from dask_chunkio.storage.chunk_index import count_stored, list_stored
from dask_chunkio.storage.filesystem.io import pread_into
from dask_chunkio.storage.hdf5.dataset import is_plain_type
from dask_chunkio.storage.hdf5.h5py_compat import keeps_partial_chunks_unfiltered
from dask_chunkio.storage.journal.journal import Entries

__all__ = ["Reading", "array_of"]

# A dataset with more small chunks than this has none of them inlined.
_MOST_INLINED = 4096
# A dataset without chunks is one chunk up to this size, as kerchunk has it; a larger one is split.
_MOST_CONTIGUOUS, _LEAST_CONTIGUOUS = 64 << 20, 1 << 20
# The least bytes that an index of HDF5 needs for a chunk; chunks without filters may need none but their own.
_ENTRY_NBYTES = 8
# zarr keeps numbers of chunks in 64 bits.
_MOST_CHUNKS = 1 << 62


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read.

    Parameters
    ----------
    descriptor : int
        The open file, for chunks that are inlined.
    size : int
        Its size in bytes.
    inline_nbytes : int
        Chunks that are stored in fewer bytes than this become part of the references.
    """

    descriptor: int
    size: int
    inline_nbytes: int


def array_of(
    path: str, dataset: h5py.Dataset, reading: Reading, known: Entries | None, phony: PhonyDimensions
) -> ArrayReferences:
    """Return the references to a dataset, without its attributes.

    Parameters
    ----------
    path : str
        Its path, without a slash at its start.
    dataset : h5py.Dataset
        The dataset.
    reading : Reading
        How the file is read.
    known : numpy.ndarray, optional
        The places of all of its chunks, in the order of the grid.
    phony : PhonyDimensions
        The names of axes without scales in its group.

    Raises
    ------
    Unsupported
        If references cannot describe it, so that every reader finds what HDF5 reads.
    IntegrityError
        If what the file says of it cannot be.
    """
    if dataset.shape is None:
        raise Unsupported("it has no elements (an empty dataspace), which zarr does not have")
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL:
        raise Unsupported("it is a virtual dataset, whose data are in other datasets; make references to those files")
    if plist.get_external_count():
        raise Unsupported("its data are in external files; copy the file with h5repack, and use the copy")
    names = phony.named(dataset.shape, dimensions_of(dataset))
    if (text := h5py.check_string_dtype(_dtype(dataset))) is not None and text.length is None:
        chunk = {0: encoded_text(dataset, reading.size)} if math.prod(dataset.shape) else {}
        whole = _at_least_one(dataset.shape)
        return ArrayReferences(path, dataset.shape, whole, dataset.dtype, None, (TEXT_CODEC,), names, {}, inlined=chunk)
    _require_plain(dataset)
    return _placed(path, dataset, reading, known, names)


def _dtype(dataset: h5py.Dataset) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] = dataset.dtype
    except (TypeError, ValueError) as error:
        raise Unsupported(f"its type has no numpy dtype ({error})") from error
    return found


def _require_plain(dataset: h5py.Dataset) -> None:
    dtype = dataset.dtype
    if dtype.hasobject:
        raise Unsupported("its elements have a variable length or are references of HDF5, which are no bytes in place")
    if (problem := problem_of_dtype(dtype)) is not None:
        raise Unsupported(problem)
    kind = dataset.id.get_type()
    if isinstance(kind, h5py.h5t.TypeStringID):
        _require_padded(kind)
    elif not is_plain_type(dataset):
        raise Unsupported(f"its type in the file is not that of {dtype} in memory, so that HDF5 converts it")


def _require_padded(kind: h5py.h5t.TypeStringID) -> None:
    # What is behind the null byte of a string that ends with one is anything; netCDF has such strings of one byte.
    padding = kind.get_strpad()
    if padding != h5py.h5t.STR_NULLPAD and not (padding == h5py.h5t.STR_NULLTERM and kind.get_size() == 1):
        raise Unsupported(
            "its strings end at a null byte or are padded with spaces, which readers of zarr do not know; store them "
            "padded with null bytes, as h5py does"
        )


def _placed(
    path: str, dataset: h5py.Dataset, reading: Reading, known: Entries | None, names: tuple[str, ...]
) -> ArrayReferences:
    layout = dataset.id.get_create_plist().get_layout()
    codecs: tuple[dict[str, Any], ...] = ()
    inlined: dict[int, bytes] = {}
    chunk_shape, table = _at_least_one(dataset.shape), ChunkTable.empty()
    if layout == h5py.h5d.COMPACT:
        # At most 64 kB, in the metadata.
        inlined = {0: dataset[()].tobytes()} if math.prod(dataset.shape) else {}
    elif layout == h5py.h5d.CONTIGUOUS:
        chunk_shape, table = _contiguous(dataset, reading.size)
    else:
        chunk_shape, table, codecs = _chunked(dataset, reading.size, known)
    if not inlined:
        table, inlined = _with_inlined(table, reading)
    count = math.prod(math.ceil(n / c) for n, c in zip(dataset.shape, chunk_shape, strict=True))
    fill = _fill(dataset, reading.size, len(table) + len(inlined) < count)
    made = ArrayReferences(path, dataset.shape, chunk_shape, dataset.dtype, fill, codecs, names, {}, table, inlined)
    return replace(made, is_masked=FILL_ATTRIBUTE in dataset.attrs)


def _at_least_one(shape: Shape) -> Shape:
    return tuple(max(1, int(length)) for length in shape)


def _contiguous(dataset: h5py.Dataset, size: int) -> tuple[Shape, ChunkTable]:
    shape, offset = _at_least_one(dataset.shape), dataset.id.get_offset()
    nbytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = int(dataset.id.get_storage_size())
    # Behind a user block, HDF5 gives an offset to data that were never written, too.
    if offset is None or not stored or not nbytes:
        return shape, ChunkTable.empty()
    if stored != nbytes or offset + nbytes > size:
        raise IntegrityError(
            f"{dataset.name} has {nbytes} bytes, and {stored} from byte {offset} on in a file of {size} bytes; the "
            f"file is damaged, or was cut off"
        )
    chunk_shape = _split(shape, dataset.dtype.itemsize)
    each = math.prod(chunk_shape) * dataset.dtype.itemsize
    numbers = np.arange(nbytes // each, dtype=np.int64)
    return chunk_shape, ChunkTable(numbers, offset + numbers * each, np.full(len(numbers), each, np.int64))


def _split(shape: Shape, itemsize: int) -> Shape:
    """Return the shape of equal pieces of contiguous data, none of which is cut off; one piece if there is no other."""
    found, left = list(shape), math.prod(shape) * itemsize
    for axis, length in enumerate(shape):
        if left <= _MOST_CONTIGUOUS:
            break
        row = left // length
        rows = max((d for d in _divisors(length) if d * row <= _MOST_CONTIGUOUS), default=1)
        if rows * row < _LEAST_CONTIGUOUS:
            # A length with few divisors: one large piece is better than millions of small ones.
            break
        found[axis], left = rows, rows * row
    return tuple(found)


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(min(number, 1 << 40)) + 1) if number % d == 0]
    return [*small, *(number // d for d in small)]


def _chunked(
    dataset: h5py.Dataset, size: int, known: Entries | None
) -> tuple[Shape, ChunkTable, tuple[dict[str, Any], ...]]:
    plist = dataset.id.get_create_plist()
    form = ChunkFormat(tuple(map(int, dataset.chunks)), dataset.dtype, read_filters(plist))
    cells = tuple(math.ceil(n / c) for n, c in zip(dataset.shape, form.chunk_shape, strict=True))
    if math.prod(cells) > _MOST_CHUNKS:
        raise Unsupported(f"its shape {dataset.shape} has room for more chunks than zarr can number")
    is_cut = any(n % c for n, c in zip(dataset.shape, form.chunk_shape, strict=True))
    if form.filters and is_cut and keeps_partial_chunks_unfiltered(plist):
        raise Unsupported("its chunks at the far edge are stored without the filters of the others")
    if known is None:
        numbers, places = _listed(dataset, cells, form, size)
    else:
        numbers = np.flatnonzero(known["nbytes"])
        places = known[numbers]
    _require_possible(dataset, form, places, size)
    mask = _mask(dataset.name, form, numbers, places["mask"])
    table = ChunkTable(numbers, places["offset"].astype(np.int64), places["nbytes"].astype(np.int64))
    return form.chunk_shape, table, codecs_of(form, mask)


def _listed(dataset: h5py.Dataset, cells: Shape, form: ChunkFormat, size: int) -> tuple[Array, Entries]:
    """Return the numbers and the places of the stored chunks, in the order of their numbers."""
    count, most = count_stored(dataset), size // max(1, min(_ENTRY_NBYTES, form.nbytes))
    if count > most:
        raise IntegrityError(
            f"{dataset.name} claims {count} chunks, and a file of {size} bytes has room for at most {most}; the file "
            f"is damaged, or was cut off"
        )
    stored = list_stored(dataset)
    cell, rest = np.divmod(stored.origins, np.array(form.chunk_shape, np.int64))
    inside = ((cell >= 0) & (cell < np.array(cells, np.int64))).all(axis=1)
    if rest.any() or not inside.all():
        raise IntegrityError(f"{dataset.name} lists chunks outside of its shape {dataset.shape}; the file is damaged")
    numbers = np.ravel_multi_index(tuple(cell.T), cells) if len(cell) else np.zeros(0, np.int64)
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    if (numbers[1:] == numbers[:-1]).any():
        raise IntegrityError(f"{dataset.name} lists a chunk twice; the file is damaged")
    return numbers, stored.places[order]


def _require_possible(dataset: h5py.Dataset, form: ChunkFormat, places: Entries, size: int) -> None:
    offsets, nbytes = places["offset"], places["nbytes"]
    outside = (nbytes > size) | (offsets > size - np.minimum(nbytes, size)) | (offsets == 0)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise IntegrityError(
            f"{dataset.name}: a chunk has {int(nbytes[first])} bytes from byte {int(offsets[first])} on, and the file "
            f"has {size}; the file is damaged, or was cut off"
        )
    if not form.filters and (nbytes != form.nbytes).any():
        raise IntegrityError(f"{dataset.name} has chunks of other than {form.nbytes} bytes; the file is damaged")


def _mask(name: str, form: ChunkFormat, numbers: Array, masks: Array) -> int:
    """Return the mask of all chunks.

    Raises
    ------
    Unsupported
        If chunks have skipped different filters.
    """
    if not len(masks):
        return 0
    masks = masks & ((1 << len(form.filters)) - 1)
    differs = np.flatnonzero(masks != masks[0])
    if not len(differs):
        return int(masks[0])
    first = int(differs[0])
    position = int(masks[0] ^ masks[first]).bit_length() - 1
    # Name one of the fewer.
    odd = first if len(differs) <= len(masks) // 2 else 0
    raise Unsupported(
        f"chunk {int(numbers[odd])} and others of {name} differ in whether the filter {form.filters[position]} was "
        f"skipped, as it did not make them smaller, and readers of references do not know that; write it again with "
        f"gzip or zstd, which skip no chunk"
    )


def _with_inlined(table: ChunkTable, reading: Reading) -> tuple[ChunkTable, dict[int, bytes]]:
    small = table.lengths < reading.inline_nbytes
    if not small.any() or np.count_nonzero(small) > _MOST_INLINED:
        return table, {}
    inlined, mine = {}, table[small]
    for number, offset, nbytes in zip(mine.numbers.tolist(), mine.offsets.tolist(), mine.lengths.tolist(), strict=True):
        data = bytearray(nbytes)
        if pread_into(reading.descriptor, memoryview(data), offset) < nbytes:
            raise IntegrityError(f"the file ends before byte {offset + nbytes}, where a chunk ends")
        inlined[number] = bytes(data)
    return table[~small], inlined


def _fill(dataset: h5py.Dataset, size: int, has_missing: bool) -> Array | None:
    """Return the fill value that readers need; None if they need none.

    xarray takes the fill value of zarr for the value that stands for missing data, so a dataset without such a value,
    of which all chunks are stored, has none.
    """
    masked = None
    if FILL_ATTRIBUTE in dataset.attrs:
        masked = _converted(attribute_of(dataset, FILL_ATTRIBUTE, size), dataset)
    if not has_missing:
        return masked
    fill = np.zeros((), dataset.dtype)
    plist = dataset.id.get_create_plist()
    if plist.fill_value_defined() != h5py.h5d.FILL_VALUE_UNDEFINED:
        plist.get_fill_value(fill)
    if masked is not None and masked.tobytes() != fill.tobytes():
        raise Unsupported(
            f"it has chunks that were never written, which read as {fill}, but its attribute {FILL_ATTRIBUTE} is "
            f"{masked}, and zarr has only one such value"
        )
    return fill


def _converted(value: Any, dataset: h5py.Dataset) -> Array:
    try:
        found: Array = np.asarray(value).reshape(-1)[:1].astype(dataset.dtype, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise Unsupported(f"its attribute {FILL_ATTRIBUTE} is no element of {dataset.dtype} ({error})") from error
    if not len(found):
        raise Unsupported(f"its attribute {FILL_ATTRIBUTE} has no elements")
    return found.reshape(())
