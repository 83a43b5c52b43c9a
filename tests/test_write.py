"""`to_hdf5` and `plan`, as a user meets them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import dask
import dask.array as da
import dask.base
import h5py
import numpy as np
import pytest
from dask.callbacks import Callback
from distributed import Client

import dask_chunkio
from dask_chunkio import GenericDataChunkIterator, discard, plan, to_hdf5
from dask_chunkio.errors import (
    AlignmentError,
    ArgumentError,
    ArgumentTypeError,
    CastError,
    ChunkIOError,
    FilterError,
    PicklingError,
    SourceError,
    TargetBusyError,
    TargetError,
    TargetExistsError,
    UnfinishedWriteError,
    WorkerError,
)
from dask_chunkio.execution.tasks import commit_buffer
from dask_chunkio.storage.session import end

DATA = np.arange(20_000, dtype="i4").reshape(1000, 20)
LOCAL = ["synchronous", "threads", "processes"]
# A pool of processes is started for each of these tests; the cluster of the others runs already.
POOL = pytest.param("processes", marks=pytest.mark.heavy)


class Rows(GenericDataChunkIterator):
    def __init__(self, change: Any = None, **options: Any) -> None:
        self.change = change
        super().__init__(**options)

    def _get_data(self, selection: tuple[slice, ...]) -> Any:
        data = DATA[selection]
        return data if self.change is None else self.change(data)

    def _get_maxshape(self) -> tuple[int, ...]:
        return DATA.shape

    def _get_dtype(self) -> np.dtype[Any]:
        return DATA.dtype


def stored(path: Path, name: str = "/x") -> np.ndarray[Any, Any]:
    with h5py.File(path, "r") as file:
        found: np.ndarray[Any, Any] = file[name][...]
        return found


def assert_nothing_written(path: Path) -> None:
    assert not path.exists()


@pytest.fixture(params=["synchronous", "threads", POOL, "thread_client", "process_client"])
def scheduler(request: pytest.FixtureRequest) -> Any:
    return request.param if request.param in LOCAL else request.getfixturevalue(request.param)


# The one code path on every scheduler


@pytest.mark.parametrize("fuse", [True, pytest.param(False, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("kind", ["numpy", "iterator", "dask", "dask-misaligned"])
def test_every_source_on_every_scheduler(target: Path, scheduler: Any, kind: str, fuse: bool) -> None:
    source = {
        "numpy": DATA,
        "iterator": Rows(),
        "dask": da.from_array(DATA, chunks=(200, 20)),
        "dask-misaligned": da.from_array(DATA, chunks=(333, 7)) + 0,
    }[kind]
    result = to_hdf5(
        target, "/g/x", source, chunks=(100, 10), compression="gzip", shuffle=True, scheduler=scheduler, fuse=fuse
    )
    np.testing.assert_array_equal(stored(target, "/g/x"), DATA)
    assert (result.path, result.nbytes, result.chunks) == (str(target), DATA.nbytes, 20)
    assert result.stored_nbytes < result.nbytes
    assert os.listdir(target.parent) == ["out.h5"]


def test_current_client_is_the_default(target: Path, process_client: Client) -> None:
    with process_client.as_current():
        assert plan(target, "/x", DATA).scheduler == "distributed"
        to_hdf5(target, "/x", Rows())
    np.testing.assert_array_equal(stored(target), DATA)


@pytest.mark.parametrize("read", ["serial", "ordered"])
def test_read_modes_on_every_scheduler(target: Path, scheduler: Any, read: Literal["serial", "ordered"]) -> None:
    to_hdf5(target, "/x", Rows(buffer_shape=(100, 20), chunk_shape=(100, 20)), read=read, scheduler=scheduler)
    np.testing.assert_array_equal(stored(target), DATA)


def test_ordered_reads_in_order_in_one_thread(target: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Ordered(Rows):
        def _get_data(self, selection: tuple[slice, ...]) -> Any:
            seen.append((selection[0].start, threading.get_ident()))
            return DATA[selection]

    to_hdf5(target, "/x", Ordered(buffer_shape=(100, 20), chunk_shape=(100, 20)), read="ordered")
    assert [start for start, _ in seen] == list(range(0, 1000, 100))
    assert len({thread for _, thread in seen}) == 1


# The signature


def test_several_datasets_each_with_its_encoding(target: Path) -> None:
    result = to_hdf5(
        target,
        {"/a": DATA, "b/c": da.ones((10, 10), chunks=5), "/s": 3.5},
        encoding={"/a": {"compression": "gzip", "chunks": (500, 20), "attrs": {"unit": "V"}}, "/b/c": {"dtype": "f4"}},
    )
    with h5py.File(target, "r") as file:
        assert file["a"].compression == "gzip"
        assert file["a"].chunks == (500, 20)
        assert file["a"].attrs["unit"] == "V"
        assert file["b/c"].dtype == np.float32
        assert file["s"][()] == 3.5
    assert [dataset.name for dataset in result.datasets] == ["/a", "/b/c", "/s"]


def test_create_dataset_keywords_keep_their_names(target: Path) -> None:
    to_hdf5(
        target, "/x", DATA, chunks=(64, 20), fletcher32=True, fillvalue=-1, maxshape=(None, 20), attrs={"n": 3},
        dtype="i8", track_times=True,
    )  # fmt: skip
    with h5py.File(target, "r") as file:
        dataset = file["x"]
        assert (dataset.fletcher32, dataset.fillvalue, dataset.maxshape) == (True, -1, (None, 20))
        assert (dataset.dtype, dataset.attrs["n"]) == (np.int64, 3)
        np.testing.assert_array_equal(dataset[...], DATA)


def test_chunks_true_is_readable_and_divides_the_blocks_of_a_dask_array(target: Path) -> None:
    source = da.zeros((4000, 1000), chunks=(2000, 500), dtype="f8")
    (dataset,) = plan(target, "/x", source).datasets
    assert dataset.chunk_nbytes <= 1 << 20
    assert all(block % chunk == 0 for block, chunk in zip(source.chunksize, dataset.chunks.chunk_shape, strict=True))
    assert dataset.buffers.buffer_shape == source.chunksize


def test_compute_false_touches_nothing_until_it_is_computed(target: Path) -> None:
    other = target.with_name("other.h5")
    first = to_hdf5(target, "/x", da.from_array(DATA, chunks=(100, 20)), compute=False)
    second = to_hdf5(other, "/x", Rows(), compute=False)
    assert os.listdir(target.parent) == []
    total, one, two = dask.base.compute(da.from_array(DATA, chunks=100).sum(), first, second)
    assert total == DATA.sum()
    assert (one.path, two.path) == (str(target), str(other))
    np.testing.assert_array_equal(stored(target), stored(other))


def test_compute_false_on_a_client(target: Path, process_client: Client) -> None:
    delayed = to_hdf5(target, "/x", Rows(), compute=False)
    assert process_client.compute(delayed).result().nbytes == DATA.nbytes
    np.testing.assert_array_equal(stored(target), DATA)


def test_a_failed_delayed_goes_on_where_it_stopped(target: Path) -> None:
    reads: list[int] = []
    broken = [True]

    class Fragile(Rows):
        def _get_data(self, selection: tuple[slice, ...]) -> Any:
            if broken[0] and selection[0].start == 500:
                raise OSError("the disk is asleep")
            reads.append(selection[0].start)
            return DATA[selection]

    source = Fragile(buffer_shape=(100, 20), chunk_shape=(100, 20))
    delayed = to_hdf5(target, "/x", source, compute=False, scheduler="synchronous")
    with pytest.raises(SourceError, match="the disk is asleep"):
        delayed.compute(scheduler="synchronous")
    broken[0] = False
    delayed.compute(scheduler="synchronous")
    assert sorted(reads) == list(range(0, 1000, 100))
    np.testing.assert_array_equal(stored(target), DATA)


def test_no_task_keeps_a_result_over_1_kb(target: Path) -> None:
    sizes: list[int] = []

    def note_size(key: Any, result: Any, *_: Any) -> None:
        if "source" not in str(key):
            sizes.append(len(pickle.dumps(result)))

    with Callback(posttask=note_size):
        to_hdf5(target, "/x", Rows(), compression="gzip", shuffle=True, compute=False).compute()
    assert len(sizes) >= 3
    assert max(sizes) < 1024


def test_graph_has_the_layers_of_the_design(target: Path) -> None:
    source = Rows(buffer_shape=(100, 20), chunk_shape=(100, 20))
    delayed = to_hdf5(target, "/g/x", source, compute=False, fuse=False)
    names = [name.rsplit("-", 1)[0] for name in delayed.dask.layers]
    assert names == ["create-g.x", "source-g.x", "read-g.x", "commit-g.x", "finish-g.x"]


def test_result_and_plan_are_frozen(target: Path) -> None:
    result, planned = to_hdf5(target, "/x", DATA), plan(target, "/x", DATA)
    for value in (result, planned):
        with pytest.raises(AttributeError):
            value.path = "elsewhere"  # type: ignore[misc]
    assert result.datasets[0].chunks == len(planned.datasets[0].chunks)


def test_plan_says_what_will_be_done(target: Path) -> None:
    text = repr(plan(target, "/x", Rows(), compression="lzf", compute=True))
    assert "/x\n    array    (1000, 20) int32, 78.12 kiB" in text
    assert "lzf in h5py" in text
    assert "buffers" in text
    assert_nothing_written(target)


def test_an_inferred_buffer_of_a_gigabyte_fits_16_threads(target: Path) -> None:
    class Big(Rows):
        def _get_maxshape(self) -> tuple[int, ...]:
            return (10**9, 384)

    with dask.config.set(num_workers=16):
        planned = plan(target, "/x", Big())
        kept = plan(target, "/x", Big(buffer_shape=(100_000, 384), chunk_shape=(10_000, 384)))
    assert planned.threads == 16
    assert planned.projected_nbytes < planned.memory_nbytes
    assert len(planned.datasets[0].buffers) >= 64
    assert kept.datasets[0].buffers.buffer_shape == (100_000, 384)


@pytest.mark.parametrize("limit", ["400MB", 400_000_000, "0.4 GB"])
def test_a_memory_limit_decides_on_the_buffers_that_nobody_gave_a_shape(
    target: Path, scheduler: Any, limit: int | str
) -> None:
    data = np.broadcast_to(np.float64(0), (4000, 100_000))
    free = plan(target, "/x", data, scheduler=scheduler)
    planned = plan(target, "/x", data, scheduler=scheduler, memory_limit=limit)
    assert planned.projected_nbytes <= planned.memory_nbytes == int(4e8 * 0.6) - (128 << 20)
    assert planned.datasets[0].buffer_nbytes < free.datasets[0].buffer_nbytes
    assert planned.datasets[0].chunks == free.datasets[0].chunks
    kept = plan(target, "/x", data, scheduler=scheduler, memory_limit=limit, chunks=(10, 10), buffer_shape=(4000, 10))
    assert kept.datasets[0].buffers.buffer_shape == (4000, 10)


def test_progress_reaches_the_end_on_every_scheduler(
    target: Path, scheduler: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    to_hdf5(target, "/x", Rows(), progress=True, scheduler=scheduler)
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert "78.1k/78.1k" in shown


def test_progress_is_silent_where_there_is_no_terminal(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to_hdf5(target, "/x", Rows())
    assert capsys.readouterr().err == ""


def test_retries_are_dasks(target: Path, process_client: Client, tmp_path: Path) -> None:
    mark = tmp_path / "failed-once"

    def once(data: Any) -> Any:
        if not mark.exists():
            mark.touch()
            raise OSError("once")
        return data

    to_hdf5(target, "/x", Rows(once), scheduler=process_client, compute_kwargs={"retries": 2})
    np.testing.assert_array_equal(stored(target), DATA)


# The first hour of a user


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"compresion": "gzip"}, ArgumentTypeError, "did you mean 'compression'"),
        ({"compression": "gzip", "compression_opts": 12}, ArgumentError, "0-9, not 12"),
        ({"compression": "zstandard"}, ArgumentError, "/x: compression='zstandard' is not known"),
        ({"compression": 31999}, FilterError, "HDF5 filter 31999"),
        ({"chunks": (10,)}, ArgumentError, "1 axes, the source 2"),
        ({"chunks": (2000, 20)}, ArgumentError, "must not be greater"),
        ({"chunks": (0, 20)}, ArgumentError, "below 1"),
        ({"chunks": "big"}, ArgumentTypeError, "chunks='big'"),
        ({"chunks": None}, ArgumentError, "use 'auto' or a tuple"),
        ({"chunks": (10, 20), "buffer_shape": (15, 20)}, AlignmentError, "/x: .*axis 0"),
        ({"dtype": "i2", "scheduler": "bogus"}, ArgumentError, "'bogus'"),
        ({"dtype": "u4"}, CastError, "negative values would be lost"),
        ({"dtype": "nonsense"}, ArgumentTypeError, "'nonsense'"),
        ({"read": "backwards"}, ArgumentError, "'backwards'"),
        ({"memory_limit": "much"}, ArgumentError, "'much' is not a size"),
        ({"memory_limit": -1}, ArgumentError, "below 1 byte"),
        ({"attrs": {"bad": object()}}, ArgumentTypeError, "/x"),
    ],
)
def test_wrong_arguments_are_found_before_anything_is_touched(
    target: Path, keywords: dict[str, Any], error: type[Exception], words: str
) -> None:
    for function in (to_hdf5, plan):
        with pytest.raises(error, match=words):
            function(target, "/x", DATA, **keywords)
    assert os.listdir(target.parent) == []


def test_a_filter_that_refuses_the_data_is_named_with_the_data(target: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    with pytest.raises(
        FilterError, match=r"/x, buffer 0, selection \[0:1000, 0:20\]: .*(?i:sperr).* failed on a chunk"
    ):
        to_hdf5(target, "/x", DATA.astype("i8"), compression=hdf5plugin.Sperr(rate=2), chunks=DATA.shape)
    assert not target.exists()


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("/x",), ArgumentTypeError),
        (({},), ArgumentError),
        (({"/x": DATA, "x": DATA},), ArgumentError),
        (("/", DATA), ArgumentError),
        ((3, DATA), ArgumentTypeError),
        (("/x", "text"), ArgumentTypeError),
        (("/x", np.array(["a", 1], object)), ArgumentTypeError),
        (("/x", np.array(["a"])), ArgumentTypeError),
        (("/x", np.array(["2020-01-01"], "M8[s]")), ArgumentTypeError),
        (({"/x": DATA, "/x/y": DATA},), ArgumentError),
        (("/x", da.from_array(DATA, chunks=100)[da.from_array(DATA, chunks=100)[:, 0] > 5]), ArgumentError),
    ],
)
def test_what_cannot_be_written_is_refused(target: Path, args: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        to_hdf5(target, *args)
    assert os.listdir(target.parent) == []


def test_encoding_of_an_unknown_dataset(target: Path) -> None:
    with pytest.raises(ArgumentError, match="/y"):
        to_hdf5(target, {"/x": DATA}, encoding={"/y": {}})


def test_an_open_h5py_file_is_not_a_name(target: Path) -> None:
    with h5py.File(target, "w") as file, pytest.raises(ArgumentTypeError, match="filename"):
        to_hdf5(file, "/x", DATA)


@pytest.mark.parametrize("scheduler", ["threads", POOL])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda data: data[1:], SourceError, r"/x, buffer \d+, selection \[\d+:\d+, 0:20\]: .*instead of"),
        (lambda data: data * 0.5, CastError, "/x, buffer .*announced dtype int32 but returned float64"),
        (lambda _: 1 / 0, SourceError, "/x, buffer .*ZeroDivisionError"),
        (lambda data: np.ma.masked_less(data, 10**9), SourceError, "/x, buffer .*masked"),
    ],
)
def test_a_bad_source_is_named_and_nothing_stands_under_the_name(
    target: Path, scheduler: str, change: Any, error: type[ChunkIOError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        to_hdf5(target, "/x", Rows(change), scheduler=scheduler)
    assert any("discard" in note for note in caught.value.__notes__)
    assert_nothing_written(target)


def test_after_a_failed_run_what_is_left_is_named_and_can_be_removed(target: Path) -> None:
    with pytest.raises(SourceError):
        to_hdf5(target, "/x", Rows(lambda _: None))
    with pytest.raises(UnfinishedWriteError, match=r"out\.h5\.writing.*discard"):
        to_hdf5(target, "/x", Rows())
    assert discard(target) == f"{target}.writing"
    assert discard(target) is None
    to_hdf5(target, "/x", Rows())
    np.testing.assert_array_equal(stored(target), DATA)


def test_missing_folder_and_directory(target: Path) -> None:
    with pytest.raises(TargetError, match="create it first"):
        to_hdf5(target / "no" / "x.h5", "/x", DATA)
    with pytest.raises(TargetError, match="is a directory"):
        to_hdf5(target.parent, "/x", DATA)
    assert os.listdir(target.parent) == []


def test_an_existing_file_is_kept(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file["x"], file["other"] = [1, 2], [3]
    with pytest.raises(TargetExistsError, match="already has /x; pass overwrite=True"):
        to_hdf5(target, "/x", DATA)
    np.testing.assert_array_equal(stored(target), [1, 2])
    to_hdf5(target, "/group/y", DATA)
    to_hdf5(target, "/x", DATA, overwrite=True)
    for name in ("/x", "/group/y"):
        np.testing.assert_array_equal(stored(target, name), DATA)
    np.testing.assert_array_equal(stored(target, "/other"), [3])
    assert os.listdir(target.parent) == ["out.h5"]


def test_buffers_are_read_in_the_order_of_the_file(target: Path) -> None:
    """So that neighbours are committed together, and payloads lie in order."""
    read: list[int] = []

    class Noting(Rows):
        def _get_data(self, selection: tuple[slice, ...]) -> Any:
            read.append(selection[0].start)
            return DATA[selection]

    to_hdf5(target, "/x", Noting(buffer_shape=(20, 20), chunk_shape=(20, 20)), scheduler="synchronous")
    assert read == list(range(0, 1000, 20))


def test_overwrite_replaces_a_file_of_the_same_datasets(target: Path) -> None:
    to_hdf5(target, "/g/x", DATA)
    with pytest.raises(TargetExistsError, match="overwrite=True"):
        to_hdf5(target, "/g/x", DATA)
    to_hdf5(target, "/g/x", DATA + 1, overwrite=True)
    np.testing.assert_array_equal(stored(target, "/g/x"), DATA + 1)


def test_a_failed_overwrite_keeps_the_old_file(target: Path) -> None:
    to_hdf5(target, "/x", DATA)
    with pytest.raises(SourceError):
        to_hdf5(target, "/x", Rows(lambda _: None), overwrite=True)
    np.testing.assert_array_equal(stored(target), DATA)


def test_a_target_open_for_writing_is_busy(target: Path) -> None:
    to_hdf5(target, "/x", DATA)
    with h5py.File(target, "r+"), pytest.raises(TargetBusyError, match="open for writing"):
        to_hdf5(target, "/x", DATA, overwrite=True)


@pytest.mark.parametrize("scheduler", ["threads", POOL])
def test_a_source_inside_the_target_can_be_written_anew(target: Path, scheduler: str) -> None:
    to_hdf5(target, "/x", DATA)
    with h5py.File(target, "r") as file:
        result = to_hdf5(target, "/x", file["x"], overwrite=True, compression="gzip", scheduler=scheduler)
    assert result.stored_nbytes < DATA.nbytes
    np.testing.assert_array_equal(stored(target), DATA)


def test_a_lambda_travels_and_a_lock_does_not(target: Path) -> None:
    to_hdf5(target, "/x", Rows(lambda data: data), scheduler="processes")
    np.testing.assert_array_equal(stored(target), DATA)
    source = Rows()
    source.change = threading.Lock()
    with pytest.raises(PicklingError, match=r"/x: the source cannot be sent.*_to_dict"):
        to_hdf5(target.with_name("y.h5"), "/x", source, scheduler="processes")


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, script], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import numpy as np, dask_chunkio
        dask_chunkio.to_hdf5("out.h5", "/x", np.arange(1000), scheduler="processes")
        """,
    )
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("dask_chunkio.errors.WorkerError: the")]
    assert "__main__" in error
    assert not (tmp_path / "out.h5").exists()


def test_relative_paths_are_those_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert to_hdf5("rel.h5", "/x", DATA).path == str(tmp_path / "rel.h5")


def test_the_file_has_the_users_umask(target: Path) -> None:
    previous = os.umask(0o027)
    try:
        to_hdf5(target, "/x", DATA)
    finally:
        os.umask(previous)
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("part", [10, pytest.param(1, marks=pytest.mark.heavy)])
def test_third_example_of_hdmfs_tutorial(target: Path, part: int) -> None:
    """With as many buffers and chunks, of a part of their lengths."""
    rows, columns = 20000 // part, 5000 // part
    array = np.arange(rows * columns, dtype="i4").reshape(rows, columns)

    class Tutorial(GenericDataChunkIterator):
        def _get_data(self, selection: tuple[slice, ...]) -> Any:
            return array[selection]

        def _get_maxshape(self) -> tuple[int, ...]:
            return array.shape

        def _get_dtype(self) -> np.dtype[Any]:
            return array.dtype

    buffer, chunk = (rows // 2, columns // 2), (rows // 20, columns // 20)
    result = to_hdf5(target, "/x", Tutorial(buffer_shape=buffer, chunk_shape=chunk))
    assert (result.buffers, result.chunks) == (4, 400)
    with h5py.File(target, "r") as file:
        assert file["x"].chunks == chunk
        assert np.array_equal(file["x"][...], array)


def test_worker_errors_are_ours() -> None:
    assert issubclass(WorkerError, ChunkIOError)
    assert dask_chunkio.discard is discard


def test_a_delayed_that_overwrites_can_be_computed_again(target: Path) -> None:
    delayed = to_hdf5(target, "/x", Rows(), compute=False, overwrite=True)
    assert delayed.compute().nbytes == delayed.compute().nbytes
    np.testing.assert_array_equal(stored(target), DATA)


def test_what_other_threads_run_when_a_write_fails_is_waited_for_and_kept(target: Path) -> None:
    """dask's threads go on with what they run when another task has failed."""
    failed, late = threading.Event(), threading.Event()
    ended: list[int] = []

    class OneFails(Rows):
        def _get_data(self, selection: tuple[slice, ...]) -> Any:
            if selection[0].start == 0:
                assert late.wait(30)
                failed.set()
                raise OSError("gone")
            late.set()
            assert failed.wait(30)
            ended.append(selection[0].start)
            return DATA[selection]

    source = OneFails(buffer_shape=(500, 20), chunk_shape=(100, 20))
    with ThreadPoolExecutor(2) as pool, dask.config.set(pool=pool):
        with pytest.raises(SourceError, match="gone"):
            to_hdf5(target, "/x", source)
        assert ended == [500]
    kept = dask_chunkio.status(target)
    assert kept is not None
    assert (kept.datasets[0].committed, kept.datasets[0].chunks, kept.running) == (5, 10, False)


def test_no_task_begins_after_a_failed_write(target: Path) -> None:
    class Fails(Rows):
        def _get_data(self, selection: tuple[slice, ...]) -> Any:  # noqa: ARG002
            raise OSError("gone")

    write = to_hdf5(target, "/x", Fails(buffer_shape=(500, 20), chunk_shape=(100, 20)), compute=False)
    with pytest.raises(SourceError, match="gone"):
        write.compute(scheduler="synchronous")
    (layout_key,) = (key for key in write.__dask_graph__() if str(key).startswith("create-"))
    layout = write.__dask_graph__()[layout_key]()
    end(layout.target.write_id)
    with pytest.raises(TargetError, match="has ended; nothing more is committed"):
        commit_buffer(layout, 0, 0, DATA[:500])


@pytest.mark.parametrize("how", ["object", "keywords", "number"])
@pytest.mark.parametrize("scheduler", ["threads", POOL])
def test_plugins_reach_the_workers(target: Path, scheduler: str, how: str) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    keywords = {
        "object": {"compression": hdf5plugin.Bitshuffle()},
        "keywords": dict(hdf5plugin.Bitshuffle()),
        "number": {"compression": 32015, "compression_opts": (3,)},
    }[how]
    to_hdf5(target, "/x", DATA, chunks=(100, 20), scheduler=scheduler, **keywords)
    np.testing.assert_array_equal(stored(target), DATA)
    with h5py.File(target.with_name("h5py.h5"), "w") as other, h5py.File(target, "r") as file:
        dataset = other.create_dataset("x", data=DATA, chunks=(100, 20), **keywords)
        assert dataset.id.read_direct_chunk((100, 0)) == file["x"].id.read_direct_chunk((100, 0))


def test_a_link_stays_a_link(target: Path) -> None:
    real = target.with_name("real.h5")
    to_hdf5(real, "/x", DATA)
    target.symlink_to(real)
    to_hdf5(target, "/x", DATA + 1, overwrite=True)
    assert target.is_symlink()
    np.testing.assert_array_equal(stored(real), DATA + 1)


def test_names_that_differ_in_a_slash_and_a_dot_are_two_datasets(target: Path) -> None:
    """The keys of their tasks have the dot for both."""
    to_hdf5(target, {"/a/b": DATA, "/a.b": DATA[::-1]}, chunks=(10, 20))
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["a/b"][...], DATA)
        np.testing.assert_array_equal(file["a.b"][...], DATA[::-1])
