"""The boot of this machine: what was not on the disk before it is lost."""

from __future__ import annotations

import functools
import socket

import psutil

__all__ = ["boot_id"]


@functools.cache
def boot_id() -> str:
    """Return an identifier of the current boot of this machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"{socket.gethostname()[:64]} {psutil.boot_time():.0f}"
