"""Delay the end of the interpreter while HDF5 may call code of this package.

HDF5 calls our file objects.  A daemon thread that still runs when the interpreter ends never continues: it keeps
HDF5's lock, and HDF5's own clean-up at the end of the process waits for that lock for ever.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from dask_chunkio.errors import TargetError
from dask_chunkio.storage.filesystem.descriptors import in_child

__all__ = ["inside_hdf5", "leave"]

# Seconds that the end of the process waits for a transaction, which reads and writes metadata only.
_PATIENCE = 30.0


class _Inside:
    """The number of threads that are inside HDF5, where it may call our code."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Reset the count: none of the parent's threads runs in a forked child."""
        self.changed = threading.Condition()
        self.count = 0
        self.is_leaving = False


_inside = _Inside()
in_child(_inside.begin_anew)


@contextlib.contextmanager
def inside_hdf5() -> Iterator[None]:
    """Delay the end of the process until the block is left.

    Raises
    ------
    TargetError
        If the process is ending.
    """
    with _inside.changed:
        if _inside.is_leaving:
            raise TargetError("the process is ending: nothing more is committed; go on with resume=True")
        _inside.count += 1
    try:
        yield
    finally:
        with _inside.changed:
            _inside.count -= 1
            _inside.changed.notify_all()


def leave() -> None:
    """Let no more threads enter, and wait for those that are inside."""
    with _inside.changed:
        _inside.is_leaving = True
        _inside.changed.wait_for(lambda: _inside.count == 0, _PATIENCE)
