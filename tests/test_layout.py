"""``layout=`` from the arguments of the user to the file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pyfive
import pytest
from click.testing import CliRunner

import dask_chunkio as dcio
from dask_chunkio.cli.main import main
from dask_chunkio.errors import ArgumentError, SourceError, TargetError, TargetExistsError
from dask_chunkio.planning.layout import large_chunk_shape
from tests.support.iterators import FromArray
from tests.support.metadata import chunk_offsets, metadata_end, page_nbytes

DATA = np.random.default_rng(0).integers(0, 50, (600, 20)).astype("i2")
CHUNKS: dict[str, Any] = {"chunks": (3, 5), "progress": False}


def require_cloud(path: Path, name: str = "/x", data: Any = DATA) -> None:
    page = page_nbytes(path)
    assert page >= 1 << 16
    assert metadata_end(path) <= page <= min(chunk_offsets(path, name))
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file[name][...], data)
    with pyfive.File(path) as file:
        assert file.consolidated_metadata
        np.testing.assert_array_equal(file[name][...], data)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", pytest.param("processes", marks=pytest.mark.heavy)])
@pytest.mark.parametrize(
    "source", [np.asarray, lambda data: da.from_array(data, chunks=(60, 20))], ids=["array", "dask"]
)
def test_a_file_for_the_cloud(target: Path, scheduler: str, source: Any) -> None:
    dcio.to_hdf5(target, "/x", source(DATA), layout="cloud", scheduler=scheduler, compression="gzip", **CHUNKS)
    require_cloud(target)


def test_a_write_that_is_computed_later_has_the_layout(target: Path) -> None:
    dcio.to_hdf5(target, "/x", DATA, layout="cloud", compute=False, chunks=(3, 5)).compute(scheduler="threads")
    require_cloud(target)


@pytest.mark.parametrize("libver", ["v110", ("v108", "v110")])
def test_other_indexes_are_in_the_first_page_too(target: Path, libver: Any) -> None:
    dcio.to_hdf5(target, "/x", DATA, layout="cloud", libver=libver, maxshape=(None, 20), **CHUNKS)
    assert metadata_end(target) <= page_nbytes(target)


def test_a_file_of_today_has_no_pages(target: Path) -> None:
    dcio.to_hdf5(target, "/x", DATA, **CHUNKS)
    with pyfive.File(target) as file:
        assert not file.consolidated_metadata


def test_a_stream_has_the_layout(target: Path) -> None:
    def rows() -> Iterator[Any]:
        for start in range(0, 600, 50):
            yield dcio.DataChunk(DATA[start : start + 50], np.s_[start : start + 50, :])

    dcio.to_hdf5(target, "/x", rows(), layout="cloud", maxshape=(None, 20), dtype="i2", **CHUNKS)
    require_cloud(target)


# Later writes to the file


def test_what_is_added_later_stays_in_the_first_page(target: Path) -> None:
    dcio.to_hdf5(target, "/x", DATA, layout="cloud", maxshape=(None, 20), compression="gzip", **CHUNKS)
    page = page_nbytes(target)
    for number in range(2):
        dcio.to_hdf5(target, "/x", DATA, append=True, progress=False, scheduler="threads")
        dcio.to_hdf5(target, "/x", DATA[:9] + number, region=np.s_[1:10], progress=False)
        dcio.to_hdf5(target, f"/y{number}", DATA[:30], attrs={"n": number}, **CHUNKS)
    dcio.to_hdf5(target, "/y1", DATA[:60], overwrite=True, **CHUNKS)
    expected = np.concatenate([DATA] * 3)
    expected[1:10] = DATA[:9] + 1
    assert page_nbytes(target) == page
    require_cloud(target, data=expected)
    require_cloud(target, "/y1", DATA[:60])


# Existing files


@pytest.mark.parametrize("keywords", [{}, {"overwrite": True}], ids=str)
def test_an_existing_file_keeps_its_layout(target: Path, keywords: Any) -> None:
    with h5py.File(target, "w") as file:
        file["other"] = 1
    before = target.read_bytes()
    with pytest.raises(TargetExistsError, match="exists, and layout='cloud' is chosen when a file is created: leave"):
        dcio.to_hdf5(target, "/x", DATA, layout="cloud", **keywords, **CHUNKS)
    assert target.read_bytes() == before
    assert "layout='cloud' is chosen" in dcio.plan(target, "/x", DATA, layout="cloud", **keywords).target_problem


def test_a_file_that_is_replaced_gets_the_layout(target: Path) -> None:
    dcio.to_hdf5(target, "/x", DATA[:10], **CHUNKS)
    dcio.to_hdf5(target, "/x", DATA, layout="cloud", overwrite=True, **CHUNKS)
    require_cloud(target)


@pytest.mark.parametrize("how", [{"region": np.s_[:600]}, {"append": True}], ids=str)
def test_parts_of_existing_datasets_have_no_layout(target: Path, how: Any) -> None:
    dcio.to_hdf5(target, "/x", DATA, maxshape=(None, 20), **CHUNKS)
    with pytest.raises(
        ArgumentError, match=r"/x: layout='cloud' is chosen when a file is created, and \w+= writes into"
    ):
        dcio.to_hdf5(target, "/x", DATA, layout="cloud", **how)


def test_a_call_that_is_repeated_with_its_token_does_nothing(target: Path) -> None:
    for _ in range(2):
        dcio.to_hdf5(target, "/x", DATA, layout="cloud", token="once", **CHUNKS)
    require_cloud(target)


@pytest.mark.parametrize("function", [dcio.to_hdf5, dcio.plan])
def test_a_name_that_is_misspelt_is_refused(target: Path, function: Any) -> None:
    with pytest.raises(ArgumentError, match=r"layout='clowd' is not one of .*; did you mean 'cloud'\?"):
        function(target, "/x", DATA, layout="clowd")
    with pytest.raises(ArgumentError, match=r"did you mean 'cloud'\?"):
        dcio.draft(target, layout="clowd")  # type: ignore[arg-type]
    assert not target.exists()


# Interrupted writes


class Failing(FromArray):
    """An iterator that fails at its fifth buffer, unless the file `mended` is there."""

    def __init__(self, mended: Path) -> None:
        self.mended = mended
        super().__init__(DATA, chunk_shape=(3, 5), buffer_shape=(60, 20))

    def _get_data(self, selection: Any) -> Any:
        if selection[0].start == 240 and not self.mended.exists():
            raise RuntimeError("the disk of the source is broken")
        return super()._get_data(selection)


@pytest.mark.parametrize("scheduler", ["threads", pytest.param("processes", marks=pytest.mark.heavy)])
def test_a_write_that_is_resumed_has_the_layout(target: Path, scheduler: str) -> None:
    source = Failing(target.with_name("mended"))
    keywords: dict[str, Any] = {"layout": "cloud", "compression": "gzip", "scheduler": scheduler, "progress": False}
    with pytest.raises(SourceError):
        dcio.to_hdf5(target, "/x", source, **keywords)
    source.mended.touch()
    dcio.to_hdf5(target, "/x", source, resume=True, **keywords)
    require_cloud(target)


def test_a_write_that_was_begun_without_a_layout_gets_none(target: Path) -> None:
    source = Failing(target.with_name("mended"))
    with pytest.raises(SourceError):
        dcio.to_hdf5(target, "/x", source, progress=False)
    source.mended.touch()
    with pytest.raises(
        ArgumentError, match=r"layout='cloud' is given, but the file was created without it. Use the arg"
    ):
        dcio.to_hdf5(target, "/x", source, layout="cloud", resume=True, progress=False)
    dcio.to_hdf5(target, "/x", source, resume=True, progress=False)


def test_jobs_that_write_parts_give_the_same_layout(target: Path) -> None:
    dcio.to_hdf5(target, "/x", DATA, part=(0, 2), **CHUNKS)
    with pytest.raises(
        ArgumentError, match=r"layout='cloud' is given, but the file was created without it. Give all jobs"
    ):
        dcio.to_hdf5(target, "/x", DATA, part=(1, 2), layout="cloud", **CHUNKS)
    dcio.discard(target)
    for number in range(2):
        dcio.to_hdf5(target, "/x", DATA, part=(number, 2), layout="cloud", **CHUNKS)
    require_cloud(target)


# Plans


def test_a_plan_says_what_a_reader_fetches(target: Path) -> None:
    chosen: dict[str, Any] = {"chunks": (1, 1), "scheduler": "threads"}
    plan, other = (dcio.plan(target, "/x", DATA, layout=name, **chosen) for name in ("cloud", None))
    assert plan.opening is not None
    assert other.opening is not None
    assert plan.opening.requests == 1
    assert plan.opening.page_nbytes is not None
    assert other.opening.requests == pytest.approx(12_000 / 57, rel=0.1)
    assert other.opening.page_nbytes is None
    dcio.to_hdf5(target, "/x", DATA, layout="cloud", progress=False, **chosen)
    assert plan.opening.page_nbytes == page_nbytes(target)
    assert metadata_end(target) <= plan.opening.metadata_nbytes
    words = r"Layout cloud: pages of 2\.00 MiB, about \d+% of padding; over a network, 1 request reads up to 1\.\d+ MiB"
    assert re.search(words, repr(plan))
    assert "layout=&#x27;cloud&#x27; keeps them in one page" in other._repr_html_()
    assert "Layout cloud: pages of" in plan._repr_html_()


def test_a_plan_of_a_part_of_a_dataset_says_nothing_of_opening(target: Path) -> None:
    dcio.to_hdf5(target, "/x", DATA, **CHUNKS)
    assert dcio.plan(target, "/x", DATA, region=np.s_[:600]).opening is None


def test_the_padding_of_a_plan_is_that_of_the_file(target: Path) -> None:
    data = np.zeros((1000, 10_000), "u1")
    plan = dcio.plan(target, "/x", data, layout="cloud", chunks=(10, 10_000))
    dcio.to_hdf5(target, "/x", data, layout="cloud", chunks=(10, 10_000), progress=False)
    assert plan.opening is not None
    assert target.stat().st_size / data.nbytes - 1 == pytest.approx(plan.opening.padding, abs=0.05)


# Drafts


def test_a_draft_creates_the_file_with_the_layout(target: Path) -> None:
    with dcio.draft(target, layout="cloud") as draft:
        draft.fill("/x", DATA, **CHUNKS)
        draft.fill("/y", DATA[:30], **CHUNKS)
    require_cloud(target)
    require_cloud(target, "/y", DATA[:30])


def test_a_structure_of_others_must_have_pages(target: Path) -> None:
    with dcio.draft(target, layout="cloud") as draft, h5py.File(draft.path, "w") as file:
        file.create_dataset("x", DATA.shape, "i2", chunks=(3, 5))
        file.close()
        with pytest.raises(TargetError, match=r"layout='cloud' is chosen when a file is created.*let the draft create"):
            draft.fill("/x", DATA, progress=False)
        with pytest.raises(TargetError, match=r"layout='cloud' is chosen"):
            draft.publish()
        draft.keep()
        draft.open()
        assert draft.is_new
        draft.fill("/x", DATA, **CHUNKS)
    require_cloud(target)
    target.unlink()
    with dcio.draft(target, layout="cloud") as draft:
        with h5py.File(draft.path, "w", fs_strategy="page", fs_page_size=1 << 18, fs_persist=True) as file:
            file.create_dataset("x", DATA.shape, "i2", chunks=(3, 5))
        draft.fill("/x", DATA, progress=False)
    require_cloud(target)


def test_a_draft_of_an_existing_file_has_no_layout(target: Path) -> None:
    with pytest.raises(ArgumentError, match="mode='a' changes an existing one, which keeps its layout; leave it out"):
        dcio.draft(target, mode="a", layout="cloud")


# The command line


def test_the_command_line(tmp_path: Path, target: Path) -> None:
    np.save(tmp_path / "x.npy", DATA)
    arguments = [str(tmp_path / "x.npy"), str(target), "--chunks", "3,5"]
    done = CliRunner().invoke(main, ["plan", *arguments, "--layout", "cloud"])
    assert done.exit_code == 0, done.output
    assert "Layout cloud: pages of" in done.output
    done = CliRunner().invoke(main, ["write", *arguments, "--layout", "cloud", "--no-progress"])
    assert done.exit_code == 0, done.output
    require_cloud(target)
    done = CliRunner().invoke(main, ["write", *arguments, "--layout", "clod"])
    assert done.exit_code == 2
    assert "did you mean 'cloud'?" in done.output


# The archive of CMIP7

FIELD = np.random.default_rng(1).normal(size=(300, 90, 180)).astype("f4")
TIME = np.arange(300.0)


def written(target: Path, **keywords: Any) -> Path:
    sources = {"/tas": FIELD, "/time": TIME, "/time_bnds": np.stack([TIME, TIME + 1], 1)}
    encoding = {"/time": {"attrs": {"bounds": "time_bnds"}, "maxshape": (None,)}, **keywords}
    dcio.to_hdf5(
        target, sources, encoding=encoding, layout="cmip7", compression="gzip", compression_opts=1, progress=False
    )
    return target


def test_a_file_for_cmip7_has_large_chunks_and_the_time_in_one(target: Path) -> None:
    require_cloud(written(target), "/tas", FIELD)
    with h5py.File(target) as file:
        assert np.prod(file["tas"].chunks) * 4 + 90 * 180 * 4 >= 4 << 20
        assert file["tas"].id.get_num_chunks() > 1
        assert file["time"].id.get_num_chunks() == file["time_bnds"].id.get_num_chunks() == 1


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        (
            {"/tas": {"chunks": (1, 90, 180)}},
            r"/tas: chunks=\(1, 90, 180\) has 64800 bytes, but .* needs 4194304; leave",
        ),
        ({"/time_bnds": {"chunks": (10, 2)}}, r"/time_bnds: chunks=\(10, 2\) cuts the time coordinate into 30 chunks"),
    ],
)
def test_chunks_that_cmip7_does_not_accept_are_refused(target: Path, encoding: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        written(target, **encoding)
    assert not target.exists()


def test_a_stream_of_times_cannot_be_one_chunk(target: Path) -> None:
    chunks = (dcio.DataChunk(TIME[n : n + 1], np.s_[n : n + 1]) for n in range(300))
    with pytest.raises(ArgumentError, match="/time: layout='cmip7' keeps the time coordinate in one chunk"):
        dcio.to_hdf5(target, "/time", chunks, layout="cmip7", dtype="f8", maxshape=(None,))


@pytest.mark.parametrize("shape", [(3650, 180, 360), (5,), (10_000_000,), (1, 5000, 5000), (3, 7, 11, 13, 500, 30)])
@pytest.mark.parametrize("divided", [False, True])
def test_chunks_for_cmip7_are_large_but_not_too_large(shape: tuple[int, ...], divided: bool) -> None:
    block = tuple(max(1, n // 3) for n in shape) if divided else None
    chunk = large_chunk_shape(shape, 4, block)
    nbytes, row = np.prod(chunk) * 4, np.prod(chunk[1:]) * 4 if len(chunk) > 1 else 0
    assert chunk == shape or nbytes + row >= 4 << 20
    assert nbytes <= 32 << 20
