from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import pytest

from dask_chunkio.filters.fletcher32 import append_fletcher32, fletcher32
from tests.support.h5py_stores import noise, pipeline_dataset, stored

WORDS = 32768  # the rows of the table in which the sums are taken


def hdf5s(arrays: Any) -> Iterator[bytes]:
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        for number, data in enumerate(arrays):
            made = pipeline_dataset(file, data, h5py.h5p.PropDCID.set_fletcher32, name=str(number))
            ((mask, payload),) = stored(made, data).values()
            assert mask == 0
            yield bytes(payload)


def test_it_is_hdf5s_for_every_length() -> None:
    arrays = [noise((length,), seed=length) for length in range(1, 400)]
    for data, expected in zip(arrays, hdf5s(arrays), strict=True):
        assert append_fletcher32(data.tobytes()) == expected


@pytest.mark.parametrize("words", [WORDS - 1, WORDS, WORDS + 1, 3 * WORDS, 7 * WORDS + 5])
@pytest.mark.parametrize("odd", [0, 1])
def test_it_is_hdf5s_around_the_rows_of_the_table(words: Any, odd: int) -> None:
    data = noise((2 * words + odd,))
    (expected,) = hdf5s([data])
    assert append_fletcher32(data.data) == expected


@pytest.mark.parametrize("value", [0, 1, 0xFE, 0xFF])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 65534, 65535, 65536, 131070, 131071, 1 << 20])
def test_it_is_hdf5s_where_sums_are_multiples_of_the_modulus(value: int, length: Any) -> None:
    data = np.full(length, value, "u1")
    (expected,) = hdf5s([data])
    assert append_fletcher32(data.data) == expected


def test_sums_do_not_overflow() -> None:
    """All ones in the longest chunk that is cheap: Python's own integers say what is right."""
    count = 3 * WORDS * 100
    words = np.full(count, 0xFFFE, "<u2")
    swapped = 0xFEFF
    first, second = swapped * count, swapped * count * (count + 1) // 2
    assert fletcher32(words.tobytes()) == second % 65535 << 16 | first % 65535


def test_a_changed_byte_is_found_by_hdf5() -> None:
    data = noise((100,))
    payload = bytearray(append_fletcher32(data.tobytes()))
    payload[17] ^= 1
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        made = pipeline_dataset(file, data, h5py.h5p.PropDCID.set_fletcher32)
        made.id.write_direct_chunk((0,), bytes(payload))
        with pytest.raises(OSError, match="Can't"):
            made[...]
