"""A folder on a memory file system for what a benchmark writes; asv finds no benchmark here."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["InFolder"]

_MEMORY = "/dev/shm"


class InFolder:
    """Base of benchmarks that write files: each has a folder of its own from `setup` to `teardown`."""

    def setup(self) -> None:
        """Make the folder, in memory where that is possible: a disk is noisier than what is measured."""
        parent = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="dask-chunkio-asv-", dir=parent))
        self.path = str(self.folder / "out.h5")

    def teardown(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
