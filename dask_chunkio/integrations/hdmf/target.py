"""The file that an ``HDF5IO`` writes: a draft, and what is to be filled into it."""

from __future__ import annotations

import atexit
import io
import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any, cast

import h5py

from dask_chunkio.drafts import Draft, draft
from dask_chunkio.errors import ArgumentError
from dask_chunkio.integrations.hdmf.named_file import NamedFile
from dask_chunkio.integrations.hdmf.options import WriteOptions
from dask_chunkio.integrations.hdmf.paged_file import copy_to_pages
from dask_chunkio.integrations.hdmf.rows import Rows
from dask_chunkio.integrations.hdmf.selection import Pending
from dask_chunkio.keywords import DatasetKeywords
from dask_chunkio.printable import printable
from dask_chunkio.storage.hdf5.file_layout import LayoutName, keep_free_space

__all__ = ["WriteTarget"]

_logger = logging.getLogger("dask_chunkio")

_DRAFT_MODES = {"w": "w", "w-": "x", "x": "x", "a": "a", "r+": "a"}


class WriteTarget:
    """The draft of one ``HDF5IO``, from its constructor to its ``close``.

    hdmf writes the structure into the file of the draft.  `settle` closes that file, fills in what is pending, and
    opens it again.

    Parameters
    ----------
    filename : str
        The final name.
    mode : str
        hdmf's mode: ``"w"``, ``"w-"``, ``"x"``, ``"a"`` or ``"r+"``.
    options : WriteOptions
        How the draft is made and filled.

    Attributes
    ----------
    file : h5py.File
        The open file.
    collects : bool
        Whether hdmf is writing a container, so that large data are noted instead of written.
    takes_streams : bool
        Whether streams are noted too.
    is_broken : bool
        Whether a write has failed, so that the file must not get its name.
    """

    def __init__(self, filename: str, mode: str, options: WriteOptions, **h5py_options: Any) -> None:
        self.options = options
        self.collects, self.takes_streams, self.is_broken = False, True, False
        self._filename, self._mode, self._h5py_options = filename, mode, h5py_options
        self._pending: list[Pending] = []
        self._was_changed = False
        self._draft = draft(filename, mode=cast(Any, _draft_mode(filename, mode, options)), **options.of_draft()).open()
        # At the end of the interpreter, this runs before what ends the draft, and before hdmf's own function.
        atexit.register(self._end_forgotten)
        try:
            # An earlier run has made the structure: hdmf repeats it in a file that is thrown away.
            self._rehearses = not self._draft.is_new
            self._require_new_copy()
            self.file = self._opened()
        except BaseException:
            self.end(is_whole=False)
            raise

    def _require_new_copy(self) -> None:
        if self._rehearses and self._mode in ("a", "r+"):
            raise ArgumentError(
                f"{self._filename}: mode {self._mode!r} cannot go on with an interrupted write, in which hdmf would "
                f"find what it has to add; remove its draft with dask_chunkio.discard({self._filename!r}), and run "
                f"the script again without resume=True"
            )

    def _opened(self) -> h5py.File:
        if self._rehearses:
            raw: io.FileIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        else:
            # A new draft has no file yet; one of an existing file has a copy.
            mode = "r+b" if os.path.exists(self._draft.path) else "w+b"
            raw = cast(io.FileIO, open(self._draft.path, mode, buffering=0))  # noqa: SIM115
        self._named = NamedFile(raw, self._filename)
        try:
            return self._named.open(**self._h5py_options)
        except BaseException:
            raw.close()
            raise

    # What hdmf hands over

    def note(self, pending: Pending) -> None:
        """Remember data that are filled in later."""
        if not any(one.source is pending.source and isinstance(one.source, Rows) for one in self._pending):
            self._pending.append(pending)

    # What is done with it

    @property
    def is_settled(self) -> bool:
        """Whether nothing is pending."""
        return not self._pending and not self._rehearses

    def settle(self) -> None:
        """Fill in all that is pending, and open the file again."""
        self.close_file()
        self._require_structure()
        streams = [one.name for one in self._pending if isinstance(one.source, Rows)]
        _copy_structure_to_pages(self._draft, self.options.layout, streams)
        for group in self._groups():
            encoding = {one.name: cast(DatasetKeywords, self._encoding(one)) for one in group}
            self._draft.fill({one.name: one.source for one in group}, encoding=encoding, **self.options.of_fill())
        self._pending, self._rehearses = [], False
        self.file = self._opened()
        if self.options.layout is not None:
            keep_free_space(self.file)

    def close_file(self) -> None:
        """Close the file, and make sure that all of it has been written."""
        self.file.close()
        self._was_changed |= self._named.was_changed
        self._named.close()

    def end(self, is_whole: bool) -> None:
        """Close the file, and give it its name if `is_whole`; otherwise keep a draft whose structure is complete."""
        atexit.unregister(self._end_forgotten)
        try:
            if hasattr(self, "file"):
                self.close_file()
            if is_whole and not self.is_broken and not self._is_untouched_copy():
                _copy_structure_to_pages(self._draft, self.options.layout)
                self._draft.publish()
        finally:
            self._draft.keep()

    def _is_untouched_copy(self) -> bool:
        """Return whether an existing file was only read; then it stays as it is."""
        return (
            self._mode in ("a", "r+")
            and not self._was_changed
            and self._draft.is_new
            and os.path.exists(self._filename)
        )

    def words_of_failure(self) -> str:
        """Return what the failure of a write leaves behind, and how to go on."""
        name = self._filename
        if self._draft.is_new:
            return printable(f"{name} was not written; what stood there before is as it was. Run the script again.")
        is_appended = os.path.exists(name) and self._mode in ("a", "r+")
        go_on = "" if is_appended else "run the same script with resume=True to go on, or "
        return printable(
            f"{name} was not written. Its draft is kept in {self._draft.path}: {go_on}remove it with "
            f"dask_chunkio.discard({name!r})."
        )

    def _groups(self) -> list[list[Pending]]:
        """Return what is filled in at the same time: all that may be, and then the rest, one by one."""
        together = [one for one in self._pending if self._is_concurrent(one)]
        alone = [[one] for one in self._pending if one not in together]
        return [*([together] if together else []), *alone]

    def _is_concurrent(self, one: Pending) -> bool:
        """Return whether a source may be read at the same time as others; the user knows that of iterators."""
        read = self.options.read if one.is_iterator else None
        return one.is_concurrent if read is None else read == "concurrent"

    def _encoding(self, one: Pending) -> dict[str, Any]:
        """Return the keywords of one dataset."""
        return {"read": self.options.read} if one.is_iterator and self.options.read is not None else {}

    def _require_structure(self) -> None:
        """Make sure that the draft of an earlier run has the datasets that this run would fill."""
        if not self._rehearses:
            return
        with h5py.File(self._draft.path, "r") as file:
            missing = [one.name for one in self._pending if not isinstance(file.get(one.name), h5py.Dataset)]
        if missing:
            raise ArgumentError(
                f"{self._filename}: the interrupted write has no {', '.join(missing)}; run the same script with the "
                f"same objects, or discard the draft with dask_chunkio.discard({self._filename!r})"
            )

    def _end_forgotten(self) -> None:
        """End what a script has left open, as hdmf does at the end of the interpreter."""
        try:
            self.end(is_whole=self.is_settled)
        except Exception as error:
            _logger.warning("%s", printable(f"{self._filename} was not closed, and did not get its name: {error}"))


def _draft_mode(filename: str, mode: str, options: WriteOptions) -> str:
    """Return the mode of the draft; a file that mode ``"a"`` creates is a new one, which can have a layout."""
    is_new = mode == "a" and options.layout is not None and not os.path.lexists(filename)
    return "x" if is_new else _DRAFT_MODES[mode]


def _copy_structure_to_pages(draft: Draft, layout: LayoutName | None, streams: Sequence[str] = ()) -> None:
    if layout is not None and draft.is_new:
        copy_to_pages(draft.path, layout, streams)
