"""Blocks of dask arrays: each is computed once, whoever needs it, and what is kept for that is said."""

import collections

import dask
import dask.array as da
import h5py
import numpy as np
import pytest
from pairs import every_pair

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError

LOCAL = ["synchronous", "threads"]


class Calls:
    """Makes arrays of noise that nobody could make again, and notes the call for each block, in whichever process."""

    def __init__(self, log):
        self.log = log

    def array(self, shape=(40, 6), chunks=(10, 6)):
        log = self.log

        def noise(block, block_id):
            with log.open("a") as file:
                file.write(f"{block_id}\n")
            return np.random.default_rng().random(block.shape)

        return da.zeros(shape, chunks=chunks).map_blocks(noise, dtype=float, meta=np.empty((0, 0)))

    @property
    def count(self):
        return collections.Counter(self.log.read_text().splitlines())

    def assert_once(self, blocks=4):
        assert self.count.total() == len(self.count) == blocks


@pytest.fixture
def calls(tmp_path):
    return Calls(tmp_path / "calls")


def stored(path, *names):
    with h5py.File(path) as file:
        return [file[name][...] for name in names]


SCHEDULERS = [*LOCAL, "thread_client"]


@pytest.fixture(params=SCHEDULERS)
def scheduler(request):
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
def test_a_block_is_computed_once_whichever_datasets_need_it(target, calls, scheduler, derived, fuse):
    x = calls.array()
    y = derived(x)
    dcio.to_hdf5(target, {"/x": x, "/y": y}, scheduler=scheduler, fuse=fuse)
    calls.assert_once()
    data, other = stored(target, "x", "y")
    expected = derived(da.from_array(data, chunks=x.chunks)).compute(scheduler="synchronous")
    np.testing.assert_allclose(other, expected, rtol=1e-12, atol=1e-12)


def test_a_part_in_common_that_is_not_written_is_computed_once_too(target, calls, scheduler):
    x = calls.array()
    dcio.to_hdf5(target, {"/a": x + 1, "/b": x * 2}, scheduler=scheduler)
    calls.assert_once()
    a, b = stored(target, "a", "b")
    np.testing.assert_array_equal(a, b / 2 + 1)


def test_buffers_of_other_shapes_than_the_blocks(target, calls, scheduler):
    x = calls.array()
    encoding = {"/a": {"chunks": (7, 6), "buffer_shape": (14, 6)}, "/b": {"chunks": (40, 1), "buffer_shape": (40, 1)}}
    dcio.to_hdf5(target, {"/a": x, "/b": x}, encoding=encoding, scheduler=scheduler)
    calls.assert_once()
    np.testing.assert_array_equal(*stored(target, "a", "b"))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("other", [lambda x: x, lambda x: x.sum(), lambda x: (x + 1).mean(0)])
def test_what_is_computed_along_with_a_write_shares_its_blocks(target, calls, scheduler, other, aligned):
    x = calls.array()
    layout = {} if aligned else {"chunks": (7, 6), "buffer_shape": (14, 6)}
    write = dcio.to_hdf5(target, "/x", x, compute=False, **layout)
    _, found = dask.compute(write, other(x), scheduler=scheduler)
    calls.assert_once()
    (data,) = stored(target, "x")
    np.testing.assert_allclose(found, other(data), rtol=1e-12)


def test_two_writes_that_are_computed_together_share_their_blocks(target, calls, scheduler):
    x, second = calls.array(), target.with_name("second.h5")
    writes = [dcio.to_hdf5(path, "/x", x, compute=False) for path in (target, second)]
    dask.compute(*writes, scheduler=scheduler)
    calls.assert_once()
    np.testing.assert_array_equal(*stored(target, "x"), *stored(second, "x"))


def test_a_write_can_be_part_of_a_larger_delayed(target, calls):
    x = calls.array()
    write = dcio.to_hdf5(target, {"/x": x, "/m": x.mean(0)}, compute=False)
    assert dask.delayed(lambda result: result.path)(write).compute(scheduler="threads") == str(target)
    calls.assert_once()
    kept = dcio.to_hdf5(second := target.with_name("second.h5"), "/x", x, compute=False).persist(scheduler="threads")
    assert kept.compute(scheduler="threads").path == str(second)


def test_as_many_calls_as_dasks_own_store(target, calls):
    x = calls.array()
    with h5py.File(target.with_name("dask.h5"), "w") as file:
        datasets = [file.create_dataset(name, x.shape, float) for name in "ab"]
        da.store([x, x], datasets, scheduler="threads")
    expected = calls.count
    calls.log.unlink()
    dcio.to_hdf5(target, {"/a": x, "/b": x}, scheduler="threads")
    assert calls.count == expected


def test_blocks_that_another_process_computes_are_computed_once(target, calls):
    x = calls.array()
    dcio.to_hdf5(target, {"/a": x, "/b": x, "/m": x.mean(0)}, scheduler="processes")
    calls.assert_once()
    a, b, mean = stored(target, "a", "b", "m")
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(mean, a.mean(0))


# What that costs in memory


def kept(datasets, **keywords):
    return dcio.plan("out.h5", datasets, scheduler="synchronous", **keywords).kept_nbytes


def test_nothing_is_kept_of_what_one_dataset_needs():
    x = da.zeros((40, 6), chunks=(10, 6)) + 1
    assert kept({"/x": x}) == 0
    assert kept({"/x": np.zeros(3)}) == 0
    assert "kept" not in repr(dcio.plan("out.h5", {"/x": x}, scheduler="synchronous"))


def test_the_plan_says_what_is_kept_for_others():
    x = da.zeros((40, 6), chunks=(10, 6)) + 1
    block = 10 * 6 * 8
    # One task commits a block to both.
    assert kept({"/a": x, "/b": x}) == 0
    assert block <= kept({"/x": x, "/m": x.mean(0)}) <= 2 * block
    # The mean is known when all of it was computed; its own size is not known to the plan.
    assert kept({"/x": x, "/n": x - x.mean()}) == 5 * block
    # What both are made of is written nowhere.
    assert kept({"/a": x + 1, "/b": x * 2}) >= 4 * block
    with dask.config.set(num_workers=2):
        planned = dcio.plan("out.h5", {"/x": x, "/n": x - x.mean()}, scheduler="threads")
    assert planned.kept_nbytes == 5 * block
    assert "Up to 2.3 KiB of blocks of dask arrays are kept for other tasks that need them" in repr(planned)


def test_what_cannot_be_kept_is_refused(target):
    x = da.zeros((40_000, 6), chunks=(1000, 6)) + 1
    datasets = {"/x": x, "/n": x - x.mean()}
    with pytest.raises(ArgumentError, match=r"/x, /n: up to 1\.9 MiB of blocks are kept .* calls of their own"):
        dcio.to_hdf5(target, datasets, scheduler="synchronous", memory_limit="8MB")
    assert not target.exists()
    dcio.to_hdf5(target, {"/x": x}, scheduler="synchronous", memory_limit="8MB")
