"""The state of a write that a test knows to be unfinished."""

import os

from dask_chunkio.storage.inspection.status import UnfinishedWrite, status


def unfinished(path: str | os.PathLike[str]) -> UnfinishedWrite:
    """Return what `status` says of a file's write; there has to be one."""
    found = status(path)
    assert found is not None, f"{path} has no unfinished write"
    return found
