"""The placeholder: memory that stands for a payload while HDF5 finds its place.

Private, never-touched memory maps: they take address space, no memory.  They are kept for the
life of the process; a longer one is made when a payload needs it.
"""

from __future__ import annotations

import mmap
import threading
from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import Array

__all__ = ["placeholder", "target_placeholder"]

_SMALLEST = 64 << 20
_growing = threading.Lock()
_placeholders: list[Array] = []
_targets: list[Array] = []
# Of each target, by its length: asking numpy takes as long as HDF5's search does.
_addresses: dict[int, int] = {}


def placeholder(nbytes: int) -> Array:
    """Return a read-only placeholder of exactly `nbytes` (a plain slice would shorten itself in silence)."""
    return _at_least(_placeholders, nbytes)[:nbytes]


def target_placeholder(nbytes: int) -> tuple[Array, int]:
    """Return a placeholder of at least `nbytes` that HDF5 may be told to read a payload into, and its address."""
    found = _at_least(_targets, nbytes)
    if len(found) not in _addresses:
        _addresses[len(found)] = found.__array_interface__["data"][0]
    return found, _addresses[len(found)]


def _at_least(maps: list[Array], nbytes: int) -> Array:
    found = maps[-1] if maps else None
    return found if found is not None and len(found) >= nbytes else _grown(maps, nbytes)


def _grown(maps: list[Array], nbytes: int) -> Array:
    with _growing:
        if not maps or len(maps[-1]) < nbytes:
            maps.append(_map(max(_SMALLEST, 1 << (nbytes - 1).bit_length()), is_target=maps is _targets))
        return maps[-1]


def _map(nbytes: int, is_target: bool) -> Array:
    return np.frombuffer(mmap.mmap(-1, nbytes, **_options(is_target)), np.uint8)


def _options(is_target: bool) -> dict[str, Any]:
    if not hasattr(mmap, "MAP_PRIVATE"):
        return {} if is_target else {"access": mmap.ACCESS_READ}
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return {"flags": flags, "prot": mmap.PROT_READ | (mmap.PROT_WRITE if is_target else 0)}
