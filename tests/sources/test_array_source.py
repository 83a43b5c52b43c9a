import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import cloudpickle
import h5py
import numpy as np
import pytest
import zarr
from numpy.typing import DTypeLike

from dask_chunkio.errors import ArgumentTypeError, PicklingError
from dask_chunkio.sources.array import ArraySource, is_array_like

SHAPE = 400, 500
DATA = np.arange(400 * 500, dtype="<i4").reshape(SHAPE)
SELECTION = (slice(10, 20), slice(3, 300))
SMALL = 2000


READER = """
import pickle, sys
while True:
    try:
        sources, selection = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    pickle.dump([s.read(selection) for s in sources], sys.stdout.buffer)
    sys.stdout.flush()
    del sources
"""


@pytest.fixture(scope="module")
def reader() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", READER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


@pytest.fixture
def in_another_process(reader: subprocess.Popen[bytes]) -> Callable[[Any], Any]:
    """Read by a process that knows nothing but the pickles."""

    def read(sources: Any) -> Any:
        assert reader.stdin is not None
        assert reader.stdout is not None
        pickle.dump((sources, SELECTION), reader.stdin)
        reader.stdin.flush()
        return pickle.load(reader.stdout)

    return read


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.bin"
    path.write_bytes(b"header.." + DATA.tobytes())
    return path


def mapped(path: str | Path, mode: Literal["r", "r+", "c"] = "r", dtype: DTypeLike = "<i4") -> np.memmap[Any, Any]:
    return np.memmap(path, dtype, mode, 8, SHAPE)


def test_memory_maps_travel_by_name(raw: Path, in_another_process: Callable[[Any], Any]) -> None:
    whole = mapped(raw)
    views = {
        "whole": whole,
        "a slice": whole[100:300],
        "steps": whole[::2, ::3],
        "backwards": whole[::-1, ::-1],
        "transposed": whole.T,
        "a plain array over it": np.asarray(whole)[5:],
        "a view of a view": whole[50:][10:, 100:],
        "other type": whole.view(">u2"),
        "Fortran order": np.memmap(raw, "<i4", "r", 8, SHAPE, "F"),
        "broadcast": np.broadcast_to(whole[3], SHAPE),
        "a field": mapped(raw, dtype=[("a", "<i2"), ("b", "<i2")])["b"],
    }
    sources = [ArraySource(view) for view in views.values()]
    for source in sources:
        assert len(pickle.dumps(source)) < SMALL
        assert source.part(SELECTION) is None
    for name, view, found in zip(views, views.values(), in_another_process(sources), strict=True):
        np.testing.assert_array_equal(found, view[SELECTION], err_msg=name)


def test_what_was_written_through_the_map_is_seen(raw: Path, in_another_process: Callable[[Any], Any]) -> None:
    whole = mapped(raw, "r+")
    whole[12, 5] = -1
    (found,) = in_another_process([ArraySource(whole)])
    assert found[2, 2] == -1


def test_a_map_by_a_relative_name_is_found_from_elsewhere(
    raw: Path, monkeypatch: pytest.MonkeyPatch, in_another_process: Callable[[Any], Any]
) -> None:
    monkeypatch.chdir(raw.parent)
    source = ArraySource(mapped(raw.name))
    monkeypatch.chdir("/")
    (found,) = in_another_process([source])
    np.testing.assert_array_equal(found, DATA[SELECTION])


def test_what_a_file_does_not_show_travels_as_its_elements(raw: Path, in_another_process: Callable[[Any], Any]) -> None:
    private = mapped(raw, "c")
    private[10:20] = 7
    copy = mapped(raw).copy()
    with tempfile.TemporaryFile() as file:
        file.write(DATA.tobytes())
        file.flush()
        nameless = np.memmap(file, "<i4", "r", 0, SHAPE)
        arrays = private, private[:, 1:], copy, mapped(raw) + 1, nameless, DATA
        parts = [ArraySource(array).part(SELECTION) for array in arrays]
        for array, part, found in zip(arrays, parts, in_another_process(parts), strict=True):
            np.testing.assert_array_equal(found, array[SELECTION], strict=True)
            assert len(pickle.dumps(part)) < SMALL + array[SELECTION].nbytes


def test_the_mask_over_a_memory_map_is_not_lost(raw: Path, in_another_process: Callable[[Any], Any]) -> None:
    """The elements under it are not what its owner means."""
    masked = np.ma.masked_array(mapped(raw), mask=DATA % 2 == 0)
    source = ArraySource(masked)
    (found,) = in_another_process([source.part(SELECTION) or source])
    assert np.ma.is_masked(found)


def test_parts_of_memory_are_views_here() -> None:
    source = ArraySource(DATA)
    part = source.part(SELECTION)
    assert part is not None
    assert np.shares_memory(part.read(SELECTION), DATA)
    assert np.shares_memory(source.read(SELECTION), DATA)


def test_parts_of_memory_travel_with_the_bytes_between_their_fields() -> None:
    """numpy's pickle of a view leaves them out, and what was in memory before gets into the file."""
    data = np.zeros((2, 300), np.dtype([("a", "i1"), ("b", "<f8")], align=True))
    data.view("u1")[...] = 0xAA
    part = ArraySource(data).part((slice(0, 2), slice(1, 300)))
    back = pickle.loads(pickle.dumps(part)).read((slice(0, 2), slice(1, 300)))
    assert (back.shape, back.dtype) == ((2, 299), data.dtype)
    assert set(back.tobytes()) == {0xAA}


@pytest.mark.parametrize("fields", [[("a", "i1"), ("b", "<f8")], "<i4"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (3, 4)])
def test_parts_of_memory_keep_their_shape_whatever_it_is(shape: tuple[Any, ...], fields: list[Any] | str) -> None:
    """A scalar is an array of no dimensions: indexed, numpy would make an element of it, of another kind and size."""
    dtype = np.dtype(fields, align=True)
    data = np.ndarray(shape, dtype, np.random.default_rng(1).bytes(200))
    selection = tuple(slice(0, length) for length in shape)
    part = ArraySource(data).part(selection)
    assert part is not None
    for back in (part, pickle.loads(pickle.dumps(part))):
        found = back.read(selection)
        assert (found.shape, found.dtype) == (shape, dtype)
        assert found.tobytes() == data.tobytes()


def test_hdf5_datasets_travel_by_name(tmp_path: Path, in_another_process: Callable[[Any], Any]) -> None:
    path = tmp_path / "in.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("group/x", data=DATA, chunks=(50, 50), compression="gzip")
    with h5py.File(path, "r") as file:
        source = ArraySource(file["group/x"])
        # It takes along the places of its 80 chunks.
        assert len(pickle.dumps(source)) < 2 * SMALL
        assert source.file_name == str(path)
        assert source.shapes.block == (50, 50)
        (found,) = in_another_process([source])
        np.testing.assert_array_equal(found, DATA[SELECTION], strict=True)


@pytest.mark.parametrize("mode", ["r+", "a", "w"])
def test_a_file_that_is_open_for_writing_cannot_be_read_elsewhere(tmp_path: Path, mode: str) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = DATA
    with h5py.File(tmp_path / "in.h5", mode) as file:
        if mode == "w":
            file["x"] = DATA
        source = ArraySource(file["x"])
        np.testing.assert_array_equal(source.read(SELECTION), DATA[SELECTION])
        with pytest.raises(PicklingError, match=r"in\.h5 is open for writing.*open it with mode 'r'.*'threads'"):
            pickle.dumps(source)


@pytest.mark.parametrize("where", ["core", "file object", "anonymous"])
def test_a_dataset_without_a_place_in_a_named_file_cannot_be_read_elsewhere(tmp_path: Path, where: str) -> None:
    with open(tmp_path / "in.h5", "w+b") as stream:
        opened = {
            "core": lambda: h5py.File("name", "w", driver="core", backing_store=False),
            "file object": lambda: h5py.File(stream, "w"),
            "anonymous": lambda: h5py.File(tmp_path / "other.h5", "w"),
        }[where]()
        with opened as file:
            source = ArraySource(file.create_dataset(None if where == "anonymous" else "x", data=DATA))
            with pytest.raises(PicklingError, match="use scheduler='threads'"):
                pickle.dumps(source)


def test_a_file_that_was_replaced_since_it_was_opened_is_read_as_it_was(tmp_path: Path) -> None:
    for name, data in (("in.h5", DATA), ("new.h5", DATA + 1)):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("x", data=data, chunks=(50, 50), compression="gzip")
    with h5py.File(tmp_path / "in.h5") as file:
        (tmp_path / "new.h5").rename(tmp_path / "in.h5")
        source = ArraySource(file["x"])
        np.testing.assert_array_equal(source.read(SELECTION), DATA[SELECTION])
        with pytest.raises(PicklingError, match=r"in\.h5 was replaced or removed since.*open it again"):
            pickle.dumps(source)


def test_zarr_arrays_travel_by_name(tmp_path: Path, in_another_process: Callable[[Any], Any]) -> None:
    array = zarr.create_array(tmp_path / "in.zarr", shape=SHAPE, dtype="<i4", chunks=(100, 100))
    array[...] = DATA
    source = ArraySource(array)
    assert len(pickle.dumps(source)) < SMALL
    assert (source.shape, source.dtype, source.shapes.block) == (SHAPE, np.dtype("<i4"), (100, 100))
    assert source.part(SELECTION) is None
    (found,) = in_another_process([source])
    np.testing.assert_array_equal(found, DATA[SELECTION], strict=True)


class Foreign:
    """Somebody's array: nothing is known of its threads."""

    shape = np.int64(3), 4
    dtype = "i2"
    chunks: Any

    def __getitem__(self, selection: Any) -> Any:
        return np.zeros(self.shape, "i2")[selection].tolist()


def test_an_unknown_array_is_read_one_at_a_time() -> None:
    source = ArraySource(Foreign())
    assert (source.shape, source.dtype, source.read_mode) == ((3, 4), np.dtype("i2"), "serial")
    assert source.read((slice(0, 1), slice(0, 2))).tolist() == [[0, 0]]
    assert source.file_name is None


def test_known_arrays_are_read_concurrently(raw: Path, tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "in.zarr", shape=(3,), dtype="i2")
    with h5py.File("name", "w", driver="core", backing_store=False) as file:
        for known in (DATA, mapped(raw), file.create_dataset("x", data=DATA), array):
            assert ArraySource(known).read_mode == "concurrent"


@pytest.mark.parametrize("chunks", [None, ((3, 3), (2, 2)), (3,), "auto", (3, None)])
def test_chunks_that_are_no_shape_are_left_alone(chunks: Any) -> None:
    array = Foreign()
    array.chunks = chunks
    assert ArraySource(array).shapes.block is None


def test_what_is_no_array(tmp_path: Path) -> None:
    assert not any(map(is_array_like, ([1], 3, "x", None, tmp_path)))
    array = Foreign()
    array.dtype = "category"
    with pytest.raises(ArgumentTypeError, match="dtype 'category' is not one of numpy's"):
        ArraySource(array)


def test_a_source_comes_back_from_a_pickle_as_it_went() -> None:
    source = ArraySource(DATA)
    found = cloudpickle.loads(cloudpickle.dumps(source))
    assert (found.shape, found.dtype, found.read_mode) == (source.shape, source.dtype, source.read_mode)
