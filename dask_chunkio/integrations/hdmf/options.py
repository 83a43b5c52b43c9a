"""The keywords that our ``HDF5IO`` has beside those of hdmf."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dask.utils import parse_bytes

from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.storage.hdf5.file_layout import LayoutName, parse_layout

__all__ = ["WriteOptions"]

_OF_THE_DRAFT = ("resume", "durability", "wait", "layout", "references", "references_url")
_OF_THE_FILL = ("scheduler", "memory_limit", "progress", "callback", "compute_kwargs")


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How large data are written.

    Parameters
    ----------
    parallel_threshold : int or str
        Arrays and iterators with at least so many bytes are filled in parallel; hdmf writes smaller ones.
    read : str, optional
        ``"concurrent"`` if all iterators may be read from several threads at once, ``"serial"`` if none may.
    resume, durability, wait
        Same as in `dask_chunkio.draft`.
    layout : str, optional
        ``"cloud"``: a new file keeps all metadata in one page at its beginning, so that a reader over a network fetches
        them at once.  As a default of a class, for existing files it has no effect.
    references, references_url : optional
        Same as in `dask_chunkio.draft`.
    scheduler, memory_limit, progress, callback, compute_kwargs
        Same as in `dask_chunkio.to_hdf5`.

    Examples
    --------
    >>> WriteOptions().replaced({"parallel_threshold": "1 MiB", "read": "serial"}).threshold
    1048576
    """

    parallel_threshold: int | str = "16 MiB"
    read: str | None = None
    resume: bool = False
    durability: Any = None
    wait: bool | None = None
    layout: LayoutName | None = None
    references: Any = None
    references_url: Any = None
    scheduler: Any = None
    memory_limit: int | str | None = None
    progress: bool | None = None
    callback: Any = None
    compute_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.read not in (None, "concurrent", "serial"):
            raise ArgumentError(f"read={self.read!r} is not one of 'concurrent', 'serial'; leave it out if in doubt")
        parse_layout(self.layout)
        _ = self.threshold

    @classmethod
    def names(cls) -> frozenset[str]:
        """Return the names of all options."""
        return frozenset(field.name for field in dataclasses.fields(cls))

    @property
    def threshold(self) -> int:
        """`parallel_threshold` in bytes."""
        try:
            nbytes = int(parse_bytes(self.parallel_threshold))
        except (ValueError, TypeError, OverflowError) as error:
            raise ArgumentError(
                f"parallel_threshold={self.parallel_threshold!r} is not a size; give bytes, or text such as '16 MiB'"
            ) from error
        if nbytes < 0:
            raise ArgumentError(f"parallel_threshold={self.parallel_threshold!r} is below 0; give 0 to fill everything")
        return nbytes

    def replaced(self, given: Mapping[str, Any]) -> WriteOptions:
        """Return these options with the `given` ones in their place.

        Raises
        ------
        ArgumentTypeError
            If there is no such option.
        """
        if unknown := sorted(given.keys() - self.names()):
            raise ArgumentTypeError(
                f"no option is called {', '.join(unknown)}; there are {', '.join(sorted(self.names()))}"
            )
        return dataclasses.replace(self, **given)

    def of_draft(self) -> dict[str, Any]:
        """Return the keywords of the draft."""
        return {name: getattr(self, name) for name in _OF_THE_DRAFT}

    def of_fill(self) -> dict[str, Any]:
        """Return the keywords of each fill."""
        return {name: getattr(self, name) for name in _OF_THE_FILL}
