import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import FilterError, IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.decoder import DirectDecoder
from dask_chunkio.filters.decoders import decoder_for
from dask_chunkio.filters.hdf5_decoder import Hdf5Decoder
from dask_chunkio.filters.isolated_decoder import IsolatedDecoder
from dask_chunkio.storage.hdf5.dataset import describe
from tests.filters.test_hdf5_encoder import FLETCHER32, SHUFFLE, STACKS, lzf, nbit, scaleoffset, stacks, szip
from tests.filters.test_plugin import CODECS, SHAPED
from tests.support.h5py_stores import assert_decoded, dataset, noise, pipeline_dataset, stored, walk


@stacks
@pytest.mark.parametrize("make", [walk, noise])
def test_stacks_are_decoded_as_by_h5py(stack: Any, make: Any) -> None:
    data = make((50, 30), "f4" if "32017" in str(stack) else "i2")
    with dataset(data.shape, data.dtype, (16, 16), **stack) as made:
        form = describe(made).form
        expected = DirectDecoder if "lzf" in stack.values() else IsolatedDecoder
        assert isinstance(decoder_for(form), expected)
        assert_decoded(made, data, stack)
        assert_decoded(made, data, stack, Hdf5Decoder(form))


@given(st.sampled_from(sorted(SHAPED)), st.integers(8, 40), st.integers(8, 40), st.data())
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_plugins_that_see_the_shape_of_a_chunk_are_decoded_as_by_h5py(
    name: str, rows: int, columns: int, draw: st.DataObject
) -> None:
    codec, dtypes = SHAPED[name]
    dtype = draw.draw(st.sampled_from(dtypes))
    chunks = tuple(draw.draw(st.integers(8, length)) for length in (rows, columns))
    data = (np.abs(walk((rows, columns), "i4")) % 200).astype(dtype)
    with dataset(data.shape, dtype, chunks, **codec) as made:
        form = describe(made).form
        try:
            assert_decoded(made, data, codec)
        except OSError:  # fcidecomp does not get back every small chunk of its own
            assert name == "fcidecomp"
            return
        assert_decoded(made, data, codec, Hdf5Decoder(form))


@pytest.mark.parametrize("name", CODECS)
def test_hdf5_decodes_what_is_decoded_without_it(name: str) -> None:
    codec, dtypes = CODECS[name]
    for dtype in dtypes:
        data = noise((30, 20), dtype) if np.dtype(dtype).kind in "SV" else walk((30, 20), dtype)
        with dataset(data.shape, dtype, (16, 16), **codec) as made:
            assert_decoded(made, data, codec, Hdf5Decoder(describe(made).form))


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i8", "f2", "c8", "S5", "V3", bool, [("a", "i2"), ("b", "f8")]])
def test_every_type_of_element(dtype: Any) -> None:
    data = np.zeros((20,), dtype)
    data.view("u1")[:] = noise((data.nbytes,)) & 1
    with dataset(data.shape, dtype, (8,), compression="gzip") as made:
        assert_decoded(made, data, {"compression": "gzip"}, Hdf5Decoder(describe(made).form))


@pytest.mark.parametrize("dtype", ["u1", "<i8", "f4", ">f8"])
@pytest.mark.parametrize("name", ["scaleoffset", "szip"])
def test_types_of_numbers(name: str, dtype: str) -> None:
    keywords = {"scaleoffset": 2} if name == "scaleoffset" else STACKS["szip"]
    data = (np.abs(walk((33, 9), "f8")) % 100).astype(dtype)
    with dataset(data.shape, dtype, (8, 8), **keywords) as made:
        assert_decoded(made, data, keywords)


def bits(*_: Any) -> Any:
    """A number of 20 bits in 4 bytes, which is no dtype of numpy's: nbit packs it."""
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(20)
    return kind


def test_bits_that_numpy_does_not_know_are_unpacked() -> None:
    """Whatever the options of a filter come from, they are recorded as they are."""
    data = np.abs(walk((64,), "<i4")) % 100_000
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(data.shape)
    nbit(plist)
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        space = h5py.h5s.create_simple(data.shape)
        made = h5py.Dataset(h5py.h5d.create(file.id, b"x", bits(), space, plist))
        ((mask, payload),) = stored(made, data).values()
        assert len(payload) < 3 * len(data)
        found = decoder_for(describe(made).form).decode(Payload(payload, mask))
        np.testing.assert_array_equal(found, data)


@pytest.mark.parametrize("filters", [(szip,), (nbit, SHUFFLE), (scaleoffset,), (SHUFFLE, lzf), (FLETCHER32, nbit)])
@pytest.mark.parametrize("make", [walk, noise])
def test_a_dataset_of_somebody_elses_is_decoded_from_what_it_records(filters: tuple[Any, ...], make: Any) -> None:
    data = make((64,), "i4")
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        assert_decoded(pipeline_dataset(file, data, *filters), data, {})


@pytest.mark.parametrize("name", [*CODECS, *SHAPED])
def test_options_are_recorded_as_they_are(name: str) -> None:
    """Some plugins add to their options each time that a dataset is made with them."""
    codec, dtypes = {**CODECS, **SHAPED}[name]
    data = np.abs(walk((64, 64), "i4")).astype(dtypes[1])
    with dataset(data.shape, data.dtype, data.shape, **codec) as made:
        assert_decoded(made, data, codec, Hdf5Decoder(describe(made).form))


@pytest.mark.parametrize("mask", range(8))
def test_filters_of_the_mask_are_skipped(mask: int) -> None:
    data, steps = np.arange(64, dtype="<i4"), []
    payload: bytes = data.tobytes()
    if not mask & 1:
        payload = data.view("u1").reshape(-1, 4).T.tobytes()
    for position in (1, 2):
        payload = payload if mask >> position & 1 else zlib.compress(payload)
    steps = [Filter(2, 0, (4,), "shuffle"), Filter(1, 1, (4,), "deflate"), Filter(1, 1, (9,), "deflate")]
    form = ChunkFormat((64,), data.dtype, tuple(steps))
    np.testing.assert_array_equal(Hdf5Decoder(form).decode(Payload(payload, mask)), data)
    np.testing.assert_array_equal(IsolatedDecoder(form).decode(Payload(payload, mask | 0xFFFFFFF8)), data)


@pytest.mark.parametrize("length", [0, 1, 255, 257, 5000])
def test_a_chunk_of_another_length_is_refused(length: int) -> None:
    """HDF5 itself takes it, and returns memory that nobody has written where it is too short."""
    form = ChunkFormat((64,), np.dtype("<i4"), (Filter(1, 0, (4,), "deflate"),))
    payload = zlib.compress(bytes(length))
    with pytest.raises(IntegrityError, match=r"^its payload cannot be decoded"):
        Hdf5Decoder(form).decode(Payload(payload))
    with pytest.raises(IntegrityError, match=r"^its payload cannot be decoded"):
        IsolatedDecoder(form).decode(Payload(payload))


def test_the_longest_pipeline_is_decoded_and_a_longer_one_refused() -> None:
    step = Filter(1, 0, (1,), "deflate")
    payload = bytes(range(8))
    for _ in range(31):
        payload = zlib.compress(payload)
    decoder = Hdf5Decoder(ChunkFormat((8,), np.dtype("u1"), (step,) * 31))
    assert decoder.decode(Payload(payload)).tobytes() == bytes(range(8))
    with pytest.raises(FilterError, match="a pipeline of 32 filters cannot be decoded"):
        Hdf5Decoder(ChunkFormat((8,), np.dtype("u1"), (step,) * 32))


def test_what_hdf5_does_not_record_is_refused() -> None:
    with pytest.raises(FilterError, match=r"^HDF5 cannot record the pipeline deflate: .*; read"):
        Hdf5Decoder(ChunkFormat((1 << 32,), np.dtype("u1"), (Filter(1, 0, (4,), "deflate"),)))


def test_a_missing_filter_is_named_with_the_remedy() -> None:
    form = ChunkFormat((4,), np.dtype("i2"), (Filter(31999, 0, (), "none"),))
    with pytest.raises(FilterError, match=r"filter 31999 is not available .* pip install hdf5plugin"):
        Hdf5Decoder(form)


def test_threads_may_share_a_decoder() -> None:
    chunks = [walk((64, 64), "i4", seed) for seed in range(12)]
    with dataset((64, 64), "i4", (64, 64), scaleoffset=0) as made:
        payloads = [Payload(next(iter(stored(made, chunk).values()))[1]) for chunk in chunks]
        decoder = Hdf5Decoder(describe(made).form)
    with ThreadPoolExecutor(4) as pool:
        for found, chunk in zip(pool.map(decoder.decode, payloads), chunks, strict=True):
            np.testing.assert_array_equal(found, chunk)


def test_its_name_says_who_undoes_it() -> None:
    keywords = {"scaleoffset": 0, "shuffle": True}
    with dataset((8,), "i2", (4,), **keywords) as made:
        form = describe(made).form
    assert Hdf5Decoder(form).name == "shuffle > scaleoffset by HDF5, one at a time"
    assert not Hdf5Decoder(form).is_parallel
    assert decoder_for(form).name == "shuffle > scaleoffset by HDF5, in a process of its own"
    assert decoder_for(form).is_parallel
    assert Hdf5Decoder(form).most_nbytes == decoder_for(form).most_nbytes == form.most_payload_nbytes


def test_hdf5plugins_own_class_of_blosc2_with_a_filter_of_its_own_goes_to_hdf5() -> None:
    keywords = dict(hdf5plugin.Blosc2(cname="lz4", filters=hdf5plugin.Blosc2.DELTA))
    data = walk((64, 64))
    with dataset(data.shape, data.dtype, data.shape, **keywords) as made:
        assert_decoded(made, data, keywords)
