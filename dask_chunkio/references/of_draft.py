"""References that a draft makes of its file when it has its name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dask_chunkio.reading.file_state import FileState
from dask_chunkio.references.output import parse_output, parse_url, require_replaceable
from dask_chunkio.references.write import references_of_write
from dask_chunkio.storage.journal.journal import Entries
from dask_chunkio.storage.target import Target

__all__ = ["DraftReferences"]

_MARK_NS = 1000


class DraftReferences:
    """What a draft knows of the places of chunks, and the references that it makes of the rest by asking HDF5.

    Parameters
    ----------
    output : str or path-like or None
        Name of the references, as in `to_hdf5`; None for none.
    url : str or None
        Where readers find the file.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If one of them cannot be used.
    """

    def __init__(self, output: Any, url: Any) -> None:
        self.output = None if output is None else parse_output("references", output)
        self.url = parse_url(url)
        self._places: dict[str, Entries] = {}
        self._state: FileState | None = None

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of each fill, which refuses datasets that references could not describe."""
        return {"references": self.output, "references_url": self.url}

    def require_replaceable(self, path: str) -> None:
        """Refuse a name that the references of a file could not get.

        Raises
        ------
        TargetError
            If something else has it, or there is no such folder.
        """
        if self.output is not None:
            require_replaceable(self.output, path)

    def before_fill(self, path: str, names: Sequence[str]) -> None:
        """Forget what a fill of these datasets may change, and everything if somebody else has changed the file."""
        if self._is_changed(path):
            self._places.clear()
        for name in names:
            self._places.pop(name, None)

    def after_fill(self, path: str, places: Mapping[str, Entries] | None) -> None:
        """Remember the places of the chunks of datasets; None if a fill has changed others that it does not name."""
        if places is None:
            self._places.clear()
        elif self.output is not None:
            self._places.update(places)
            self._state = _marked(path)

    def known(self, path: str) -> dict[str, Entries]:
        """Return the places of chunks that are still what they were."""
        return {} if self._is_changed(path) else dict(self._places)

    def write(self, path: str, known: Mapping[str, Entries]) -> None:
        """Make the references of a file that has its name.

        Parameters
        ----------
        path : str
            The file.
        known : mapping of str to numpy.ndarray
            The places of all chunks of some datasets; for the others HDF5 is asked.

        Raises
        ------
        TargetError
            If they cannot be written; the file is whole.
        """
        if self.output is not None:
            references_of_write(Target(path, "", references=self.output, references_url=self.url or ""), known)

    def _is_changed(self, path: str) -> bool:
        try:
            return self._state is None or FileState.of(path) != self._state
        except OSError:
            return True


def _marked(path: str) -> FileState | None:
    """Return a state of a file that every later change alters; None if the file system has none.

    The clock of a file system ticks every few milliseconds or seconds.  The modification time is set back, because a
    change in the same tick would leave it equal.
    """
    try:
        before = os.stat(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - _MARK_NS))
        found = FileState.of(path)
    except OSError:
        return None
    return found if found.modified < before.st_mtime_ns else None
