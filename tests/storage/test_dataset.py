from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import DTypeLike

from dask_chunkio.errors import ArgumentError, ArgumentTypeError, FilterError
from dask_chunkio.storage.hdf5.dataset import DatasetSpec, describe, make_dataset, preview


@pytest.fixture
def file() -> Iterator[Any]:
    with h5py.File("here", "w", driver="core", backing_store=False) as opened:
        yield opened


def spec(
    dtype: DTypeLike = "i2",
    shape: tuple[int, ...] = (8, 6),
    chunks: tuple[int, ...] = (4, 3),
    attrs: Any = None,
    **options: Any,
) -> Any:
    return DatasetSpec("/a/x", shape, np.dtype(dtype), chunks, options, attrs or {})


def test_a_dataset_is_described_as_hdf5_made_it(file: Any) -> None:
    made = make_dataset(file, spec(compression="gzip", compression_opts=7, shuffle=True, fletcher32=True, fillvalue=3))
    layout = describe(made)
    assert (layout.name, layout.shape, layout.is_chunked, layout.nbytes) == ("/a/x", (8, 6), True, 96)
    assert layout.form.chunk_shape == (4, 3)
    assert layout.form.dtype == np.dtype("<i2")
    assert [(step.code, step.options) for step in layout.form.filters] == [(2, (2,)), (1, (7,)), (3, ())]
    assert layout.form.fillvalue == np.int16(3).tobytes()
    assert (layout.chunks.cells, layout.form.nbytes) == ((2, 2), 24)


def test_without_a_fill_value_of_the_users_there_is_none(file: Any) -> None:
    assert describe(make_dataset(file, spec())).form.fillvalue is None
    file.create_dataset("y", data=np.zeros(3))
    assert not describe(file["y"]).is_chunked


@pytest.mark.parametrize(
    "dtype", ["<i2", ">u8", "f2", ">f8", "c8", ">c16", "?", "S7", [("a", ">i2"), ("b", "S3")], "V5"]
)
def test_the_bytes_of_each_type_are_numpys(file: Any, dtype: str | list[Any]) -> None:
    assert describe(make_dataset(file, spec(dtype))).form.dtype == np.dtype(dtype)


def test_types_without_a_fixed_length_are_left_to_hdf5(file: Any) -> None:
    assert not describe(file.create_dataset("x", (3,), h5py.string_dtype(), chunks=(2,))).is_chunked


def test_types_that_numpy_does_not_have_are_left_to_hdf5(file: Any) -> None:
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(20)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((2,))
    h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((4,)), plist)
    assert not describe(file["x"]).is_chunked


def test_attributes(file: Any) -> None:
    made = make_dataset(file, spec(attrs={"unit": "V", "rate": 3e4}))
    assert dict(made.attrs) == {"unit": "V", "rate": 3e4}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"compression": "gzip", "compression_opts": 11}, ArgumentError),
        ({"compression": "none such"}, ArgumentError),
        ({"fillvalue": "text"}, (ArgumentError, ArgumentTypeError)),
        ({"maxshape": (4, 4)}, ArgumentError),
        ({"maxshape": (None,)}, (ArgumentError, ArgumentTypeError)),
        ({"scaleoffset": -1}, ArgumentError),
        ({"nonsense": 1}, ArgumentTypeError),
        ({"dtype": "U4"}, ArgumentTypeError),
        ({"attrs": {"huge": np.zeros(100_000)}}, ArgumentError),
        ({"compression": 31999}, FilterError),
    ],
    ids=str,
)
def test_what_h5py_refuses_is_refused_with_the_name_before_anything_is_written(
    wrong: dict[str, Any], error: Any
) -> None:
    with pytest.raises(
        error,
        match=r"/a/x: (h5py cannot create this dataset|attribute 'huge', a ndarray of float64, cannot)|filter 31999",
    ):
        preview([spec(**wrong)])


def test_a_preview_is_what_is_made(file: Any) -> None:
    specs = [spec(compression="gzip"), DatasetSpec("/y", (), np.dtype("f8"), ())]
    assert preview(specs) == tuple(describe(make_dataset(file, one)) for one in specs)
