"""References as kerchunk's JSON, version 1."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import numpy as np

from dask_chunkio.references.model import ArrayReferences, ChunkTable, FileReferences

__all__ = ["json_pieces"]

_AT_ONCE = 8192


def json_pieces(references: FileReferences) -> Iterator[bytes]:
    """Yield the content of the file in pieces.

    Parameters
    ----------
    references : FileReferences
        What it says.
    """
    yield b'{"version":1,"refs":{\n'
    # kerchunk has the documents of zarr as text, not as objects.
    metadata = (f"{json.dumps(key)}:{json.dumps(_compact(value))}" for key, value in references.metadata().items())
    yield ",\n".join(metadata).encode()
    for array in references.arrays:
        yield from _of_array(array, references.url)
    yield b"\n}}\n"


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _of_array(array: ArrayReferences, url: str) -> Iterator[bytes]:
    rank = max(1, len(array.shape))
    name = json.dumps(f"{array.name}/")[:-1].replace("%", "%%")
    line = f',\n{name}{".".join(["%d"] * rank)}":[{json.dumps(url).replace("%", "%%")},%d,%d]'
    for start in range(0, len(array.table), _AT_ONCE):
        part = array.table[start : start + _AT_ONCE]
        # One operation for all lines of a part: several times faster than one for each line.
        yield (line * len(part) % tuple(_rows(array, part).ravel().tolist())).encode()
    for number, data in array.inlined.items():
        cell = [0] if not array.shape else [int(one) for one in np.unravel_index(number, array.cells)]
        key = json.dumps(f"{array.name}/{'.'.join(map(str, cell))}")
        yield f",\n{key}:{json.dumps(_inlined(data))}".encode()


def _rows(array: ArrayReferences, part: ChunkTable) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return one row for each chunk: its cell, its offset and its length."""
    cells = np.unravel_index(part.numbers, array.cells) if array.shape else (part.numbers,)
    return np.stack([*cells, part.offsets, part.lengths], axis=1)


def _inlined(data: bytes) -> str:
    # Always so: text that happens to be JSON, or begins with "base64:", would be read as something else.
    return f"base64:{base64.b64encode(data).decode()}"
