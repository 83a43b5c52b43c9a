import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError
from dask_chunkio.storage.hdf5.dataset import DatasetSpec
from dask_chunkio.storage.hdf5.file_layout import (
    FileLayout,
    Metadata,
    choose_layout,
    is_paged,
    keep_free_space,
    measure_file,
    measure_specs,
    parse_layout,
)
from tests.support.metadata import chunk_offsets, metadata_end, page_nbytes

FILTERS: tuple[dict[str, Any], ...] = ({}, {"compression": "gzip", "shuffle": True}, {"fletcher32": True})
SLOW = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Any, tuple[int, ...], tuple[int | None, ...]]:
    """Draw an array, a chunk shape, and how far it can grow."""
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)))
    chunks = tuple(draw(st.integers(1, max(1, length // 2))) for length in shape)
    grows = tuple(None if draw(st.booleans()) else length for length in shape)
    data = (
        np.random.default_rng(draw(st.integers(0, 9)))
        .integers(0, 100, shape)
        .astype(draw(st.sampled_from("iuf")) + "4")
    )
    return data, chunks, grows


@SLOW
@given(
    one=arrays(),
    filters=st.sampled_from(FILTERS),
    libver=st.sampled_from([None, "v108", "v110", ("v108", "v110")]),
    how=st.tuples(st.sampled_from(["cloud", "cmip7"]), st.sampled_from(["threads", "synchronous"])),
)
def test_the_file_holds_the_same_and_its_metadata_are_in_the_first_page(
    tmp_path: Path, one: Any, filters: Any, libver: Any, how: Any
) -> None:
    (data, chunks, grows), (layout, scheduler), path = one, how, tmp_path / "out.h5"
    path.unlink(missing_ok=True)
    # The archive of CMIP7 has large chunks, chosen automatically.
    given_chunks: Any = chunks if layout == "cloud" else "auto"
    keywords = {"maxshape": grows, "libver": libver, "scheduler": scheduler, **filters}
    dcio.to_hdf5(
        path,
        {"/x": data, "/g/h/y": data},
        encoding={"/x": {"attrs": {"n": np.arange(20)}}},
        layout=layout,
        chunks=given_chunks,
        **keywords,
    )
    with h5py.File(path) as file:
        assert is_paged(file)
        np.testing.assert_array_equal(file["x"][...], data)
        np.testing.assert_array_equal(file["g/h/y"][...], data)
        assert layout != "cloud" or file["x"].chunks == chunks
    page = page_nbytes(path)
    assert metadata_end(path) <= page <= min(chunk_offsets(path, "/x") + chunk_offsets(path, "/g/h/y"))


ORDERS = ("ascending", "descending", "shuffled", "halves")


def numbered(order: str, count: int) -> list[int]:
    numbers = list(range(count))
    if order == "descending":
        numbers.reverse()
    elif order == "shuffled":
        random.Random(3).shuffle(numbers)
    elif order == "halves":
        # As jobs write their parts: each node in the middle is filled to a half.
        numbers = [half * count // 8 + n for n in range(count // 8) for half in range(8)]
    return numbers


@pytest.mark.parametrize("libver", [None, "v110"])
@pytest.mark.parametrize("grows", [(), (0,), (0, 1)])
@pytest.mark.parametrize("filters", [{}, {"compression": "gzip"}], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_no_order_of_commits_needs_a_larger_index(
    tmp_path: Path, libver: Any, grows: tuple[int, ...], filters: Any, order: str
) -> None:
    shape = (80, 40)
    maxshape = tuple(None if axis in grows else length for axis, length in enumerate(shape))
    keywords = {"shape": shape, "chunks": (1, 1), "dtype": "u1", "maxshape": maxshape, **filters}
    with h5py.File(
        tmp_path / "x.h5", "w", libver=libver, fs_strategy="page", fs_page_size=1 << 20, fs_persist=True
    ) as file:
        bound = measure_file(_made(libver, keywords)).nbytes
        dataset = file.create_dataset("x", **keywords)
        for number in numbered(order, 3200):
            dataset.id.write_direct_chunk(divmod(number, 40), b"x" * (1 if not filters else 5))
    used = metadata_end(tmp_path / "x.h5")
    assert bound / 5 < used <= bound


def _made(libver: Any, keywords: Any) -> h5py.File:
    file = h5py.File("bound", "w", driver="core", backing_store=False, libver=libver)
    file.create_dataset("x", **keywords)
    return file


def spec(length: int = 1000, chunk: int = 1, **keywords: Any) -> DatasetSpec:
    return DatasetSpec("/x", (length,), np.dtype("u1"), (chunk,), keywords)


def test_the_page_grows_with_the_number_of_chunks_and_with_what_users_add() -> None:
    assert choose_layout("cloud", [spec()]).page_nbytes == 1 << 18
    assert choose_layout("cloud", [spec(100_000)]).page_nbytes == 1 << 23
    assert choose_layout("cloud", [spec(100_000)], "v110").page_nbytes == 1 << 20
    attributes = DatasetSpec("/x", (), np.dtype("u1"), (), attrs={f"a{n}": np.zeros(1000) for n in range(30)})
    assert choose_layout("cloud", [attributes]).page_nbytes == 1 << 19


@pytest.mark.parametrize("filters", [{}, {"compression": "gzip"}], ids=str)
@pytest.mark.parametrize("chunk", [10_000, 70_000, 1_000_000, 1 << 22, 4_300_000, 9_000_000])
@pytest.mark.parametrize("count", [2000, 25_000, 100_000])
def test_little_is_left_free_at_the_ends_of_pages(chunk: int, filters: Any, count: int) -> None:
    layout = choose_layout("cloud", [spec(count * chunk, chunk, **filters)])
    assert layout.metadata_nbytes <= layout.page_nbytes <= 1 << 25
    assert layout.padding < 0.26


def test_what_is_expected_to_be_left_free_is_left_free(tmp_path: Path) -> None:
    chunk = 100_000
    data = np.zeros(200 * chunk, "u1")
    sizes = {}
    for layout in (None, "cloud"):
        path = tmp_path / f"{layout}.h5"
        dcio.to_hdf5(path, "/x", data, chunks=chunk, layout=layout)
        sizes[layout] = path.stat().st_size
    expected = choose_layout("cloud", [spec(200 * chunk, chunk)]).padding
    assert sizes["cloud"] / sizes[None] - 1 == pytest.approx(expected, abs=0.03)
    assert expected < 0.13


def test_a_stream_gets_room_for_an_estimate() -> None:
    open_ended = DatasetSpec("/x", (10,), np.dtype("u1"), (1,), {"maxshape": (None,)}, open_ended=True)
    layout = choose_layout("cloud", [open_ended])
    assert layout.is_estimate
    assert layout.metadata_nbytes > 20_000 * 32
    bounded = DatasetSpec("/x", (10,), np.dtype("u1"), (1,), {"maxshape": (5000,)}, open_ended=True)
    assert choose_layout("cloud", [bounded]).metadata_nbytes < 20_000 * 32 < layout.metadata_nbytes


def test_more_chunks_than_a_page_can_list_are_refused() -> None:
    few = measure_specs([spec(1000)])
    huge = Metadata(1 << 30, few.indexes)
    with pytest.raises(ArgumentError, match=r"metadata of 1000 chunks take up to .* larger chunks"):
        huge.layout("cloud")


def test_a_layout_that_is_misspelt_names_the_nearest() -> None:
    assert parse_layout(None) is None
    assert parse_layout("cloud") == "cloud"
    for wrong, hint in (("clod", "'cloud'"), ("CMIP7", "'cmip7'"), ("cmip6", "'cmip7'")):
        with pytest.raises(
            ArgumentError, match=rf"layout={wrong!r} is not one of 'cloud', 'cmip7'; did you mean {hint}\?"
        ):
            parse_layout(wrong)
    with pytest.raises(ArgumentError, match=r"layout=7 is not one of 'cloud', 'cmip7'$"):
        parse_layout(7)


PAGED: dict[str, Any] = FileLayout("cloud", 1 << 16, 0).keywords


def _nothing(_file: h5py.File, _number: int) -> None:
    """Open and close the file."""


def _chunk(file: h5py.File, number: int) -> None:
    file["x"].id.write_direct_chunk((number,), b"x")


def _attribute(file: h5py.File, number: int) -> None:
    file["x"].attrs[f"n{number}"] = number


def _group(file: h5py.File, number: int) -> None:
    file.create_group(f"g{number}")


def _grown(file: h5py.File, number: int) -> None:
    file["x"].resize((100 + number,))


@pytest.mark.parametrize("libver", [None, "v110"])
def test_sessions_of_any_kind_use_the_same_pages(tmp_path: Path, libver: Any) -> None:
    sizes = {}
    for keeps in (True, False):
        path = tmp_path / f"{keeps}.h5"
        with h5py.File(path, "w", libver=libver, **PAGED) as file:
            file.create_dataset("x", (100,), "u1", chunks=(1,), maxshape=(None,))
        for act in (_nothing, _chunk, _attribute, _nothing, _group, _grown, _nothing):
            for number in range(3):
                with h5py.File(path, "r+", libver=libver) as file:
                    if keeps:
                        keep_free_space(file)
                    act(file, number)
        sizes[keeps] = path.stat().st_size
    # One page of metadata, one of data.
    assert sizes[True] == 2 << 16
    # If this fails, HDF5 keeps the free space by itself: `keep_free_space` is not needed any more.
    assert sizes[False] > sizes[True]


@pytest.mark.skipif(shutil.which("h5stat") is None, reason="h5stat of hdf5-tools is not installed")
def test_hdf5s_tools_agree_about_the_space(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    dcio.to_hdf5(path, "/x", np.arange(40_000, dtype="u2"), chunks=40, layout="cloud", compression="gzip")
    done = subprocess.run(["h5stat", "-S", path], capture_output=True, text=True, check=True)
    assert "H5F_FSPACE_STRATEGY_PAGE" in done.stdout
    assert "Unaccounted space: 0 bytes" in done.stdout
