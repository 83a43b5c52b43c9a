"""There and back: what a conversion does is undone by the other one."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (its filters)
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dask_chunkio as dcio
from dask_chunkio.filters.chunk_format import Filter
from dask_chunkio.integrations.zarr.attributes import (
    JSON_NAMES,
    UnstorableError,
    enum_of,
    from_json,
    named_fill,
    parse_text,
    parsed_names,
    stored_fill,
    to_json,
)
from dask_chunkio.integrations.zarr.compat import quiet
from dask_chunkio.integrations.zarr.nearest import nearest_codecs, nearest_filters
from dask_chunkio.sources.zarr_codecs import Codec, codecs_of, filters_of

COUNT = itertools.count()
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text("abcXYZ _µ", min_size=1, max_size=6).filter(lambda name: name.strip() and not name.startswith("__"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


@given(JSON)
def test_json_values_come_back(value: Any) -> None:
    value = json.loads(json.dumps(value))
    stored = from_json(value)
    found = parse_text(json.dumps(value)) if stored is None else to_json(_as_read(stored))
    assert found == value
    # Mixed lists come back as floats of the same value.
    assert isinstance(value, list) or type(found) is type(value)


def _as_read(stored: Any) -> Any:
    """Return what h5py reads where it has stored a value."""
    with h5py.File("attributes.h5", "w", driver="core", backing_store=False) as file:
        file.attrs["x"] = stored
        return file.attrs["x"]


@pytest.mark.parametrize(
    "value", [np.complex64(1j), np.zeros(1, "i4,f4"), np.array([None], object), b"\xff", "\udcff", np.float128(1)]
)
def test_values_that_json_has_not(value: Any) -> None:
    with pytest.raises(UnstorableError):
        to_json(value)


def test_empty_attributes_are_those_of_netcdf() -> None:
    assert to_json(h5py.Empty("S1")) == ""
    assert to_json(h5py.Empty("f4")) == []


@pytest.mark.parametrize("text", ["{", None, "[" * 100_000, b"\xff"])
def test_text_that_is_not_json(text: Any) -> None:
    with pytest.raises(UnstorableError, match=JSON_NAMES):
        parse_text(text)


def test_names_of_json_texts_may_be_anything() -> None:
    assert parsed_names(["a", "b"]) == {"a", "b"}
    assert parsed_names(np.array([1, 2])) == set()
    assert parsed_names("a") == {"a"}


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "c8", "i2", "u1", "S3"])
def test_fill_values_are_those_of_xarray(dtype: str) -> None:
    coder = pytest.importorskip("xarray.backends.zarr").FillValueCoder
    kind = np.dtype(dtype)
    value = np.array([b"ab"] if kind.kind == "S" else [7], kind)[0]
    ours = named_fill(value, kind)
    assert stored_fill(ours, kind) == value
    try:
        theirs = coder.encode(value.item(), kind)
    except ValueError:
        assert kind.kind == "c"
        pytest.skip("this xarray has no fill values of complex numbers")
    assert ours == theirs


@pytest.mark.parametrize(
    ("value", "dtype"), [("?", "f4"), (5, "f4"), ([1], "c8"), ("AA==", "f8"), ({}, "i4"), (1, "V3")]
)
def test_what_is_no_fill_value(value: Any, dtype: str) -> None:
    assert stored_fill(value, np.dtype(dtype)) is None


@pytest.mark.parametrize(
    "found", [None, {}, [], {"A": 300}, {"A": -1}, {"A": "x"}, {"A": 1.5}, {"A\0": 1}, {"A": None}]
)
def test_what_is_no_enumeration(found: Any) -> None:
    assert enum_of({"dask_chunkio_enum": found}, np.dtype("u1")) is None
    assert enum_of({"dask_chunkio_enum": {"A": 1}}, np.dtype("f4")) is None
    assert enum_of({"dask_chunkio_enum": {"A": 1}}, np.dtype("u1")) == {"A": 1}


@given(st.lists(st.sampled_from([1, 2, 3, 4, 5, 6, 307, 32000, 32001, 32004, 32008, 32015, 99999]), max_size=4))
def test_nearest_codecs_have_equal_filters(codes: list[int]) -> None:
    for itemsize in (0, 1, 4):
        found = nearest_codecs([Filter(code, 1, (itemsize,), "x") for code in codes], itemsize)
        again = [Filter(code, 1, options or (itemsize,), "x") for code, options in filters_of(found)]
        assert codecs_of(again) == found


def test_nearest_filters_of_unknown_codecs() -> None:
    steps = [{"id": "nothing"}, {"id": "quantize"}, {"id": "crc32"}]
    assert nearest_filters({"zarr_format": 2, "filters": steps, "compressor": {"id": "blosc"}}, 0) == (Codec(1, (4,)),)
    assert nearest_filters({"zarr_format": 2, "filters": steps, "compressor": None}, 4) == (Codec(3),)


@st.composite
def arrays(draw: st.DrawFn) -> dict[str, Any]:
    """Draw an array: shape, chunks, dtype, codecs."""
    ndim = draw(st.integers(0, 3))
    shape = tuple(draw(st.integers(0, 7)) for _ in range(ndim))
    return {
        "shape": shape,
        "chunks": tuple(draw(st.integers(1, max(1, n))) for n in shape),
        "dtype": np.dtype(draw(st.sampled_from(["<i4", ">i2", "f8", "u1", "bool", "c8", "S3"]))),
        "codec": draw(st.sampled_from(["zlib", "zstd", "blosc", "gzip", None])),
        "names": tuple(draw(st.lists(st.sampled_from("xyz"), min_size=ndim, max_size=ndim, unique=True))),
        "filled": draw(st.booleans()),
    }


@settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    st.dictionaries(NAMES, arrays(), max_size=3),
    st.dictionaries(NAMES, JSON, max_size=3),
    st.sampled_from([2, 3]),
)
def test_stores_come_back(tmp_path: Path, wanted: dict[str, Any], attributes: dict[str, Any], zarr_format: Any) -> None:
    folder = tmp_path / str(next(COUNT))
    attributes = json.loads(json.dumps(attributes))
    root = zarr.open_group(folder / "in.zarr", mode="w", zarr_format=zarr_format, attributes=attributes)
    group = root.create_group("group", attributes=attributes)
    for name, one in wanted.items():
        make(group, name, one, zarr_format)
    dcio.convert(folder / "in.zarr", folder / "out.h5", progress=False, scheduler="synchronous")
    dcio.convert(folder / "out.h5", folder / "back.zarr", zarr_format=zarr_format)
    require_alike(root, zarr.open_group(folder / "back.zarr", mode="r", use_consolidated=False))
    # The file is what it was, too.
    dcio.convert(folder / "back.zarr", folder / "again.h5", progress=False, scheduler="synchronous")
    dcio.convert(folder / "again.h5", folder / "last.zarr", zarr_format=zarr_format)
    require_alike(root, zarr.open_group(folder / "last.zarr", mode="r", use_consolidated=False))


def make(group: Any, name: str, one: dict[str, Any], zarr_format: Any) -> None:
    compressor = None if one["codec"] is None else _compressor(one["codec"], zarr_format, one["dtype"].itemsize)
    keywords = {"dimension_names": one["names"]} if zarr_format == 3 else {}
    array = group.create_array(
        name, shape=one["shape"], chunks=one["chunks"], dtype=one["dtype"], compressors=compressor, **keywords
    )
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = list(one["names"])
    if one["filled"]:
        size = int(np.prod(one["shape"]))
        array[...] = (np.arange(size).reshape(one["shape"]) % 50).astype(one["dtype"])


def _compressor(name: str, zarr_format: int, itemsize: int) -> Any:
    import numcodecs

    if zarr_format == 2:
        return numcodecs.get_codec({"id": name})
    configuration: dict[str, Any] = {"level": 3}
    if name == "blosc":
        configuration = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": itemsize, "blocksize": 0}
    return {"name": "numcodecs.zlib" if name == "zlib" else name, "configuration": configuration}


def require_alike(before: Any, after: Any) -> None:
    """Require the same groups, arrays and attributes; chunks are at most as long as the array."""
    theirs, ours = dict(before.members(max_depth=None)), dict(after.members(max_depth=None))
    assert theirs.keys() == ours.keys()
    assert dict(before.attrs) == dict(after.attrs)
    for path, one in theirs.items():
        found = ours[path]
        assert dict(one.attrs) == dict(found.attrs)
        if hasattr(one, "dtype"):
            assert found.shape == one.shape
            assert found.dtype == one.dtype.newbyteorder("=") or found.dtype == one.dtype
            assert np.array_equal(found[...], one[...])
            assert found.metadata.fill_value == one.metadata.fill_value
            if 0 not in one.shape:
                assert found.chunks == one.chunks
