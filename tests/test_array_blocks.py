"""Blocks of dask arrays: each is computed once, whoever needs it, and what is kept for that is said."""

import collections
import os
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.base
import h5py
import numpy as np
import pytest
from dask.delayed import delayed
from dask.utils import format_bytes
from distributed import Client, wait

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError
from dask_chunkio.execution.block_tasks import commit_block, pass_block
from dask_chunkio.keywords import DatasetKeywords
from tests.support.pairs import every_pair

LOCAL = ["synchronous", "threads"]


class Calls:
    """Makes arrays of noise that nobody could make again, and notes the call for each block, in whichever process."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def array(self, shape: tuple[int, ...] = (40, 6), chunks: tuple[int, ...] = (10, 6)) -> Any:
        log = self.log

        def noise(block: Any, block_id: Any) -> Any:
            with log.open("a") as file:
                file.write(f"{block_id}\n")
            return np.random.default_rng().random(block.shape)

        return da.zeros(shape, chunks=chunks).map_blocks(noise, dtype=float, meta=np.empty((0, 0)))

    @property
    def count(self) -> collections.Counter[str]:
        return collections.Counter(self.log.read_text().splitlines())

    def assert_once(self, blocks: int = 4) -> None:
        assert self.count.total() == len(self.count) == blocks


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


def stored(path: Path, *names: str) -> list[Any]:
    with h5py.File(path) as file:
        return [file[name][...] for name in names]


SCHEDULERS = [*LOCAL, "thread_client"]


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest) -> Any:
    return request.param if request.param in LOCAL else request.getfixturevalue(request.param)


DERIVED = {
    "itself": lambda x: x,
    "blockwise": lambda x: x + 1,
    "reduced": lambda x: x.mean(0),
    "centred": lambda x: x - x.mean(),
    "rechunked": lambda x: x.rechunk((15, 2)),
    "cut": lambda x: x[::2, 1:],
    "joined": lambda x: da.concatenate([x, x[:10]]),
    "product": lambda x: x.T @ x,
}


@pytest.mark.parametrize(
    ("derived", "scheduler", "fuse"),
    every_pair(DERIVED, {name: name for name in SCHEDULERS}, {"fused": True, "layers": False}),
    indirect=["scheduler"],
)
def test_a_block_is_computed_once_whichever_datasets_need_it(
    target: Path, calls: Calls, scheduler: Any, derived: Callable[[Any], Any], fuse: bool
) -> None:
    x = calls.array()
    y = derived(x)
    dcio.to_hdf5(target, {"/x": x, "/y": y}, scheduler=scheduler, fuse=fuse)
    calls.assert_once()
    data, other = stored(target, "x", "y")
    expected = derived(da.from_array(data, chunks=x.chunks)).compute(scheduler="synchronous")
    np.testing.assert_allclose(other, expected, rtol=1e-12, atol=1e-12)


def test_a_part_in_common_that_is_not_written_is_computed_once_too(target: Path, calls: Calls, scheduler: Any) -> None:
    x = calls.array()
    dcio.to_hdf5(target, {"/a": x + 1, "/b": x * 2}, scheduler=scheduler)
    calls.assert_once()
    a, b = stored(target, "a", "b")
    np.testing.assert_array_equal(a, b / 2 + 1)


def test_buffers_of_other_shapes_than_the_blocks(target: Path, calls: Calls, scheduler: Any) -> None:
    x = calls.array()
    encoding: dict[str, DatasetKeywords] = {
        "/a": {"chunks": (7, 6), "buffer_shape": (14, 6)},
        "/b": {"chunks": (40, 1), "buffer_shape": (40, 1)},
    }
    dcio.to_hdf5(target, {"/a": x, "/b": x}, encoding=encoding, scheduler=scheduler)
    calls.assert_once()
    np.testing.assert_array_equal(*stored(target, "a", "b"))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("other", [lambda x: x, lambda x: x.sum(), lambda x: (x + 1).mean(0)])
def test_what_is_computed_along_with_a_write_shares_its_blocks(
    target: Path, calls: Calls, scheduler: Any, other: Callable[..., Any], aligned: bool
) -> None:
    x = calls.array()
    layout: dict[str, Any] = {} if aligned else {"chunks": (7, 6), "buffer_shape": (14, 6)}
    write = dcio.to_hdf5(target, "/x", x, compute=False, **layout)
    _, found = dask.base.compute(write, other(x), scheduler=scheduler)
    calls.assert_once()
    (data,) = stored(target, "x")
    np.testing.assert_allclose(found, other(data), rtol=1e-12)


def test_two_writes_that_are_computed_together_share_their_blocks(target: Path, calls: Calls, scheduler: Any) -> None:
    x, second = calls.array(), target.with_name("second.h5")
    writes = [dcio.to_hdf5(path, "/x", x, compute=False) for path in (target, second)]
    dask.base.compute(*writes, scheduler=scheduler)
    calls.assert_once()
    np.testing.assert_array_equal(*stored(target, "x"), *stored(second, "x"))


@pytest.mark.parametrize("kept", ["itself", "reduced", "centred"])
@pytest.mark.parametrize("compute", [True, False])
def test_blocks_whose_values_the_scheduler_knows_are_committed(
    target: Path, thread_client: Client, compute: bool, kept: str
) -> None:
    """It runs no task whose key it has a value of, nor what such a task alone needs."""
    x = da.random.default_rng(1).random((40, 6), chunks=(10, 6))
    values = thread_client.persist(DERIVED[kept](x))
    with thread_client.as_current():
        wait(values)
    how: dict[str, Any] = {"compute": compute, "scheduler": thread_client}
    write = dcio.to_hdf5(target, {"/a": x, "/m": x.mean(0)}, **how)
    if not compute:
        thread_client.compute(write).result()
    a, mean = stored(target, "a", "m")
    np.testing.assert_array_equal(a, x.compute(scheduler="threads"))
    np.testing.assert_allclose(mean, a.mean(0))
    del values


def test_the_same_blocks_are_written_to_two_files_at_once(target: Path, thread_client: Client) -> None:
    x = da.random.default_rng(1).random((400, 6), chunks=(10, 6))
    paths = [target.with_name(f"{number}.h5") for number in range(4)]

    def write(path: Path) -> None:
        dcio.to_hdf5(path, {"/a": x, "/m": x.mean(0)}, scheduler=thread_client)

    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(write, paths))
    for path in paths:
        (found,) = stored(path, "a")
        np.testing.assert_array_equal(found, x.compute(scheduler="threads"))


def test_a_write_can_be_part_of_a_larger_delayed(target: Path, calls: Calls) -> None:
    x = calls.array()
    write = dcio.to_hdf5(target, {"/x": x, "/m": x.mean(0)}, compute=False)
    assert delayed(lambda result: result.path)(write).compute(scheduler="threads") == str(target)
    calls.assert_once()
    kept = dcio.to_hdf5(second := target.with_name("second.h5"), "/x", x, compute=False).persist(scheduler="threads")
    assert kept.compute(scheduler="threads").path == str(second)


def test_as_many_calls_as_dasks_own_store(target: Path, calls: Calls) -> None:
    x = calls.array()
    with h5py.File(target.with_name("dask.h5"), "w") as file:
        datasets = [file.create_dataset(name, x.shape, float) for name in "ab"]
        da.store([x, x], datasets, scheduler="threads")
    expected = calls.count
    calls.log.unlink()
    dcio.to_hdf5(target, {"/a": x, "/b": x}, scheduler="threads")
    assert calls.count == expected


def test_blocks_that_another_process_computes_are_computed_once(target: Path, calls: Calls) -> None:
    x = calls.array()
    dcio.to_hdf5(target, {"/a": x, "/b": x, "/m": x.mean(0)}, scheduler="processes")
    calls.assert_once()
    a, b, mean = stored(target, "a", "b", "m")
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(mean, a.mean(0))


KEPT = {
    "itself": lambda x: x,
    "more": lambda x: x + 1,
    "of that": lambda x: (x + 1) * 2,
    "of both": lambda x: (x + 1) * x,
    "mean": lambda x: x.mean(0),
    "centred": lambda x: x - x.mean(),
    "product": lambda x: x.T @ x,
    "cut": lambda x: x[::2],
    "rechunked": lambda x: x.rechunk((20, 3)),
    "again": lambda x: x + 1,
}


@pytest.mark.parametrize("order", ["alone", "write first", "write last"])
def test_whatever_is_made_of_the_same_blocks_together(tmp_path: Path, calls: Calls, order: str) -> None:
    draw = random.Random()
    for number in range(int(os.environ.get("CHUNKIO_GRAPHS", "3"))):
        names = draw.sample(list(KEPT), draw.randrange(2, 6))
        x = calls.array(chunks=draw.choice([(10, 6), (10, 3)]))
        calls.log.unlink(missing_ok=True)
        target = tmp_path / f"{number}.h5"
        write = dcio.to_hdf5(target, {f"/{name}": KEPT[name](x) for name in names}, compute=False)
        others = {"alone": [], "write first": [x.sum()], "write last": [x.sum()]}[order]
        things = [*others, write] if order == "write last" else [write, *others]
        dask.base.compute(*things, scheduler=draw.choice(LOCAL))
        assert set(calls.count.values()) == {1}, names
        found = dict(zip(names, stored(target, *names), strict=True))
        if "itself" in found:
            data = da.from_array(found["itself"], chunks=x.chunks)
            for name in names:
                np.testing.assert_allclose(found[name], KEPT[name](data).compute(), rtol=1e-12, atol=1e-12)


def test_a_graph_is_fused_as_the_call_says(target: Path, calls: Calls) -> None:
    x = calls.array()
    for fuse in (True, False):
        write = dcio.to_hdf5(target, {"/a": x, "/b": x, "/m": x.mean(0)}, compute=False, fuse=fuse)
        (optimized,) = dask.base.optimize(write)
        functions = {getattr(task, "func", None) for task in dict(optimized.dask).values()}
        assert (pass_block in functions, commit_block in functions) == (fuse, not fuse)


# What that costs in memory


class Alive:
    """Makes arrays, and counts how many of their blocks are in memory at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def array(self, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Any:
        return da.zeros(shape, chunks=chunks).map_blocks(self._made, dtype=float, meta=np.empty((0, 0)))

    def _made(self, block: Any) -> Any:
        made = np.random.default_rng().random(block.shape)
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        weakref.finalize(made, self._gone)
        return made

    def _gone(self) -> None:
        with self.lock:
            self.now -= 1


TOGETHER: list[dict[str, Callable[[Any], Any]]] = [
    {"/a": lambda x: x, "/m": lambda x: x.mean(0)},
    {"/a": lambda x: x, "/b": lambda x: x},
    {"/a": lambda x: x, "/b": lambda x: x + 1, "/c": lambda x: x * 2},
    {"/b": lambda x: x + 1, "/c": lambda x: x * 2},
    {"/a": lambda x: x, "/m": lambda x: x.mean(0), "/s": lambda x: x.std(0)},
    {"/a": lambda x: x, "/g": lambda x: x.T @ x},
    {"/a": lambda x: x, "/n": lambda x: x - x.mean()},
    {"/a": lambda x: x, "/r": lambda x: x.rechunk((15, 2))},
]


@pytest.mark.parametrize(
    ("derived", "columns", "how"),
    every_pair(
        {", ".join(one): one for one in TOGETHER},
        {"6": 6, "18": 18},
        {"synchronous": ("synchronous", False), "threads": ("threads", True)},
    ),
)
def test_no_more_blocks_are_in_memory_than_the_plan_says(
    target: Path, derived: dict[str, Any], columns: int, how: tuple[str, bool]
) -> None:
    scheduler, compute = how
    alive, threads = Alive(), 1 if scheduler == "synchronous" else 2
    x = alive.array((120, columns), (10, 6))
    datasets = {name: make(x) for name, make in derived.items()}
    with dask.config.set(num_workers=threads):
        planned = dcio.plan(target, datasets, scheduler=scheduler).kept_nbytes
        if compute:
            dcio.to_hdf5(target, datasets, scheduler=scheduler)
        else:
            dcio.to_hdf5(target, datasets, compute=False).compute(scheduler=scheduler)
    # Each thread makes one beside those that are kept.
    assert alive.most <= planned / (10 * 6 * 8) + threads
    if not {"/g", "/n", "/r"} & datasets.keys():
        assert planned <= 4 * threads * 10 * 6 * 8


def test_partial_results_that_wait_for_others_are_in_the_plan() -> None:
    x = da.zeros((40, 6), chunks=(10, 6)) + 1
    assert 4 * 6 * 6 * 8 <= kept({"/a": x, "/g": x.T @ x}) <= 4 * 6 * 6 * 8 + 10 * 6 * 8


def test_cut_pieces_are_parts_of_their_blocks() -> None:
    x = (da.zeros((100, 100), chunks=(10, 100)) + 1).rechunk((100, 10))
    assert kept({"/x": x}) <= 1.2 * 100 * 100 * 8


def kept(datasets: dict[str, Any], **keywords: Any) -> int:
    return dcio.plan("out.h5", datasets, scheduler="synchronous", **keywords).kept_nbytes


def test_nothing_is_kept_of_what_one_dataset_needs() -> None:
    x = da.zeros((40, 6), chunks=(10, 6)) + 1
    assert kept({"/x": x}) == 0
    assert kept({"/x": np.zeros(3)}) == 0
    assert "kept" not in repr(dcio.plan("out.h5", {"/x": x}, scheduler="synchronous"))


def test_the_plan_says_what_is_kept_for_others() -> None:
    x = da.zeros((40, 6), chunks=(10, 6)) + 1
    block = 10 * 6 * 8
    # One task commits a block to both.
    assert kept({"/a": x, "/b": x}) == 0
    assert block <= kept({"/x": x, "/m": x.mean(0)}) <= 2 * block
    # The mean is known when all of it was computed; its own size is not known to the plan.
    assert 4 * block <= kept({"/x": x, "/n": x - x.mean()}) <= 9 * block
    # What both are made of is written nowhere; one task makes both of it.
    assert kept({"/a": x + 1, "/b": x * 2}) == block
    with dask.config.set(num_workers=2):
        planned = dcio.plan("out.h5", {"/x": x, "/n": x - x.mean()}, scheduler="threads")
    assert planned.kept_nbytes >= 4 * block
    assert (
        f"Up to {format_bytes(planned.kept_nbytes)} of blocks of dask arrays are kept for other tasks that need them"
        in repr(planned)
    )


def test_what_cannot_be_kept_is_refused(target: Path) -> None:
    x = da.zeros((40_000, 6), chunks=(1000, 6)) + 1
    datasets = {"/x": x, "/n": x - x.mean()}
    with pytest.raises(ArgumentError, match=r"/x, /n: up to [\d.]+ MiB of blocks are kept .* in separate calls"):
        dcio.to_hdf5(target, datasets, scheduler="synchronous", memory_limit="8MB")
    assert not target.exists()
    dcio.to_hdf5(target, {"/x": x}, scheduler="synchronous", memory_limit="8MB")
