import math
import re
from pathlib import Path
from typing import Any, NoReturn

import dask
import dask.array as da
import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError
from dask_chunkio.planning.plan import WritePlan
from dask_chunkio.planning.plan_html import drawing
from tests.support.iterators import FromArray, numbers

DATA = np.random.default_rng(0).normal(0, 20, (2000, 64)).astype("i2")
LAYOUT: dict[str, Any] = {"chunks": (100, 64), "buffer_shape": (500, 64), "scheduler": "threads"}


def planned(source: Any = DATA, **keywords: Any) -> WritePlan:
    return dcio.plan("out.h5", "/x", source, **{**LAYOUT, **keywords})


def test_it_counts_tasks() -> None:
    assert planned().tasks == 2 + 4
    assert planned(read="ordered").tasks == 2 + 1
    assert planned(np.zeros((0, 64), "i2")).tasks == 2


def test_it_estimates_what_is_stored(target: Path) -> None:
    plan = planned(compression="gzip", shuffle=True)
    result = dcio.to_hdf5(target, "/x", DATA, compression="gzip", shuffle=True, **LAYOUT)
    assert plan.estimated_nbytes == pytest.approx(result.stored_nbytes, rel=0.02)
    assert "stored   about" in repr(plan)
    assert planned().estimated_nbytes == DATA.nbytes
    assert planned(FromArray(DATA), compression="lzf").estimated_nbytes is not None


class Counting:
    shape, dtype = DATA.shape, DATA.dtype

    def __init__(self) -> None:
        self.selections: list[Any] = []

    def __getitem__(self, selection: Any) -> Any:
        self.selections.append(selection)
        return DATA[selection]


def test_it_reads_three_chunks_from_all_over() -> None:
    source = Counting()
    planned(source, compression="gzip")
    assert [rows.start for rows, _ in source.selections] == [300, 1000, 1600]
    planned(source, compression="gzip", sample=1)
    assert source.selections[3][0].start == 1000
    planned(source, compression="gzip", sample=0)
    planned(source)  # no filter, nothing to try
    assert len(source.selections) == 4


def test_it_reads_nothing_that_is_dear_or_spoiled_by_it() -> None:
    computed: list[int] = []

    def noted(block: Any) -> Any:
        computed.append(1)
        return block

    lazy = da.from_array(DATA, chunks=(500, 64)).map_blocks(noted, dtype="i2")
    computed.clear()  # (dask tries the function on an empty block)
    assert planned(lazy, compression="gzip").estimated_nbytes is None
    assert computed == []
    estimated = planned(lazy, compression="gzip", sample=2).estimated_nbytes
    assert estimated is not None
    assert estimated > 0
    assert computed
    assert planned(FromArray(DATA), read="ordered", compression="gzip").estimated_nbytes is None


def test_a_source_that_cannot_be_read_here_is_not_estimated() -> None:
    class Elsewhere(FromArray):
        def _get_data(self, selection: Any) -> NoReturn:
            del selection
            raise FileNotFoundError("on the workers")

    assert planned(Elsewhere(DATA), compression="gzip").estimated_nbytes is None


def test_it_says_what_is_not_parallel() -> None:
    words = "\n".join(planned(Counting(), scaleoffset=0).datasets[0].serial)
    assert "read one buffer at a time" in words
    assert "by HDF5, one at a time" in words
    assert planned().datasets[0].serial == ()
    strings = dcio.plan("out.h5", "/s", np.array(["a", "b"], object), dtype=h5py.string_dtype())
    assert "written by HDF5 itself" in strings.datasets[0].serial[0]
    assert "serial   written by HDF5 itself" in repr(strings)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_what_does_not_fit_is_refused_with_the_shape_that_would(target: Path, scheduler: str) -> None:
    tight: dict[str, Any] = {**LAYOUT, "scheduler": scheduler, "buffer_shape": (2000, 64), "memory_limit": 3_200_000}
    with dask.config.set(num_workers=2):
        plan = planned(**tight)
        assert not plan.fits
        assert "DOES NOT FIT: /x: buffers of (2000, 64), 250.00 kiB, take up to" in repr(plan)
        with pytest.raises(ArgumentError, match=r"the workers have 390.62 kiB for it. Give buffer_shape=") as raised:
            dcio.to_hdf5(target, "/x", DATA, **tight)
        assert not target.exists()
        assert not target.with_name("out.h5.writing").exists()
        with pytest.raises(ArgumentError, match="Give buffer_shape"):
            plan.write()
        shape = eval(str(raised.value).partition("buffer_shape=")[2].partition(")")[0] + ")")
        tight["buffer_shape"] = shape
        assert planned(**tight).fits
        assert dcio.to_hdf5(target, "/x", DATA, **tight).nbytes == DATA.nbytes


def test_chunks_that_are_too_large_for_any_buffer(target: Path) -> None:
    with pytest.raises(ArgumentError, match=r"even one chunk of 250.00 kiB for each thread does not fit. Give smal"):
        dcio.to_hdf5(target, "/x", DATA, chunks=(2000, 64), memory_limit=1_600_000)


def test_fewer_buffers_than_threads_hold_less() -> None:
    with dask.config.set(num_workers=16):
        assert planned(buffer_shape=(2000, 64)).projected_nbytes < 4 * DATA.nbytes


def test_write_does_what_was_planned(target: Path) -> None:
    plan = dcio.plan(target, {"/x": DATA, "/y": DATA + 1}, encoding={"/y": {"compression": "gzip"}}, **LAYOUT)
    result = plan.write(progress=False)
    assert [one.name for one in result.datasets] == ["/x", "/y"]
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["y"][...], DATA + 1)
        assert file["y"].compression == "gzip"
    bare = WritePlan("out.h5", (), "threads", 1, 1, 0, 0)
    with pytest.raises(ArgumentError, match="was not made by plan"):
        bare.write()


@pytest.mark.parametrize("shape", [(0, 3), (), (5,), (40, 30), (4, 5, 6), (2, 3, 4, 5)])
def test_it_draws_itself(shape: tuple[int, ...]) -> None:
    drawn = dcio.plan("<out>.h5", "/x", numbers(shape))._repr_html_()
    assert ("<svg" in drawn) == bool(shape and 0 not in shape)
    assert "&lt;out&gt;.h5" in drawn
    assert "<out>" not in drawn
    assert drawn.count("<table") == drawn.count("</table>") == 2


LINE = re.compile(r'<line x1="([-.0-9]+)" y1="([-.0-9]+)" x2="([-.0-9]+)" y2="([-.0-9]+)"')
WORDS = re.compile(r'<text [^>]*?x="([-.0-9]+)" y="([-.0-9]+)"[^>]*?(?:rotate\(([-.0-9]+),[^>]*)?>(\d+)<')


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((62_500_000, 128), (262_144, 128)),
        ((10**12,), (10**10,)),
        ((128, 10**9), (1, 10**8)),
        ((100_000, 200, 300), (1000, 100, 100)),
        ((2, 3, 400_000, 5), (1, 2, 1000, 5)),
    ],
    ids=str,
)
def test_the_drawing_clips_nothing(shape: tuple[int, ...], block: tuple[int, ...]) -> None:
    drawn = drawing(shape, block)
    size = re.search(r'<svg viewBox="(\S+) (\S+) (\S+) (\S+)" width="(\S+)" height="(\S+)"', drawn)
    assert size is not None
    left, top, width, height, *outer = map(float, size.groups())
    assert outer == [width, height]
    points = [(float(x), float(y)) for ends in LINE.findall(drawn) for x, y in (ends[:2], ends[2:])]
    for x, y, angle, words in WORDS.findall(drawn):
        # A digit in 16 pixels is at most 10 wide.
        half, turn = 5 * len(words), math.radians(float(angle or 0))
        points += [(float(x) + side * math.cos(turn), float(y) + side * math.sin(turn)) for side in (-half, half)]
    assert len(WORDS.findall(drawn)) >= 2
    assert all(left <= x <= left + width and top <= y <= top + height for x, y in points)


@pytest.mark.parametrize("keywords", [{"append": True}, {}, {"overwrite": True}], ids=["append", "new", "overwrite"])
def test_it_says_that_a_token_is_applied(target: Path, keywords: dict[str, Any]) -> None:
    dcio.to_hdf5(target, "/x", DATA, token="monday", **keywords, **LAYOUT)
    plan = dcio.plan(target, "/x", DATA, token="monday", **keywords, **LAYOUT)
    assert plan.already_complete
    assert plan.fits
    assert (plan.tasks, plan.nbytes) == (0, 0)
    assert "nothing will be written" in repr(plan)
    assert "nothing will be written" in plan._repr_html_()
    assert plan.write().already_complete
    other = dcio.plan(target, "/x", DATA, token="tuesday", **(keywords or {"overwrite": True}), **LAYOUT)
    assert not other.already_complete


def test_it_says_that_a_call_that_may_be_run_again_is_complete(target: Path) -> None:
    assert not dcio.plan(target, "/x", DATA, resume=True, **LAYOUT).already_complete
    dcio.to_hdf5(target, "/x", DATA, resume=True, **LAYOUT)
    assert dcio.plan(target, "/x", DATA, resume=True, **LAYOUT).already_complete
    assert dcio.plan(target, "/x", DATA[:100], resume=True, **LAYOUT).target_problem


def test_it_is_a_value() -> None:
    assert planned(memory_limit="2GB") == planned(memory_limit="2GB")
    assert hash(planned().datasets[0].name) == hash("/x")
