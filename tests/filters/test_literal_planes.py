"""Planes without repetitions: what zlib gets back, how long it is, and which planes are taken for that."""

import zlib
from typing import Any

import deflate as libdeflate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.filters.deflate import deflate
from dask_chunkio.filters.literal_planes import leading_literals
from tests.support.h5py_stores import dataset, encoded

PLANE = 128 << 10
RNG = np.random.default_rng(5)
NOISE, NARROW = RNG.integers(0, 256, PLANE, "u1").tobytes(), RNG.normal(0, 20, PLANE).astype("i1").tobytes()
PERIOD = NOISE[:30_000] * 5
KINDS = {
    "noise": NOISE,
    "narrow": NARROW,
    "zeros": bytes(PLANE),
    "ramp": (np.arange(PLANE) // 100).astype("u1").tobytes(),
    "period": PERIOD[:PLANE],
    "mixed": bytes(PLANE // 4) + NOISE[: PLANE // 2] + bytes(PLANE // 4),
    "signs": RNG.choice(np.array([0, 191, 63], "u1"), PLANE).tobytes(),
}
kinds = st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5)


def planes_of(names: list[str]) -> bytes:
    return b"".join(KINDS[name] for name in names)


@given(kinds, st.integers(3, 9), st.binary(max_size=4))
@settings(deadline=None, max_examples=25)
def test_zlib_gets_back_any_planes(names: list[str], level: int, left_over: bytes) -> None:
    data = planes_of(names) + left_over
    planes = len(names) if len(left_over) < len(names) else 1
    found = deflate(data, level, planes)
    # An object that stops at the end of the stream shows that nothing follows the checksum.
    reader = zlib.decompressobj()
    assert reader.decompress(found) + reader.flush() == data
    assert (reader.eof, reader.unused_data) == (True, b"")


@given(kinds, st.integers(4, 9))
@settings(deadline=None, max_examples=60)
def test_they_are_at_most_1_percent_longer_than_libdeflates(names: list[str], level: int) -> None:
    data = planes_of(names)
    own = {6: 7}.get(level, level)
    assert len(deflate(data, level, len(names))) <= 1.01 * len(libdeflate.zlib_compress(data, own))


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["noise"], 1),
        (["noise", "narrow", "zeros"], 2),
        (["narrow", "noise"], 2),
        (["zeros", "noise"], 0),
        (["ramp"], 0),
        (["period"], 0),
        (["noise", "mixed"], 1),
        (["signs"], 0),
    ],
)
def test_planes_that_are_taken(names: list[str], taken: int) -> None:
    data = planes_of(names)
    pieces, done = leading_literals(memoryview(data), len(names), 4)
    assert done == taken * PLANE
    # An empty last block ends what the pieces begin.
    assert zlib.decompress(b"".join((*pieces, b"\3\0")), -15) == data[:done]


def test_the_planes_that_are_taken_are_what_the_stream_begins_with() -> None:
    data = planes_of(["noise", "narrow", "ramp"])
    pieces, done = leading_literals(memoryview(data), 3, 4)
    rest = libdeflate.deflate_compress(data[done:], 4)
    # Two bytes of header, four of checksum (RFC 1950).
    assert deflate(data, 4, 3)[2:-4] == b"".join(pieces) + rest


def test_bytes_that_are_left_over_belong_to_the_last_plane() -> None:
    data = NOISE + NARROW + b"\1"
    pieces, done = leading_literals(memoryview(data), 2, 4)
    assert done == len(data)
    assert zlib.decompress(b"".join((*pieces, b"\3\0")), -15) == data


def test_a_plane_is_taken_as_far_as_it_is_like_its_samples() -> None:
    """Its end, of which there is no sample, compresses better."""
    plane = NOISE + NOISE[::-1] + NOISE + NARROW[: PLANE // 2]
    _, done = leading_literals(memoryview(plane), 1, 4)
    assert done == 6 * len(plane) // 7
    assert zlib.decompress(deflate(plane, 4)) == plane


def shuffled(values: Any) -> tuple[bytes, int]:
    size = values.dtype.itemsize
    return values.reshape(-1).view("u1").reshape(-1, size).T.tobytes(), size


def unshuffled(values: Any) -> tuple[bytes, int]:
    return values.tobytes(), 1


COUNT = 1 << 19
WHITE = RNG.normal(0, 20, COUNT)
FRAMES = np.tile(RNG.normal(0, 3000, 12288), 43)[:COUNT] + (RNG.random(COUNT) < 0.3) * RNG.normal(0, 3000, COUNT)
# What a look at a few places, or at short distances, does not show.
DECEPTIVE = {
    "frames that differ": unshuffled(FRAMES.astype("i2")),
    "frames that differ, shuffled": shuffled(FRAMES.astype("i2")),
    "baseline": shuffled((WHITE + np.where(np.arange(COUNT) // (COUNT // 6) % 2, 5000, 0)).astype("i2")),
    "offsets": shuffled((WHITE.reshape(8, -1) + RNG.integers(-2000, 2000, (8, 1))).astype("i2")),
    "ramps": unshuffled((np.arange(COUNT // 4)[:, None] * np.array([1, 3, 7, 11]) % 30_000).astype("i2")),
    "counter and noise": unshuffled(np.stack([np.arange(COUNT // 2) % 30_000, WHITE[::2]], 1).astype("i2")),
    "blocks": (b"".join(RNG.integers(low, low + 64, 96 << 10, "u1").tobytes() for low in (0, 128) * 6), 1),
    "big-endian ramp": unshuffled((np.arange(COUNT // 2) % 30_000).astype(">f4")),
}


@pytest.mark.parametrize("name", DECEPTIVE)
@pytest.mark.parametrize("level", [4, 6])
def test_what_deceives_a_small_sample_is_not_much_longer(name: str, level: int) -> None:
    data, planes = DECEPTIVE[name]
    own = {6: 7}.get(level, level)
    assert len(deflate(data, level, planes)) <= 1.01 * len(libdeflate.zlib_compress(data, own))


def test_short_planes_are_left_alone() -> None:
    assert leading_literals(memoryview(NOISE[:90_000]), 1, 4) == ([], 0)
    assert leading_literals(memoryview(b""), 4, 4) == ([], 0)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", "<c8"])
def test_hdf5_reads_them(dtype: str, shuffle: Any) -> None:
    data = RNG.normal(0, 1, (64, 3000)).astype(dtype)
    with dataset(data.shape, data.dtype, (32, 3000), compression="gzip", compression_opts=4, shuffle=shuffle) as made:
        for origin, (mask, payload) in encoded(made, data).items():
            made.id.write_direct_chunk(origin, payload, mask)
        np.testing.assert_array_equal(made[...], data)
