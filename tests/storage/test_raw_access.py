import ctypes
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest

from dask_chunkio.errors import FilterError, TargetError
from dask_chunkio.storage.hdf5 import raw_access
from dask_chunkio.storage.hdf5.raw_access import (
    commit_anonymously,
    find_region,
    get_comment,
    opened_attribute,
    require_raw_access,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = [1, 2, 3]
    return tmp_path / "x.h5"


def test_a_build_that_hides_a_function_of_hdf5_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_raw_access()
    functions = raw_access._functions.__wrapped__
    monkeypatch.setattr(raw_access, "separate_library", lambda _: SimpleNamespace())
    assert functions() is None
    monkeypatch.setattr(raw_access, "_functions", functions)
    with pytest.raises(FilterError, match="does not let other modules call HDF5"):
        require_raw_access()


def test_what_cannot_be_written_is_told_from_what_cannot_be_read(path: Path) -> None:
    with h5py.File(path) as file:
        kind = h5py.h5t.NATIVE_INT8.copy()
        with pytest.raises(TargetError, match="H5Tcommit_anon of HDF5 failed"):
            commit_anonymously(file.id, kind, SimpleNamespace(id=0))
        with pytest.raises(OSError, match="H5Aopen of HDF5 failed") as caught, opened_attribute(file["x"].id, b"none"):
            pass
        assert not isinstance(caught.value, TargetError)


def test_comments(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        assert get_comment(file["x"].id) == b""
        h5py.h5o.set_comment(file["x"].id, b"so many")
        assert get_comment(file["x"].id) == b"so many"


def test_a_reference_to_nothing(path: Path) -> None:
    nothing = ctypes.create_string_buffer(64)
    with h5py.File(path) as file:
        assert find_region(file.id, ctypes.addressof(nothing)) is None
