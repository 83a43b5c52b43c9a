"""References of HDF5 1.12 on (H5T_STD_REF), which h5py does not read, refer to the objects of the copy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import IntegrityError
from dask_chunkio.repacking.comparison import require_same
from dask_chunkio.repacking.elements import elements_of, memory_of
from dask_chunkio.repacking.patterns import Selection
from dask_chunkio.storage.hdf5.raw_access import (
    StandardReference,
    close_attribute,
    create_attribute,
    find_standard,
    make_standard,
    read_attribute,
    read_elements,
    standard_reference_type,
    write_attribute,
    write_elements,
)

NBYTES = 64
ALL = h5py.h5s.create_simple((5,))


def write(owner: Any, kind: Any, make: Callable[[int], None], writes: Callable[[Any, int], None]) -> None:
    with memory_of(elements_of(kind, "x"), ALL, 5) as address:
        make(address)
        writes(owner, address)


def refer(file: h5py.File, stride: int = NBYTES, offset: int = 0) -> Callable[[int], None]:
    """Return what writes references to memory: to a group, a region, an attribute, nothing, and a later dataset."""
    selection = file["x"].id.get_space()
    selection.select_hyperslab((1, 1), (2, 3))

    def make(address: int) -> None:
        at = address + offset
        make_standard(file.id, b"/g", StandardReference(0), at)
        make_standard(file.id, b"/x", StandardReference(0, selection), at + stride)
        make_standard(file.id, b"/g", StandardReference(0, None, "name é".encode()), at + 2 * stride)
        make_standard(file.id, b"/zz", StandardReference(0), at + 4 * stride)

    return make


def write_dataset(item: Any, kind: Any, make: Callable[[int], None]) -> None:
    write(item, kind, make, lambda owner, address: write_elements(owner, kind, ALL, ALL, address))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    kind = standard_reference_type()
    fields = h5py.h5t.create(h5py.h5t.COMPOUND, NBYTES + 8)
    fields.insert(b"number", 0, h5py.h5t.NATIVE_INT64)
    fields.insert(b"ref", 8, kind)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["x"] = np.arange(20).reshape(4, 5)
        file["g/inner"], file["zz"] = 1, 2
        file["g"].attrs["name é"] = 5
        write_dataset(h5py.h5d.create(file.id, b"refs", kind, ALL), kind, refer(file))
        rows = h5py.h5d.create(file.id, b"rows", fields, ALL)
        write_dataset(rows, fields, refer(file, NBYTES + 8, 8))
        like = h5py.h5a.create(file["x"].id, b"like", h5py.h5t.NATIVE_INT8, ALL)
        attribute = create_attribute(file["x"].id, b"refs", kind, ALL, like.id)
        write(attribute, kind, refer(file), lambda owner, address: write_attribute(owner, kind, address))
        close_attribute(attribute)
    return tmp_path / "old.h5"


def told(owner: Any, address: int) -> list[tuple[bytes, Any, bytes | None] | None]:
    """Return path, bounds of the selection, and attribute of what five references refer to."""
    found: list[tuple[bytes, Any, bytes | None] | None] = []
    file = h5py.h5i.get_file_id(owner)
    paths = {h5py.h5o.get_info(file, name).addr: b"/" + name for name in h5py.h5g.open(file, b"/")}
    for number in range(5):
        at = address + number * NBYTES
        if not any(ctypes.string_at(at, NBYTES)):
            found.append(None)
            continue
        one = find_standard(owner, at)
        assert one is not None
        bounds = None if one.selection is None else one.selection.get_select_bounds()
        found.append((paths[one.target], bounds, one.attribute))
    return found


EXPECTED = [(b"/g", None, None), (b"/x", ((1, 1), (2, 3)), None), (b"/g", None, "name é".encode()), None]
EXPECTED += [(b"/zz", None, None)]


def references_of(path: Path) -> tuple[Any, Any]:
    kind = standard_reference_type()
    with h5py.File(path) as file:
        item, attribute = file["refs"].id, h5py.h5a.open(file["x"].id, b"refs")
        with memory_of(elements_of(kind, "x"), ALL, 5) as address:
            read_elements(item, kind, ALL, ALL, address)
            of_dataset = told(item, address)
        with memory_of(elements_of(kind, "x"), ALL, 5) as address:
            read_attribute(attribute.id, kind, address)
            of_attribute = told(attribute, address)
    return of_dataset, of_attribute


def test_they_refer_to_the_objects_of_the_copy(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.h5"
    result = dcio.repack(old, new, filters="GZIP=1", verify=True)
    assert not result.notes or all("holds references" in note for note in result.notes)
    assert references_of(old) == (EXPECTED, EXPECTED)
    # What the copy refers to is in the copy.
    old.unlink()
    assert references_of(new) == (EXPECTED, EXPECTED)


def test_those_to_what_is_left_out_become_empty(old: Path, tmp_path: Path) -> None:
    result = dcio.repack(old, tmp_path / "new.h5", exclude="/g", verify=True)
    assert result.notes == ("6 references to objects that are not copied, or not there, have become empty",)
    empty = [None, EXPECTED[1], None, None, EXPECTED[4]]
    assert references_of(tmp_path / "new.h5") == (empty, empty)


def test_a_comparison_sees_another_reference(old: Path, tmp_path: Path) -> None:
    new, kind = tmp_path / "new.h5", standard_reference_type()
    dcio.repack(old, new)
    with h5py.File(new, "r+") as file:

        def make(address: int) -> None:
            refer(file)(address)
            make_standard(file.id, b"/x", StandardReference(0), address + 3 * NBYTES)

        write_dataset(file["refs"].id, kind, make)
    with h5py.File(old) as file, pytest.raises(IntegrityError, match="the elements of the copy differ"):
        require_same(file, str(new), Selection())


def test_other_files_are_not_opened(old: Path, tmp_path: Path) -> None:
    kind = standard_reference_type()
    with h5py.File(tmp_path / "other.h5", "w") as file, h5py.File(old) as there:
        item = h5py.h5d.create(file.id, b"outside", kind, ALL)
        write_dataset(item, kind, refer(there))
    with pytest.raises(IntegrityError, match=r"/outside refers to an object in the file .*old\.h5"):
        dcio.repack(tmp_path / "other.h5", tmp_path / "new.h5")
    assert not (tmp_path / "new.h5").exists()
