"""The class ``HDF5IO``: hdmf's, with a draft as its file."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import h5py
import numpy as np
from hdmf.backends import hdf5
from hdmf.backends.hdf5 import H5DataIO
from hdmf.backends.hdf5.h5tools import RDCC_NBYTES

from dask_chunkio.errors import ArgumentError
from dask_chunkio.integrations.hdmf.compat import Handles, check_version, following_links, set_file, set_queue
from dask_chunkio.integrations.hdmf.options import WriteOptions
from dask_chunkio.integrations.hdmf.queue import IteratorQueue, ShapeOnly, UnwrittenGroup
from dask_chunkio.integrations.hdmf.selection import is_large_array, pending_array
from dask_chunkio.integrations.hdmf.target import WriteTarget

__all__ = ["HDF5IO"]


# hdmf finds the arguments of a method in its attributes; the docstring stays ours.
_with_arguments = functools.partial(functools.wraps, assigned=())


class HDF5IO(hdf5.HDF5IO):  # type: ignore[misc]
    """hdmf's ``HDF5IO``, which fills large datasets in parallel.

    The modes ``"w"``, ``"w-"``, ``"x"``, ``"a"`` and ``"r+"`` write a draft, which gets its name when the object is
    closed.  ``"a"`` and ``"r+"`` work on a copy of the existing file.  Mode ``"r"``, a `file` that is open already, a
    `driver` and a `comm` are hdmf's alone.

    Parameters
    ----------
    *args, **kwargs
        Those of hdmf's class, and the parameters of `WriteOptions`.

    Attributes
    ----------
    write_options : WriteOptions
        The defaults of the class for its own keywords.
    """

    write_options: ClassVar[WriteOptions] = WriteOptions()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own = {name: kwargs.pop(name) for name in WriteOptions.names() & kwargs.keys()}
        self._options = self.write_options.replaced(own)
        self._asks_for_layout = "layout" in own
        self._target: WriteTarget | None = None
        self._placeholders: list[h5py.Dataset] = []
        try:
            super().__init__(*args, **kwargs)
            check_version(self)
        except BaseException:
            self._end(is_whole=False)
            raise
        if self._target is not None:
            set_queue(self, IteratorQueue(self._target))

    def open(self) -> None:
        """Open the file; hdmf's constructor calls this."""
        if self._file is not None or self.mode == "r" or self.driver is not None or self.comm is not None:
            super().open()
            return
        is_there = self.mode in ("a", "r+") and os.path.lexists(self.source)
        # An existing file keeps its layout: a default of the class is for new files.
        options = self._options.replaced({"layout": None} if is_there and not self._asks_for_layout else {})
        self._target = WriteTarget(self.source, self.mode, options, rdcc_nbytes=RDCC_NBYTES)
        set_file(self, self._target.file)

    @_with_arguments(hdf5.HDF5IO.write)
    def write(self, *args: Any, **kwargs: Any) -> None:
        """Write a container; see hdmf's method."""
        with self._writes(kwargs):
            super().write(*args, **kwargs)

    @_with_arguments(hdf5.HDF5IO.export)
    def export(self, *args: Any, **kwargs: Any) -> None:
        """Export from another object to this file; see hdmf's method."""
        with self._writes(kwargs.get("write_args") or {}):
            super().export(*args, **kwargs)

    @_with_arguments(hdf5.HDF5IO.write_builder)
    def write_builder(self, *args: Any, **kwargs: Any) -> None:
        """Write a builder; see hdmf's method."""
        with self._writes(kwargs):
            super().write_builder(*args, **kwargs)

    @_with_arguments(hdf5.HDF5IO.read_builder)
    def read_builder(self, *args: Any, **kwargs: Any) -> Any:
        """Read the file as a builder; see hdmf's method."""
        if self._target is None:
            return super().read_builder(*args, **kwargs)
        with following_links():
            return super().read_builder(*args, **kwargs)

    @classmethod
    def export_io(cls, path: Any, comm: Any = None, **kwargs: Any) -> None:
        """Export from another object to a new file; see hdmf's method."""
        with cls(path=path, comm=comm, mode="w") as io:
            io.export(**kwargs)

    @_with_arguments(hdf5.HDF5IO.write_dataset)
    def write_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Write a dataset; see hdmf's method."""
        builder = kwargs["builder"] if "builder" in kwargs else args[1]
        self._refuse_own_name(builder.data, kwargs)
        made = super().write_dataset(*args, **kwargs)
        if isinstance(builder.data, H5DataIO) and builder.data.dataset is not None:
            # An H5DataIO without data, which the user fills.
            self._placeholders.append(builder.data.dataset)
        return made

    def __list_fill__(self, parent: Any, name: str, data: Any, options: Any = None) -> Any:
        """Make a dataset for an array, and write the array or note it; hdmf's ``write_dataset`` calls this."""
        target, settings = self._target, (options or {}).get("io_settings", {})
        if target is None or not target.collects or not is_large_array(data, settings, self._options.threshold):
            return super().__list_fill__(parent, name, data, options)
        made = super().__list_fill__(UnwrittenGroup(parent), name, ShapeOnly(data), options)
        if (pending := pending_array(data, made.dataset)) is None:
            made.dataset[...] = np.asarray(data)
        else:
            target.note(pending)
        return made.dataset

    def close(self, close_links: bool = True) -> None:
        """Close the file, and give it its name, unless a write has failed."""
        super().close(close_links=close_links)
        self._end(is_whole=True)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._break(error)
        super().__exit__(kind, error, trace)

    @contextlib.contextmanager
    def _writes(self, keywords: Any) -> Iterator[None]:
        """Note what is large while hdmf writes, and fill it in at the end of the outermost call."""
        target = self._target
        if target is None:
            yield
            return
        if not keywords.get("exhaust_dci", True):
            # hdmf reads such streams in turn, since one may wait for another.
            target.takes_streams = False
        if target.collects:
            yield
            return
        try:
            target.collects = True
            try:
                yield
            finally:
                target.collects, target.takes_streams = False, True
            if not target.is_settled:
                handles = Handles(self, self._placeholders)
                target.settle()
                handles.rebind(target.file)
        except BaseException as error:
            self._break(error)
            raise

    def _break(self, error: BaseException) -> None:
        """Keep the file from getting its name, and say in `error` how to go on."""
        if self._target is not None and not self._target.is_broken:
            self._target.is_broken = True
            error.add_note(self._target.words_of_failure())

    def _end(self, is_whole: bool) -> None:
        target, self._target = self._target, None
        if target is not None:
            target.end(is_whole)

    def _refuse_own_name(self, data: Any, keywords: Any) -> None:
        """Refuse a link to a dataset of the file that this one replaces."""
        links = data.link_data if isinstance(data, H5DataIO) else keywords.get("link_data", True)
        wrapped = data.data if isinstance(data, H5DataIO) else data
        # An export copies such datasets.
        if not links or self._target is None or keywords.get("export_source") is not None:
            return
        if not isinstance(wrapped, h5py.Dataset) or not wrapped or wrapped.file == self._file:
            return
        if os.path.abspath(wrapped.file.filename) == self.source:
            raise ArgumentError(
                f"{self.source}: {wrapped.name} is a dataset of the file that this write replaces, so that no link to "
                f"it can be made; copy it with H5DataIO(data, link_data=False), or write to another name"
            )


functools.update_wrapper(HDF5IO.__init__, hdf5.HDF5IO.__init__, assigned=())
