"""The hole: memory that stands for a payload while HDF5 finds a place for it.

A private, read-only, never-touched memory map: it takes address space, no memory.  It is
kept for the life of the process; a longer one is made when a payload needs it.
"""

from __future__ import annotations

import mmap
import threading
from typing import Any

import numpy as np

from dask_chunkio.grid import Array

__all__ = ["hole"]

_SMALLEST = 64 << 20
_growing = threading.Lock()
_holes: list[Array] = []


def hole(nbytes: int) -> Array:
    """Return a hole of exactly `nbytes` (a plain slice would shorten itself in silence)."""
    found = _holes[-1] if _holes else None
    return found[:nbytes] if found is not None and len(found) >= nbytes else _grown(nbytes)[:nbytes]


def _grown(nbytes: int) -> Array:
    with _growing:
        if not _holes or len(_holes[-1]) < nbytes:
            _holes.append(_map(max(_SMALLEST, 1 << (nbytes - 1).bit_length())))
        return _holes[-1]


def _map(nbytes: int) -> Array:
    return np.frombuffer(mmap.mmap(-1, nbytes, **_options()), np.uint8)


def _options() -> dict[str, Any]:
    if not hasattr(mmap, "MAP_PRIVATE"):
        return {"access": mmap.ACCESS_READ}
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return {"flags": flags, "prot": mmap.PROT_READ}
