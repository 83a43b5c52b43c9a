"""A lock on an open file that the system releases when its holder dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["has_writer", "locked"]

try:
    import fcntl
except ImportError:  # Windows: threads of one process only

    @contextlib.contextmanager
    def locked(descriptor: int) -> Iterator[None]:  # noqa: ARG001
        """Do nothing: this system has no ``flock``."""
        yield

    def has_writer(path: str) -> bool:  # noqa: ARG001
        """Say no: this system has no ``flock``."""
        return False

else:

    @contextlib.contextmanager
    def locked(descriptor: int) -> Iterator[None]:
        """Hold ``flock(LOCK_EX)`` on an open file; waits for other holders."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def has_writer(path: str) -> bool:
        """Say whether somebody, in this process too, has the file open for writing through HDF5."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
        finally:
            os.close(descriptor)
        return False
