"""Writing into datasets that are there: regions and appends, beside the same by h5py."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import dask.array as da
import h5py
import hdf5plugin
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import dask_chunkio as dcio
from dask_chunkio.errors import (
    AlignmentError,
    ArgumentError,
    ArgumentTypeError,
    CastError,
    FilterError,
    TargetChangedError,
    TargetError,
)
from dask_chunkio.storage import regions
from dask_chunkio.storage.preconditions import opened_to_look
from dask_chunkio.storage.redo_log import RedoLog
from dask_chunkio.storage.regions import Wanted, resolve_regions
from dask_chunkio.storage.target import Target
from tests.support.files import MEMORY
from tests.support.unfinished import unfinished

PIPELINES: tuple[dict[str, Any], ...] = (
    {},
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "lzf"},
    {"scaleoffset": 0},
    {"fletcher32": True},
)


def random(shape: Any, dtype: str = "i4", seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 99, shape).astype(dtype)


@pytest.fixture
def dataset(target: Path) -> Path:
    """A file with a dataset that can grow."""
    with h5py.File(target, "w") as file:
        file.create_dataset("x", data=random((30, 20)), chunks=(8, 6), maxshape=(None, 20), compression="gzip")
        file["other"] = np.arange(500)
    return target


def content(path: str | Path) -> Any:
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["other"][...], np.arange(500))
        assert not [name for name in file if name.startswith(".")]
        return file["x"][...]


def write(path: str | Path, *args: Any, **keywords: Any) -> Any:
    return dcio.to_hdf5(path, "/x", *args, scheduler="synchronous", **keywords)


def test_an_aligned_region_is_replaced_without_a_look_at_what_was_there(dataset: Path) -> None:
    expected, new = content(dataset), random((16, 12), seed=1)
    result = write(dataset, new, region=np.s_[8:24, 6:18])
    expected[8:24, 6:18] = new
    np.testing.assert_array_equal(content(dataset), expected)
    assert (result.datasets[0].chunks, result.datasets[0].merged_chunks) == (4, 0)
    assert result.datasets[0].shape == (16, 12)


def test_an_unaligned_region_is_merged_and_says_what_that_cost(dataset: Path) -> None:
    expected, new = content(dataset), random((13, 20), seed=1)
    result = write(dataset, new, region=np.s_[5:18])
    expected[5:18] = new
    np.testing.assert_array_equal(content(dataset), expected)
    assert (result.datasets[0].chunks, result.datasets[0].merged_chunks) == (12, 8)


def test_the_whole_dataset(dataset: Path) -> None:
    new = random((30, 20), seed=1)
    result = write(dataset, new, region=...)
    np.testing.assert_array_equal(content(dataset), new)
    assert result.datasets[0].merged_chunks == 0


@pytest.mark.parametrize("source", ["array", "dask", "iterator"])
def test_appending_from_every_kind_of_source(dataset: Path, source: str) -> None:
    expected, new = content(dataset), random((21, 20), seed=1)

    class Rows(dcio.GenericDataChunkIterator):
        def _get_data(self, selection: Any) -> Any:
            return new[selection]

        def _get_maxshape(self) -> Any:
            return new.shape

        def _get_dtype(self) -> Any:
            return new.dtype

    sources: dict[str, Callable[[], Any]] = {
        "array": lambda: new,
        "dask": lambda: da.from_array(new, chunks=(5, 20)) + 0,
        "iterator": lambda: Rows(chunk_shape=(5, 20), buffer_shape=(10, 20)),
    }
    result = write(dataset, sources[source](), append=True)
    np.testing.assert_array_equal(content(dataset), np.concatenate([expected, new]))
    assert result.datasets[0].merged_chunks == 4


def test_appending_again_and_again(dataset: Path) -> None:
    expected = [content(dataset)]
    for number in range(5):
        expected.append(random((number * 3, 20), seed=number))
        write(dataset, expected[-1], append=0)
    np.testing.assert_array_equal(content(dataset), np.concatenate(expected))


def test_new_datasets_and_parts_of_old_ones_in_one_write(dataset: Path) -> None:
    expected, new = content(dataset), random((2, 20), seed=1)
    more = {"/x": new, "/g/y": random((40, 4), seed=2)}
    dcio.to_hdf5(dataset, more, encoding={"/x": {"region": np.s_[3:5]}, "/g/y": {"compression": "gzip"}})
    expected[3:5] = new
    np.testing.assert_array_equal(content(dataset), expected)
    with h5py.File(dataset) as file:
        np.testing.assert_array_equal(file["g/y"][...], more["/g/y"])


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_in_parallel(dataset: Path, scheduler: str) -> None:
    expected, new = content(dataset), random((64, 20), seed=1)
    dcio.to_hdf5(dataset, "x", new, append=True, buffer_shape=(8, 6), scheduler=scheduler)
    np.testing.assert_array_equal(content(dataset), np.concatenate([expected, new]))


class Fails:
    """An array that cannot be read behind a row until it is mended."""

    def __init__(self, data: Any, row: Any) -> None:
        self.data, self.row, self.shape, self.dtype = data, row, data.shape, data.dtype

    def __getitem__(self, selection: Any) -> Any:
        if selection[0].stop > self.row:
            raise OSError("not yet")
        return self.data[selection]


def cut_off(path: Path, source: Any, **keywords: Any) -> None:
    with pytest.raises(dcio.errors.SourceError, match="not yet"):
        write(path, source, buffer_shape=(8, 20), **keywords)


def test_an_append_that_was_cut_off_is_resumed_at_its_own_place(dataset: Path) -> None:
    expected, source = content(dataset), Fails(random((40, 20), seed=1), 20)
    cut_off(dataset, source, append=True)
    assert unfinished(dataset).datasets[0].committed
    source.row = 40
    with pytest.raises(ArgumentError, match=r"/x: append= with resume=True needs a token.*give token='\.\.\.'"):
        write(dataset, source, append=True, resume=True)
    write(dataset, source, append=True, resume=True, token="first")
    assert write(dataset, source, append=True, resume=True, token="first").already_complete
    np.testing.assert_array_equal(content(dataset), np.concatenate([expected, source.data]))


def test_an_append_that_was_cut_off_and_is_discarded_leaves_the_dataset_as_it_was(dataset: Path) -> None:
    expected, source = content(dataset), Fails(random((40, 20), seed=1), 20)
    cut_off(dataset, source, append=True)
    assert len(content(dataset)) == 70
    dcio.discard(dataset)
    np.testing.assert_array_equal(content(dataset), expected)


def test_a_region_that_was_cut_off_holds_old_or_new_chunks_and_is_resumed(dataset: Path) -> None:
    expected, source = content(dataset), Fails(random((30, 20), seed=1), 20)
    cut_off(dataset, source, region=...)
    found = content(dataset)
    np.testing.assert_array_equal(found[:16], source.data[:16])
    np.testing.assert_array_equal(found[16:], expected[16:])
    recovered = dcio.recover(dataset)
    assert recovered.datasets == {"/x": "/x"}
    source.row = 30
    write(dataset, source, region=..., resume=True)
    np.testing.assert_array_equal(content(dataset), source.data)


@pytest.mark.parametrize("call", ["commit", "_apply"])
def test_a_transaction_that_is_cut_off_changes_nothing_or_is_applied_again(dataset: Path, call: str) -> None:
    """Old payloads give their places to new ones: nothing of these may be there before the log is."""
    expected, new = content(dataset), random((30, 20), seed=7) * 3
    real, calls = getattr(RedoLog, call), []

    def cut(self: RedoLog, *args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("cut")
        real(self, *args)

    with mock.patch.object(RedoLog, call, cut), pytest.raises(RuntimeError, match="cut"):
        write(dataset, new, region=..., buffer_shape=(8, 20))
    found = content(dataset)
    np.testing.assert_array_equal(found[:8], new[:8])
    np.testing.assert_array_equal(found[8:], expected[8:])
    write(dataset, new, region=..., resume=True)
    np.testing.assert_array_equal(content(dataset), new)


# What is refused


@pytest.mark.parametrize(
    ("shape", "keywords", "error", "words"),
    [
        ((5, 20), {"region": np.s_[0:6]}, AlignmentError, r"region 0:6 along axis 0 has 6 elements, the source 5"),
        ((5,), {"region": np.s_[0:5]}, AlignmentError, "has 2 axes, the source 1"),
        ((5, 20), {"region": np.s_[28:33]}, ArgumentError, "ends at 33 along axis 0, the dataset at 30; append=True"),
        ((5, 20), {"region": np.s_[0:10:2]}, ArgumentError, "a step of 2 along axis 0"),
        ((1, 20), {"region": 3}, ArgumentTypeError, "give a slice, such as 3:4"),
        ((5, 20), {"region": "a"}, ArgumentTypeError, "give a slice"),
        ((5, 20), {"region": (slice("a", 5),)}, ArgumentTypeError, "whole numbers"),
        ((5, 20), {"region": np.ones(30, bool)}, ArgumentTypeError, "give a slice"),
        ((5, 20), {"region": (np.arange(5), slice(None))}, ArgumentTypeError, "give a slice"),
        ((5, 20), {"region": np.s_[..., ...]}, ArgumentError, "more than one ellipsis"),
        ((5, 20), {"region": np.s_[0:5, :, :]}, ArgumentError, "more axes than the dataset"),
        ((5, 19), {"append": True}, AlignmentError, "is 20 along axis 1, the source 19; only axis 0 grows"),
        ((30, 5), {"append": 1}, ArgumentError, "can grow to 20 along axis 1, and would be 25"),
        ((5, 20), {"append": 2}, ArgumentTypeError, "neither True nor one of 2 axes"),
        ((5, 20), {"append": True, "region": ...}, ArgumentError, "not both"),
        ((30, 20), {"region": ..., "compression": "gzip"}, ArgumentError, "compression= is for a new dataset"),
        ((5, 20), {"append": True, "chunks": (1, 1)}, ArgumentError, r"its chunks are \(8, 6\), and would be \(1, 1\)"),
        ((5, 20), {"append": True, "dtype": "i8"}, ArgumentError, "its dtype is int32, and would be int64"),
        ((5, 20), {"append": True, "compression": "lzf"}, ArgumentError, r"filters are deflate\(4\), and would be lzf"),
        ((5, 20), {"append": True, "attrs": {"unit": "V"}}, ArgumentError, "has no attribute 'unit'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_touched(
    dataset: Path, shape: tuple[int, ...], keywords: dict[str, Any], error: Any, words: str
) -> None:
    before = dataset.read_bytes()
    with pytest.raises(error, match=words):
        write(dataset, np.zeros(shape, "i4"), **keywords)
    assert dataset.read_bytes() == before
    assert os.listdir(dataset.parent) == ["out.h5"]


def test_a_source_that_cannot_be_cast_is_refused(dataset: Path) -> None:
    with pytest.raises(CastError, match="float64 cannot be stored as int32"):
        write(dataset, np.zeros((30, 20)), region=...)


def test_what_is_not_there_is_an_error(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="has no dataset /y"):
        dcio.to_hdf5(dataset, "/y", np.zeros(3), region=...)
    with pytest.raises(TargetError, match="there is no file"):
        write(tmp_path / "none.h5", np.zeros(3), region=...)


def test_which_axis_grows_has_to_be_clear(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file.create_dataset("x", (3, 3), "f4", chunks=(2, 2), maxshape=(None, None))
        file.create_dataset("y", (3, 3), "f4", chunks=(2, 2))
    with pytest.raises(ArgumentError, match=r"axes \[0, 1\] can all grow"):
        write(target, np.zeros((1, 3), "f4"), append=True)
    with pytest.raises(ArgumentError, match="no axis can grow"):
        dcio.to_hdf5(target, "/y", np.zeros((1, 3), "f4"), append=True)


# Other people's layouts


def partial_chunks_unfiltered(path: Path, data: Any, chunks: Any) -> None:
    """Make a dataset whose chunks at the edge skip the pipeline."""
    library = ctypes.CDLL(h5py.defs.__file__)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(chunks)
    plist.set_deflate(4)
    library.H5Pset_chunk_opts(ctypes.c_int64(plist.id), ctypes.c_uint(2))
    with h5py.File(path, "w", libver="v110") as file:
        space = h5py.h5s.create_simple(data.shape, (h5py.h5s.UNLIMITED, *data.shape[1:]))
        h5py.h5d.create(file.id, b"x", h5py.h5t.py_create(data.dtype), space, plist)
        file["x"][...] = data
        file["other"] = np.arange(500)


def test_partial_chunks_that_skip_the_pipeline(target: Path) -> None:
    data, new = random((30, 20)), random((30, 20), seed=1)
    partial_chunks_unfiltered(target, data, (8, 6))
    write(target, new, region=...)
    np.testing.assert_array_equal(content(target), new)
    write(target, data, append=True)
    np.testing.assert_array_equal(content(target), np.concatenate([new, data]))


def test_a_dataset_that_hdf5_cannot_extend_is_named_and_left_as_it_was(target: Path) -> None:
    """HDF5 2.0 looks for an index that is not there yet."""
    library = ctypes.CDLL(h5py.defs.__file__)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4,))
    plist.set_deflate(4)
    library.H5Pset_chunk_opts(ctypes.c_int64(plist.id), ctypes.c_uint(2))
    with h5py.File(target, "w", libver="v110") as file:
        space = h5py.h5s.create_simple((5,), (h5py.h5s.UNLIMITED,))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT32, space, plist)
    try:
        with h5py.File(target, "r+") as file:
            file["x"].resize((8,))
        pytest.skip("this HDF5 extends it")
    except (RuntimeError, OSError):
        before = target.read_bytes()
    with pytest.raises(TargetError, match=r"/x: HDF5 cannot extend the dataset from \(5,\) to \(8,\)"):
        write(target, np.arange(3, dtype="i4"), append=True)
    assert target.read_bytes() == before


class Counted(dcio.GenericDataChunkIterator):
    """Counts what is read of it."""

    def __init__(self, data: Any) -> None:
        self.data, self.reads = data, 0
        super().__init__(chunk_shape=(32, 32))

    def _get_data(self, selection: Any) -> Any:
        self.reads += 1
        return self.data[selection]

    def _get_maxshape(self) -> Any:
        return self.data.shape

    def _get_dtype(self) -> Any:
        return self.data.dtype


@pytest.mark.parametrize(
    "compression",
    [
        hdf5plugin.Zstd(clevel=5),
        hdf5plugin.LZ4(),
        hdf5plugin.BZip2(),
        hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=hdf5plugin.Blosc.BITSHUFFLE),
        hdf5plugin.Blosc2(cname="lz4"),
        hdf5plugin.Bitshuffle(nelems=8, cname="none"),
        hdf5plugin.Bitshuffle(cname="lz4"),
        hdf5plugin.Bitshuffle(cname="zstd"),
        hdf5plugin.Zfp(reversible=True),
        hdf5plugin.Zfp(accuracy=0.01),
        hdf5plugin.SZ(absolute=0.01),
        hdf5plugin.SZ3(absolute=0.01),
        hdf5plugin.Sperr(),
    ],
    ids=lambda one: f"{type(one).__name__} {one.filter_options}",
)
def test_a_region_of_what_a_plugin_has_stored_is_as_h5pys_or_refused_before_anything_is_read(
    target: Path, tmp_path: Path, compression: Any
) -> None:
    """Some plugins add to the options of the dataset each time one is made with them."""
    old = np.random.default_rng(1).normal(0, 20, (64, 64)).cumsum(axis=0).astype("f4")
    new, theirs = Counted(old + 3), tmp_path / "theirs.h5"
    for path in (target, theirs):
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=old, chunks=(32, 32), compression=compression)
    with h5py.File(theirs, "r+") as file:
        file["x"][...] = new.data
    before = target.read_bytes()
    try:
        dcio.to_hdf5(target, "/x", new, region=...)
    except FilterError:
        assert new.reads == 0
        assert target.read_bytes() == before
        assert type(compression) is hdf5plugin.SZ
        return
    with h5py.File(target) as file, h5py.File(theirs) as other:
        np.testing.assert_array_equal(file["x"][...], other["x"][...])
        mine, plists = file["x"].id.get_create_plist(), other["x"].id.get_create_plist()
        assert mine.get_filter(0) == plists.get_filter(0)


def test_a_mask_of_the_old_payload_does_not_stay(target: Path) -> None:
    """A chunk whose filter was skipped gets a payload of the same length for which it was not."""
    new = random((4, 8), seed=3)
    with h5py.File(target, "w") as file:
        file.create_dataset("x", data=new, chunks=(4, 8), compression="gzip")
        file["other"] = np.arange(500)
    write(target, new, region=...)
    with h5py.File(target, "r+") as file:
        length = file["x"].id.get_chunk_info(0).size
        file["x"].id.write_direct_chunk((0, 0), bytes(length + 1), 1)
        file["x"].id.write_direct_chunk((0, 0), bytes(length), 1)
        assert file["x"].id.get_chunk_info(0).filter_mask == 1
    write(target, new, region=...)
    np.testing.assert_array_equal(content(target), new)


def test_a_dataset_without_chunks(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file["x"] = random((30, 20))
        file["other"] = np.arange(500)
    new = random((7, 20), seed=1)
    write(target, new, region=np.s_[3:10])
    expected = random((30, 20))
    expected[3:10] = new
    np.testing.assert_array_equal(content(target), expected)


def test_data_in_other_files_are_refused(target: Path, tmp_path: Path) -> None:
    with h5py.File(target, "w") as file:
        layout = h5py.VirtualLayout((4,), "i4")
        layout[...] = h5py.VirtualSource(str(tmp_path / "source.h5"), "y", (4,))
        file.create_virtual_dataset("x", layout)
        file.create_dataset("y", (4,), "i4", external=[(str(tmp_path / "raw"), 0, 16)])
        file["z"] = h5py.Empty("i4")
    for name, words in (("/x", "in other files"), ("/y", "in other files"), ("/z", "no elements")):
        with pytest.raises(ArgumentError, match=words):
            dcio.to_hdf5(target, name, np.zeros(4, "i4"), region=...)


@st.composite
def writes(draw: st.DrawFn) -> tuple[Any, ...]:
    """A layout, and what is written into it: a region or an append."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.lists(st.integers(1, 14), min_size=ndim, max_size=ndim)))
    chunks = tuple(draw(st.integers(1, 6)) for _ in shape)
    growing = draw(st.integers(0, ndim - 1))
    options = dict(draw(st.sampled_from(PIPELINES)))
    layout = {"libver": draw(st.sampled_from(["earliest", "v110"])), "growing": growing, "chunks": chunks}
    actions: list[tuple[str, Any]] = []
    length = list(shape)
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            more = draw(st.integers(0, 9))
            actions.append(("append", more))
            length[growing] += more
        else:
            ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in length]
            actions.append(("region", tuple(slice(*end) for end in ends)))
    # (The tool knows no lzf.)
    return shape, layout, options, actions, "lzf" not in options.values() and draw(st.booleans())


def by_us_and_by_h5py(drawn: Any, folder: Any) -> None:
    shape, layout, options, actions, repacked = drawn
    ours, theirs = os.path.join(folder, "ours.h5"), os.path.join(folder, "theirs.h5")
    growing, chunks = layout["growing"], layout["chunks"]
    maxshape = tuple(
        None if axis == growing else max(n, c) for axis, (n, c) in enumerate(zip(shape, chunks, strict=True))
    )
    with h5py.File(ours, "w", libver=layout["libver"]) as file:
        file.create_dataset("x", data=random(shape), chunks=chunks, maxshape=maxshape, fillvalue=7, **options)
        file["other"] = np.arange(500)
    if repacked:
        subprocess.run(["h5repack", "-f", "x:GZIP=3", ours, theirs], check=True, capture_output=True)
        os.replace(theirs, ours)
    shutil.copy(ours, theirs)
    for seed, (kind, what) in enumerate(actions):
        with h5py.File(theirs, "r+") as file:
            old = file["x"].shape
            if kind == "append":
                source = tuple(what if axis == growing else n for axis, n in enumerate(old))
                where = tuple(slice(n, n + what) if axis == growing else slice(None) for axis, n in enumerate(old))
                file["x"].resize(old[growing] + what, axis=growing)
            else:
                source, where = tuple(max(0, one.stop - one.start) for one in what), what
            data = random(source, seed=seed + 1)
            file["x"][where] = data
        keywords = {"append": growing} if kind == "append" else {"region": what}
        write(ours, data, **keywords)
    np.testing.assert_array_equal(content(ours), content(theirs))
    with h5py.File(ours) as file, h5py.File(theirs) as other:
        assert file["x"].shape == other["x"].shape
        assert file["x"].id.get_create_plist().get_nfilters() == other["x"].id.get_create_plist().get_nfilters()
        # What is beyond the dataset, and comes to light when it grows.
    for path in (ours, theirs):
        with h5py.File(path, "r+") as file:
            file["x"].resize(file["x"].shape[growing] + 5, axis=growing)
    np.testing.assert_array_equal(content(ours), content(theirs))


def fuzz(examples: Any) -> None:
    # (A folder of their own: hypothesis runs all examples in one call of the test.)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(writes())
    def run(drawn: Any) -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            by_us_and_by_h5py(drawn, folder)

    run()


def test_random_regions_and_appends_into_random_layouts_are_as_h5pys() -> None:
    fuzz(30)


@pytest.mark.heavy
def test_many_random_regions_and_appends_are_as_h5pys() -> None:
    fuzz(500)


# An unfinished write of the same dataset


@pytest.fixture
def unfinished_region(dataset: Path) -> Path:
    cut_off(dataset, Fails(random((30, 20), seed=1), 24), region=...)
    return dataset


def test_a_plan_of_a_region_recovers_nothing(unfinished_region: Path) -> None:
    """It only looks."""
    folder = Path(f"{unfinished_region}.writing")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(TargetError, match=rf"{folder} holds a write that is unfinished or running.*resume=True"):
        dcio.plan(unfinished_region, "/x", random((30, 20)), region=...)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    write(unfinished_region, random((30, 20), seed=1), region=..., buffer_shape=(8, 20), resume=True)
    np.testing.assert_array_equal(content(unfinished_region), random((30, 20), seed=1))


@pytest.mark.parametrize("name", ["log", "applying"])
def test_a_side_file_that_cannot_be_opened_is_named_and_the_region_goes_on_later(
    unfinished_region: Path, name: str
) -> None:
    side = Path(f"{unfinished_region}.writing", name)
    kept = side.rename(unfinished_region.with_name("kept"))
    side.mkdir()
    with pytest.raises(TargetError, match=rf"cannot write {unfinished_region}: Is a directory \({side}\)"):
        write(unfinished_region, random((30, 20), seed=1), region=..., buffer_shape=(8, 20), resume=True)
    side.rmdir()
    kept.rename(side)
    write(unfinished_region, random((30, 20), seed=1), region=..., buffer_shape=(8, 20), resume=True)
    np.testing.assert_array_equal(content(unfinished_region), random((30, 20), seed=1))


def test_a_write_that_begins_as_the_file_is_looked_at_is_looked_for_again(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read may have been half of its transaction."""
    folder = Path(f"{dataset}.writing")
    target, wanted = Target(str(dataset), "id"), {"/x": Wanted((30, 20), ...)}

    def begun_first(target: Any) -> Any:
        folder.mkdir()
        (folder / "lock").write_text("theirs")
        return opened_to_look(target)

    with monkeypatch.context() as patch:
        patch.setattr(regions, "opened_to_look", begun_first)
        with pytest.raises(
            TargetChangedError, match=f"{dataset} was changed while this write looked at it; run it again"
        ):
            resolve_regions(target, ["/x"], wanted)
    assert (folder / "lock").read_text() == "theirs"
    shutil.rmtree(folder)
    assert set(resolve_regions(target, ["/x"], wanted).layouts) == {"/x"}


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"unit": "mV"}, "its attribute 'unit' is 'V', and would be 'mV'"),
        ({"unit": "V", "gain": [1, 3]}, r"its attribute 'gain' is array\(\[1, 2\]\), and would be \[1, 3\]"),
        ({"unit": "V", "rate": 1}, "has no attribute 'rate'"),
    ],
)
def test_an_append_whose_attributes_are_others_is_refused(dataset: Path, attrs: dict[str, Any], words: str) -> None:
    with h5py.File(dataset, "a") as file:
        file["x"].attrs.update({"unit": "V", "gain": [1, 2]})
    before = dataset.read_bytes()
    with pytest.raises(ArgumentError, match=f"/x exists, and {words}; leave out the keywords for a new dataset"):
        write(dataset, random((8, 20)), append=True, attrs=attrs)
    assert dataset.read_bytes() == before
    write(dataset, random((8, 20)), append=True, attrs={"unit": "V", "gain": np.array([1, 2])})
    assert len(content(dataset)) == 38
