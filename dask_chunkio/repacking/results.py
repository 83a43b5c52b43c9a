"""What a repack did, or would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dask_chunkio.geometry.grid import Shape
from dask_chunkio.printable import counted, printable
from dask_chunkio.results import bytes_in_words

__all__ = ["RepackResult", "RepackedDataset"]


@dataclass(frozen=True, slots=True)
class RepackedDataset:
    """A dataset whose filters or layout have changed.

    Parameters
    ----------
    name : str
        Its path.
    shape : tuple of int
        Its shape, in elements.
    nbytes : int
        Bytes of its elements.
    stored_before, stored_after : int or None
        Bytes that it takes in the old file and in the new one.  Of a dry run, `stored_after` is an estimate from a few
        chunks, or None if there is none.
    in_parallel : bool
        Whether it is written by the tasks of dask; small datasets, and those of types that numpy does not have, are
        rewritten by HDF5.
    """

    name: str
    shape: Shape
    nbytes: int
    stored_before: int
    stored_after: int | None
    in_parallel: bool


@dataclass(frozen=True, slots=True)
class RepackResult:
    """What `repack` did.

    Parameters
    ----------
    source, path : str
        Absolute paths of the old file and of the new one.
    nbytes_before, nbytes_after : int
        Their sizes.  Of a dry run, `nbytes_after` is estimated from the datasets that would change.
    counts : mapping of str to int
        How many groups, datasets, types and further links were copied; empty for a draft that was resumed.
    datasets : tuple of RepackedDataset
        Those whose filters or layout have changed.
    seconds : float
        How long it took.
    notes : tuple of str
        What could not be done for datasets that no pattern names, and which references have become empty.
    dry_run, verified : bool
        Whether nothing was written; whether the copy was compared with the old file.
    """

    source: str
    path: str
    nbytes_before: int
    nbytes_after: int
    counts: Mapping[str, int] = field(default_factory=dict)
    datasets: tuple[RepackedDataset, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    dry_run: bool = False
    verified: bool = False

    @property
    def ratio(self) -> float:
        """Size of the old file for each byte of the new one."""
        return self.nbytes_before / self.nbytes_after if self.nbytes_after else 1.0

    def __str__(self) -> str:
        before, after = bytes_in_words(self.nbytes_before), bytes_in_words(self.nbytes_after)
        changed = counted(len(self.datasets), "dataset")
        if self.dry_run:
            return printable(
                f"{self.path} would have about {after} ({self.source} has {before}); {changed} to re-encode"
            )
        checked = ", compared with the old file" if self.verified else ""
        return printable(
            f"{self.path}: {after} ({self.source} has {before}); {changed} re-encoded in {self.seconds:.2f} s{checked}"
        )
