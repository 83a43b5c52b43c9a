"""Mounts of `network_file_system.c`: hosts of one network file system, on this machine."""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "network_file_system.c"


@functools.cache
def file_system() -> tuple[Any, str]:
    """The path of the program, and what is missing where there is none."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or shutil.which("fusermount3") is None:
        return None, "no file system can be mounted: /dev/fuse or fusermount3 are missing (package fuse3)"
    if shutil.which("gcc") is None or not Path("/usr/include/fuse3/fuse.h").exists():
        return None, "no file system can be built: gcc or the headers of FUSE are missing (package libfuse3-dev)"
    path = Path(tempfile.mkdtemp(prefix="dcio-network-")) / "network_file_system"
    flags = ("-O1", "-D_FILE_OFFSET_BITS=64", "-I/usr/include/fuse3", "-o", path, SOURCE, "-lfuse3")
    subprocess.run(list(map(str, ("gcc", *flags))), check=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(mounted(path, path.parent, 1))
        except subprocess.CalledProcessError as error:
            return None, f"no file system can be mounted: {error.stderr.strip()}"
    return path, ""


@contextlib.contextmanager
def mounted(path: Path, folder: Path, count: int) -> Iterator[list[Path]]:
    """Mount a new folder `count` times; yields the mounts."""
    stored = folder / "stored"
    stored.mkdir(exist_ok=True)
    mounts = [folder / f"host{number}" for number in range(count)]
    with contextlib.ExitStack() as stack:
        for mount in mounts:
            mount.mkdir()
            words = [path, stored, mount, "-o", "max_threads=50"]
            subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True, timeout=60)
            stack.callback(subprocess.run, ["fusermount3", "-u", "-z", str(mount)], check=False, timeout=60)
        yield mounts
