from typing import Any

import numpy as np
import pytest

from dask_chunkio.sources.rows import whole_rows

KNOWN, UNKNOWN = (4, 5), None


@pytest.mark.parametrize("others", [KNOWN, UNKNOWN])
@pytest.mark.parametrize(
    ("shape", "selection"),
    [
        ((4, 5), 7),
        ((4, 5), np.uint8(7)),
        ((4, 5), (7,)),
        ((4, 5), (7, ...)),
        ((4, 5), np.s_[7, :, 0:5]),
        ((4, 5), np.s_[..., 7, :, :]),
        ((1, 4, 5), slice(7, 8)),
        ((3, 4, 5), slice(7, 10)),
        ((3, 4, 5), slice(7, 100)),
        ((3, 4, 5), slice(7, None)),
        ((3, 4, 5), np.s_[np.int64(7) : 10, ..., 0:5]),
        ((3, 4, 5), np.s_[7:10, :, 0:9]),
        ((0, 4, 5), slice(7, 7)),
    ],
)
def test_all_ways_to_say_the_next_rows(shape: tuple[int, ...], selection: Any, others: Any) -> None:
    data = np.arange(np.prod(shape)).reshape(shape)
    found = whole_rows(data, selection, 7, others)
    np.testing.assert_array_equal(found, data.reshape(-1, 4, 5), strict=True)
    # It is where h5py and numpy store it.
    whole = np.full((10, 4, 5), -1)
    whole[selection] = data
    np.testing.assert_array_equal(whole[7 : 7 + len(found)], found)


def test_a_number_may_come_with_an_axis_of_its_own() -> None:
    """As h5py has it; where the dataset is not known yet, the axis is the dataset's."""
    assert whole_rows(np.zeros((1, 4, 5)), 7, 7, KNOWN).shape == (1, 4, 5)
    assert whole_rows(np.zeros((1, 4, 5)), 7, 7, UNKNOWN).shape == (1, 1, 4, 5)
    assert whole_rows(np.zeros(()), 7, 7, ()).shape == (1,)


@pytest.mark.parametrize(
    ("shape", "selection", "words"),
    [
        ((4, 5), 6, "the selection is 6:7 along axis 0, where the data are 7:8"),
        ((3, 4, 5), slice(6, 9), "is 6:9 along axis 0, where the data are 7:10"),
        ((3, 4, 5), slice(7, 9), "is 7:9 along axis 0"),
        ((3, 4, 5), slice(7, 13, 2), "is 7:13 along axis 0"),
        ((3, 4, 5), slice(None), "is : along axis 0"),
        ((3, 4, 5), np.s_[7:10, 1:4], "is 1:4 along axis 1, where the data are 0:4"),
        ((3, 4, 5), np.s_[7:10, :, ::-1], "is : along axis 2"),
        ((3, 5), np.s_[7:10, 2], "takes only 2 along axis 1"),
        ((3, 4), np.s_[7:10, :, 2], "takes only 2 along axis 2"),
        ((3, 4, 5), np.s_[7:10, :, :, :], "has 4 axes, the dataset 3"),
        ((3, 4, 5), (slice(7, 10), ..., ...), "more than one ellipsis"),
        ((3, 4, 5), None, "has None, which is neither an int nor a slice"),
        ((3, 4, 5), True, "has True"),
        ((3, 4, 5), [7, 8, 9], "has .7, 8, 9., which is neither"),
        ((3, 4, 5), slice(7.0, 10.0), "has slice.7.0, 10.0, None., which is neither"),
        ((3, 4, 5), "rows", "has 'rows'"),
    ],
)
@pytest.mark.parametrize("others", [KNOWN, UNKNOWN])
def test_anything_else_is_refused(shape: tuple[int, ...], selection: Any, words: str, others: Any) -> None:
    if others is not None and len(shape) == 2 and isinstance(selection, tuple):
        words = r"a row of this dataset has the shape \(4, 5\)"
    with pytest.raises(ValueError, match=words):
        whole_rows(np.zeros(shape), selection, 7, others)


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 4), (3, 4, 5, 1)])
def test_rows_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a row of this dataset has the shape \(4, 5\)"):
        whole_rows(np.zeros(shape), slice(7, 10), 7, KNOWN)


def test_a_scalar_is_no_row() -> None:
    with pytest.raises(ValueError, match="a scalar is not a row"):
        whole_rows(np.zeros(()), slice(7, 8), 7, UNKNOWN)
