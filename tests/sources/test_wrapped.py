"""hdmf's H5DataIO and its kin around every kind of source."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pandas
import pytest
import zarr
from hdmf.backends.hdf5 import H5DataIO
from hdmf.data_utils import DataChunkIterator, DataIO
from hdmf.data_utils import GenericDataChunkIterator as HdmfIterator

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.sources.wrapped import combined, unwrapped

DATA = np.arange(500 * 30, dtype="i4").reshape(500, 30)


def over(base: Any) -> Any:
    class Iterator(base):  # type: ignore[misc]
        def _get_data(self, selection: Any) -> Any:
            return DATA[selection]

        def _get_maxshape(self) -> Any:
            return DATA.shape

        def _get_dtype(self) -> Any:
            return DATA.dtype

    return Iterator(chunk_shape=(50, 10))


def stored(target: Path, source: Any, **keywords: Any) -> dict[str, Any]:
    dcio.to_hdf5(target, "/x", source, scheduler="synchronous", **keywords)
    with h5py.File(target) as file:
        found = file["x"]
        np.testing.assert_array_equal(found[...], DATA, strict=not isinstance(source.data, list))
        assert [found.dtype.kind, found.dtype.byteorder] == ["i", "="]
        names = ("chunks", "maxshape", "compression", "compression_opts", "shuffle", "fletcher32", "fillvalue")
        return {name: getattr(found, name) for name in names}


@pytest.fixture
def hdf5_dataset(tmp_path: Path) -> Iterator[Any]:
    with h5py.File(tmp_path / "source.h5", "w") as file:
        yield file.create_dataset("a", data=DATA, chunks=(10, 30), compression="lzf")


SETTINGS = {
    "compression": "gzip",
    "compression_opts": 7,
    "shuffle": True,
    "fletcher32": True,
    "fillvalue": -1,
    "chunks": (100, 15),
    "maxshape": (None, 30),
}


@pytest.mark.parametrize(
    "make",
    [
        lambda: over(dcio.GenericDataChunkIterator),
        lambda: over(HdmfIterator),
        lambda: DataChunkIterator(data=DATA, buffer_size=7),
        lambda: DataChunkIterator(data=iter(DATA), buffer_size=7),
        lambda: DATA,
        DATA.tolist,
    ],
    ids=["ours", "hdmf's", "stream", "open-ended stream", "numpy", "list"],
)
def test_what_it_says_is_honoured(target: Path, make: Any) -> None:
    assert stored(target, H5DataIO(make(), **SETTINGS)) == SETTINGS


@pytest.mark.filterwarnings("ignore:.* in H5DataIO will be ignored")
def test_of_an_h5py_dataset_too_since_it_is_copied(target: Path, hdf5_dataset: Any) -> None:
    assert stored(target, H5DataIO(hdf5_dataset, **SETTINGS)) == SETTINGS


def test_what_it_holds_later_is_honoured(target: Path) -> None:
    """Dask arrays and zarr's, which hdmf's constructor does not take."""
    for number, data in enumerate((da.from_array(DATA, chunks=100), zarr.array(DATA))):
        wrapper = H5DataIO(DATA, **SETTINGS)
        wrapper._DataIO__data = data
        assert stored(target.with_name(f"{number}.h5"), wrapper) == SETTINGS


@pytest.mark.parametrize("kind", [dcio.GenericDataChunkIterator, HdmfIterator])
def test_what_hdmf_fills_in_is_what_the_iterator_says(target: Path, kind: Any) -> None:
    found = stored(target, H5DataIO(over(kind), compression=True))
    assert (found["chunks"], found["maxshape"], found["compression"]) == ((50, 10), (500, 30), "gzip")
    assert unwrapped(H5DataIO(over(kind)), "/x")[1] == {}


def test_plain_wrappers_and_wrappers_in_wrappers(target: Path) -> None:
    assert stored(target, DataIO(DATA))["compression"] is None
    inside = H5DataIO(DATA, compression="gzip", compression_opts=9, shuffle=True)
    wrapper = DataIO(DATA)
    wrapper._DataIO__data = inside
    assert stored(target.with_name("1.h5"), wrapper)["compression_opts"] == 9


def test_keywords_of_the_call_win(target: Path) -> None:
    wrapper = H5DataIO(DATA, **SETTINGS)
    found = stored(target, wrapper, compression="lzf", chunks=(10, 10), shuffle=False, fillvalue=None)
    assert found == {
        **SETTINGS, "compression": "lzf", "compression_opts": None, "chunks": (10, 10), "shuffle": False
    }  # fmt: skip
    encoding = {"/x": {"compression_opts": 2}}
    assert stored(target, wrapper, overwrite=True, encoding=encoding) == {**SETTINGS, "compression_opts": 2}


def test_each_dataset_has_its_own(target: Path) -> None:
    dcio.to_hdf5(target, {"/a": H5DataIO(DATA, compression="gzip"), "/b": DATA, "/c": H5DataIO(DATA, shuffle=True)})
    with h5py.File(target) as file:
        assert [file[name].compression for name in "abc"] == ["gzip", None, None]
        assert [file[name].shuffle for name in "abc"] == [False, False, True]


def test_a_plugin(target: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    with pytest.warns(UserWarning, match="may not be available"):
        wrapper = H5DataIO(DATA, **hdf5plugin.Zstd(clevel=3), allow_plugin_filters=True)
    stored(target, wrapper)
    with h5py.File(target) as file:
        assert file["x"].id.get_create_plist().get_filter(0)[:3:2] == (32015, (3,))


def test_into_a_dataset_that_is_there(target: Path) -> None:
    dcio.to_hdf5(target, "/x", np.zeros_like(DATA))
    dcio.to_hdf5(target, "/x", H5DataIO(over(HdmfIterator)), region=...)
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)
    with pytest.raises(ArgumentError, match="/x: compression= is for a new dataset"):
        dcio.to_hdf5(target, "/x", H5DataIO(DATA, compression="gzip"), region=...)


def test_a_place_to_be_filled_later_is_refused(target: Path) -> None:
    with pytest.raises(ArgumentError, match="/x: this H5DataIO holds no data, but asks for an empty dataset"):
        dcio.to_hdf5(target, "/x", H5DataIO(shape=(3,), dtype=np.dtype("i2")))
    assert not target.exists()


def test_a_link_is_refused(target: Path, hdf5_dataset: Any) -> None:
    with pytest.raises(ArgumentError, match="/x: link_data=True of this H5DataIO asks for a link"):
        dcio.to_hdf5(target, "/x", H5DataIO(hdf5_dataset, link_data=True))


class ZarrDataIO(DataIO):  # type: ignore[misc]
    """As hdmf_zarr has it."""

    __module__ = "hdmf_zarr.utils"

    def get_io_params(self) -> dict[str, Any]:
        return {"chunks": None, "compressor": "blosc", "link_data": False}


class Newer(H5DataIO):  # type: ignore[misc]
    """A version of hdmf with more to say."""

    def get_io_params(self) -> dict[Any, Any]:
        return {**super().get_io_params(), "virtual": True}


def test_what_cannot_be_honoured_is_refused(target: Path) -> None:
    with pytest.raises(ArgumentTypeError, match=r"/x: a ZarrDataIO says how data are stored by another .*compressor"):
        dcio.to_hdf5(target, "/x", ZarrDataIO(DATA))
    with pytest.raises(ArgumentTypeError, match="/x: to_hdf5 cannot honour virtual of this Newer"):
        dcio.to_hdf5(target, "/x", Newer(DATA))


def test_a_wrapped_series(target: Path) -> None:
    dcio.to_hdf5(target, "/x", H5DataIO(pandas.Series(DATA[0]), compression="gzip"))
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], DATA[0])


def test_options_go_with_their_filter() -> None:
    wrapped = {"compression": "gzip", "compression_opts": 4}
    assert combined(wrapped, {}) == wrapped
    assert combined(wrapped, {"compression": "gzip"}) == wrapped
    assert combined(wrapped, {"compression": None}) == wrapped
    assert combined(wrapped, {"compression": "szip"}) == {"compression": "szip"}
    assert combined({}, {"chunks": None}) == {"chunks": None}
