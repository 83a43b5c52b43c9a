"""A lock on an open file that the system releases when its holder dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["locked"]

try:
    import fcntl
except ImportError:  # Windows: threads of one process only

    @contextlib.contextmanager
    def locked(descriptor: int) -> Iterator[None]:  # noqa: ARG001
        """Do nothing: this system has no ``flock``."""
        yield

else:

    @contextlib.contextmanager
    def locked(descriptor: int) -> Iterator[None]:
        """Hold ``flock(LOCK_EX)`` on an open file; waits for other holders."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
