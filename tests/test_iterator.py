import copy
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from dask_chunkio.errors import ArgumentTypeError, IteratorArgumentError, SourceError
from dask_chunkio.geometry.grid import BufferGrid
from tests.support.iterators import Describing, FromArray, numbers, quarters, same
from tests.support.strategies import buffer_grids


@given(buffer_grids().filter(lambda g: all(b <= max(n, 1) for b, n in zip(g.buffer_shape, g.shape, strict=True))))
@settings(deadline=None)
def test_the_buffers_make_up_the_array(grid: BufferGrid) -> None:
    if any(c > max(n, 1) for c, n in zip(grid.chunks.chunk_shape, grid.shape, strict=True)):
        with pytest.raises(IteratorArgumentError, match="chunk_shape"):
            FromArray(numbers(grid.shape), chunk_shape=grid.chunks.chunk_shape, buffer_shape=grid.buffer_shape)
        return
    array = numbers(grid.shape, "int64")
    it = FromArray(array, chunk_shape=grid.chunks.chunk_shape, buffer_shape=grid.buffer_shape)
    out = np.full_like(array, -1)
    for chunk in it:
        out[chunk.selection] = chunk.data
    np.testing.assert_array_equal(out, array)
    assert it.num_buffers == len(grid)
    assert list(it.buffer_selection_generator) == list(grid) == [chunk.selection for chunk in it]
    assert (it.chunk_shape, it.buffer_shape) == (grid.chunks.chunk_shape, grid.buffer_shape)
    assert (it.maxshape, it.recommended_data_shape()) == (array.shape, array.shape)
    assert it.recommended_chunk_shape() == it.chunk_shape


def test_each_loop_is_a_pass_of_its_own() -> None:
    it = quarters()
    first, second = iter(it), iter(it)
    assert same([next(first), next(first)], [it[0], it[1]])
    assert same([next(second)], [it[0]])
    assert same(list(first), [it[2], it[3]])
    assert same(it, it)
    assert len(list(it)) == 4


def test_next_has_one_place_of_its_own() -> None:
    it = quarters()
    assert same([next(it)], [it[0]])
    assert len(list(it)) == 4
    assert same([next(it) for _ in range(3)], [it[1], it[2], it[3]])
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(it)
    assert same([next(copy.copy(it))], [it[0]])


def test_the_selections_can_be_gone_through_again_and_answer_next() -> None:
    it = quarters()
    selections = it.buffer_selection_generator
    assert list(selections) == list(selections) == [selections[number] for number in range(len(selections))]
    assert next(selections) == (slice(0, 3), slice(0, 6))
    assert list(selections) == [chunk.selection for chunk in it]
    assert same([next(it)], [it[1]]), "they share one place, as in hdmf"
    assert [next(selections), next(selections)] == [it[2].selection, it[3].selection]
    with pytest.raises(StopIteration):
        next(selections)


def test_buffers_are_indexed_by_number() -> None:
    it: Any = quarters()
    assert same([it[0], it[np.int64(3)], it[-1], it[-4]], [it[0], it[3], it[3], it[0]])
    np.testing.assert_array_equal(it[2].data, it.array[6:9])
    for number in (4, -5):
        with pytest.raises(IndexError, match=f"no buffer {number}; there are 4"):
            it[number]
    for wrong in (True, "1", slice(0, 1), 1.5):
        with pytest.raises(ArgumentTypeError, match="number of a buffer"):
            it[wrong]


def test_numpy_takes_it_for_one_object_and_reads_nothing() -> None:
    def refuse(selection: Any) -> None:
        raise AssertionError(selection)

    it: Any = Describing(data=refuse)
    assert np.ndim(it) == 0
    assert not hasattr(it, "__len__")
    assert bool(it)


def test_threads_read_at_once_while_the_object_is_advanced() -> None:
    together = threading.Barrier(4, timeout=60)
    base = numbers()

    def data(selection: Any) -> Any:
        together.wait()
        return base[selection]

    it = Describing(data=data, buffer_shape=(3, 6), chunk_shape=(3, 2))
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(it.__getitem__, number) for number in (3, 0, 2)]
        assert same([pool.submit(next, it).result()], [quarters()[0]])
        assert same([future.result() for future in futures], [quarters()[n] for n in (3, 0, 2)])


# What a source may do wrong


@pytest.mark.parametrize("read", [next, list, lambda it: it[0]], ids=["next", "loop", "index"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda _: next(iter(())), "raised StopIteration"),
        (lambda _: np.zeros((2, 6)), r"returned the shape \(2, 6\) .* return the shape \(3, 6\)"),
        (lambda _: [[1]], r"returned \[\[1\]\] of type list .* return a numpy.ndarray"),
        (lambda _: None, "returned None of type NoneType"),
    ],
)
def test_a_source_that_breaks_its_word_is_named_with_the_buffer(
    read: Any, data: Callable[..., Any], message: str
) -> None:
    it = Describing(data=data, buffer_shape=(3, 6), chunk_shape=(3, 2))
    with pytest.raises(SourceError, match=message) as caught:
        read(it)
    assert "buffer 0 of 4, selection (slice(0, 3, None), slice(0, 6, None))" in str(caught.value)


def test_an_error_of_the_source_arrives_and_next_gives_the_buffer_again() -> None:
    failures = [OSError("disk gone"), None, None]
    base = numbers()

    def data(selection: Any) -> Any:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        return base[selection]

    it = Describing(data=data, buffer_shape=(6, 6), chunk_shape=(3, 2))
    with pytest.raises(OSError, match="disk gone"):
        next(it)
    assert [chunk.selection for chunk in (next(it), next(it))] == list(it.buffer_selection_generator)


# Layers


@pytest.mark.parametrize("module", ["iterator", "data_chunk", "validation", "geometry.selections", "geometry.sizing"])
def test_the_module_itself_needs_numpy_only(module: str) -> None:
    allowed = {"data_chunk", "errors", "geometry", "iterator", "printable", "validation"}
    script = (
        "import sys, types, importlib.util as u\n"
        "package = types.ModuleType('dask_chunkio')\n"  # not its __init__, which imports what it likes
        "package.__path__ = list(u.find_spec('dask_chunkio').submodule_search_locations)\n"
        "sys.modules['dask_chunkio'] = package\n"
        f"import dask_chunkio.{module}\n"
        "foreign = {'hdmf', 'h5py', 'dask', 'distributed', 'tqdm'}\n"
        "print(*foreign.intersection(name.split('.')[0] for name in sys.modules))\n"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('dask_chunkio.')})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    foreign, ours = done.stdout.split("\n")[:2]
    assert foreign == ""
    assert set(ours.split()) <= allowed
