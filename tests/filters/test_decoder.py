import io
import itertools
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
from dask_chunkio.filters import plugin_inverses, zstd_stream
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.decoder import DirectDecoder, direct_inverses
from dask_chunkio.filters.decoders import decoder_for
from dask_chunkio.filters.encoder import DirectEncoder
from dask_chunkio.filters.shuffle import shuffle
from dask_chunkio.storage.hdf5.dataset import describe
from tests.filters.test_plugin import CODECS, MAKE
from tests.support.h5py_stores import assert_decoded, dataset, noise, pipeline_dataset, stored, walk

OWN: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip"},
    "gzip-9": {"compression": "gzip", "compression_opts": 9},
    "gzip-0": {"compression": "gzip", "compression_opts": 0},
    "lzf": {"compression": "lzf"},
}
DIRECT = {**OWN, **{name: dict(codec) for name, (codec, _) in CODECS.items()}}
AROUND = [{}, {"shuffle": True}, {"fletcher32": True}, {"shuffle": True, "fletcher32": True}]
DTYPES = ["u1", "<i2", ">i4", "<f8", "c16", "S7", "V3", "?", [("a", "<i2"), ("b", ">f8")]]
SHUFFLE, FLETCHER32 = h5py.h5p.PropDCID.set_shuffle, h5py.h5p.PropDCID.set_fletcher32


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Any, tuple[int, ...]]:
    """An array of any type and the shape of its chunks."""
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)))
    chunks = tuple(draw(st.integers(1, length)) for length in shape)
    kind, make = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.sampled_from(sorted(MAKE)))
    if kind.kind in "iufc":
        return MAKE[make](shape, kind, 3), chunks
    raw = noise(shape, f"V{kind.itemsize}", 3)
    return (raw.view("u1") % 2 == 1 if kind.kind == "b" else raw.view(kind)), chunks


anything = given(arrays(), st.sampled_from(sorted(DIRECT)), st.sampled_from(AROUND))


def decoded_as_by_h5py(array: Any, name: str, around: Any) -> None:
    data, chunks = array
    keywords = {**DIRECT[name], **around}
    with dataset(data.shape, data.dtype, chunks, **keywords) as made:
        assert isinstance(decoder_for(describe(made).form), DirectDecoder)
        assert_decoded(made, data, keywords)


@anything
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_chunks_are_decoded_as_by_h5py(array: Any, name: str, around: Any) -> None:
    decoded_as_by_h5py(array, name, around)


@pytest.mark.heavy
@anything
@settings(deadline=None, max_examples=1500, suppress_health_check=[HealthCheck.too_slow])
def test_chunks_are_decoded_as_by_h5py_at_length(array: Any, name: str, around: Any) -> None:
    decoded_as_by_h5py(array, name, around)


def parts_decoded(array: Any, name: str, around: Any, draw: st.DataObject) -> None:
    data, chunks = array
    with dataset(data.shape, data.dtype, chunks, **{**DIRECT[name], **around}) as made:
        form = describe(made).form
        decoder = decoder_for(form)
        for mask, payload in stored(made, data).values():
            whole = decoder.decode(Payload(payload, mask)).tobytes()
            first = draw.draw(st.integers(0, form.nbytes - 1))
            needed = slice(first, draw.draw(st.integers(first + 1, form.nbytes)))
            for _ in range(2):
                found = decoder.decode(Payload(payload, mask), needed)
                assert (found.shape, found.dtype) == (form.chunk_shape, form.dtype)
                assert found.tobytes()[needed] == whole[needed]
            # Nothing that was left out is left out of the next chunk.
            assert decoder.decode(Payload(payload, mask)).tobytes() == whole


@given(arrays(), st.sampled_from(sorted(DIRECT)), st.sampled_from(AROUND), st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_the_needed_part_of_a_chunk_is_that_of_the_whole(
    array: Any, name: str, around: Any, draw: st.DataObject
) -> None:
    parts_decoded(array, name, around, draw)


@pytest.mark.heavy
@given(arrays(), st.sampled_from(["bitshuffle", "blosc2", "zstd"]), st.sampled_from(AROUND), st.data())
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_the_needed_part_of_a_chunk_is_that_of_the_whole_at_length(
    array: Any, name: str, around: Any, draw: st.DataObject
) -> None:
    parts_decoded(array, name, around, draw)


@pytest.mark.parametrize("name", ["bitshuffle", "blosc2", "zstd"])
@pytest.mark.parametrize("value", ["walk", "zeros", "noise"])
@pytest.mark.parametrize("length", [100_000, 70_001, 61_445])
def test_every_part_of_a_chunk_of_many_blocks(name: str, value: str, length: int) -> None:
    data = {"walk": walk((length,)), "zeros": np.zeros(length, "i4"), "noise": noise((length,), "i4")}[value].astype(
        "i4"
    )
    with dataset(data.shape, data.dtype, data.shape, **DIRECT[name]) as made:
        decoder = decoder_for(describe(made).form)
        assert decoder.decodes_parts == (name != "zstd")
        ((mask, payload),) = stored(made, data).values()
        for first in (0, 1, 3, 8191, 8192, 40_000, 4 * length - 33, 4 * length - 1):
            for last in (first + 1, first + 5, first + 8192, 4 * length // 2, 4 * length):
                if first < last <= 4 * length:
                    found = decoder.decode(Payload(payload, mask), slice(first, last))
                    assert found.tobytes()[first:last] == data.tobytes()[first:last]


def test_the_start_of_a_damaged_chunk_of_zstd_is_refused_or_right() -> None:
    data = noise((500_000,), "i2")
    with dataset(data.shape, data.dtype, data.shape, **DIRECT["zstd"]) as made:
        decoder = decoder_for(describe(made).form)
        ((_, payload),) = stored(made, data).values()
    assert len(payload) > 500_000
    cut = Payload(payload[: len(payload) // 2])
    for needed in (None, slice(0, 1_000_000), slice(0, 900_000), slice(899_999, 900_000)):
        with pytest.raises(IntegrityError, match="is damaged"):
            decoder.decode(cut, needed)
    assert decoder.decode(cut, slice(100, 4000)).tobytes()[100:4000] == data.tobytes()[100:4000]
    # The next chunk of this thread.
    assert decoder.decode(Payload(payload), slice(0, 4000)).tobytes()[:4000] == data.tobytes()[:4000]


def test_a_library_of_zstd_without_stable_output_decodes_whole_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before 1.4.5 have none."""
    monkeypatch.setattr(zstd_stream, "_STABLE_OUTPUT", 10**6)
    monkeypatch.setattr(plugin_inverses, "_found", plugin_inverses._found.__wrapped__)
    data = walk((50_000,)).astype("i4")
    with dataset(data.shape, data.dtype, data.shape, **DIRECT["zstd"]) as made:
        decoder = decoder_for(describe(made).form)
        ((_, payload),) = stored(made, data).values()
    assert decoder.decode(Payload(payload), slice(0, 4000)).tobytes() == data.tobytes()
    with pytest.raises(IntegrityError):
        decoder.decode(Payload(payload[: len(payload) // 2]), slice(0, 4000))


def test_a_part_of_a_damaged_chunk_is_refused_or_right() -> None:
    data = walk((50_000,)).astype("i4")
    with dataset(data.shape, data.dtype, data.shape, **DIRECT["bitshuffle"]) as made:
        decoder = decoder_for(describe(made).form)
        ((_, payload),) = stored(made, data).values()
    cut = Payload(payload[: len(payload) // 2])
    with pytest.raises(IntegrityError, match="is cut off"):
        decoder.decode(cut)
    with pytest.raises(IntegrityError, match="is cut off"):
        decoder.decode(cut, slice(0, 200_000))
    assert decoder.decode(cut, slice(0, 4000)).tobytes()[:4000] == data.tobytes()[:4000]
    # It declares 24 bytes, and what is needed is behind them.
    short = Payload((24).to_bytes(8, "big") + payload[8:])
    with pytest.raises(IntegrityError):
        decoder.decode(short, slice(100_000, 100_008))


@pytest.mark.parametrize("name", DIRECT)
def test_a_chunk_of_one_byte(name: str) -> None:
    with dataset((2,), "u1", (1,), **DIRECT[name]) as made:
        assert_decoded(made, np.array([7, 9], "u1"), DIRECT[name])


@pytest.mark.parametrize("name", DIRECT)
def test_a_chunk_of_megabytes(name: str) -> None:
    data = np.tile(walk((1 << 15,)), 17)
    with dataset(data.shape, data.dtype, data.shape, **DIRECT[name], shuffle=True) as made:
        assert_decoded(made, data, {**DIRECT[name], "shuffle": True})


def raw(code: int, *options: int) -> Any:
    def install(plist: Any) -> None:
        plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, options)

    install.__name__ = "-".join(map(str, (code, *options)))
    return install


def skipping(made: h5py.Dataset, data: Any, mask: int) -> Payload:
    """A payload for which the filters of a mask were left out, and those that gain nothing."""
    form = describe(made).form
    kept = [position for position in range(len(form.filters)) if not mask >> position & 1]
    shorter = ChunkFormat(form.chunk_shape, form.dtype, tuple(form.filters[position] for position in kept))
    payload = DirectEncoder(shorter).encode(data)
    left_out = sum(1 << position for number, position in enumerate(kept) if payload.mask >> number & 1)
    return Payload(payload.data, mask | left_out)


STACKED = [
    (SHUFFLE, raw(1, 4), FLETCHER32),
    (FLETCHER32, raw(32015, 3), SHUFFLE),
    (raw(32008), raw(32004, 0), FLETCHER32),
    (raw(32001), raw(307, 1)),
    (raw(32015, 3), raw(1, 1), raw(32000)),
    (raw(32026), FLETCHER32, raw(1, 6)),
    (FLETCHER32, FLETCHER32),
]


@pytest.mark.parametrize("filters", STACKED, ids=lambda one: "_".join(f.__name__.removeprefix("set_") for f in one))
@pytest.mark.parametrize("make", [walk, noise])
def test_filters_of_the_mask_are_skipped(filters: Any, make: Any) -> None:
    data = make((500,), "i4")
    for mask in range(1 << len(filters)):
        with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
            made = pipeline_dataset(file, data, *filters)
            payload = skipping(made, data, mask)
            made.id.write_direct_chunk((0,), bytes(payload.data), payload.mask)
            np.testing.assert_array_equal(decoder_for(describe(made).form).decode(payload), data)
            file.flush()
            image = file.id.get_file_image()
        with h5py.File(io.BytesIO(image)) as file:
            np.testing.assert_array_equal(file["x"][...], data)


def test_bits_beyond_the_pipeline_mean_nothing() -> None:
    form = ChunkFormat((4,), np.dtype("<i2"), (Filter(1, 0, (4,), "deflate"),))
    payload = Payload(zlib.compress(bytes(range(8))), 0xFFFFFFFE)
    assert DirectDecoder(form).decode(payload).tobytes() == bytes(range(8))


def test_a_second_shuffle_that_hdf5_skips_is_skipped() -> None:
    data = walk((500,), "i4")
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        made = pipeline_dataset(file, data, SHUFFLE, SHUFFLE)
        assert_decoded(made, data, {})


FLETCHED = ChunkFormat((50,), np.dtype("<i4"), (Filter(3, 0, (), "fletcher32"),))


@pytest.mark.parametrize("size", [200])
def test_a_checksum_of_hdf5_1_6_2_is_known(size: int) -> None:
    data = noise((size // 4,), "<i4")
    payload = bytes(DirectEncoder(FLETCHED).encode(data).data)
    first, second, third, fourth = payload[-4:]
    old = payload[:-4] + bytes((second, first, fourth, third))
    with dataset(data.shape, data.dtype, data.shape, fletcher32=True) as made:
        made.id.write_direct_chunk((0,), old)
        np.testing.assert_array_equal(made[...], data)
    np.testing.assert_array_equal(DirectDecoder(FLETCHED).decode(Payload(old)), data)
    with pytest.raises(IntegrityError, match=r"^its fletcher32 checksum is "):
        DirectDecoder(FLETCHED).decode(Payload(payload[:-4] + bytes((third, fourth, first, second))))


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lz4", "bitshuffle", "blosc-lz4"])
def test_bytes_behind_the_end_are_ignored_as_by_hdf5(name: str) -> None:
    data = walk((64, 64))
    with dataset(data.shape, data.dtype, data.shape, **DIRECT[name]) as made:
        made[...] = data
        longer = made.id.read_direct_chunk((0, 0))[1] + b"behind the end"
        made.id.write_direct_chunk((0, 0), longer)
        np.testing.assert_array_equal(made[...], data)
        np.testing.assert_array_equal(decoder_for(describe(made).form).decode(Payload(longer)), data)


@pytest.mark.parametrize("name", DIRECT)
def test_threads_share_a_decoder(name: str) -> None:
    data = walk((8 * 64, 64))
    with dataset(data.shape, data.dtype, (64, 64), **DIRECT[name]) as made:
        made[...] = data
        payloads = [made.id.read_direct_chunk((row, 0)) for row in range(0, 512, 64)]
        decoder = decoder_for(describe(made).form)
    assert decoder.is_parallel
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(decoder.decode, [Payload(payload, mask) for mask, payload in payloads] * 4)
        for number, chunk in enumerate(found):
            row = number % 8 * 64
            np.testing.assert_array_equal(chunk, data[row : row + 64])


@pytest.mark.parametrize(("name", "around"), [*itertools.product(DIRECT, [{}, {"fletcher32": True}])])
def test_what_is_cut_off_or_too_long_is_refused(name: str, around: Any) -> None:
    keywords = {**DIRECT[name], **around}
    data = walk((64, 64))
    with dataset(data.shape, data.dtype, data.shape, **keywords) as made:
        made[...] = data
        mask, whole = made.id.read_direct_chunk((0, 0))
        decoder = decoder_for(describe(made).form)
    cut = [b"", whole[:1], whole[: len(whole) // 2], whole[:-1]]
    for damaged in cut:
        with pytest.raises(IntegrityError, match=r"^its "):
            decoder.decode(Payload(damaged, mask))
    assert len(whole) <= decoder.most_nbytes


@pytest.mark.parametrize("name", DIRECT)
def test_more_than_the_chunk_declares_is_refused(name: str) -> None:
    larger, smaller = walk((100, 64)), walk((64, 64))
    with dataset(larger.shape, larger.dtype, larger.shape, **DIRECT[name]) as made:
        made[...] = larger
        mask, payload = made.id.read_direct_chunk((0, 0))
    with dataset(smaller.shape, smaller.dtype, smaller.shape, **DIRECT[name]) as made:
        decoder = decoder_for(describe(made).form)
    with pytest.raises(IntegrityError, match=r"^its "):
        decoder.decode(Payload(payload, mask))


@pytest.mark.parametrize("name", DIRECT)
def test_less_than_a_chunk_is_refused(name: str) -> None:
    larger, smaller = walk((100, 64)), walk((64, 64))
    with dataset(smaller.shape, smaller.dtype, smaller.shape, **DIRECT[name]) as made:
        made[...] = smaller
        mask, payload = made.id.read_direct_chunk((0, 0))
    with dataset(larger.shape, larger.dtype, larger.shape, **DIRECT[name]) as made:
        decoder = decoder_for(describe(made).form)
    with pytest.raises(IntegrityError, match=r"^its "):
        decoder.decode(Payload(payload, mask))


@pytest.mark.parametrize(
    ("keywords", "name"),
    [
        ({}, "copying"),
        ({**hdf5plugin.Zstd(), "shuffle": True, "fletcher32": True}, "fletcher32 > zstd by its library > shuffle"),
        ({"compression": "gzip", "shuffle": True}, "deflate > shuffle"),
        ({"compression": "lzf"}, "lzf by its library"),
    ],
)
def test_its_name_says_who_undoes_it(keywords: dict[str, Any], name: str) -> None:
    with dataset((8, 8), "f4", (8, 8), **keywords) as made:
        assert decoder_for(describe(made).form).name == name


def test_a_missing_filter_is_named_with_the_remedy() -> None:
    form = ChunkFormat((4,), np.dtype("i2"), (Filter(31999, 0, (), "none"),))
    with pytest.raises(FilterError, match=r"filter 31999 is not available .* pip install hdf5plugin"):
        decoder_for(form)


def test_what_only_hdf5_undoes_is_told() -> None:
    szip = Filter(4, 0, (32, 8), "szip")
    assert direct_inverses([szip]) is None
    with pytest.raises(FilterError, match="szip can only be undone by HDF5"):
        DirectDecoder(ChunkFormat((4,), np.dtype("i2"), (szip,)))


def test_a_shuffle_that_does_not_say_its_size_is_refused() -> None:
    form = ChunkFormat((4,), np.dtype("<i2"), (Filter(2, 0, (), "shuffle"),))
    with pytest.raises(IntegrityError, match=r"^its shuffle filter does not say the size of elements"):
        DirectDecoder(form).decode(Payload(bytes(shuffle(bytes(8), 2))))


def test_bounds_of_a_long_pipeline_grow_with_its_length_only() -> None:
    """Pipelines are hostile, too: with 32 filters, each of which could double its input, a byte would become 4 GiB."""
    step = Filter(1, 0, (1,), "deflate")
    payload = bytes(range(8))
    for _ in range(32):
        payload = zlib.compress(payload)
    decoder = DirectDecoder(ChunkFormat((8,), np.dtype("u1"), (step,) * 32))
    assert decoder.decode(Payload(payload)).tobytes() == bytes(range(8))
    assert decoder.most_nbytes < 3 << 20
