"""Limits that a process sets for itself, because HDF5 may loop or ask for any number of bytes on a damaged file."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    import resource

__all__ = ["limit_memory", "limit_processor_time", "write_no_core"]


def limit_memory(nbytes: int) -> None:
    """Refuse this process more memory than `nbytes`; Windows has no such limit."""
    if sys.platform != "win32":
        _lower(resource.RLIMIT_AS, nbytes)


def limit_processor_time(seconds: int) -> None:
    """End this process when it takes so many seconds more; Windows has no such limit."""
    if sys.platform != "win32":
        used = resource.getrusage(resource.RUSAGE_SELF)
        _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)


def write_no_core() -> None:
    """Leave no core file of a crash."""
    if sys.platform != "win32":
        _lower(resource.RLIMIT_CORE, 0)


def _lower(limit: int, value: int) -> None:
    """Set a limit to a value, or to the most that a process without privileges may have."""
    if sys.platform != "win32":
        most = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if most == resource.RLIM_INFINITY else min(value, most), most))
