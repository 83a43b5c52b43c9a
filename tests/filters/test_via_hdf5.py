import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import hdf5plugin
import numpy as np
import pytest
from h5py_stores import dataset, encoded, noise, stored, walk

from dask_chunkio.errors import FilterError
from dask_chunkio.filters.pipeline import ChunkFormat, DirectEncoder, Filter
from dask_chunkio.filters.via_hdf5 import Hdf5Encoder, encoder_for, require_filter
from dask_chunkio.storage.dataset import describe

STACKS = {
    "lzf": {"compression": "lzf"},
    "lzf-shuffle": {"compression": "lzf", "shuffle": True},
    "lzf-shuffle-fletcher32": {"compression": "lzf", "shuffle": True, "fletcher32": True},
    "szip": {"compression": "szip", "compression_opts": ("nn", 8)},
    "scaleoffset": {"scaleoffset": 0},
    "scaleoffset-gzip": {"scaleoffset": 0, "compression": "gzip", "shuffle": True},
    "scaleoffset-fillvalue": {"scaleoffset": 0, "fillvalue": 7},
    "scaleoffset-bits": {"scaleoffset": 12},
    "zstd": dict(hdf5plugin.Zstd(3)),
    "zstd-shuffle": {**hdf5plugin.Zstd(), "shuffle": True},
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
    "bitshuffle-zstd": dict(hdf5plugin.Bitshuffle(cname="zstd")),
    "bzip2": dict(hdf5plugin.BZip2()),
    "blosc": dict(hdf5plugin.Blosc(cname="lz4")),
    "lz4-fillvalue": {**hdf5plugin.LZ4(), "fillvalue": -5},
}
LZF = {"compression": "lzf"}
stacks = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)


def assert_same(made, data, keywords):
    ours, theirs = encoded(made, data, **keywords), stored(made, data)
    if keywords.get("compression") != "lzf":
        assert ours == theirs
        return
    # lzf starts on a table that nobody clears: HDF5's own payloads for one chunk may differ by a byte.
    assert {origin: mask for origin, (mask, _) in ours.items()} == {
        origin: mask for origin, (mask, _) in theirs.items()
    }
    for origin, (mask, payload) in ours.items():
        made.id.write_direct_chunk(origin, payload, mask)
    assert made[...].tobytes() == data.tobytes()


@stacks
@pytest.mark.parametrize("make", [walk, noise])
def test_payload_and_mask_are_what_hdf5_stores(stack, make):
    data = make((50, 30), "i2")
    with dataset(data.shape, data.dtype, (16, 16), **stack) as made:
        assert isinstance(encoder_for(describe(made).form, stack), Hdf5Encoder)
        assert_same(made, data, stack)


@pytest.mark.parametrize(
    ("plugin", "dtype"),
    [
        (hdf5plugin.Zfp(accuracy=0.1), "f4"),
        (hdf5plugin.SZ3(absolute=0.1), "f8"),
        (hdf5plugin.Blosc2(cname="zstd", filters=hdf5plugin.Blosc2.BITSHUFFLE), ">i4"),
        (hdf5plugin.FciDecomp(), "u1"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_plugins_that_work_out_their_own_parameters(plugin, dtype):
    data = walk((50, 30), dtype)
    with dataset(data.shape, data.dtype, (16, 16), **plugin) as made:
        assert encoded(made, data, **plugin) == stored(made, data)


@pytest.mark.parametrize("digits", [0, 2, 5])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
@pytest.mark.parametrize("fill", [None, 2.5])
def test_scaleoffset_of_floats(digits, dtype, fill):
    data = walk((33, 9), "f8").astype(dtype)
    data[3, 3] = 2.5
    keywords = {"scaleoffset": digits, "fillvalue": fill}
    with dataset(data.shape, dtype, (8, 8), **keywords) as made:
        assert encoded(made, data, **keywords) == stored(made, data)


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i8", "f2", "c8", "S5", bool, [("a", "i2"), ("b", "f8")]])
def test_every_type_of_element(dtype):
    data = np.zeros((20,), dtype)
    data.view("u1")[:] = noise((data.nbytes,)) & 1
    with dataset(data.shape, dtype, (8,), **LZF) as made:
        assert_same(made, data, LZF)


def test_an_optional_filter_that_gains_nothing_sets_its_bit():
    data = noise((4096,))
    with dataset(data.shape, data.dtype, data.shape, **LZF, shuffle=True) as made:
        ((mask, payload),) = encoded(made, data, **LZF, shuffle=True).values()
    assert mask == 0b10  # the second of the pipeline
    assert payload == data.tobytes()


def test_payloads_do_not_depend_on_what_was_encoded_before():
    """A chunk of HDF5's that is written twice keeps the mask of the first payload."""
    bad, good = noise((512,)), np.zeros((512,), "u1")
    with dataset(bad.shape, "u1", bad.shape, **LZF) as made:
        encoder = Hdf5Encoder(describe(made).form, LZF)
    masks = [encoder.encode(chunk).mask for chunk in (good, bad, good, bad)]
    assert masks == [0, 1, 0, 1]


def test_threads_may_share_an_encoder():
    chunks = [walk((64, 64), "i4", seed) for seed in range(24)]
    zstd = dict(hdf5plugin.Zstd(3))
    with dataset((64, 64), "i4", (64, 64), **zstd) as made:
        encoder = Hdf5Encoder(describe(made).form, zstd)
    alone = [encoder.encode(chunk) for chunk in chunks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encoder.encode, chunks)) == alone


def test_direct_filters_need_no_hdf5():
    with dataset((8,), "i2", (4,), compression="gzip", shuffle=True, fletcher32=True) as made:
        form = describe(made).form
    encoder = encoder_for(form, {"compression": "gzip", "shuffle": True, "fletcher32": True})
    assert isinstance(encoder, DirectEncoder)
    assert encoder.name == "shuffle > deflate(4) by libdeflate 4 > fletcher32"


def test_its_name_says_who_runs_it():
    with dataset((8,), "i2", (4,), **LZF, shuffle=True) as made:
        assert encoder_for(describe(made).form, {**LZF, "shuffle": True}).name == "shuffle > lzf by HDF5"


def test_a_missing_filter_is_named_with_the_remedy():
    with pytest.raises(FilterError, match=r"filter 31999 is not available .* pip install hdf5plugin"):
        require_filter(31999)
    with pytest.raises(FilterError, match="31999"):
        encoder_for(ChunkFormat((4,), np.dtype("i2"), (Filter(31999, 0, (), "none"),)), {})


@pytest.mark.parametrize("others", [{}, {"compression": "gzip"}, {**LZF, "shuffle": True}])
def test_a_pipeline_that_comes_out_otherwise_is_refused(others):
    with dataset((8,), "i2", (4,), **LZF) as made:
        form = describe(made).form
    with pytest.raises(FilterError, match="cannot be run chunk by chunk"):
        Hdf5Encoder(form, others)


def test_a_filter_that_fails_on_a_chunk_is_an_error_of_ours():
    with dataset((8,), "i2", (8,), **LZF) as made:
        encoder = Hdf5Encoder(describe(made).form, LZF)
    with pytest.raises(FilterError, match="HDF5's lzf by HDF5 failed on a chunk"):
        encoder.encode(np.zeros(8, "S4"))  # which HDF5 does not convert to integers


def test_a_plugin_is_loaded_where_it_is_first_needed():
    script = """
        import sys
        from dask_chunkio.filters.via_hdf5 import require_filter
        assert "hdf5plugin" not in sys.modules
        require_filter(32015)
        assert "hdf5plugin" in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
