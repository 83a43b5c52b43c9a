"""What one system came to with one codec, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.studies.measure import markdown_table, middle, spread

__all__ = ["ALONE", "HEAD", "Row", "Rows", "figures", "table"]

ALONE = "codec alone, one core"
HEAD = (
    "codec: system",
    "MB",
    "seconds",
    "min-max",
    "MB/s",
    "x h5py",
    "file, %",
    "memory MB",
    "bound MB",
    "efficiency",
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one system came to with one codec.

    Parameters
    ----------
    system, codec : str
        Who wrote, and how it compressed.
    nbytes, file_nbytes : int
        Size of the array, and of what was written.
    seconds : tuple of float
        One for each run.
    peak_nbytes, bound_nbytes : int or None
        How far the peak of memory rose while it wrote, and the most that we promise.
    efficiency : float or None
        Time of the codec alone, shared by all threads, to ours.
    """

    system: str
    codec: str
    nbytes: int
    file_nbytes: int
    seconds: tuple[float, ...]
    peak_nbytes: int | None = None
    bound_nbytes: int | None = None
    efficiency: float | None = None

    @property
    def rate(self) -> float:
        """MB of the array written in a second."""
        return self.nbytes / 1e6 / middle(self.seconds)

    @property
    def of_raw(self) -> float:
        """Size of what was written to that of the array."""
        return self.file_nbytes / self.nbytes


Rows = Mapping[tuple[str, str], Row]


def table(rows: Rows) -> str:
    """Return the Markdown table."""
    return markdown_table(HEAD, [_cells(row, rows.get(("h5py", row.codec))) for row in rows.values()])


def _cells(row: Row, h5py: Row | None) -> tuple[str, ...]:
    return (
        f"{row.codec}: {row.system}",
        f"{row.nbytes / 1e6:.0f}",
        f"{middle(row.seconds):.3f}",
        spread(row.seconds),
        f"{row.rate:.0f}",
        f"{row.rate / h5py.rate:.2f}" if h5py else "",
        f"{100 * row.of_raw:.2f}",
        _megabytes(row.peak_nbytes),
        _megabytes(row.bound_nbytes),
        "" if row.efficiency is None else f"{row.efficiency:.2f}",
    )


def _megabytes(nbytes: int | None) -> str:
    return "" if nbytes is None else f"{nbytes / 1e6:.0f}"


def figures(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return what goes into the JSON file."""
    return [
        {
            "system": row.system,
            "codec": row.codec,
            "mb_per_s": row.rate,
            "of_raw": row.of_raw,
            "nbytes": row.nbytes,
            "file_nbytes": row.file_nbytes,
            "peak_nbytes": row.peak_nbytes,
            "bound_nbytes": row.bound_nbytes,
            "efficiency": row.efficiency,
            "seconds": list(row.seconds),
        }
        for row in rows
    ]
