"""Our iterator in hdmf's hands, and beside hdmf's own on the same input."""

import copy
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hdmf.backends.hdf5 import H5DataIO
from hdmf.backends.hdf5.h5tools import HDF5IO
from hdmf.common import DynamicTable, ElementIdentifiers, VectorData, get_manager
from hdmf.data_utils import AbstractDataChunkIterator, DataChunkIterator
from hdmf.data_utils import GenericDataChunkIterator as HdmfIterator
from hdmf.utils import get_data_shape
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.iterator import GenericDataChunkIterator
from tests.support.hdmf_iterators import FromArrayOfHdmf
from tests.support.iterators import FromArray

Ours, Theirs = FromArray, FromArrayOfHdmf
both = pytest.mark.parametrize("kind", [Ours, Theirs], ids=["ours", "hdmf"])


def seen(it: Any) -> tuple[Any, ...]:
    """Everything that hdmf's users can see of an iterator, the buffers last."""
    return (
        it.chunk_shape,
        it.buffer_shape,
        it.num_buffers,
        it.maxshape,
        it.dtype,
        it.recommended_chunk_shape(),
        it.recommended_data_shape(),
        [(chunk.selection, chunk.get_min_bounds(), chunk.dtype, len(chunk), chunk.data.tolist()) for chunk in it],
    )


# The tutorial


def test_tutorial_prints_the_buffers(capsys: pytest.CaptureFixture[str]) -> None:
    array = np.arange(72, dtype="int16").reshape(12, 6)
    printed = []
    for kind in (Ours, Theirs):
        for chunk in kind(array=array, chunk_shape=(2, 2), buffer_shape=(6, 6)):
            print(chunk.selection, chunk.data)  # noqa: T201
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].count("slice") == 4


def test_tutorial_lists_the_selections() -> None:
    array = np.broadcast_to(np.int32(0), (20000, 5000))
    ours, theirs = Ours(array=array, buffer_gb=0.2), Theirs(array=array, buffer_gb=0.2)
    assert (ours.chunk_shape, ours.buffer_shape) == (theirs.chunk_shape, theirs.buffer_shape)
    listed = list(ours.buffer_selection_generator)
    assert listed == list(theirs.buffer_selection_generator)
    assert len(listed) == ours.num_buffers == 4


@pytest.mark.parametrize("part", [10, pytest.param(1, marks=pytest.mark.heavy)])
def test_tutorial_writes_with_h5py(tmp_path: Path, part: int) -> None:
    """With as many buffers and chunks, of a part of their lengths."""
    length, width = 20000 // part, 5000 // part

    # Rows and columns tell the elements apart without a (20000, 5000) array in memory.
    class Pattern:
        shape, dtype = (length, width), np.dtype("int32")

        def __getitem__(self, selection: Any) -> Any:
            rows, columns = (np.arange(axis.start, axis.stop, dtype="int32") for axis in selection)
            return rows[:, None] * width + columns

    shapes = {"buffer_shape": (length // 2, width // 2), "chunk_shape": (length // 20, width // 20)}
    ours, theirs = Ours(array=Pattern(), **shapes), Theirs(array=Pattern(), **shapes)
    with h5py.File(tmp_path / "tutorial.h5", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("data", ours.maxshape, ours.dtype, chunks=ours.chunk_shape)
        for chunk, other in zip(ours, theirs, strict=True):
            assert chunk.selection == other.selection
            np.testing.assert_array_equal(chunk.data, other.data)
            dataset[chunk.selection] = chunk.data
        assert dataset.id.get_num_chunks() == 400
        for row in (0, length // 20 - 1, length // 20, length // 2 - 1, length // 2, length - 1):
            np.testing.assert_array_equal(dataset[row], np.arange(row * width, (row + 1) * width))


# Beside hdmf's


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    st.sampled_from(["int8", "int16", "float32", "float64", "complex128", "S7", "i4,f8"]),
    st.one_of(st.none(), st.floats(1e-6, 1e-2), st.integers(1, 20)),
    st.one_of(st.none(), st.floats(1e-9, 1e-5), st.integers(1, 2)),
)
@settings(deadline=None, max_examples=200)
def test_the_same_input_gives_the_same_buffers(shape: Any, dtype: Any, chunk_mb: Any, buffer_gb: Any) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype) if "," not in dtype else np.zeros(shape, dtype)
    try:
        theirs = Theirs(array, chunk_mb=chunk_mb, buffer_gb=buffer_gb)
    except AssertionError:
        with pytest.raises(AssertionError):
            Ours(array, chunk_mb=chunk_mb, buffer_gb=buffer_gb)
        return
    if theirs.num_buffers <= 200:
        assert seen(Ours(array, chunk_mb=chunk_mb, buffer_gb=buffer_gb)) == seen(theirs)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_the_same_shapes_are_taken_and_refused(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple))
    lengths = [st.sampled_from([-1, 0, 1, 2, 3, 4, 6, 8, 12, n]) for n in shape]
    keywords = {name: tuple(data.draw(axis) for axis in lengths) for name in ("chunk_shape", "buffer_shape")}
    array = np.arange(np.prod(shape)).reshape(shape)
    try:
        theirs = Theirs(array, **keywords)
    except (AssertionError, ZeroDivisionError):
        with pytest.raises(AssertionError):
            Ours(array, **keywords)
    else:
        if min(keywords["chunk_shape"]) > 0:
            assert seen(Ours(array, **keywords)) == seen(theirs)
        else:  # hdmf misses a negative chunk that divides the buffer
            with pytest.raises(AssertionError, match="must be at least 1"):
                Ours(array, **keywords)


@pytest.mark.parametrize(
    "keywords",
    [
        {"buffer_gb": "1"},
        {"chunk_mb": [1]},
        {"buffer_shape": [6, 6]},
        {"chunk_shape": 6},
        {"display_progress": 1},
        {"progress_bar_class": 3},
        {"progress_bar_options": [3]},
        {"no_such_keyword": 1},
    ],
)
def test_the_same_types_are_refused(keywords: dict[str, Any]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(np.zeros((12, 6)), **keywords)


# Registration


def python(script: Any) -> Any:
    """Run a script in a new interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


DEFINE = """
class Zeros(GenericDataChunkIterator):
    def _get_data(self, selection): return numpy.zeros((12, 6))[selection]
    def _get_maxshape(self): return (12, 6)
    def _get_dtype(self): return "float64"
"""

ASK = """
from hdmf.backends.hdf5 import H5DataIO
assert H5DataIO(it).io_settings == {"chunks": (2, 2), "maxshape": (12, 6)}, H5DataIO(it).io_settings
"""

OURS = "import numpy\nfrom dask_chunkio.iterator import GenericDataChunkIterator\n"
MAKE = "it = Zeros(chunk_shape=(2, 2))\n"
HDMF = "import hdmf\n"


@pytest.mark.parametrize(
    "order",
    [
        (HDMF, OURS, DEFINE, MAKE, ASK),
        (OURS, HDMF, DEFINE, MAKE, ASK),
        pytest.param((OURS, DEFINE, HDMF, MAKE, ASK), marks=pytest.mark.heavy),
        pytest.param((OURS, DEFINE, MAKE, ASK), marks=pytest.mark.heavy),
    ],
    ids=["hdmf-first", "ours-first", "defined-first", "object-first"],
)
def test_hdmf_takes_it_in_every_order_of_imports(order: tuple[Any, ...]) -> None:
    assert python("".join(order) + "print('asked')\n") == ["asked"]


def test_an_answer_that_hdmf_has_cached_is_not_kept() -> None:
    python(
        OURS
        + DEFINE
        + HDMF
        + """
from hdmf.data_utils import AbstractDataChunkIterator
assert not issubclass(Zeros, AbstractDataChunkIterator)
"""
        + MAKE
        + ASK
    )


def test_we_never_import_hdmf() -> None:
    script = """
        import sys
        import dask_chunkio, dask_chunkio.iterator
        print([name for name in sys.modules if name.split(".")[0] == "hdmf"])
        class Zero(dask_chunkio.iterator.GenericDataChunkIterator):
            def _get_data(self, selection): return 0
            def _get_maxshape(self): return ()
            def _get_dtype(self): return "int8"
        isinstance(Zero(), (str, dask_chunkio.iterator.GenericDataChunkIterator))
        print([name for name in sys.modules if name.split(".")[0] == "hdmf"])
    """
    assert python(script) == ["[]", "[]"]


def test_a_half_imported_hdmf_does_no_harm() -> None:
    script = (
        OURS
        + DEFINE
        + MAKE
        + """
import sys, types
sys.modules["hdmf.data_utils"] = types.ModuleType("hdmf.data_utils")
print(it.__class__.__name__, isinstance(it, str))
sys.modules["hdmf.data_utils"] = None
print(it.__class__.__name__)
del sys.modules["hdmf.data_utils"]
"""
        + ASK
    )
    assert python(script) == ["Zeros", "False", "Zeros"]


def test_importing_the_integration_settles_it_at_once() -> None:
    script = """
        from dask_chunkio.integrations.hdmf import AbstractDataChunkIterator
        from dask_chunkio.iterator import GenericDataChunkIterator
        print(issubclass(GenericDataChunkIterator, AbstractDataChunkIterator))
    """
    assert python(script) == ["True"]


def test_only_our_iterators_are_hdmfs() -> None:
    it = Ours(np.zeros((12, 6)))
    assert isinstance(it, AbstractDataChunkIterator)
    assert it.__class__ is type(it) is Ours
    assert not isinstance(it, (HdmfIterator, DataChunkIterator))
    assert not isinstance(it.buffer_selection_generator, AbstractDataChunkIterator)
    assert not isinstance(it[0], AbstractDataChunkIterator)


# hdmf's writer


def write(path: Any, data: Any, ids: Any) -> None:
    column = VectorData(name="column", description="a column", data=data)
    table = DynamicTable(name="table", description="a table", columns=[column], id=ids)
    with HDF5IO(str(path), manager=get_manager(), mode="w") as io:
        io.write(table)


def properties(path: Any) -> tuple[Any, ...]:
    with h5py.File(path) as file:
        dataset = file["column"]
        return dataset[()], dataset.dtype, dataset.chunks, dataset.maxshape, dataset.compression, dataset.shape


@pytest.fixture
def array() -> Any:
    return np.random.default_rng(0).normal(size=(500, 30)).astype("float32")


@pytest.mark.parametrize("keywords", [{}, {"chunks": (50, 3)}, {"maxshape": (None, 30)}, {"shuffle": True}])
def test_hdmf_writes_it_as_its_own(tmp_path: Path, array: Any, keywords: dict[str, Any]) -> None:
    written = []
    for kind in (Ours, Theirs):
        it = kind(array, chunk_shape=(25, 15), buffer_shape=(100, 30))
        path = tmp_path / f"{kind.__mro__[1].__module__}.h5"
        write(path, H5DataIO(it, compression="gzip", **keywords), list(range(500)))
        written.append(properties(path))
    data, *settings_ = written[0]
    np.testing.assert_array_equal(data, array)
    assert tuple(settings_) == written[1][1:]
    assert settings_[1] == keywords.get("chunks", (25, 15))
    with HDF5IO(str(path), manager=get_manager(), mode="r") as io:
        np.testing.assert_array_equal(io.read()["column"].data[:], array)


@both
def test_hdmf_writes_it_unwrapped(tmp_path: Path, array: Any, kind: Any) -> None:
    path = tmp_path / "plain.h5"
    write(path, kind(array, chunk_shape=(25, 15), buffer_shape=(100, 30)), list(range(500)))
    data, dtype, chunks, *_ = properties(path)
    np.testing.assert_array_equal(data, array)
    assert (dtype, chunks) == (np.dtype("float32"), (25, 15))


@both
def test_hdmf_asks_it_for_the_dtype_of_ids(kind: Any) -> None:
    assert ElementIdentifiers(name="id", data=kind(np.arange(5))).shape == (5,)
    with pytest.raises(ValueError, match="must contain integers"):
        ElementIdentifiers(name="id", data=kind(np.arange(5.0)))


def test_hdmf_writes_it_again_after_a_loop_and_a_copy_after_a_write(tmp_path: Path, array: Any) -> None:
    it = Ours(array, chunk_shape=(25, 15), buffer_shape=(100, 30))
    assert len(list(it)) == 5
    for name, data in (("first.h5", it), ("second.h5", copy.copy(it))):
        write(tmp_path / name, H5DataIO(data), list(range(500)))
        np.testing.assert_array_equal(properties(tmp_path / name)[0], array)


def test_an_error_while_hdmf_reads_it_is_not_an_end(tmp_path: Path, array: Any) -> None:
    class Failing(Ours):  # type: ignore[misc, valid-type]
        def _get_data(self, selection: Any) -> Any:
            if selection[0].start:
                raise StopIteration
            return super()._get_data(selection)

    with pytest.raises(RuntimeError, match="raised StopIteration for buffer 1 of 5"):
        write(tmp_path / "failing.h5", Failing(array, chunk_shape=(25, 30), buffer_shape=(100, 30)), list(range(500)))


def test_hdmf_sees_the_shape_without_reading() -> None:
    class Unread(Ours):  # type: ignore[misc, valid-type]
        def _get_data(self, selection: Any) -> None:
            raise AssertionError(selection)

    it = Unread(np.zeros((12, 6)))
    data = H5DataIO(it)
    assert get_data_shape(it) == get_data_shape(data) == (12, 6)
    assert len(data) == 12
    assert bool(data)
    assert VectorData(name="a", description="b", data=data).shape == (12, 6)


class Pickled(GenericDataChunkIterator):
    """Pickles as hdmf's tutorial on pickling has it."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        self.size = size
        self._base_kwargs = kwargs
        super().__init__(**kwargs)

    def _get_data(self, selection: Any) -> Any:
        return np.arange(self.size)[selection]

    def _get_maxshape(self) -> tuple[Any, ...]:
        return (self.size,)

    def _get_dtype(self) -> Any:
        return np.dtype("int64")

    def _to_dict(self) -> dict[str, Any]:
        return {"size": self.size, "kwargs": self._base_kwargs}

    @staticmethod
    def _from_dict(dictionary: Any) -> Any:
        return Pickled(dictionary["size"], **dictionary["kwargs"])


def test_hdmfs_way_of_pickling_works() -> None:
    it = Pickled(10, buffer_shape=(4,), chunk_shape=(2,))
    assert seen(pickle.loads(pickle.dumps(it))) == seen(it)
