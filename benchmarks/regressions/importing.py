"""What it costs to import the package."""

from __future__ import annotations

__all__ = ["timeraw_import"]


def timeraw_import() -> str:
    """Return the code that asv times, in a new process for each sample."""
    return "import dask_chunkio"


timeraw_import.repeat = (3, 10, 1.0)  # type: ignore[attr-defined]
