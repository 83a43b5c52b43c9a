from typing import Any

import numpy as np
import pytest

from dask_chunkio.errors import ArgumentError
from dask_chunkio.sources.iterator import IteratorSource, is_iterator
from tests.support.hdmf_iterators import FromArrayOfHdmf
from tests.support.iterators import Describing, FromArray, numbers, quarters


@pytest.mark.parametrize("kind", [FromArray, FromArrayOfHdmf])
def test_ours_and_hdmfs(kind: Any) -> None:
    iterator = kind(numbers(), buffer_shape=(6, 6), chunk_shape=(3, 2))
    assert is_iterator(iterator)
    source = IteratorSource(iterator)
    assert (source.shape, source.dtype) == ((12, 6), np.dtype("int16"))
    assert (source.shapes.chunk, source.shapes.buffer, source.shapes.is_fixed) == ((3, 2), (6, 6), True)
    assert source.display_progress is False
    selection = (slice(3, 5), slice(0, 2))
    np.testing.assert_array_equal(source.read(selection), numbers()[selection])
    assert source.part(selection) is None


@pytest.mark.parametrize("kind", [FromArray, FromArrayOfHdmf])
@pytest.mark.parametrize("keywords", [{}, {"buffer_gb": 1.0}, {"chunk_mb": 1.0}])
def test_a_buffer_that_nobody_chose_may_be_split(kind: Any, keywords: dict[str, Any]) -> None:
    assert not IteratorSource(kind(numbers((4000, 60)), **keywords)).shapes.is_fixed


def test_a_buffer_that_was_chosen_is_kept() -> None:
    assert IteratorSource(FromArray(numbers(), buffer_shape=(12, 6), chunk_shape=(3, 2))).shapes.is_fixed


def test_only_ours_documents_that_it_may_be_called_from_several_threads() -> None:
    assert IteratorSource(quarters()).read_mode == "concurrent"
    assert IteratorSource(FromArrayOfHdmf(numbers())).read_mode == "serial"


@pytest.mark.parametrize("base", [FromArray, FromArrayOfHdmf])
@pytest.mark.parametrize("module", ["neuroconv", "neuroconv.datainterfaces.behavior.video.video_utils"])
def test_an_iterator_that_is_known_to_ignore_its_selection_is_read_in_order(base: Any, module: str) -> None:
    known = type("VideoDataChunkIterator", (base,), {"__module__": module})
    derived = type("MyVideo", (known,), {"__module__": "__main__"})
    assert IteratorSource(known(numbers())).read_mode == "ordered"
    assert IteratorSource(derived(numbers())).read_mode == "ordered"
    namesake = type("VideoDataChunkIterator", (FromArrayOfHdmf,), {"__module__": "elsewhere.neuroconv"})
    assert IteratorSource(namesake(numbers())).read_mode == "serial"


def test_display_progress_is_what_the_user_asked_for() -> None:
    assert IteratorSource(quarters(display_progress=True)).display_progress is True


def test_any_object_with_the_methods_will_do() -> None:
    class Plain:
        maxshape, dtype, chunk_shape, buffer_shape = (4,), "int16", [2], [np.int64(4)]

        def _get_data(self, selection: Any) -> Any:
            return np.arange(4, dtype="i2")[selection]

    assert is_iterator(Plain())
    source = IteratorSource(Plain())
    assert (source.shapes.chunk, source.shapes.buffer, source.shapes.is_fixed) == ((2,), (4,), True)
    assert (source.dtype, source.read_mode) == (np.dtype("int16"), "serial")


@pytest.mark.parametrize("lacking", ["_get_data", "maxshape", "dtype", "chunk_shape", "buffer_shape"])
def test_what_lacks_one_of_them_is_none(lacking: str) -> None:
    names = {"_get_data": print, "maxshape": (1,), "dtype": "i2", "chunk_shape": (1,), "buffer_shape": (1,)}
    del names[lacking]
    assert not is_iterator(type("Almost", (), names)())


def test_an_axis_without_an_end_is_refused() -> None:
    class Endless:
        maxshape, dtype, chunk_shape, buffer_shape = (None, 4), "int16", (2, 4), (4, 4)

    with pytest.raises(ArgumentError, match=r"Endless has maxshape \(None, 4\).*return a length for each axis"):
        IteratorSource(Endless())


def test_dtypes_given_as_words() -> None:
    assert IteratorSource(Describing(dtype="int16")).dtype == np.dtype("int16")
