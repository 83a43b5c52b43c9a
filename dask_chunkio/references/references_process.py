"""Make the references of a file in a separate process, with limits: HDF5 crashes on some damaged files.

The answer is one line of JSON on standard output: ``{"result": ...}``, or ``{"error": class, "message": words}``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

from dask_chunkio.child_process import reserve_output
from dask_chunkio.errors import ChunkIOError
from dask_chunkio.process_limits import limit_memory, limit_processor_time
from dask_chunkio.references.scan import DAMAGED
from dask_chunkio.references.write import make_references
from dask_chunkio.storage.filesystem.io import memory_nbytes

__all__ = ["main"]

# For any file, and for each byte of it: the index of a small chunk is a few bytes, its row in memory about a hundred.
_SECONDS, _NBYTES_A_SECOND = 20, 1 << 20
_NBYTES, _NBYTES_FOR_A_BYTE = 2 << 30, 16


def main() -> None:
    """Make the references that the only argument, which `write_references` builds, describes."""
    answer = os.fdopen(reserve_output(), "w", encoding="utf-8")
    path, *others = json.loads(sys.argv[1])
    _limit(path)
    said: dict[str, Any]
    try:
        said = {"result": dataclasses.asdict(make_references(path, *others))}
    except ChunkIOError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    except DAMAGED as error:
        words = str(error) or type(error).__name__
        said = {"error": "IntegrityError", "message": f"{path}: its references cannot be made ({words})"}
    answer.write(json.dumps(said))
    answer.close()


def _limit(path: str) -> None:
    """Limit time and memory of this process by the size of a file."""
    size = os.stat(path).st_size if os.path.exists(path) else 0
    limit_processor_time(_SECONDS + size // _NBYTES_A_SECOND)
    limit_memory(min(_NBYTES + _NBYTES_FOR_A_BYTE * size, memory_nbytes()))
