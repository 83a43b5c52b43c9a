"""The programs that have a file open."""

from __future__ import annotations

import contextlib
import os

import h5py

__all__ = ["close_it"]


def close_it(path: str) -> str:
    """Return in words which program has a file open, and what to do about it."""
    if _is_open_here(path):
        return "this process has it open itself with h5py; close that File (or use it in a 'with' block) first"
    return "another program has it open; close it there"


def _is_open_here(path: str) -> bool:
    for file in h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE):
        # Files in memory have names too, which name no file on the disk.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if os.path.samefile(os.fsdecode(file.name), path):
                return True
    return False
