"""Strings of variable length: HDF5 keeps them in heaps, so references contain them."""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np

from dask_chunkio.geometry.grid import Array, ChunkGrid, Shape
from dask_chunkio.references.model import Unsupported

__all__ = ["TEXT_CODEC", "decoded_text", "encoded_text"]

TEXT_CODEC = {"id": "vlen-utf8"}
_MOST_STRINGS, _MOST_NBYTES = 1 << 20, 16 << 20
# Bytes that HDF5 may return at once: each string may be as long as the file.
_AT_ONCE_NBYTES = 64 << 20
_LENGTH = np.dtype("<u4")


def encoded_text(dataset: h5py.Dataset, size: int) -> bytes:
    """Return all strings of a dataset as the codec ``vlen-utf8`` of numcodecs encodes them.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset.
    size : int
        Bytes of the file.

    Raises
    ------
    Unsupported
        If they are too large to be a part of references, or are not UTF-8.
    """
    count = math.prod(dataset.shape)
    if count > _MOST_STRINGS:
        raise Unsupported(f"its {count} strings of variable length are too many to be a part of references")
    pieces, nbytes = [np.array(count, _LENGTH).tobytes()], 0
    for block in _blocks(dataset, max(1, min(4096, _AT_ONCE_NBYTES // max(1, size)))):
        for value in block.ravel().tolist():
            words = value if isinstance(value, bytes) else str(value).encode()
            nbytes += len(words)
            if nbytes > _MOST_NBYTES:
                raise Unsupported(
                    f"its strings of variable length have more than {_MOST_NBYTES} bytes, too many to be a part of "
                    f"references"
                )
            _require_utf8(words)
            pieces += (np.array(len(words), _LENGTH).tobytes(), words)
    return b"".join(pieces)


def decoded_text(data: bytes, shape: Shape) -> Array:
    """Return the strings that `encoded_text` has encoded, as an array of objects."""
    found, at = np.empty(math.prod(shape), object), _LENGTH.itemsize
    for number in range(len(found)):
        start = at + _LENGTH.itemsize
        at = start + int(np.frombuffer(data, _LENGTH, 1, at)[0])
        found[number] = data[start:at].decode()
    return found.reshape(shape)


def _blocks(dataset: h5py.Dataset, count: int) -> Any:
    """Yield the elements in the order of C, at most `count` at a time."""
    if not dataset.shape:
        yield np.asarray(dataset[()], object)
        return
    shape = list(dataset.shape)
    # One element along all axes but the last ones, of which `count` has room for.
    block = [1] * len(shape)
    for axis in reversed(range(len(shape))):
        block[axis] = min(shape[axis], count)
        count //= block[axis]
        if block[axis] < shape[axis]:
            break
    for selection in ChunkGrid(tuple(shape), tuple(block)):
        yield dataset[selection]


def _require_utf8(words: bytes) -> None:
    try:
        words.decode()
    except UnicodeDecodeError as error:
        raise Unsupported(f"one of its strings is not UTF-8 ({error})") from error
