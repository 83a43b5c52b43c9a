"""Codecs of zarr as filters of HDF5."""

import io
import zlib
from typing import Any

import h5py
import hdf5plugin
import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.chunk_format import Filter
from dask_chunkio.filters.fletcher32 import append_fletcher32
from dask_chunkio.filters.shuffle import SHUFFLE
from dask_chunkio.sources.zarr_codecs import (
    BLOSC,
    ZSTD,
    Codec,
    ZarrForm,
    codecs_of,
    filters_of,
    form_of_metadata,
    is_readable_payload,
)
from dask_chunkio.storage.hdf5.dataset import describe

I4 = np.dtype("<i4")
V2: dict[str, Any] = {"zarr_format": 2, "chunks": (10, 4), "order": "C", "filters": None, "compressor": None}
V3: dict[str, Any] = {
    "zarr_format": 3,
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": (10, 4)}},
    "codecs": ({"name": "bytes", "configuration": {"endian": "big"}},),
}


def v2(*filters: dict[str, Any], **changed: Any) -> ZarrForm | None:
    return form_of_metadata({**V2, "filters": filters or None, **changed}, I4)


def v3(*codecs: tuple[str, dict[str, Any]], dtype: Any = I4, **changed: Any) -> ZarrForm | None:
    steps = [{"name": name, "configuration": configuration} for name, configuration in codecs]
    return form_of_metadata({**V3, "codecs": (*V3["codecs"], *steps), **changed}, np.dtype(dtype))


def test_formats_2_and_3_have_the_same_codecs() -> None:
    codecs = (Codec(SHUFFLE, (4,)), Codec(1, (9,)), Codec(3))
    shuffle, checksum = {"id": "shuffle", "elementsize": 4}, {"id": "fletcher32"}
    assert v2(shuffle, {"id": "zlib", "level": 9}, checksum) == ZarrForm((10, 4), I4, codecs)
    found = v3(
        ("numcodecs.shuffle", {"elementsize": 4}), ("numcodecs.zlib", {"level": 9}), ("numcodecs.fletcher32", {})
    )
    assert found == ZarrForm((10, 4), np.dtype(">i4"), codecs)


def test_a_level_that_means_the_default_is_the_default() -> None:
    assert v2(compressor={"id": "zlib", "level": -1}) == v2(compressor={"id": "zlib", "level": 6})
    assert v3(("zstd", {"level": 0, "checksum": False})) == v3(("numcodecs.zstd", {"level": 3}))
    assert codecs_of([Filter(ZSTD, 1, (), "zstd")]) == (Codec(ZSTD, (3,)),)
    assert codecs_of([Filter(ZSTD, 1, (2**32 - 7,), "zstd")]) == (Codec(ZSTD, (-7,)),)
    assert list(filters_of([Codec(ZSTD, (-7,))])) == [(ZSTD, (2**32 - 7,))]


@pytest.mark.parametrize(("itemsize", "shuffle"), [(1, 2), (4, 1)])
def test_automatic_shuffle_of_blosc(itemsize: int, shuffle: int) -> None:
    metadata = {**V2, "compressor": {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": -1}}
    found = form_of_metadata(metadata, np.dtype(f"i{itemsize}"))
    assert found is not None
    assert found.codecs == (Codec(BLOSC, (3, shuffle, 5)),)


@pytest.mark.parametrize(
    "found",
    [
        v2(compressor={"id": "gzip", "level": 4}),
        v2({"id": "delta", "dtype": "<i4"}),
        v2({"id": "shuffle", "elementsize": 8}),
        v2({"id": "zlib"}, {"id": "shuffle", "elementsize": 4}),
        v2({"id": "zlib"}, compressor={"id": "zstd"}),
        v2(order="F"),
        form_of_metadata(V2, np.dtype("U4")),
        form_of_metadata(V2, np.dtype(object)),
        v3(("gzip", {"level": 5})),
        v3(("crc32c", {})),
        v3(("numcodecs.zlib", {}), dtype=object),
        v3(("zlib", {})),
        v3(("blosc", {"cname": "lz4", "shuffle": "sideways"})),
        v3(("blosc", {"cname": "lz5", "shuffle": "shuffle"})),
        v3(storage_transformers=({"name": "x"},)),
        v3(chunk_grid={"name": "rectilinear", "configuration": {}}),
        form_of_metadata({**V3, "codecs": ({"name": "sharding_indexed", "configuration": {}},)}, I4),
        form_of_metadata({**V3, "codecs": ({"name": "transpose"}, *V3["codecs"])}, I4),
    ],
)
def test_codecs_without_an_equal_filter(found: ZarrForm | None) -> None:
    assert found is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip", "compression_opts": 7, "shuffle": True, "fletcher32": True},
        {"compression": "gzip", "compression_opts": 0},
        {**hdf5plugin.Zstd(clevel=9), "shuffle": True},
        dict(hdf5plugin.Blosc(cname="zstd", clevel=2, shuffle=hdf5plugin.Blosc.BITSHUFFLE)),
        dict(hdf5plugin.Blosc()),
        {"shuffle": True},
        {"fletcher32": True},
    ],
)
@pytest.mark.parametrize("dtype", ["<i4", ">f8", "u1"])
def test_filters_are_codecs_and_back(options: dict[str, Any], dtype: str) -> None:
    with h5py.File(io.BytesIO(), "w") as file:
        form = describe(file.create_dataset("x", (20, 8), dtype, chunks=(10, 4), **options)).form
    codecs = codecs_of(form.filters)
    assert codecs is not None
    assert ZarrForm((10, 4), np.dtype(dtype), codecs).is_stored_as(form)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((10, 4))
    for code, values in filters_of(codecs):
        plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL if code != 3 else 0, values)
    with h5py.File(io.BytesIO(), "w") as file:
        space = h5py.h5s.create_simple((20, 8))
        made = h5py.Dataset(h5py.h5d.create(file.id, b"x", h5py.h5t.py_create(np.dtype(dtype)), space, dcpl=plist))
        again = describe(made).form
    assert [(one.code, one.options) for one in again.filters] == [(one.code, one.options) for one in form.filters]


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {"scaleoffset": 3}, {"compression": "szip"}])
def test_filters_without_an_equal_codec(options: dict[str, Any]) -> None:
    with h5py.File(io.BytesIO(), "w") as file:
        assert codecs_of(describe(file.create_dataset("x", (20,), "i4", chunks=(10,), **options)).form.filters) is None


@given(st.binary(max_size=5000))
def test_checksums_agree(data: bytes) -> None:
    if data:
        assert bytes(numcodecs.Fletcher32().encode(data)) == append_fletcher32(data)


DATA = np.arange(40, dtype=I4).reshape(10, 4)


def payload_of(*codecs: Any) -> bytes:
    data: Any = DATA
    for codec in codecs:
        data = codec.encode(data)
    return bytes(data)


PAYLOADS = {
    "raw": ((), DATA.tobytes()),
    "zlib": ((Codec(1, (1,)),), payload_of(numcodecs.Zlib(1))),
    "zstd": ((Codec(ZSTD, (1,)),), payload_of(numcodecs.Zstd(1))),
    "blosc": ((Codec(BLOSC, (5, 1, 1)),), payload_of(numcodecs.Blosc())),
    "before": ((Codec(3), Codec(ZSTD, (1,))), payload_of(numcodecs.Fletcher32(), numcodecs.Zstd(1))),
    "after": ((Codec(ZSTD, (1,)), Codec(3)), payload_of(numcodecs.Zstd(1), numcodecs.Fletcher32())),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_are_recognised(name: str) -> None:
    codecs, payload = PAYLOADS[name]
    form = ZarrForm((10, 4), I4, codecs)
    assert is_readable_payload(form, payload)
    with pytest.raises(IntegrityError):
        is_readable_payload(form, b"")
    with pytest.raises(IntegrityError, match="at most can be right"):
        is_readable_payload(form, bytes(form.most_nbytes + 1))
    with pytest.raises(IntegrityError):
        is_readable_payload(form, b"\xff" * len(payload) + b"\xff")


@pytest.mark.parametrize("name", ["raw", "zstd", "blosc", "before"])
def test_a_payload_of_another_size_is_refused(name: str) -> None:
    codecs, payload = PAYLOADS[name]
    with pytest.raises(IntegrityError):
        is_readable_payload(ZarrForm((10, 5), I4, codecs), payload)


def test_a_zstd_frame_without_a_size_is_left_to_zarr() -> None:
    form = ZarrForm((10, 4), I4, (Codec(ZSTD, (1,)),))
    # Of a stream: the descriptor has neither a size nor a single segment, and a window follows.
    assert not is_readable_payload(form, b"\x28\xb5\x2f\xfd\x00\x58" + bytes(20))


def test_a_zlib_stream_with_a_dictionary_is_refused() -> None:
    compressor = zlib.compressobj(zdict=b"abc")
    payload = compressor.compress(DATA.tobytes()) + compressor.flush()
    with pytest.raises(IntegrityError, match="zlib"):
        is_readable_payload(ZarrForm((10, 4), I4, (Codec(1, (6,)),)), payload)
