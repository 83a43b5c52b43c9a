"""Files of the tests: where they are made, what they hold, and which are open."""

import contextlib
import gc
import hashlib
import os
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import h5py

# Where programs make files that need not reach the disk; pytest has a folder there, and removes it.
MEMORY = os.environ.get("CHUNKIO_MEMORY") or ("/dev/shm" if os.path.isdir("/dev/shm") else None)
HIDDEN = ".dask_chunkio-"

# What is at a path, and the attributes.
Entry = tuple[Any, dict[str, str]]


def digest(path: str | os.PathLike[str]) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def values(data: Any) -> tuple[Any, ...]:
    """Return what two arrays or datasets have to share to be equal to the byte."""
    return data.shape, data.dtype.str, data[...].tobytes()


def content(
    path: str | os.PathLike[str], values: Callable[[Any], Any] = values, without: Container[str] = ()
) -> dict[str, Entry]:
    """Return everything that an HDF5 file holds, by name, but what is hidden in it.

    Parameters
    ----------
    path : path
        The file; without it, there is nothing.
    values : callable
        Takes a dataset, and returns what is compared of it.
    without : container of str
        Names of attributes that do not count.

    Returns
    -------
    dict
        For each name, ``"group"`` or the values, and the attributes.
    """
    found: dict[str, Entry] = {}
    if not os.path.lexists(path):
        return found

    def attributes(item: Any) -> dict[str, str]:
        return {name: repr(value) for name, value in item.attrs.items() if name not in without}

    def look(name: str, item: Any) -> None:
        if not name.startswith(HIDDEN):
            found["/" + name] = (values(item) if isinstance(item, h5py.Dataset) else "group", attributes(item))

    with h5py.File(path, "r") as file:
        file.visititems(look)
        found["/"] = ("group", attributes(file))
    return found


def hidden(path: str | os.PathLike[str]) -> list[str]:
    """Return the names that no finished write leaves."""
    if not os.path.lexists(path):
        return []
    with h5py.File(path, "r") as file:
        return [name for name in file if name.startswith(HIDDEN)]


def open_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the files below a folder that this process has open, where the system tells."""
    found: list[str] = []
    folder = os.path.realpath(folder)
    with contextlib.suppress(FileNotFoundError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                path = os.readlink(f"/proc/self/fd/{number}")
                if path.startswith(folder + os.sep):
                    found.append(os.path.relpath(path, folder))
    return sorted(found)


def still_open(folder: str | os.PathLike[str], seconds: float = 5) -> list[str]:
    """Return the files below a folder that this process keeps open.

    The thread that keeps a write alive lets go of it soon after its graph is gone; what an error refers to may need
    the garbage collector for that.
    """
    end = time.monotonic() + seconds
    while (found := open_files(folder)) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)
    return found
