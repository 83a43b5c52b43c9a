"""Drafts: structure by any library, data in parallel, the name at the end."""

# An error ends the block of a draft, with what was done in it before.
# ruff: noqa: PT012

import contextlib
import itertools
import json
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client
from hdmf.data_utils import DataChunkIterator
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_chunkio as dcio
from dask_chunkio import errors
from dask_chunkio.cli.main import main
from dask_chunkio.storage.activity.activity_lock import ActivityLock, opened_activity_lock
from dask_chunkio.storage.drafts import file as draft_file
from dask_chunkio.storage.drafts import publish
from dask_chunkio.storage.filesystem import copies
from dask_chunkio.storage.side_paths import SidePaths
from dask_chunkio.storage.take_over import take_over
from tests.support.drafts.structures import make_reference, make_structure, require_alike, sources
from tests.support.files import digest
from tests.support.iterators import FromArray
from tests.support.processes import in_child, run_python
from tests.support.system_calls import kill_at

needs_tools = pytest.mark.skipif(shutil.which("h5diff") is None, reason="HDF5's tools are not installed")
TAKE_OVER = "dask_chunkio.storage.drafts.draft_folder.take_over"
NOBODY = 65534
DATA = np.arange(2000.0).reshape(200, 10)


def make_x(path: str, **keywords: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", **{"shape": (200, 10), "dtype": "f8", "chunks": (20, 10), **keywords})
        file["x"].attrs["unit"] = "V"


class Failing(FromArray):
    """Fails once it has been read for a while."""

    def _get_data(self, selection: Any) -> Any:
        if selection[0].start >= 100:
            raise RuntimeError("the disk of the source is gone")
        return super()._get_data(selection)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


def interrupt(out: Path, mode: Any = "x") -> None:
    """Leave a draft with a complete structure and half of a fill."""
    with pytest.raises(errors.SourceError), dcio.draft(out, mode=mode) as draft:
        make_x(draft.path)
        draft.fill("/x", Failing(DATA, chunk_shape=(20, 10), buffer_shape=(20, 10)), scheduler="synchronous")


# Equality


@needs_tools
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_a_structure_of_all_kinds_is_as_h5py_alone_makes_it(out: Path, tmp_path: Path, scheduler: str) -> None:
    make_reference(tmp_path / "reference.h5")
    with dcio.draft(out) as draft:
        make_structure(draft.path)
        draft.fill(sources(), scheduler=scheduler)
    require_alike(out, tmp_path / "reference.h5")
    assert set(os.listdir(tmp_path)) == {"reference.h5", "out.h5"}


@needs_tools
def test_a_cluster_fills_a_structure(out: Path, tmp_path: Path, process_client: Client) -> None:
    make_reference(tmp_path / "reference.h5")
    with dcio.draft(out) as draft:
        make_structure(draft.path)
        draft.fill(sources(), scheduler=process_client)
    require_alike(out, tmp_path / "reference.h5")
    assert dcio.verify(out).ok


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(0, 30), min_size=1, max_size=3).map(tuple),
    draw=st.data(),
    dtype=st.sampled_from(["<i2", ">f4", "u1", "<c8", "S3", "?"]),
    written=st.booleans(),
)
def test_any_dataset_of_the_structure_is_filled_as_h5py_fills_it(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], draw: st.DataObject, dtype: str, written: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    chunks = draw.draw(st.none() | st.tuples(*(st.integers(1, n) for n in shape)) if all(shape) else st.none())
    keywords: dict[str, Any] = {} if chunks is None else {
        "chunks": chunks,
        "maxshape": draw.draw(st.sampled_from([None, shape, (None, *shape[1:])])),
        "shuffle": draw.draw(st.booleans()),
        "fletcher32": draw.draw(st.booleans()),
        "compression": draw.draw(st.sampled_from([None, "gzip", "lzf"])),
    }  # fmt: skip
    data = np.random.default_rng(0).integers(0, 90, shape).astype(dtype)

    def make(path: str | Path) -> None:
        with h5py.File(path, "w", libver=draw.draw(st.sampled_from(["earliest", "latest"]))) as file:
            made = file.create_dataset("x", shape, dtype, **keywords)
            if written and data.size:
                made[...] = np.ones(shape).astype(dtype)

    with dcio.draft(folder / "out.h5") as draft:
        make(draft.path)
        draft.fill("/x", data, scheduler="synchronous")
    with h5py.File(folder / "out.h5") as file:
        found = file["x"]
        assert found.dtype == data.dtype
        assert found[...].tobytes() == data.tobytes()
        assert (found.chunks, found.compression) == (chunks, keywords.get("compression"))
    shutil.rmtree(folder)


def test_a_chunk_whose_filter_was_skipped_does_not_keep_its_mask(out: Path) -> None:
    data = np.random.default_rng(0).integers(0, 1 << 62, (40, 10))
    with dcio.draft(out) as draft:
        make_x(draft.path, shape=(40, 10), dtype="i8", chunks=(20, 10), compression="gzip")
        with h5py.File(draft.path, "r+") as file:
            # As many bytes as the new payload will have, but not compressed.
            nbytes = encoded_nbytes(data[:20])
            file["x"].id.write_direct_chunk((0, 0), bytes(nbytes), filter_mask=1)
        draft.fill("/x", data)
    with h5py.File(out) as file:
        assert file["x"].id.read_direct_chunk((0, 0))[0] == 0
        assert np.array_equal(file["x"], data)


def encoded_nbytes(data: Any) -> int:
    """How many bytes our encoder makes of a chunk."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "one.h5")
        dcio.to_hdf5(path, "/x", data, chunks=data.shape, compression="gzip")
        with h5py.File(path) as file:
            return int(file["x"].id.get_chunk_info(0).size)


@pytest.mark.parametrize(("durability", "count"), [("power", 4), ("process", 0)])
def test_a_structure_is_on_the_disk_before_a_fill_that_is_to_survive_power_failures(
    out: Path, durability: Any, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for name in ("sync_file", "sync_folder"):
        monkeypatch.setattr(draft_file, name, lambda path: seen.append(os.path.basename(path)))
    with dcio.draft(out, durability=durability) as draft:
        make_x(draft.path)
        draft.fill("/x", DATA)
    assert seen == ["out.h5", "hidden", "out.h5.draft", out.parent.name][:count]


# What is filled


def test_a_dataset_grows_to_the_shape_of_its_source(out: Path) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path, shape=(3, 10), maxshape=(None, 10))
        draft.fill("/x", DATA)
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


@pytest.mark.parametrize("first", [0, 1, 35])
def test_a_stream_of_unknown_length_fills_a_dataset_that_can_grow(out: Path, first: int) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path, shape=(first, 10), maxshape=(None, 10), compression="gzip")
        draft.fill("/x", DataChunkIterator(data=iter(DATA), buffer_size=7))
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_a_stream_for_a_dataset_without_chunks_is_refused(out: Path) -> None:
    with pytest.raises(errors.ArgumentError, match="has no chunks and cannot grow"), dcio.draft(out) as draft:
        make_x(draft.path, chunks=None)
        draft.fill("/x", DataChunkIterator(data=iter(DATA), buffer_size=7))


@pytest.mark.parametrize("shape", [(100, 10), (200, 9), (300, 10)])
def test_a_source_of_another_shape_is_refused(out: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(errors.ArgumentError, match=r"does not fill it"), dcio.draft(out) as draft:
        make_x(draft.path)
        draft.fill("/x", np.zeros(shape))
    assert not out.exists()


def test_values_are_converted_to_the_type_of_the_dataset_or_refused(out: Path) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path, dtype=">i2")
        draft.fill("/x", DATA.astype("i4"))
        with pytest.raises(errors.CastError):
            draft.fill("/x", DATA.astype("S4"))
        draft.fill({"/x": DATA.astype("i8")})
    with h5py.File(out) as file:
        assert file["x"].dtype == np.dtype(">i2")
        assert np.array_equal(file["x"], DATA)


def test_keywords_are_for_datasets_that_the_structure_does_not_have(out: Path) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path)
        with pytest.raises(errors.ArgumentError, match="would have the filters"):
            draft.fill("/x", DATA, compression="gzip")
        draft.fill(
            {"/x": DATA, "/group/new": DATA}, encoding={"/group/new": {"compression": "gzip", "attrs": {"n": 1}}}
        )
    with h5py.File(out) as file:
        assert file["x"].compression is None
        assert (file["group/new"].compression, file["group/new"].attrs["n"]) == ("gzip", 1)
        assert np.array_equal(file["group/new"], DATA)


def test_a_region_of_a_dataset(out: Path) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path, fillvalue=-1.0)
        draft.fill("/x", DATA[:50], region=np.s_[30:80])
    with h5py.File(out) as file:
        assert np.array_equal(file["x"][30:80], DATA[:50])
        assert (file["x"][:30] == -1).all()


def test_an_append_is_refused(out: Path) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path, maxshape=(None, 10))
        with pytest.raises(errors.ArgumentError, match="give region="):
            draft.fill("/x", DATA, append=True)
        with pytest.raises(errors.ArgumentError, match="give region="):
            draft.fill("/x", DATA, encoding={"/x": {"append": 0}})


def test_an_index_that_differs_is_not_made_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dataset in its place would leave references to it behind."""
    monkeypatch.setattr("dask_chunkio.storage.finish._difference", lambda *_: "/x: the index differs")
    with pytest.raises(errors.IntegrityError, match=r"the index differs; discard the draft"), dcio.draft(out) as draft:
        make_x(draft.path)
        draft.fill("/x", DATA)
    assert not out.exists()


def test_some_fields_of_a_dataset_that_has_data_are_refused(out: Path) -> None:
    kind = np.dtype([("a", "i4"), ("b", "f8")])
    with dcio.draft(out) as draft:
        make_x(draft.path, shape=(40,), dtype=kind, chunks=(10,))
        draft.fill("/x", np.ones(40, [("a", "i4")]))
        with pytest.raises(errors.ArgumentError, match="only some of its fields"):
            draft.fill("/x", np.ones(40, [("b", "f8")]))


def test_a_dataset_in_another_file_is_refused(out: Path, tmp_path: Path) -> None:
    make_x(str(tmp_path / "other.h5"))
    with dcio.draft(out) as draft:
        with h5py.File(draft.path, "w") as file:
            file["linked"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        with pytest.raises(errors.TargetError, match="link into another file"):
            draft.fill("/linked", DATA)


def test_a_draft_without_a_structure(out: Path) -> None:
    with dcio.draft(out) as draft:
        draft.fill("/x", DATA, compression="gzip")
        draft.fill("/y", DATA)
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)
        assert np.array_equal(file["y"], DATA)


def test_the_result_names_the_file(out: Path) -> None:
    with dcio.draft(out) as draft:
        result = draft.fill("/x", DATA)
    assert result.path == str(out)
    assert result.nbytes == DATA.nbytes


# Begin, keep, resume


def test_nothing_has_the_name_before_the_end(out: Path, tmp_path: Path) -> None:
    with dcio.draft(out) as draft:
        assert draft.is_new
        make_x(draft.path)
        draft.fill("/x", DATA)
        assert not draft.is_new
        assert os.listdir(tmp_path) == ["out.h5.draft"]
        assert os.path.basename(draft.path) == "out.h5"
    assert os.listdir(tmp_path) == ["out.h5"]
    with pytest.raises(errors.TargetError, match="is not open"):
        draft.fill("/x", DATA)


def test_an_interrupted_draft_is_kept_named_and_resumed(out: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.SourceError) as caught, dcio.draft(out) as draft:
        make_x(draft.path)
        draft.fill("/x", Failing(DATA, chunk_shape=(20, 10), buffer_shape=(20, 10)), scheduler="synchronous")
    (note,) = caught.value.__notes__
    assert f"{out}.draft" in note
    assert "resume=True" in note
    assert os.listdir(tmp_path) == ["out.h5.draft"]
    with pytest.raises(errors.UnfinishedWriteError, match="resume=True"):
        dcio.draft(out).open()
    with pytest.raises(errors.UnfinishedWriteError, match="holds a draft"):
        dcio.to_hdf5(out, "/x", DATA)
    assert "holds a draft" in dcio.plan(out, "/x", DATA).target_problem
    with dcio.draft(out, resume=True) as draft:
        assert not draft.is_new
        result = draft.fill("/x", FromArray(DATA, chunk_shape=(20, 10), buffer_shape=(20, 10)))
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)
    assert result.nbytes == DATA.nbytes


def test_a_structure_that_was_cut_off_is_begun_anew(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught, dcio.draft(out) as draft:
        make_x(draft.path)
        1 / 0  # noqa: B018
    assert not hasattr(caught.value, "__notes__")
    assert os.listdir(tmp_path) == []
    # A process that dies leaves it.
    script = (
        f"import os, dask_chunkio as d, h5py; h5py.File(d.draft({str(out)!r}).open().path, 'w')['old'] = 1; os._exit(0)"
    )
    run_python("-c", script, check=True)
    assert os.listdir(tmp_path) == ["out.h5.draft"]
    with dcio.draft(out) as draft:
        assert draft.is_new
        assert not os.path.exists(draft.path)
        make_x(draft.path)
    with h5py.File(out) as file:
        assert list(file) == ["x"]


def test_fills_that_are_complete_are_not_repeated(out: Path) -> None:
    interrupts = [True]
    for _ in range(2):
        try:
            with dcio.draft(out, resume=True) as draft:
                if draft.is_new:
                    make_x(draft.path)
                first = draft.fill("/x", DATA)
                if interrupts.pop():
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            interrupts = [False]
    assert first.already_complete
    assert first.datasets[0].shape == (200, 10)


def test_other_fills_than_those_of_the_interrupted_draft_are_refused(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt), dcio.draft(out) as draft:
        draft.fill({"/x": DATA})
        raise KeyboardInterrupt
    with dcio.draft(out, resume=True) as draft:
        for other in ({"/y": DATA}, {"/x": DATA[:5]}, {"/x": DATA.astype("f4")}):
            with pytest.raises(errors.ArgumentError, match=r"fill number 1 .* wrote /x \(200, 10\) float64, not /"):
                draft.fill(other)
        with pytest.raises(errors.ArgumentError, match="into slice"):
            draft.fill("/x", DATA, region=np.s_[:200])
        assert draft.fill("/x", DATA).already_complete


def test_a_draft_that_has_lost_a_dataset_is_refused(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt), dcio.draft(out) as draft:
        draft.fill("/x", DATA)
        raise KeyboardInterrupt
    with h5py.File(draft.path, "r+") as file:
        del file["x"]
    with pytest.raises(errors.TargetError, match="no longer has /x"), dcio.draft(out, resume=True) as draft:
        draft.fill("/x", DATA)


def test_a_fill_that_was_refused_may_be_repeated(out: Path) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path)
        with pytest.raises(errors.ArgumentError):
            draft.fill("/x", np.zeros(3))
        draft.fill("/x", DATA)
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_a_structure_is_kept_though_its_first_fill_was_refused(out: Path) -> None:
    with pytest.raises(errors.ArgumentError), dcio.draft(out) as draft:
        make_x(draft.path)
        draft.fill("/x", np.zeros(3))
    with dcio.draft(out, resume=True) as draft:
        assert not draft.is_new
        draft.fill("/x", DATA)
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_a_draft_is_held_by_one_object(out: Path) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path)
        with pytest.raises(errors.TargetBusyError, match="held by another"):
            dcio.draft(out, resume=True).open()
        with pytest.raises(errors.TargetError, match="open already"):
            draft.open()
        with pytest.raises(errors.TargetBusyError):
            dcio.discard(out)
        assert in_child(_refused_to_another_process, out) == 0


def _refused_to_another_process(out: Path) -> None:
    with pytest.raises(errors.TargetBusyError):
        dcio.draft(out, resume=True).open()


def test_a_draft_that_is_dropped_is_let_go(out: Path) -> None:
    draft = dcio.draft(out).open()
    make_x(draft.path)
    del draft
    with dcio.draft(out) as again:
        make_x(again.path)
    assert out.exists()


def test_a_draft_waits_for_the_one_that_holds_it(out: Path) -> None:
    held = dcio.draft(out).open()
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with dcio.draft(out, mode="w", resume=True, wait=True) as draft:
            draft.fill("/y", DATA)

    thread = threading.Thread(target=second)
    thread.start()
    waiting.wait()
    make_x(held.path)
    held.publish()
    thread.join()
    with h5py.File(out) as file:
        assert list(file) == ["y"]


def test_without_a_with_block(out: Path) -> None:
    draft = dcio.draft(out)
    assert "closed" in repr(draft)
    draft.keep()
    with pytest.raises(errors.TargetError, match="is not open"):
        draft.publish()
    draft.open()
    assert "structure" in repr(draft)
    draft.fill("/x", DATA)
    draft.keep()
    assert not out.exists()
    dcio.draft(out, resume=True).open().publish()
    assert out.exists()


# Other drafts of the same name


def test_a_holder_whose_folder_was_removed_touches_no_later_draft(out: Path) -> None:
    late = dcio.draft(out).open()
    make_x(late.path)
    other = dcio.draft(out.with_name("moved.h5"))
    os.rename(f"{out}.draft", f"{out}.old")
    with dcio.draft(out) as draft:
        make_x(draft.path)
        with pytest.raises(errors.TargetError, match="not held by this process"):
            late.publish()
        late.keep()
        assert os.path.exists(draft.path)
        assert not out.exists()
        draft.fill("/x", DATA)
    assert out.exists()
    assert "closed" in repr(other)


def test_a_holder_that_was_stopped_before_it_gives_the_name_publishes_no_later_draft(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = dcio.draft(out).open()
    late.fill("/x", DATA)
    given = publish._give_name

    def stopped(held: Any) -> None:
        os.rename(f"{out}.draft", f"{out}.old")
        draft = dcio.draft(out).open()
        make_x(draft.path)
        given(held)
        assert os.path.exists(draft.path)
        draft.keep()

    monkeypatch.setattr(publish, "_give_name", stopped)
    late.publish()
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_discard_that_comes_late_removes_no_later_draft(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(out)
    begun = []

    def late(*arguments: Any, **keywords: Any) -> bool:
        monkeypatch.setattr(TAKE_OVER, take_over)
        shutil.rmtree(f"{out}.draft")
        begun.append(dcio.draft(out).open())
        return take_over(*arguments, **keywords)

    monkeypatch.setattr(TAKE_OVER, late)
    with pytest.raises(errors.TargetBusyError):
        dcio.discard(out)
    make_x(begun[0].path)
    begun[0].publish()
    assert out.exists()


def test_discard_of_a_folder_that_another_draft_has_just_made_is_refused(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(out)

    def late(*arguments: Any, **keywords: Any) -> bool:
        monkeypatch.setattr(TAKE_OVER, take_over)
        os.rename(f"{out}.draft", f"{out}.old")
        # It has no lease yet.
        os.makedirs(f"{out}.draft/hidden")
        return take_over(*arguments, **keywords)

    monkeypatch.setattr(TAKE_OVER, late)
    with pytest.raises(errors.TargetBusyError):
        dcio.discard(out)
    assert os.path.exists(f"{out}.draft/hidden")


def test_a_draft_whose_workers_still_fill_it_is_not_discarded(out: Path) -> None:
    interrupt(out)
    with opened_activity_lock(SidePaths(dcio.draft(out).path).lock) as worker:
        worker.share()
        with pytest.raises(errors.TargetBusyError, match="is being filled now"):
            dcio.discard(out)
    assert dcio.discard(out) == f"{out}.draft"


def test_a_draft_that_another_process_takes_between_two_locks_is_busy(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = ActivityLock.share

    def taken(self: ActivityLock) -> None:
        manifest = Path(f"{out}.draft/draft.json")
        found = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**found, "holder": "another process"}))
        share(self)

    with monkeypatch.context() as patch:
        patch.setattr(ActivityLock, "share", taken)
        with pytest.raises(errors.TargetBusyError, match="held by another"):
            dcio.draft(out).open()


def test_a_forked_child_touches_nothing(out: Path) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path)

        def child() -> None:
            with pytest.raises(errors.TargetError, match="forked child"):
                draft.publish()
            draft.keep()

        assert in_child(child) == 0
        assert os.path.exists(draft.path)
        draft.fill("/x", DATA)
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_a_draft_does_not_travel_to_other_processes(out: Path) -> None:
    with dcio.draft(out) as draft:
        with pytest.raises(errors.PicklingError, match=r"give Draft\.path"):
            pickle.dumps(draft)
        draft.fill("/x", DATA)


def test_fills_from_threads_are_made_one_after_the_other(out: Path) -> None:
    with dcio.draft(out) as draft, ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda name: draft.fill(name, DATA), ["/a", "/b", "/c", "/d"]))
    assert [one.nbytes for one in results] == [DATA.nbytes] * 4
    with h5py.File(out) as file:
        assert all(np.array_equal(file[name], DATA) for name in "abcd")


def test_changes_by_others_between_two_buffers_are_kept(out: Path) -> None:
    class Editing(FromArray):
        def _get_data(self, selection: Any) -> Any:
            if selection[0].start == 100:
                with h5py.File(draft.path, "r+") as file:
                    file["g"].attrs["late"] = "yes"
                    file["g/added"] = 5
            return super()._get_data(selection)

    with dcio.draft(out) as draft:
        with h5py.File(draft.path, "w") as file:
            file.create_group("g").attrs["early"] = 1
        draft.fill("/x", Editing(DATA, chunk_shape=(20, 10), buffer_shape=(20, 10)), scheduler="synchronous")
    with h5py.File(out) as file:
        assert (file["g"].attrs["late"], file["g/added"][()]) == ("yes", 5)
        assert np.array_equal(file["x"], DATA)


# What would be lost


@pytest.mark.parametrize("link", ["hard", "soft", "group"])
def test_two_names_of_one_dataset_are_refused(out: Path, link: str) -> None:
    with dcio.draft(out) as draft:
        with h5py.File(draft.path, "w") as file:
            file.create_dataset("g/x", (200, 10), "f8", chunks=(20, 10))
            file["y"] = {"hard": file["g/x"], "soft": h5py.SoftLink("/g/x"), "group": h5py.SoftLink("/g")}[link]
        other = "/y/x" if link == "group" else "/y"
        with pytest.raises(errors.ArgumentError, match=f"/g/x and {other} are one dataset"):
            draft.fill({"/g/x": DATA, other: -DATA})
        draft.fill({other: DATA})
    with h5py.File(out) as file:
        assert np.array_equal(file["g/x"], DATA)


def test_a_stream_does_not_cut_off_rows_that_are_there(out: Path) -> None:
    with dcio.draft(out) as draft:
        make_x(draft.path, maxshape=(None, 10))
        draft.fill("/x", DATA)
        with pytest.raises(errors.ArgumentError, match="rows could be lost"):
            draft.fill("/x", DataChunkIterator(data=iter(DATA[:20]), buffer_size=7))
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_a_stream_that_was_interrupted_is_resumed(out: Path) -> None:
    def rows(count: int) -> Any:
        yield from DATA[:count]
        if count < len(DATA):
            raise RuntimeError("the camera is gone")

    for count in (150, 200):
        with contextlib.suppress(errors.SourceError), dcio.draft(out, resume=True) as draft:
            if draft.is_new:
                make_x(draft.path, shape=(0, 10), maxshape=(None, 10))
            draft.fill("/x", DataChunkIterator(data=rows(count), buffer_size=7))
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


# Modes


def test_an_existing_file_is_replaced_at_the_end(out: Path) -> None:
    make_x(str(out))
    os.chmod(out, 0o640)
    before = digest(out)
    with pytest.raises(errors.TargetExistsError, match="mode='w'"):
        dcio.draft(out).open()
    with dcio.draft(out, mode="w") as draft:
        draft.fill("/y", DATA)
        assert digest(out) == before
    with h5py.File(out) as file:
        assert list(file) == ["y"]
    assert os.stat(out).st_mode & 0o777 == 0o640


def test_changes_of_an_existing_file_are_made_to_a_copy(out: Path) -> None:
    make_x(str(out), maxshape=(None, 10))
    before = digest(out)
    with dcio.draft(out, mode="a") as draft:
        with h5py.File(draft.path, "r+") as file:
            file["x"].attrs["unit"] = "mV"
        draft.fill({"/x": DATA, "/y": DATA}, encoding={"/y": {"compression": "gzip"}})
        assert digest(out) == before
    with h5py.File(out) as file:
        assert file["x"].attrs["unit"] == "mV"
        assert np.array_equal(file["x"], DATA)
        assert np.array_equal(file["y"], DATA)


def test_the_copy_is_a_copy_where_blocks_cannot_be_shared(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_x(str(out))
    with dcio.draft(out, mode="a") as draft:
        assert digest(draft.path) == digest(out)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(copies, "_is_cloned", lambda *_: False)
    monkeypatch.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(errors.TargetError, match=r"^cannot write .*No space left.*make space"):
        dcio.draft(out, mode="a").open()
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_file_that_does_not_exist_yet(out: Path, mode: Any) -> None:
    with dcio.draft(out, mode=mode) as draft:
        draft.fill("/x", DATA)
    assert out.exists()


@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_file_that_another_program_changes_meanwhile_is_not_replaced(out: Path, mode: Any) -> None:
    make_x(str(out))
    with pytest.raises(errors.TargetChangedError, match="was changed by another program") as caught:  # noqa: SIM117
        with dcio.draft(out, mode=mode) as draft:
            draft.fill("/y", DATA)
            with h5py.File(out, "r+") as file:
                file["other"] = 1
    with h5py.File(out) as file:
        assert "other" in file
    assert draft.path in str(caught.value)
    with h5py.File(draft.path) as file:
        assert np.array_equal(file["y"], DATA)


@pytest.mark.parametrize("mode", ["x", "a", "w"])
def test_a_file_that_another_program_creates_meanwhile_is_not_replaced(out: Path, mode: Any) -> None:
    with pytest.raises(errors.TargetExistsError, match="was created by another program"):  # noqa: SIM117
        with dcio.draft(out, mode=mode) as draft:
            draft.fill("/y", DATA)
            out.write_text("mine")
    assert out.read_text() == "mine"


def test_without_hard_links_a_file_is_renamed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    with dcio.draft(out) as draft:
        draft.fill("/y", DATA)
    assert out.exists()
    with pytest.raises(errors.TargetExistsError), dcio.draft(out.with_name("b.h5")) as draft:
        draft.fill("/y", DATA)
        out.with_name("b.h5").write_text("mine")


def test_a_draft_of_another_mode_is_not_resumed(out: Path) -> None:
    interrupt(out)
    with pytest.raises(errors.ArgumentError, match="begun with mode='x', not 'w'"):
        dcio.draft(out, mode="w", resume=True).open()


def test_files_that_a_new_one_cannot_replace_are_refused_at_once(out: Path, tmp_path: Path) -> None:
    make_x(str(out))
    os.link(out, tmp_path / "other name.h5")
    for mode in ("w", "a"):
        with pytest.raises(errors.TargetError, match="has other names"):
            dcio.draft(out, mode=mode).open()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.TargetExistsError, match="not a regular file"):
        dcio.draft(tmp_path / "pipe", mode="w").open()
    assert {one.name for one in tmp_path.iterdir()} == {"out.h5", "other name.h5", "pipe"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="another user is needed")
def test_a_file_that_may_not_be_written_is_not_replaced() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.h5"
        make_x(str(out))
        os.chmod(out, 0o444)
        for path in (folder, out):
            os.chown(path, NOBODY, NOBODY)

        def child() -> None:
            os.setuid(NOBODY)
            for mode in ("w", "a"):
                with pytest.raises(errors.TargetError, match="Permission denied"):
                    dcio.draft(out, mode=mode).open()

        assert in_child(child) == 0
        assert os.listdir(folder) == ["out.h5"]


def test_the_copy_of_a_private_file_is_private(out: Path) -> None:
    make_x(str(out))
    os.chmod(out, 0o600)
    with dcio.draft(out, mode="a") as draft:
        assert os.stat(draft.path).st_mode & 0o777 == 0o600
    assert os.stat(out).st_mode & 0o777 == 0o600


# Refusals


def test_mistakes(out: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match="mode='r' is not one of 'x', 'w', 'a'"):
        dcio.draft(out, mode="r")  # type: ignore[arg-type]
    with pytest.raises(errors.ArgumentError, match="durability='disk'"):
        dcio.draft(out, durability="disk")  # type: ignore[arg-type]
    with pytest.raises(errors.ArgumentTypeError, match="resume"):
        dcio.draft(out, resume="yes")  # type: ignore[arg-type]
    with pytest.raises(errors.TargetError, match="there is no folder"):
        dcio.draft(tmp_path / "no" / "out.h5").open()
    with pytest.raises(errors.TargetError, match="it is a directory"):
        dcio.draft(tmp_path, mode="w").open()
    (tmp_path / "text").write_text("text")
    with pytest.raises(errors.TargetExistsError, match="not an HDF5 file"):
        dcio.draft(tmp_path / "text", mode="a").open()
    with pytest.raises(errors.TargetError, match="too long"):
        dcio.draft(tmp_path / f"{'n' * 246}.h5").open()
    with h5py.File(tmp_path / "open.h5", "w"), pytest.raises(errors.TargetBusyError, match="open for writing"):
        dcio.draft(tmp_path / "open.h5", mode="a").open()
    assert set(os.listdir(tmp_path)) == {"text", "open.h5"}


def test_a_link_instead_of_a_file_is_refused(out: Path, tmp_path: Path) -> None:
    make_x(str(tmp_path / "template.h5"))
    before = digest(tmp_path / "template.h5")
    for make in (os.symlink, os.link):
        with pytest.raises(errors.TargetError, match="is a link"), dcio.draft(out) as draft:
            make(tmp_path / "template.h5", draft.path)
            draft.fill("/x", DATA)
    assert digest(tmp_path / "template.h5") == before


def test_a_file_that_is_open_is_refused(out: Path) -> None:
    with dcio.draft(out) as draft:
        with h5py.File(draft.path, "w"):
            with pytest.raises(errors.TargetBusyError, match="is still open"):
                draft.fill("/x", DATA)
            with pytest.raises(errors.TargetBusyError, match="is still open"):
                draft.publish()
        draft.fill("/x", DATA)
    assert out.exists()


def test_a_draft_without_a_file_is_not_published(out: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.TargetError, match="has no file"), dcio.draft(out):
        pass
    assert os.listdir(tmp_path) == []


def test_what_lies_beside_the_hidden_file_is_not_lost(out: Path) -> None:
    with pytest.raises(errors.TargetError, match=r"also holds notes.txt"), dcio.draft(out) as draft:
        draft.fill("/x", DATA)
        Path(draft.path).with_name("notes.txt").write_text("mine")
    Path(draft.path).with_name("notes.txt").unlink()
    with dcio.draft(out, resume=True) as draft:
        pass
    assert out.exists()


def test_a_draft_whose_fill_is_not_finished_is_not_published(out: Path) -> None:
    interrupt(out)
    with pytest.raises(errors.UnfinishedWriteError, match="fill that is not finished"):
        dcio.draft(out, resume=True).open().publish()


def test_an_unfinished_write_of_the_file_is_in_the_way(out: Path) -> None:
    with pytest.raises(errors.SourceError):
        dcio.to_hdf5(out, "/x", Failing(DATA, chunk_shape=(20, 10), buffer_shape=(20, 10)), scheduler="synchronous")
    with pytest.raises(errors.UnfinishedWriteError, match="holds a write"):
        dcio.draft(out).open()


def test_a_damaged_draft_is_named(out: Path) -> None:
    interrupt(out)
    manifest = Path(f"{out}.draft") / "draft.json"
    manifest.write_text(manifest.read_text().replace("filling", "feeling"))
    with pytest.raises(errors.IntegrityError, match=r"draft\.json is damaged"):
        dcio.draft(out, resume=True).open()
    assert dcio.discard(out) == f"{out}.draft"


def test_a_draft_that_was_removed_meanwhile_is_named(out: Path) -> None:
    with pytest.raises(errors.TargetError, match="it was removed meanwhile"), dcio.draft(out) as draft:
        make_x(draft.path)
        shutil.rmtree(f"{out}.draft")
        draft.publish()


# Parts


class Counting(FromArray):
    """Counts what is read."""

    reads = 0

    def _get_data(self, selection: Any) -> Any:
        Counting.reads += 1
        return super()._get_data(selection)


def fill_part(draft: dcio.Draft) -> dcio.WriteResult:
    """Make the structure if this is the first job, and fill its part."""
    if draft.is_new:
        make_x(draft.path, compression="gzip")
    source = Counting(DATA, chunk_shape=(20, 10), buffer_shape=(20, 10))
    return draft.fill({"/x": source, "/new": source}, scheduler="synchronous")


def require_whole(out: Path) -> None:
    assert os.listdir(out.parent) == [out.name]
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)
        assert np.array_equal(file["new"], DATA)
        assert sorted(file) == ["new", "x"]


def test_jobs_fill_their_parts_one_after_the_other(out: Path) -> None:
    for number in (2, 0, 1):
        assert not out.exists()
        with dcio.draft(out, part=(number, 3)) as draft:
            result = fill_part(draft)
        assert result.missing_parts == {2: (0, 1), 0: (1,), 1: ()}[number]
    require_whole(out)


def test_the_last_job_to_leave_publishes(out: Path) -> None:
    with dcio.draft(out, part=(0, 2)) as first:
        assert not fill_part(first).is_whole
        with dcio.draft(out, part=(1, 2)) as second:
            assert not second.is_new
            assert fill_part(second).is_whole
        assert not out.exists()
        found = dcio.status(out)
        assert found is not None
        assert found.draft is not None
        assert found.draft.fills == (("/x float64", "/new float64"),)
    require_whole(out)


def test_jobs_wait_for_the_structure_and_then_work_together(out: Path) -> None:
    first = dcio.draft(out, part=(0, 2)).open()
    begun = threading.Event()

    def job() -> None:
        begun.set()
        with dcio.draft(out, part=(1, 2)) as second:
            fill_part(second)

    thread = threading.Thread(target=job)
    thread.start()
    begun.wait()
    fill_part(first)
    thread.join()
    assert not out.exists()
    first.publish()
    require_whole(out)


def test_a_job_that_failed_is_run_again(out: Path) -> None:
    with pytest.raises(errors.SourceError), dcio.draft(out, part=(1, 2)) as draft:
        make_x(draft.path, compression="gzip")
        failing = Failing(DATA, chunk_shape=(20, 10), buffer_shape=(20, 10))
        draft.fill({"/x": failing, "/new": failing}, scheduler="synchronous")
    for number in (0, 1):
        with dcio.draft(out, part=(number, 2)) as draft:
            fill_part(draft)
    require_whole(out)


def test_a_job_that_was_cut_off_before_the_draft_recorded_that_it_is_whole(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dcio.draft(out, part=(0, 2)) as draft:
        fill_part(draft)
    with monkeypatch.context() as patch:
        patch.setattr("dask_chunkio.drafts.record_fill", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), dcio.draft(out, part=(1, 2)) as draft:
            fill_part(draft)
    Counting.reads = 0
    with dcio.draft(out, part=(1, 2)) as draft:
        assert fill_part(draft).is_whole
    assert Counting.reads == 0
    require_whole(out)


def test_a_fill_that_was_cut_off_before_the_draft_recorded_it_is_not_repeated(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dask_chunkio.drafts.record_fill", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), dcio.draft(out) as draft:
            fill_part(draft)
    Counting.reads = 0
    with dcio.draft(out, resume=True) as draft:
        fill_part(draft)
    assert Counting.reads == 0
    require_whole(out)


WRITES, NAMES = ("pwrite", "pwritev", "ftruncate"), ("mkdir", "open", "link", "replace", "rename", "unlink", "rmdir")


def fill_and_die(out: Path, call: int, names: Sequence[str]) -> None:
    """Be killed at a call that changes the disk; of one that writes, the first half is done."""
    draft = dcio.draft(out).open()
    with h5py.File(draft.path, "w", libver="v110") as file:
        file.create_dataset("x", (40, 8), "f8", chunks=(1, 4), maxshape=(None, 8), compression="gzip")
    kill_at(call, names)
    fill_in_buffers(draft)


def fill_in_buffers(draft: dcio.Draft) -> None:
    source = FromArray(DATA[:40, :8], chunk_shape=(1, 4), buffer_shape=(8, 8))
    draft.fill("/x", source, scheduler="synchronous", progress=False)


@pytest.mark.parametrize(("names", "step"), [(WRITES, 7), (NAMES, 2)], ids=["writes", "names"])
def test_the_file_of_a_resumed_draft_can_be_opened_wherever_a_fill_was_cut_off(
    tmp_path: Path, names: Sequence[str], step: int
) -> None:
    were_killed = 0
    for call in itertools.count(1, step):
        out = tmp_path / f"{call}.h5"
        if not in_child(fill_and_die, out, call, names):
            break
        draft = dcio.draft(out, resume=True).open()
        if draft.is_new:
            draft.keep()
            continue
        were_killed += 1
        # Payloads of the last commit may be missing, which the fill makes good; all metadata are whole.
        with h5py.File(draft.path, "r") as file:
            assert file["x"].shape == (40, 8)
            assert all(file["x"].id.get_chunk_info(n).size for n in range(file["x"].id.get_num_chunks()))
        fill_in_buffers(draft)
        draft.publish()
        with h5py.File(out) as file:
            assert np.array_equal(file["x"], DATA[:40, :8])
    assert were_killed > 4


@pytest.mark.parametrize("call", range(2, 12))
def test_a_draft_whose_fill_was_cut_off_as_it_began_is_recovered(tmp_path: Path, call: int) -> None:
    out, moved = tmp_path / "out.h5", tmp_path / "moved.h5"
    assert in_child(fill_and_die, out, call, NAMES) == -signal.SIGKILL
    dcio.recover(out, output=moved)
    with h5py.File(moved) as file:
        assert file["x"].shape == (40, 8)
    assert os.listdir(tmp_path) == ["moved.h5"]


def test_a_job_that_looks_too_late_begins_no_second_fill(out: Path) -> None:
    late = dcio.draft(out, part=(0, 2)).open()
    fill_part(late)
    late.keep()
    late.open()
    with dcio.draft(out, part=(1, 2)) as draft:
        fill_part(draft)
    # Its manifest is of before the last part was recorded.
    assert late._held is not None
    assert late._held.manifest.fills == ()
    assert fill_part(late).already_complete
    late.publish()
    require_whole(out)


def test_all_that_is_missing_is_filled_without_parts(out: Path) -> None:
    with dcio.draft(out, part=(0, 3)) as draft:
        fill_part(draft)
    with dcio.draft(out, resume=True) as draft:
        fill_part(draft)
    require_whole(out)


def test_a_job_of_other_parts_is_refused(out: Path) -> None:
    with dcio.draft(out, part=(0, 3)) as draft:
        fill_part(draft)
        with pytest.raises(errors.ArgumentError, match="divide it into 3 parts, and this job into 4"):
            dcio.draft(out, part=(0, 4)).open()
    with pytest.raises(errors.ArgumentError, match="divide it into 3 parts, and this job into 4"):
        dcio.draft(out, part=(0, 4)).open()
    with pytest.raises(errors.ArgumentError, match="begun with mode='x'"):
        dcio.draft(out, part=(0, 3), mode="w").open()
    with pytest.raises(errors.ArgumentError, match=r"there can be|numbers 0 to"):
        dcio.draft(out, part=(3, 3))


def test_a_job_of_other_parts_does_not_publish(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(publish, "_give_name", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError), dcio.draft(out, part=(0, 1)) as draft:
            fill_part(draft)
    with pytest.raises(errors.ArgumentError, match="divide it into 1 parts, and this job into 2"):
        dcio.draft(out, part=(0, 2)).open()
    with dcio.draft(out, part=(0, 1)) as draft:
        fill_part(draft)
    require_whole(out)


def test_jobs_do_not_join_the_draft_of_a_single_script(out: Path) -> None:
    interrupt(out)
    with pytest.raises(errors.ArgumentError, match="do not divide it into parts"):
        dcio.draft(out, part=(0, 2)).open()


def fill_rows(out: Path, part: tuple[int, int], rows: slice, source: Any = None) -> dcio.WriteResult:
    """Fill rows with data that only this job has."""
    with dcio.draft(out, part=part) as draft:
        if draft.is_new:
            make_x(draft.path, compression="gzip")
        source = DATA[rows] if source is None else source
        return draft.fill("/x", source, region=rows, scheduler="synchronous")


@pytest.mark.parametrize("kind", ["array", "dask", "iterator"])
def test_each_job_fills_a_region_with_data_of_its_own(out: Path, kind: str) -> None:
    stored = 0
    for number, (start, stop) in {2: (120, 200), 0: (0, 20), 1: (20, 120)}.items():
        mine = DATA[start:stop]
        sources = {
            "array": mine,
            "dask": da.from_array(mine, chunks=(7, 3)),
            "iterator": FromArray(mine, chunk_shape=(20, 10), buffer_shape=(20, 10)),
        }
        result = fill_rows(out, (number, 3), np.s_[start:stop], sources[kind])
        assert result.missing_parts == {2: (0, 1), 0: (1,), 1: ()}[number]
        assert result.nbytes == mine.nbytes
        stored += result.stored_nbytes
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)
        assert file["x"].compression == "gzip"
        assert stored == file["x"].id.get_storage_size()


def test_regions_of_jobs_in_all_axes_and_on_processes(out: Path) -> None:
    corners = {0: np.s_[:100, :5], 1: np.s_[100:, :5], 2: np.s_[:100, 5:], 3: np.s_[100:, 5:]}
    for number, corner in corners.items():
        with dcio.draft(out, part=(number, 4)) as draft:
            if draft.is_new:
                with h5py.File(draft.path, "w") as file:
                    file.create_dataset("x", DATA.shape, DATA.dtype, chunks=(20, 5), shuffle=True)
                    file.create_dataset("y", DATA.shape, DATA.dtype, chunks=(20, 10))
            encoding: Any = {"/x": {"region": corner}}
            scheduler = "processes" if number == 2 else "threads"
            draft.fill({"/x": DATA[corner], "/y": DATA}, encoding=encoding, scheduler=scheduler)
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)
        assert np.array_equal(file["y"], DATA)


def test_a_job_may_have_nothing(out: Path) -> None:
    for number, rows in enumerate((np.s_[:100], np.s_[130:130], np.s_[100:])):
        result = fill_rows(out, (number, 3), rows)
        assert result.nbytes == DATA[rows].nbytes
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_a_job_whose_region_failed_is_run_again(out: Path) -> None:
    fill_rows(out, (0, 2), np.s_[0:20])
    failing = Failing(DATA[20:], chunk_shape=(20, 10), buffer_shape=(20, 10))
    with pytest.raises(errors.SourceError):
        fill_rows(out, (1, 2), np.s_[20:200], failing)
    assert fill_rows(out, (1, 2), np.s_[20:200]).is_whole
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


@pytest.mark.parametrize(
    ("number", "start", "stop", "words"),
    [
        (
            1,
            90,
            200,
            r"region 90:200 along axis 0 shares chunks of 20 with other jobs; give this job the region 80:200",
        ),
        (1, 100, 130, r"give this job the region 100:140"),
        (1, 80, 200, r"part 1 \[80:200, 0:10\] overlaps part 0 \[0:100, 0:10\]"),
        (0, 0, 60, r"part 0 \[0:60, 0:10\] was begun as part 0 \[0:100, 0:10\]"),
        (1, 100, 300, "region ends at 300"),
    ],
)
def test_regions_that_jobs_cannot_have(out: Path, number: int, start: int, stop: int, words: str) -> None:
    fill_rows(out, (0, 2), np.s_[0:100])
    with pytest.raises(errors.ArgumentError, match=words) as caught:
        fill_rows(out, (number, 2), np.s_[start:stop], np.zeros((stop - start, 10)))
    assert "hidden" not in str(caught.value)
    assert fill_rows(out, (1, 2), np.s_[100:200]).is_whole


def test_a_job_whose_region_is_filled_already_is_complete(out: Path) -> None:
    with dcio.draft(out, part=(0, 2)) as first:
        make_x(first.path)
        first.fill("/x", DATA[:100], region=np.s_[:100])
        assert fill_rows(out, (1, 2), np.s_[100:200]).is_whole
        # A job that is run again: all parts are recorded, and the draft is not published yet.
        assert fill_rows(out, (0, 2), np.s_[:100]).already_complete
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_a_region_of_a_job_needs_all_fields(out: Path) -> None:
    with pytest.raises(errors.ArgumentError, match="only some of its fields"), dcio.draft(out, part=(0, 2)) as draft:
        with h5py.File(draft.path, "w") as file:
            file.create_dataset("x", (200,), [("a", "i4"), ("b", "i4")], chunks=(20,))
        draft.fill("/x", np.zeros(100, [("a", "i4")]), region=np.s_[:100])


def test_some_jobs_with_a_region_and_others_without_are_refused(out: Path) -> None:
    fill_rows(out, (0, 2), np.s_[0:100])
    with (
        pytest.raises(errors.ArgumentError, match="some jobs give region= and others do not"),
        dcio.draft(out, part=(1, 2)) as draft,
    ):
        draft.fill("/x", DATA)


def test_regions_of_jobs_that_leave_a_gap_are_not_published(out: Path) -> None:
    fill_rows(out, (0, 2), np.s_[0:100])
    with pytest.raises(errors.IntegrityError, match="4 of 10 chunks are in no region of a job"):
        fill_rows(out, (1, 2), np.s_[180:200])
    assert not out.exists()
    with dcio.draft(out, resume=True) as draft:
        draft.fill("/x", DATA)
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], DATA)


def test_a_region_of_a_job_needs_a_dataset_with_chunks(out: Path) -> None:
    with (
        pytest.raises(errors.ArgumentError, match="is written by HDF5 itself, as it has no chunks"),
        dcio.draft(out, part=(0, 2)) as draft,
    ):
        with h5py.File(draft.path, "w") as file:
            file.create_dataset("x", DATA.shape, DATA.dtype)
        draft.fill("/x", DATA[:100], region=np.s_[:100])
    with pytest.raises(errors.TargetError, match="has no dataset /none"), dcio.draft(out, part=(0, 2)) as draft:
        draft.fill("/none", DATA[:100], region=np.s_[:100])


def test_a_job_fills_all_datasets_in_one_call(out: Path) -> None:
    with pytest.raises(errors.ArgumentError, match="in one call of fill"), dcio.draft(out, part=(0, 2)) as draft:
        fill_part(draft)
        draft.fill("/y", DATA)


# Kills


@pytest.mark.parametrize("mode", ["x", "w", "a"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_draft_that_was_cut_off_after_it_got_its_name(
    out: Path, mode: Any, resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode != "x":
        make_x(str(out))
    with monkeypatch.context() as patch:
        patch.setattr("dask_chunkio.storage.drafts.draft_folder.DraftFolder.remove", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught, dcio.draft(out, mode=mode) as draft:
            draft.fill("/y", DATA)
    assert not hasattr(caught.value, "__notes__")
    published = digest(out)
    assert os.path.exists(f"{out}.draft")
    if resume:
        with dcio.draft(out, mode=mode, resume=True) as draft:
            assert not draft.is_new
            assert digest(draft.path) == published
            assert draft.fill("/y", DATA).already_complete
            with pytest.raises(errors.ArgumentError, match="was published by an earlier run"):
                draft.fill("/z", DATA)
    else:
        next_mode: Any = "w" if mode == "x" else mode
        with pytest.raises(ZeroDivisionError), dcio.draft(out, mode=next_mode) as draft:
            assert draft.is_new
            1 / 0  # noqa: B018
    assert digest(out) == published
    assert os.listdir(out.parent) == [out.name]


def test_a_folder_that_cannot_be_removed_does_not_make_the_file_incomplete(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    draft = dcio.draft(out).open()
    draft.fill("/y", DATA)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        draft.publish()
    assert "is complete, but cannot remove" in caplog.text
    assert dcio.discard(out) == f"{out}.draft"
    assert out.exists()


def test_a_draft_that_was_cut_off_as_it_was_removed_leaves_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(out)
    with monkeypatch.context() as patch:
        patch.setattr("dask_chunkio.storage.drafts.draft_folder.sweep", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dcio.discard(out)
        # The folder has lost its name already, or could not be opened: nothing is half removed.
    dcio.discard(out)
    with dcio.draft(out) as draft:
        assert draft.is_new
        draft.fill("/x", DATA)
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_drafts_that_are_killed_are_made_again() -> None:
    done = run_python("-m", "tests.support.kills.drafts", "--kills", 60)
    assert done.returncode == 0, done.stdout + done.stderr


# Maintenance


def command(*words: str) -> str:
    """Run the command line, and return what it says."""
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_status_recover_and_discard(out: Path, tmp_path: Path) -> None:
    interrupt(out)
    found = dcio.status(out)
    assert found is not None
    assert (found.mode, found.running, found.folder) == ("draft", False, f"{out}.draft")
    assert [(one.name, one.committed) for one in found.datasets] == [("/x", 5)]
    told = command("status", str(out))
    assert "a draft; interrupted" in told
    assert "draft(..., resume=True)" in told
    recovered = dcio.recover(out)
    assert (recovered.committed, recovered.chunks) == (5, 10)
    with h5py.File(recovered.path) as file:
        assert np.array_equal(file["x"][:100], DATA[:100])
    with pytest.raises(errors.TargetError, match="exists; give another name"):
        dcio.recover(out, recovered.path)
    moved = dcio.recover(out, tmp_path / "moved.h5")
    assert moved.path == str(tmp_path / "moved.h5")
    assert os.listdir(tmp_path) == ["moved.h5"]


def test_status_of_a_draft_that_is_made_or_filled(out: Path) -> None:
    with dcio.draft(out) as draft:
        found = dcio.status(out)
        assert found is not None and found.running and found.draft is not None  # noqa: PT018
        assert found.draft.state == "structure"
        told = command("status", str(out))
        assert "not complete yet" in told
        draft.fill("/x", DATA)
        told = command("status", str(out))
        assert "filled      /x (200, 10) float64" in told
        assert "running" in told


def test_a_draft_that_has_nothing_yet_is_discarded_not_recovered(out: Path, tmp_path: Path) -> None:
    assert in_child(lambda: dcio.draft(out).open()) == 0
    with pytest.raises(errors.TargetError, match="has nothing to recover"):
        dcio.recover(out)
    (tmp_path / "out.h5.draft" / "mine").write_text("mine")
    with pytest.raises(errors.TargetError, match="which no draft creates"):
        dcio.discard(out)
    (tmp_path / "out.h5.draft" / "mine").unlink()
    assert "Removed" in command("discard", "--yes", str(out))
    assert os.listdir(tmp_path) == []
