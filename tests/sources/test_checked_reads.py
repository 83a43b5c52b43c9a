"""Whatever comes out of a source that is not what a buffer has to be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import dask_chunkio as dcio
from dask_chunkio.errors import CastError, SourceError
from dask_chunkio.sources.base import ReadMode, check_buffer, read_checked
from tests.support.iterators import Describing, numbers

I2, F4 = np.dtype("i2"), np.dtype("f4")
WHERE = r"^/x, buffer 1, selection \[3:6, 0:6\]: "
SHAPES: dict[str, Any] = {"buffer_shape": (3, 6), "chunk_shape": (3, 2)}


def second(wrong: Callable[[Any], Any]) -> Any:
    """An iterator whose second buffer is `wrong` of what is right."""

    def data(selection: Any) -> Any:
        right = numbers()[selection]
        return wrong(right) if selection[0].start == 3 else right

    return Describing(data=data, **SHAPES)


def raising(error: Exception) -> Callable[[Any], None]:
    def wrong(_: Any) -> None:
        raise error

    return wrong


def masked(right: Any) -> Any:
    return np.ma.masked_less(right, 20)


WRONG = {
    "too few rows": (lambda right: right[1:], SourceError, r"returned shape \(2, 6\) instead of \(3, 6\)"),
    "a row": (lambda right: right[0], SourceError, r"shape \(6,\) instead of"),
    "one axis more": (lambda right: right[None], SourceError, r"shape \(1, 3, 6\) instead of"),
    "transposed": (lambda right: right.T, SourceError, r"shape \(6, 3\) instead of"),
    "nothing": (lambda _: None, SourceError, r"shape \(\) instead of"),
    "floats": (
        lambda right: right / 2,
        CastError,
        "announced dtype int16 but returned float64.*cannot be stored as int16",
    ),
    "text": (lambda right: right.astype("S5"), CastError, "announced dtype int16 but returned "),
    "objects": (lambda right: right.astype(object), CastError, "announced dtype int16 but returned object"),
    "masked": (masked, SourceError, r"masked elements; fill them first, with \.filled"),
    "ragged": (lambda _: [[1, 2], [3]], SourceError, "the source returned "),
    "StopIteration": (raising(StopIteration()), SourceError, "the source raised StopIteration"),
    "an error": (raising(KeyError("channel 7")), SourceError, "the source raised KeyError: 'channel 7'"),
    "an error of the system": (raising(OSError(5, "Input/output error")), SourceError, "Input/output error"),
}


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("read", ["concurrent", "serial", "ordered"])
def test_what_is_wrong_is_named_with_dataset_buffer_and_selection(
    target: Path, wrong: Callable[[Any], Any], error: type[Exception], message: str, read: ReadMode
) -> None:
    with pytest.raises(error, match=WHERE + ".*" + message):
        dcio.to_hdf5(target, "/x", second(wrong), read=read, scheduler="synchronous")
    assert not target.exists()


@pytest.mark.parametrize(("wrong", "error", "message"), [WRONG["a row"], WRONG["floats"]], ids=["a row", "floats"])
def test_it_comes_whole_out_of_a_process(
    target: Path, wrong: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=WHERE + ".*" + message):
        dcio.to_hdf5(target, "/x", second(wrong), scheduler="processes")


RIGHT = {
    "a list": lambda right: right.tolist(),
    "another byte order": lambda right: right.astype(">i2"),
    "Fortran order": np.asfortranarray,
    "a smaller type": lambda right: right.astype("i1"),
    "a wider type of the same kind": lambda right: right.astype("i8"),
    "nothing masked": lambda right: np.ma.masked_less(right, -1),
    "a mask of nothing": np.ma.asarray,
    "read only": lambda right: np.frombuffer(right.tobytes(), "i2").reshape(right.shape),
}


@pytest.mark.parametrize("other", RIGHT.values(), ids=RIGHT)
@pytest.mark.parametrize("read", ["concurrent", "ordered"])
def test_what_means_the_same_is_written(target: Path, other: Callable[[Any], Any], read: ReadMode) -> None:
    dcio.to_hdf5(target, "/x", second(other), read=read, scheduler="synchronous")
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], numbers(), strict=True)


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        (lambda data: data[1:], SourceError, "returned shape"),
        (lambda data: data.astype("f8"), CastError, "announced dtype int16 but returned float64"),
        (masked, SourceError, "masked"),
    ],
)
def test_blocks_of_a_dask_array_are_checked_too(
    target: Path, block: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    array = da.from_array(numbers(), chunks=(3, 6)).map_blocks(
        lambda data, block_info=None: block(data) if block_info[0]["chunk-location"] == (1, 0) else data,
        dtype="i2",
        meta=np.empty((0, 0), "i2"),
    )
    with pytest.raises(error, match=WHERE + ".*" + message):
        dcio.to_hdf5(target, "/x", array, chunks=(3, 2), scheduler="synchronous")


def test_masked_arrays_given_whole(target: Path) -> None:
    with pytest.raises(SourceError, match="masked elements"):
        dcio.to_hdf5(target, "/x", masked(numbers()), scheduler="synchronous")


def test_a_source_error_of_the_users_own_is_left_as_it_is() -> None:
    class Reader:
        def read(self, selection: object) -> NDArray[Any]:  # noqa: ARG002
            raise SourceError("mine")

    with pytest.raises(SourceError, match=r"^mine$"):
        read_checked(Reader(), (slice(0, 1),), (I2, I2), "/x")


def test_what_was_announced_and_what_is_stored_are_both_welcome() -> None:
    for dtype in (I2, F4):
        assert check_buffer(np.zeros(3, dtype), (3,), (I2, F4), "/x").dtype == dtype
    with pytest.raises(CastError):
        check_buffer(np.zeros(3, "c8"), (3,), (I2, F4), "/x")


@pytest.mark.parametrize(
    ("announced", "found"),
    [
        (h5py.string_dtype("utf-8", 5), np.bytes_(b"")),
        (h5py.enum_dtype({"ON": 1}, "i2"), np.int16(1)),
        (h5py.opaque_dtype("M8[us]"), np.datetime64(3, "us")),
        (h5py.string_dtype(), "text"),
    ],
)
def test_what_h5py_notes_in_a_dtype_is_not_lost_with_a_scalar(announced: Any, found: Any) -> None:
    checked = check_buffer(found, (), (announced, announced), "/x")
    assert (checked.dtype, checked.dtype.metadata) == (announced, announced.metadata)
    assert checked == found
