import zlib
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.filters.deflate import deflate, engine_for
from tests.support.h5py_stores import dataset, encoded, noise, pipeline_dataset, stored, walk

levels = pytest.mark.parametrize("level", range(10))


@given(st.integers(0, 9), st.binary(max_size=3000))
@settings(deadline=None)
def test_zlib_gets_back_what_went_in(level: Any, data: Any) -> None:
    assert zlib.decompress(deflate(data, level)) == data
    assert zlib.decompress(deflate(memoryview(data), level)) == data


@levels
@pytest.mark.parametrize("make", [walk, noise])
def test_hdf5_reads_it_and_its_own_payload_decodes_to_the_same(level: Any, make: Any) -> None:
    data = make((60, 50))
    with dataset(data.shape, data.dtype, (16, 16), compression="gzip", compression_opts=level) as made:
        ours = encoded(made, data)
        theirs = stored(made, data)
        assert ours.keys() == theirs.keys()
        for origin, (mask, payload) in ours.items():
            assert mask == theirs[origin][0] == 0
            assert zlib.decompress(payload) == zlib.decompress(theirs[origin][1])
            made.id.write_direct_chunk(origin, payload, mask)
        np.testing.assert_array_equal(made[...], data)


@levels
def test_incompressible_data_grow_with_no_filter_left_out(level: Any) -> None:
    data = noise((1000,))
    with dataset(data.shape, data.dtype, data.shape, compression="gzip", compression_opts=level) as made:
        ((mask, payload),) = encoded(made, data).values()
    assert mask == 0
    assert len(data) < len(payload) < len(data) + 64


@pytest.mark.parametrize("level", range(4, 10))
@pytest.mark.parametrize("shuffled", [False, True])
def test_from_the_default_level_up_it_is_at_most_1_percent_longer_than_zlibs(level: int, shuffled: bool) -> None:
    data = walk((1 << 17,)).view("u1")
    data = data.reshape(-1, 2).T.tobytes() if shuffled else data.tobytes()
    assert len(deflate(data, level)) <= 1.01 * len(zlib.compress(data, level))


@given(st.integers(0, 9), st.integers(1, 9), st.integers(0, 3), st.integers(0, 100))
@settings(deadline=None, max_examples=60)
def test_zlib_gets_back_planes_too(level: Any, planes: Any, blocks: Any, seed: int) -> None:
    """Of any length, from planes that are too short to be told apart up."""
    data = np.random.default_rng(seed).normal(0, 20, blocks * planes * 9000).astype("i2").tobytes()
    assert zlib.decompress(deflate(data, level, planes)) == data


@pytest.mark.parametrize("level", [1, 2])
def test_planes_make_the_fast_levels_smaller(level: int) -> None:
    data = np.random.default_rng(0).normal(0, 20, 450_000).astype("i2").view("u1").reshape(-1, 2).T.tobytes()
    assert len(deflate(data, level, 2)) < 0.985 * len(deflate(data, level))
    assert (engine_for(level), engine_for(level, 2)) == (f"isal {level}", "isal 2, by planes")


def test_each_level_has_an_engine() -> None:
    assert [engine_for(level).split()[0] for level in (0, 1, 4)] == ["zlib", "isal", "libdeflate"]
    with pytest.raises(KeyError):
        engine_for(10)


SHUFFLE, FLETCHER32 = h5py.h5p.PropDCID.set_shuffle, h5py.h5p.PropDCID.set_fletcher32


def gzip(plist: Any) -> None:
    plist.set_deflate(4)


@pytest.mark.parametrize(
    "filters",
    [
        (SHUFFLE, gzip, FLETCHER32),
        (FLETCHER32, SHUFFLE, gzip),
        (gzip, SHUFFLE),
        (gzip, FLETCHER32, SHUFFLE),
        (FLETCHER32, gzip, FLETCHER32),
        (gzip, gzip),
    ],
    ids=lambda filters: "-".join(step.__name__.removeprefix("set_") for step in filters),
)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i4", "f8", "S3"])
def test_stacks_run_in_the_order_of_the_property_list(filters: tuple[Any, ...], dtype: str) -> None:
    data = noise((333,), "u1").astype(dtype)
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        made = pipeline_dataset(file, data, *filters)
        ((origin, (mask, payload)),) = encoded(made, data).items()
        assert mask == 0
        made.id.write_direct_chunk(origin, payload, mask)
        np.testing.assert_array_equal(made[...], data)
