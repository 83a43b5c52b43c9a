import math
import pickle
from typing import Any

import numpy as np
import pytest

from dask_chunkio.errors import AlignmentError, ArgumentError, ArgumentTypeError, IteratorArgumentError
from dask_chunkio.iterator import GenericDataChunkIterator
from tests.support.iterators import Describing, FromArray, numbers, quarters


class Bar:
    pass


@pytest.mark.parametrize("dtype", ["int16", np.int16, np.dtype("int16"), "<i2"])
def test_a_dtype_is_what_numpy_takes_for_one(dtype: Any) -> None:
    it = Describing(dtype=dtype)
    assert it.dtype == np.dtype("int16")
    assert isinstance(it.dtype, np.dtype)


@pytest.mark.parametrize("dtype", [None, "no such type", 3, "i2,,"])
def test_what_is_no_dtype_is_named(dtype: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"_get_dtype\(\) is .* must be a numpy dtype"):
        Describing(dtype=dtype)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0)])
def test_arrays_without_elements_have_no_buffers(shape: tuple[int, ...]) -> None:
    it = FromArray(np.zeros(shape))
    assert it.num_buffers == 0
    assert all(1 <= c <= b for c, b in zip(it.chunk_shape, it.buffer_shape, strict=True))
    assert list(it) == []
    assert list(it.buffer_selection_generator) == []
    assert next(it, None) is None
    assert it.maxshape == shape
    with pytest.raises(IndexError, match="there are 0"):
        it[0]


@pytest.mark.parametrize("keywords", [{}, {"chunk_shape": (), "buffer_shape": ()}])
def test_an_array_without_axes_is_one_buffer(keywords: dict[str, Any]) -> None:
    it = FromArray(np.array(7, "int16"), **keywords)
    assert (it.maxshape, it.chunk_shape, it.buffer_shape, it.num_buffers) == ((), (), (), 1)
    (chunk,) = it
    assert (chunk.selection, chunk.data.shape, chunk.data[()], chunk.get_min_bounds()) == ((), (), 7, ())


def test_whole_numbers_of_any_type_make_a_shape() -> None:
    it = FromArray(numbers(), chunk_shape=(np.int16(3), 2.0), buffer_shape=(np.uint8(6), np.float32(6)))
    assert (it.chunk_shape, it.buffer_shape) == ((3, 2), (6, 6))
    assert {type(length) for length in it.chunk_shape + it.buffer_shape} == {int}
    announced: Any = [np.int64(12), 6]
    assert Describing(maxshape=announced).maxshape == (12, 6)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        (
            {"buffer_gb": 1, "buffer_shape": (3, 6)},
            IteratorArgumentError,
            r"buffer_gb is 1 and buffer_shape .* only one",
        ),
        ({"chunk_mb": 1, "chunk_shape": (3, 6)}, IteratorArgumentError, r"chunk_mb is 1 and chunk_shape .* only one"),
        ({"buffer_gb": 0}, IteratorArgumentError, "buffer_gb is 0; it must be greater"),
        ({"chunk_mb": -1.5}, IteratorArgumentError, r"chunk_mb is -1\.5; it must be greater"),
        ({"chunk_mb": 1e-6}, IteratorArgumentError, "chunk_mb is 1e-06, .* one element has 2; use chunk_mb >= 2e-06"),
        ({"buffer_shape": (12, 8)}, IteratorArgumentError, r"buffer_shape \(12, 8\) is 8 along axis 1, .* at most 6"),
        ({"chunk_shape": (13, 6)}, IteratorArgumentError, r"chunk_shape \(13, 6\) is 13 along axis 0, .* at most 12"),
        ({"chunk_shape": (2,)}, AlignmentError, "has 1 axes, .* has 2"),
        ({"chunk_shape": ()}, AlignmentError, "has 0 axes, .* has 2"),
        ({"buffer_shape": (2, 2, 2)}, AlignmentError, "has 3 axes, .* has 2"),
        ({"chunk_shape": (0, 2)}, AlignmentError, "is 0 along axis 0"),
        ({"buffer_shape": (6, -1)}, AlignmentError, "is -1 along axis 1"),
        ({"buffer_shape": (5, 6), "chunk_shape": (2, 2)}, AlignmentError, "is 5 along axis 0, .* multiple of 2"),
        ({"buffer_shape": (2, 2), "chunk_shape": (4, 2)}, AlignmentError, "is 2 along axis 0"),
    ],
)
def test_wrong_values_are_assertion_errors_as_in_hdmf(
    keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        FromArray(numbers(), **keywords)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, ArgumentError)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"buffer_gb": "1"}, "buffer_gb is '1' of type str; it must be a number"),
        ({"buffer_gb": True}, "buffer_gb is True of type bool"),
        ({"chunk_mb": 1j}, "chunk_mb is 1j of type complex"),
        ({"chunk_mb": np.True_}, "chunk_mb is .* of type bool"),
        ({"buffer_shape": [6, 6]}, "buffer_shape is .* of type list; it must be a tuple"),
        ({"chunk_shape": 6}, "chunk_shape is 6 of type int; it must be a tuple"),
        ({"chunk_shape": (2, True)}, "chunk_shape, axis 1, is True of type bool; it must be an integer"),
        ({"chunk_shape": (2.5, 2)}, r"chunk_shape, axis 0, is 2\.5"),
        ({"buffer_shape": (6, None)}, "buffer_shape, axis 1, is None"),
        ({"buffer_shape": (math.inf, 6)}, "buffer_shape, axis 0, is inf"),
        ({"display_progress": 1}, "display_progress is 1 of type int; it must be a bool"),
        ({"progress_bar_class": 3}, "progress_bar_class is 3 of type int; it must be callable"),
        ({"progress_bar_options": [3]}, "progress_bar_options is .* it must be a dict"),
        ({"no_such_keyword": 1}, "no_such_keyword"),
    ],
)
def test_wrong_types_are_type_errors_as_in_hdmf(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        FromArray(numbers(), **keywords)


@pytest.mark.parametrize("maxshape", [12, "12", None, (12, None), (12, "6"), (12, math.nan)])
def test_what_is_no_maxshape_is_named(maxshape: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"_get_maxshape\(\)"):
        Describing(maxshape=maxshape)


def test_arguments_have_hdmfs_order() -> None:
    class Positional(Describing):
        def __init__(self, *arguments: Any) -> None:
            self.announced, self.data = ((12, 6), "int16"), None
            GenericDataChunkIterator.__init__(self, *arguments)

    it = Positional(None, (6, 6), None, (3, 2), True, Bar, {"desc": "x"})
    assert (it.buffer_shape, it.chunk_shape, it.display_progress) == ((6, 6), (3, 2), True)
    assert (it.progress_bar_class, it.progress_bar_options) == (Bar, {"desc": "x"})
    assert Positional(1e-7, None, 24e-6).chunk_shape == (4, 2)


def test_a_subclass_may_choose_the_shapes() -> None:
    class Own(FromArray):
        def _get_default_chunk_shape(self, chunk_mb: float) -> list[Any]:  # type: ignore[override]
            assert chunk_mb == 10.0
            return [np.int64(4), self.maxshape[1]]

        def _get_default_buffer_shape(self, buffer_gb: float) -> tuple[int, ...]:
            assert buffer_gb == 1.0
            # Subclasses of hdmf's iterator may read these two names.
            return (2 * self.chunk_shape[0], self._maxshape[1] * self._dtype.itemsize // 2)

    it = Own(numbers())
    assert (it.chunk_shape, it.buffer_shape, it.num_buffers) == ((4, 6), (8, 6), 2)
    assert it.buffer_shape_is_explicit


def test_it_knows_who_chose_the_buffer() -> None:
    assert not FromArray(numbers()).buffer_shape_is_explicit
    assert not FromArray(numbers(), buffer_gb=1e-6).buffer_shape_is_explicit
    assert quarters().buffer_shape_is_explicit
    assert pickle.loads(pickle.dumps(quarters())).buffer_shape_is_explicit
    it: Any = quarters()
    with pytest.raises(AttributeError):
        it.buffer_shape_is_explicit = False


def test_the_three_methods_are_abstract() -> None:
    with pytest.raises(TypeError, match=r"_get_data.*_get_dtype.*_get_maxshape"):
        GenericDataChunkIterator()  # type: ignore[abstract]
