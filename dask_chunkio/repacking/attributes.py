"""Attributes, copied with their types, dataspaces, encodings and order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h5py

from dask_chunkio.errors import IntegrityError
from dask_chunkio.repacking.elements import elements_of, memory_of
from dask_chunkio.repacking.references import MissingObjectError, References
from dask_chunkio.storage.hdf5.raw_access import (
    close_attribute,
    create_attribute,
    opened_attribute,
    read_attribute,
    write_attribute,
)

__all__ = ["Attributes", "names_of"]

_SLACK = 1 << 20


@dataclass(slots=True)
class Attributes:
    """Copies the attributes of objects.

    Parameters
    ----------
    references : References
        Maps references.
    type_of : callable
        Returns the type in the copy for a type of the file.
    most_nbytes : int
        Size of the file, which no attribute exceeds.
    later : list of tuple of bytes
        Path and name of each attribute that refers to an object which was not there yet: it has no value yet.
    """

    references: References
    type_of: Callable[[Any], Any]
    most_nbytes: int
    later: list[tuple[bytes, bytes]] = field(default_factory=list)

    def copy(self, source: Any, target: Any, path: bytes) -> None:
        """Copy the attributes of an object.

        Raises
        ------
        IntegrityError
            If one is larger than the file, or of a type that cannot be copied.
        """
        for name in names_of(source):
            self._copy_one(source, target, path, name)

    def _copy_one(self, source: Any, target: Any, path: bytes, name: bytes) -> None:
        where = f"{path.decode(errors='replace')}, attribute {name.decode(errors='replace')!r}"
        found = h5py.h5a.open(source, name)
        kind, space = found.get_type(), found.get_space()
        count = space.get_simple_extent_npoints()
        elements = elements_of(kind, where)
        if count * elements.nbytes > self.most_nbytes + _SLACK:
            raise IntegrityError(f"{where}: it claims to have {count * elements.nbytes} bytes, more than the file")
        made = create_attribute(target, name, self.type_of(kind), space, found.id)
        try:
            with memory_of(elements, space, count) as address:
                if count:
                    self._read(found, elements, count, address)
                    write_attribute(made, elements.kind, address)
        except MissingObjectError:
            self.later.append((path, name))
        finally:
            close_attribute(made)

    def _read(self, found: Any, elements: Any, count: int, address: int) -> None:
        read_attribute(found.id, elements.kind, address)
        if elements.part is not None:
            self.references.map(elements.part, found, address, count, elements.nbytes)

    def write_later(self, source: Any, target: Any) -> None:
        """Write the values that could not be written before, now that all objects are there."""
        for path, name in self.later:
            owner = h5py.h5o.open(source, path)
            found = h5py.h5a.open(owner, name)
            space = found.get_space()
            count = math.prod(found.shape)
            elements = elements_of(found.get_type(), path.decode(errors="replace"))
            with (
                memory_of(elements, space, count) as address,
                opened_attribute(h5py.h5o.open(target, path), name) as made,
            ):
                self._read(found, elements, count, address)
                write_attribute(made, elements.kind, address)


def names_of(owner: Any) -> list[bytes]:
    """Return the names of the attributes of an object, in the order of creation."""
    names: list[bytes] = []
    if h5py.h5a.get_num_attrs(owner):
        h5py.h5a.iterate(owner, names.append, index_type=h5py.h5.INDEX_CRT_ORDER)
    return names
