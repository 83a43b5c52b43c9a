"""The C library's allocator in the processes of dask's nannies."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

__all__ = ["keep_freed"]

# What distributed has its nannies set, unless its user says otherwise.
_TRIM, _NANNYS = "MALLOC_TRIM_THRESHOLD_", "65536"
# The numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGE = 16 << 20, 8 << 20


@functools.cache
def keep_freed() -> bool:
    """Have glibc keep up to 16 MiB of freed memory a thread, where dask's nanny has it keep 64 KiB.

    With so little, each chunk, payload and codec's state gets pages from the system anew, which takes longer than most
    codecs.  What has 8 MiB or more, as buffers have, is still given back at once.

    Returns
    -------
    bool
        Whether anything was changed: not where the environment has no ``MALLOC_TRIM_THRESHOLD_``, or one that is not
        distributed's own, and not without glibc.

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
