from typing import Any

import h5py
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.filters.fletcher32 import append_fletcher32
from dask_chunkio.filters.shuffle import shuffle
from tests.support.h5py_stores import noise, pipeline_dataset, stored

SHUFFLE = h5py.h5p.PropDCID.set_shuffle
FLETCHER32 = h5py.h5p.PropDCID.set_fletcher32


def hdf5s(data: Any, *filters: Any) -> bytes:
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        ((_, payload),) = stored(pipeline_dataset(file, data, *filters), data).values()
    return bytes(payload)


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 99))
@settings(deadline=None)
def test_it_is_hdf5s(itemsize: Any, count: Any, seed: int) -> None:
    data = noise((count,), f"V{itemsize}", seed)
    assert bytes(shuffle(data.tobytes(), itemsize)) == hdf5s(data, SHUFFLE)


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 99))
@settings(deadline=None)
def test_bytes_behind_the_last_element_stay_last(itemsize: Any, count: Any, seed: int) -> None:
    """Behind fletcher32 the length is no multiple of the element's."""
    data = noise((count,), f"V{itemsize}", seed)
    summed = append_fletcher32(data.tobytes())
    assert bytes(shuffle(summed, itemsize)) == hdf5s(data, FLETCHER32, SHUFFLE)


def test_any_bytes_like_object_will_do() -> None:
    data = np.arange(12, dtype="i4")
    expected = hdf5s(data, SHUFFLE)
    for given_ in (data.tobytes(), memoryview(data.tobytes()), data.view("u1").data):
        assert bytes(shuffle(given_, 4)) == expected


def test_nothing_is_copied_where_nothing_changes() -> None:
    data = noise((7,)).data
    assert shuffle(data, 1) is data
    assert shuffle(data, 4) is data  # one whole element
