"""References as kerchunk's folder of parquet files, which fsspec's ``LazyReferenceMapper`` reads."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError
from dask_chunkio.geometry.grid import Array
from dask_chunkio.references.model import ArrayReferences, FileReferences
from dask_chunkio.storage.filesystem.io import sync_file

__all__ = ["require_parquet", "write_parquet"]

# Rows of each file; fsspec keeps whole files in memory.
_RECORD_ROWS = 10000


def require_parquet() -> None:
    """Raise an error if the packages that write parquet are missing.

    Raises
    ------
    ArgumentError
        If one cannot be imported.
    """
    try:
        import fastparquet  # noqa: F401
        import pandas as pd  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            f"references as parquet need pandas and fastparquet ({error}); install dask_chunkio[references], or give a "
            f"name that ends with .json"
        ) from error


def write_parquet(references: FileReferences, folder: str) -> None:
    """Write the files into an empty folder.

    Parameters
    ----------
    references : FileReferences
        What they say.
    folder : str
        The folder.
    """
    for array in references.arrays:
        _write_array(array, references.url, os.path.join(folder, *array.name.split("/")))
    document = {"metadata": references.metadata(), "record_size": _RECORD_ROWS}
    with open(os.path.join(folder, ".zmetadata"), "w", encoding="utf-8") as file:
        json.dump(document, file, separators=(",", ":"))
    sync_file(file.name)


def _write_array(array: ArrayReferences, url: str, folder: str) -> None:
    inlined = np.fromiter(array.inlined, np.int64, len(array.inlined))
    bounds = np.unique(np.concatenate([array.table.numbers // _RECORD_ROWS, inlined // _RECORD_ROWS]))
    if len(bounds):
        os.makedirs(folder, exist_ok=True)
    for record in bounds.tolist():
        _write_record(array, url, inlined, record, os.path.join(folder, f"refs.{record}.parq"))


def _write_record(array: ArrayReferences, url: str, inlined: Array, record: int, path: str) -> None:
    import fastparquet

    first = record * _RECORD_ROWS
    start, stop = np.searchsorted(array.table.numbers, [first, first + _RECORD_ROWS])
    part = array.table[start:stop]
    mine = inlined[(inlined >= first) & (inlined < first + _RECORD_ROWS)]
    columns = _columns(url, part.numbers - first, part.offsets, part.lengths)
    raw = np.full(_RECORD_ROWS, None, object)
    for number in mine.tolist():
        raw[number - first] = _escaped(array.inlined[number])
    fastparquet.write(
        path,
        _frame({**columns, "raw": raw}),
        compression="ZSTD",
        write_index=False,
        stats=False,
        object_encoding={"path": "utf8", "raw": "bytes"},
        has_nulls=["path", "raw"],
    )
    sync_file(path)


def _columns(url: str, rows: Array, offsets: Array, lengths: Array) -> dict[str, Any]:
    found = {name: np.zeros(_RECORD_ROWS, np.int64) for name in ("offset", "size")}
    found["offset"][rows], found["size"][rows] = offsets, lengths
    paths = np.full(_RECORD_ROWS, None, object)
    paths[rows] = url
    return {"path": paths, **found}


def _frame(columns: dict[str, Any]) -> Any:
    import pandas as pd

    return pd.DataFrame(columns, copy=False)


def _escaped(data: bytes) -> bytes:
    # fsspec decodes what begins like this.
    return b"base64:" + base64.b64encode(data) if data.startswith(b"base64:") else data
