"""What is private in hdmf and h5py: the only module that uses it, and refuses versions of hdmf that lack it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import h5py
import h5py._hl.base as h5py_base
import hdmf
from hdmf.data_utils import DataChunkIterator

from dask_chunkio.errors import ArgumentError

__all__ = ["Handles", "check_version", "following_links", "has_been_begun", "set_file", "set_queue"]

_OLDEST = (6, 2)
# Found in hdmf 6.2: what `HDF5IO` has after its construction.
_FILE, _QUEUE = "_HDF5IO__file", "_HDF5IO__dci_queue"
_BUILT, _READ = "_HDF5IO__built", "_HDF5IO__read"
_NEXT_CHUNK = "_DataChunkIterator__next_chunk"


def check_version(io: Any) -> None:
    """Refuse a version of hdmf in which the private names mean something else.

    Parameters
    ----------
    io : hdmf.backends.hdf5.HDF5IO
        An object that has been constructed.

    Raises
    ------
    ArgumentError
        If the version is too old, or `io` lacks a name.
    """
    found = tuple(int(part) if part.isdigit() else 0 for part in hdmf.__version__.split(".")[:2])
    missing = [name for name in (_FILE, _QUEUE, _BUILT, _READ) if not hasattr(io, name)]
    if found < _OLDEST or missing:
        raise ArgumentError(
            f"hdmf {hdmf.__version__} cannot be written through"
            f"{' (it lacks ' + ', '.join(missing) + ')' if missing else ''}; install hdmf 6.2 or a later version that "
            f"this version of dask_chunkio knows, or use hdmf's own HDF5IO"
        )


def set_file(io: Any, file: h5py.File) -> None:
    """Set the open file of an ``HDF5IO``."""
    setattr(io, _FILE, file)


def set_queue(io: Any, queue: Any) -> None:
    """Set the queue of the iterators of an ``HDF5IO``."""
    setattr(io, _QUEUE, queue)


class Handles:
    """The objects of h5py that belong to an ``HDF5IO``, while its file is closed and opened again.

    Whoever holds them, such as containers that were read and users, can go on using them.

    Parameters
    ----------
    io : hdmf.backends.hdf5.HDF5IO
        Its file is open.
    others : iterable of h5py.Dataset
        Further datasets.
    """

    def __init__(self, io: Any, others: Any = ()) -> None:
        self._io, self._file = io, getattr(io, _FILE)
        built = getattr(io, _BUILT).get(self._file.filename, {})
        self._built = [(h5py.h5i.get_name(identifier), builder) for identifier, builder in built.items()]
        found = [_dataset(getattr(builder, "data", None)) for builder in built.values()]
        mine = (one for one in (*found, *others) if one is not None and one and one.file == self._file)
        self._datasets = {id(one): (one, one.name) for one in mine}
        self._is_read = self._file in getattr(io, _READ)
        self._root = getattr(io, _READ).pop(self._file, None)

    def rebind(self, file: h5py.File) -> None:
        """Make all objects those of a file that is the same one, opened again."""
        h5py.File.__init__(self._file, file.id)
        for dataset, name in self._datasets.values():
            h5py.Dataset.__init__(dataset, file[name].id)
        getattr(self._io, _BUILT)[file.filename] = {file[name].id: builder for name, builder in self._built}
        if self._is_read:
            getattr(self._io, _READ)[self._file] = self._root


def _dataset(data: Any) -> h5py.Dataset | None:
    """Return the dataset in what a builder holds."""
    found = data if isinstance(data, h5py.Dataset) else getattr(data, "dataset", None)
    return found if isinstance(found, h5py.Dataset) else None


@contextlib.contextmanager
def following_links() -> Iterator[None]:
    """Let h5py open the files of external links with HDF5's default driver; other threads wait.

    By default HDF5 opens them with the driver of the file that has the link, which is `NamedFile` here.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    links = h5py.h5p.create(h5py.h5p.LINK_ACCESS)
    links.set_elink_fapl(access)
    with h5py_base.phil:
        before, h5py_base.dlapl = h5py_base.dlapl, links
        try:
            yield
        finally:
            h5py_base.dlapl = before


def has_been_begun(iterator: DataChunkIterator) -> bool:
    """Return whether a DataChunk was taken from an iterator; the one that it reads on its own does not count."""
    held = getattr(iterator, _NEXT_CHUNK, None)
    return bool(iterator.chunk_index > 1 or (iterator.chunk_index == 1 and (held is None or held.data is None)))
