"""Settings of the C library's allocator in worker processes that a nanny of dask starts."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

__all__ = ["keep_freed"]

# The environment variable that nannies set, and the value that they set by default.
_TRIM, _NANNYS = "MALLOC_TRIM_THRESHOLD_", "65536"
# Constants from <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGE = 16 << 20, 8 << 20


@functools.cache
def keep_freed() -> bool:
    """Let glibc keep up to 16 MiB of freed memory for each thread, instead of the 64 KiB that a nanny of dask sets.

    With 64 KiB, each chunk, payload and state of a codec gets new pages from the system, which takes longer than most
    codecs.  Blocks of 8 MiB or more, such as buffers, are still returned to the system at once.

    Returns
    -------
    bool
        Whether anything was changed.  Nothing is changed if ``MALLOC_TRIM_THRESHOLD_`` is not set or does not have
        distributed's default value, or without glibc.

    Examples
    --------
    >>> "MALLOC_TRIM_THRESHOLD_" in os.environ or not keep_freed()
    True
    """
    if sys.platform != "linux" or os.environ.get(_TRIM) != _NANNYS:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(which, nbytes) == 1 for which, nbytes in ((_M_TRIM_THRESHOLD, _KEPT), (_M_MMAP_THRESHOLD, _LARGE))
    )
