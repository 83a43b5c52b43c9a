import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from dask_chunkio.errors import FilterError
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter
from dask_chunkio.filters.encoder import DirectEncoder
from dask_chunkio.filters.encoders import encoder_for
from dask_chunkio.filters.hdf5_encoder import Hdf5Encoder, require_filter
from dask_chunkio.storage.hdf5.dataset import describe
from tests.support.h5py_stores import dataset, encoded, noise, pipeline_dataset, stored, walk

STACKS: dict[str, dict[str, Any]] = {
    "lzf": {"compression": "lzf"},
    "lzf-shuffle": {"compression": "lzf", "shuffle": True},
    "lzf-shuffle-fletcher32": {"compression": "lzf", "shuffle": True, "fletcher32": True},
    "szip": {"compression": "szip", "compression_opts": ("nn", 8)},
    "scaleoffset": {"scaleoffset": 0},
    "scaleoffset-gzip": {"scaleoffset": 0, "compression": "gzip", "shuffle": True},
    "scaleoffset-fillvalue": {"scaleoffset": 0, "fillvalue": 7},
    "scaleoffset-bits": {"scaleoffset": 12},
    "sz": dict(hdf5plugin.SZ(absolute=0.1)),
    "scaleoffset-zstd": {**hdf5plugin.Zstd(), "scaleoffset": 12},
}
LZF = {"compression": "lzf"}
SHUFFLE, FLETCHER32 = h5py.h5p.PropDCID.set_shuffle, h5py.h5p.PropDCID.set_fletcher32
stacks = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)


def assert_same(made: Any, data: Any, keywords: Any, given: Any = None) -> None:
    ours, theirs = encoded(made, data, **(keywords if given is None else given)), stored(made, data)
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
def test_payload_and_mask_are_what_hdf5_stores(stack: Any, make: Any) -> None:
    data = make((50, 30), "f4" if "32017" in str(stack) else "i2")
    with dataset(data.shape, data.dtype, (16, 16), **stack) as made:
        expected = DirectEncoder if "lzf" in stack.values() else Hdf5Encoder
        assert isinstance(encoder_for(describe(made).form, stack), expected)
        assert_same(made, data, stack)


@pytest.mark.parametrize("digits", [0, 2, 5])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
@pytest.mark.parametrize("fill", [None, 2.5])
def test_scaleoffset_of_floats(digits: int, dtype: str, fill: float | None) -> None:
    data = walk((33, 9), "f8").astype(dtype)
    data[3, 3] = 2.5
    keywords = {"scaleoffset": digits, "fillvalue": fill}
    with dataset(data.shape, dtype, (8, 8), **keywords) as made:
        assert encoded(made, data, **keywords) == stored(made, data)


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i8", "f2", "c8", "S5", bool, [("a", "i2"), ("b", "f8")]])
def test_every_type_of_element(dtype: Any) -> None:
    data = np.zeros((20,), dtype)
    data.view("u1")[:] = noise((data.nbytes,)) & 1
    with dataset(data.shape, dtype, (8,), **LZF) as made:
        assert_same(made, data, LZF)


def test_an_optional_filter_that_gains_nothing_sets_its_bit() -> None:
    data = noise((4096,))
    with dataset(data.shape, data.dtype, data.shape, **LZF, shuffle=True) as made:
        ((mask, payload),) = encoded(made, data, **LZF, shuffle=True).values()
    assert mask == 0b10  # the second of the pipeline
    assert payload == data.tobytes()


def test_payloads_do_not_depend_on_what_was_encoded_before() -> None:
    """A chunk of HDF5's that is written twice keeps the mask of the first payload."""
    bad, good = noise((512,)), np.zeros((512,), "u1")
    with dataset(bad.shape, "u1", bad.shape, **LZF) as made:
        encoder = Hdf5Encoder(describe(made).form, LZF)
    masks = [encoder.encode(chunk).mask for chunk in (good, bad, good, bad)]
    assert masks == [0, 1, 0, 1]


def test_threads_may_share_an_encoder() -> None:
    chunks = [walk((64, 64), "i4", seed) for seed in range(24)]
    with dataset((64, 64), "i4", (64, 64), scaleoffset=0) as made:
        encoder = Hdf5Encoder(describe(made).form, {"scaleoffset": 0})
    alone = [encoder.encode(chunk) for chunk in chunks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encoder.encode, chunks)) == alone


def test_direct_filters_need_no_hdf5() -> None:
    with dataset((8,), "i2", (4,), compression="gzip", shuffle=True, fletcher32=True) as made:
        form = describe(made).form
    encoder = encoder_for(form, {"compression": "gzip", "shuffle": True, "fletcher32": True})
    assert isinstance(encoder, DirectEncoder)
    assert encoder.name == "shuffle > deflate(4) by libdeflate 4 > fletcher32"


def test_its_name_says_who_runs_it() -> None:
    keywords = {"scaleoffset": 0, "shuffle": True}
    with dataset((8,), "i2", (4,), **keywords) as made:
        assert "scaleoffset > shuffle by HDF5, one at a time" in encoder_for(describe(made).form, keywords).name
    with dataset((8,), "i2", (4,), **LZF, shuffle=True) as made:
        assert encoder_for(describe(made).form, {**LZF, "shuffle": True}).name == "shuffle > lzf in h5py"


def test_a_missing_filter_is_named_with_the_remedy() -> None:
    with pytest.raises(FilterError, match=r"filter 31999 is not available .* pip install hdf5plugin"):
        require_filter(31999)
    with pytest.raises(FilterError, match="31999"):
        encoder_for(ChunkFormat((4,), np.dtype("i2"), (Filter(31999, 0, (), "none"),)), {})


def szip(plist: Any) -> None:
    plist.set_filter(h5py.h5z.FILTER_SZIP, h5py.h5z.FLAG_OPTIONAL, (32, 8))


def nbit(plist: Any) -> None:
    plist.set_filter(h5py.h5z.FILTER_NBIT, h5py.h5z.FLAG_OPTIONAL, ())


def scaleoffset(plist: Any) -> None:
    plist.set_scaleoffset(h5py.h5z.SO_INT, 0)
    plist.set_fill_value(np.array(7, "i4"))


def lzf(plist: Any) -> None:
    plist.set_filter(32000, h5py.h5z.FLAG_OPTIONAL, ())


@pytest.mark.parametrize("filters", [(szip,), (nbit, SHUFFLE), (scaleoffset,), (SHUFFLE, lzf), (FLETCHER32, nbit)])
@pytest.mark.parametrize("make", [walk, noise])
def test_a_dataset_of_somebody_elses_is_encoded_from_what_it_records(filters: tuple[Any, ...], make: Any) -> None:
    data = make((64,), "i4")
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        made = pipeline_dataset(file, data, *filters)
        assert isinstance(encoder_for(describe(made).form, {}), DirectEncoder if lzf in filters else Hdf5Encoder)
        assert_same(made, data, {"compression": "lzf"} if lzf in filters else {}, given={})


def test_a_pipeline_that_comes_out_otherwise_is_refused() -> None:
    """Bitshuffle adds to its options each time a dataset is made with it."""
    with dataset((8,), "i2", (4,), **hdf5plugin.Bitshuffle()) as made:
        form = describe(made).form
    with pytest.raises(FilterError, match="cannot be run chunk by chunk"):
        Hdf5Encoder(form, {})


def test_a_pipeline_that_hdf5_refuses_to_set_up_is_an_error_of_ours() -> None:
    form = ChunkFormat((8,), np.dtype("S4"), (Filter(4, 0, (32, 8), "szip"),))
    with pytest.raises(FilterError, match=r"^szip by HDF5, one at a time: cannot be set up"):
        Hdf5Encoder(form, {})


def test_a_filter_that_fails_on_a_chunk_is_an_error_of_ours() -> None:
    with dataset((8,), "i2", (8,), **LZF) as made:
        encoder = Hdf5Encoder(describe(made).form, LZF)
    with pytest.raises(FilterError, match="lzf by HDF5, one at a time: failed on a chunk"):
        encoder.encode(np.zeros(8, "S4"))  # which HDF5 does not convert to integers


def test_a_mandatory_filter_that_fails_leaves_hdf5_whole() -> None:
    """HDF5 ends with a crash where a chunk in its cache fails at the end; so this runs apart."""
    script = """
        import numpy as np, pytest
        from dask_chunkio.errors import FilterError
        from dask_chunkio.filters.chunk_format import ChunkFormat, Filter
        from dask_chunkio.filters.hdf5_encoder import Hdf5Encoder
        form = ChunkFormat((100,), np.dtype("i4"), (Filter(1, 0, (12,), "deflate"),))
        encoder = Hdf5Encoder(form, {})
        for _ in range(3):
            with pytest.raises(FilterError, match="failed on a chunk"):
                encoder.encode(np.arange(100, dtype="i4"))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_plugin_is_loaded_where_it_is_first_needed() -> None:
    script = """
        import sys
        from dask_chunkio.filters.hdf5_encoder import require_filter
        assert "hdf5plugin" not in sys.modules
        require_filter(32015)
        assert "hdf5plugin" in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
