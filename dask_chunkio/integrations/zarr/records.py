"""What a conversion is asked for, and what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dask_chunkio.errors import SourceError
from dask_chunkio.printable import counted, printable

__all__ = ["Conversion", "ConvertedArray", "Options", "Refusal", "require_all"]

_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a conversion.

    Parameters
    ----------
    zarr_format : int or None
        Format of a zarr store that is written.
    overwrite, resume, skip_unsupported : bool
        As `convert` takes them.
    threads : int or None
        Threads that write a zarr store.
    filters : mapping
        Filters of all arrays as `h5py.Group.create_dataset` takes them; empty to keep those of the source.
    run, drafting : mapping
        Keywords of `Draft.fill` and of `draft`.
    isolated : bool or None
        As `convert` takes it.
    """

    zarr_format: Literal[2, 3] | None = None
    overwrite: bool = False
    resume: bool = False
    skip_unsupported: bool = False
    threads: int | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    drafting: Mapping[str, Any] = field(default_factory=dict)
    isolated: bool | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What cannot be converted.

    Parameters
    ----------
    name : str
        Its absolute path; of an attribute, the path of its object, ``@`` and its name.
    reason : str
        Why not.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.name}: {self.reason}")


@dataclass(frozen=True, slots=True)
class ConvertedArray:
    """What was done with one array.

    Parameters
    ----------
    name : str
        Its absolute path in the target.
    shape : tuple of int
        Its shape, in elements.
    dtype : numpy.dtype
        Type of its elements in the target.
    is_copied : bool
        Whether its chunks were copied as they are stored.  A chunk that was never written, or skips a filter, is
        encoded even then.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_copied: bool


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did.

    Parameters
    ----------
    path : str
        Absolute path of the target.
    arrays : tuple of ConvertedArray
        All arrays, in the order of their paths.
    skipped : tuple of Refusal
        What the target does not have, and why; empty without ``skip_unsupported=True``.
    notes : tuple of str
        What is different in the target.
    seconds : float
        How long it took.
    """

    path: str
    arrays: tuple[ConvertedArray, ...]
    skipped: tuple[Refusal, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def nbytes(self) -> int:
        """Bytes of the elements of all arrays, without the text of strings."""
        return sum(int(np.prod(one.shape, dtype=object)) * one.dtype.itemsize for one in self.arrays)

    def __str__(self) -> str:
        arrays, copied = counted(len(self.arrays), "array"), sum(one.is_copied for one in self.arrays)
        words = f"{arrays} in {self.seconds:.2f} s, the chunks of {copied} copied as they are stored"
        left = f", {len(self.skipped)} left out" if self.skipped else ""
        return printable(f"{self.path}: {words}{left}")


def require_all(source: str, refusals: Sequence[Refusal], options: Options) -> None:
    """Refuse a conversion that would leave something out, unless this is wanted.

    Parameters
    ----------
    source : str
        The source, for the message.
    refusals : sequence of Refusal
        What cannot be converted.
    options : Options
        The options of the conversion.

    Raises
    ------
    SourceError
        If there are refusals; the message names them.
    """
    if not refusals or options.skip_unsupported:
        return
    listed = "; ".join(map(str, refusals[:_MOST_NAMED]))
    more = f"; and {len(refusals) - _MOST_NAMED} more" if len(refusals) > _MOST_NAMED else ""
    raise SourceError(
        f"{source}: {len(refusals)} of its objects cannot be converted; leave them out with skip_unsupported=True: "
        f"{listed}{more}"
    )
