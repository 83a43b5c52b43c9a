import itertools
from typing import Any

import hdf5plugin
import numpy as np
import pytest

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.blosc2_frames import Blosc2, NotPlainError
from dask_chunkio.filters.plugin import find_plugin, require_filter
from tests.support.h5py_stores import assert_decoded, dataset, noise, stored, walk

require_filter(32026)
KEYWORDS = dict(hdf5plugin.Blosc2(cname="zstd", clevel=3))


def blosc2() -> Blosc2:
    found = find_plugin(32026)
    assert found is not None
    return Blosc2(found.library)


def frame(data: Any, **keywords: Any) -> bytes:
    with dataset(data.shape, data.dtype, data.shape, **{**KEYWORDS, **keywords}) as made:
        ((_, payload),) = stored(made, data).values()
        return payload


@pytest.mark.parametrize(
    "shape", [(1 << 18,), (700, 500), (65, 65), (33, 70, 41), (9, 10, 11, 12), (1, 1, 1), (3, 100_000)]
)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">f8", "c16", "V3", "S20"])
def test_blocks_of_an_array_are_put_in_order(shape: tuple[int, ...], dtype: str) -> None:
    data = noise(shape, dtype) if np.dtype(dtype).kind in "SV" else walk(shape, "f8").astype(dtype)
    data = data.copy()
    data[..., 0] = data.reshape(-1)[0]
    with dataset(shape, dtype, shape, **KEYWORDS) as made:
        assert_decoded(made, data, KEYWORDS)


@pytest.mark.parametrize("shape", [(4096,), (200, 300)])
def test_chunks_of_zeros(shape: tuple[int, ...]) -> None:
    data = np.zeros(shape, "<i4")
    assert bytes(blosc2().decode(frame(data), data.nbytes)) == data.tobytes()


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_chunks_of_one_value(value: float) -> None:
    data = np.full((100, 100), value)
    with dataset(data.shape, data.dtype, data.shape, **KEYWORDS) as made:
        assert_decoded(made, data, KEYWORDS)


def test_what_only_the_plugin_knows_is_left_to_it() -> None:
    data = walk((64, 64))
    payload = frame(data, **hdf5plugin.Blosc2(cname="lz4", filters=hdf5plugin.Blosc2.DELTA))
    with pytest.raises(NotPlainError):
        blosc2().decode(payload, data.nbytes)


def test_a_larger_array_is_refused() -> None:
    data = walk((64, 64))
    with pytest.raises(IntegrityError, match=r"^its blosc2 payload declares 8192 bytes, and its chunk"):
        blosc2().decode(frame(data), data.nbytes - 1)


@pytest.mark.parametrize("shape", [(4096,), (64, 64)])
def test_every_byte_of_the_header_may_be_damaged(shape: tuple[int, ...]) -> None:
    """No error of Python's own, and never more than the chunk."""
    data, decoder = walk(shape), blosc2()
    whole = frame(data)
    for position, value in itertools.product(range(min(200, len(whole))), (0, 1, 0x7F, 0x80, 0x93, 0xFF)):
        damaged = bytearray(whole)
        damaged[position] = value
        words = "its blosc2 payload"
        try:
            assert len(decoder.decode(bytes(damaged), data.nbytes)) <= data.nbytes
        except IntegrityError as error:
            words = str(error)
        except NotPlainError:
            pass
        assert words.startswith("its blosc2 ")


@pytest.mark.parametrize("length", [0, 10, 86, 87, 120, 165, 200])
def test_a_frame_that_is_cut_off_is_refused(length: int) -> None:
    data = walk((64, 64))
    with pytest.raises(IntegrityError, match=r"^its blosc2 payload"):
        blosc2().decode(frame(data)[:length], data.nbytes)
