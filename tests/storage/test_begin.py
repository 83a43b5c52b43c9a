"""How a write begins: refused before anything is read, complete already, or begun; and tokens."""

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
from dask.base import compute
from distributed import Client

import dask_chunkio as dcio
from dask_chunkio.errors import (
    ArgumentError,
    ArgumentTypeError,
    SourceError,
    TargetBusyError,
    TargetError,
    TargetExistsError,
    UnfinishedWriteError,
)
from dask_chunkio.storage.filesystem.side_folder import Folder
from tests.support.processes import run_python

X = np.arange(96, dtype="i4").reshape(12, 8)
NEW: dict[str, Any] = {"chunks": (4, 8), "compression": "gzip"}


def write(path: Path, data: Any = X, name: str = "/x", **keywords: Any) -> Any:
    return dcio.to_hdf5(path, name, data, **{"scheduler": "synchronous", **keywords})


def read(path: Path, name: str = "x") -> Any:
    with h5py.File(path) as file:
        return file[name][...]


def tokens(path: Path, name: str = "x") -> Any:
    with h5py.File(path) as file:
        return json.loads(file[name].attrs.get("dask_chunkio_tokens", "[]"))


@pytest.fixture(params=["new", "existing"])
def place(request: pytest.FixtureRequest, target: Path) -> Path:
    if request.param == "existing":
        with h5py.File(target, "w") as file:
            file["old"] = [1, 2]
    return target


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make sure that a call changes nothing on the disk, not even for a moment."""

    def check(path: Path, call: Callable[[], Any]) -> Any:
        before = path.read_bytes(), path.stat().st_mtime_ns, path.parent.stat().st_mtime_ns
        with monkeypatch.context() as patch:
            for name in ("mkdir", "pwrite", "ftruncate", "rename", "link", "unlink", "rmdir"):
                patch.setattr(os, name, lambda *arguments, **_: pytest.fail(f"{arguments}"))
            found = call()
        assert (path.read_bytes(), path.stat().st_mtime_ns, path.parent.stat().st_mtime_ns) == before
        return found

    return check


# Complete already


def test_the_same_call_once_more_says_that_all_is_there_and_touches_nothing(
    place: Path, untouched: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    first = write(place, resume=True, **NEW)
    assert not first.already_complete
    with caplog.at_level("INFO", "dask_chunkio"):
        again = untouched(place, lambda: write(place, resume=True, **NEW))
    assert again.already_complete
    assert "/x there already, nothing was written" in caplog.text
    (found,) = again.datasets
    assert (found.name, found.shape, found.dtype, found.nbytes) == ("/x", X.shape, X.dtype, X.nbytes)
    assert found.stored_nbytes == first.datasets[0].stored_nbytes
    assert found.buffers == found.chunks == 0
    with h5py.File(place) as file:
        assert not file["x"].attrs


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"data": X[:8]}, r"its shape is \(12, 8\), and would be \(8, 8\)"),
        ({"data": X.astype("i8")}, "its dtype is int32, and would be int64"),
        ({"chunks": (2, 8)}, r"its chunks are \(4, 8\), and would be \(2, 8\)"),
        ({"compression": "lzf"}, r"its filters are deflate\(4\), and would be lzf"),
        ({"compression_opts": 5}, r"its filters are deflate\(4\), and would be deflate\(5\)"),
        ({"fillvalue": 3}, "it has no fill value, and would have the fill value 3"),
        ({"compression": None}, r"it has the filters deflate\(4\), and would have no filters"),
        ({"maxshape": (None, 8)}, r"its maxshape is \(12, 8\), and would be \(None, 8\)"),
    ],
)
def test_a_dataset_that_differs_is_an_error(
    place: Path, untouched: Callable[..., Any], keywords: dict[str, Any], words: str
) -> None:
    write(place, **NEW)

    def again() -> None:
        with pytest.raises(TargetExistsError, match=f"already has /x, and not as this call would make it: {words}"):
            write(place, resume=True, **{**NEW, **keywords})

    untouched(place, again)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (h5py.enum_dtype({"A": 0, "B": 1}, "i1"), h5py.enum_dtype({"A": 0, "B": 2}, "i1"), "B=1.*B=2"),
        (h5py.enum_dtype({"A": 0, "B": 1}, "i1"), np.dtype("i1"), r"int8 \(enumeration A=0, B=1\), and would be int8"),
        (h5py.string_dtype("ascii"), h5py.string_dtype("utf-8"), "ASCII strings.*UTF-8 strings"),
        (h5py.string_dtype("ascii", 4), h5py.string_dtype("utf-8", 4), r"S4 \(ASCII\), and would be S4 \(UTF-8\)"),
        (h5py.vlen_dtype("i2"), h5py.vlen_dtype("i4"), "arrays of int16.*arrays of int32"),
        (
            np.dtype([("a", "i4"), ("s", h5py.string_dtype("ascii"))]),
            np.dtype([("a", "i4"), ("s", h5py.string_dtype("utf-8"))]),
            "ASCII strings.*UTF-8 strings",
        ),
    ],
)
def test_a_type_that_only_h5py_tells_from_another_differs(place: Path, first: Any, second: Any, words: str) -> None:
    def data(dtype: Any) -> Any:
        made = np.zeros(4, dtype)
        if h5py.check_vlen_dtype(dtype) not in (None, str, bytes):
            made[:] = [np.arange(n, dtype=h5py.check_vlen_dtype(dtype)) for n in range(1, 5)]
        elif dtype.names:
            made["s"] = "text"
        elif dtype.kind == "O":
            made[:] = "text"
        return made

    write(place, data=data(first), dtype=first, chunks=(2,))
    assert write(place, data=data(first), dtype=first, chunks=(2,), resume=True).already_complete
    with pytest.raises(TargetExistsError, match=f"its dtype is .*{words}"):
        write(place, data=data(second), dtype=second, chunks=(2,), resume=True)


def test_without_resume_what_is_there_is_an_error(place: Path) -> None:
    write(place)
    with pytest.raises(TargetExistsError, match="already has /x; pass overwrite=True"):
        write(place)


def test_some_that_are_there_are_an_error(place: Path) -> None:
    write(place)
    with pytest.raises(TargetExistsError, match="already has /x"):
        dcio.to_hdf5(place, {"/x": X, "/y": X}, resume=True, scheduler="synchronous")


def test_a_stream_without_a_length_is_complete_where_the_rest_agrees(target: Path) -> None:
    def stream() -> Any:
        return (dcio.DataChunk(X[at : at + 4], np.s_[at : at + 4, :]) for at in (0, 4, 8))

    write(target, stream(), resume=True)
    assert write(target, stream(), resume=True).already_complete


def test_a_file_that_may_only_be_read_is_complete(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(target)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and may(path, mode))
    assert write(target, resume=True).already_complete
    with pytest.raises(TargetError, match="Permission denied"):
        write(target, name="/y", resume=True)


@pytest.mark.parametrize("scheduler", ["processes", "cluster"])
def test_where_the_workers_are(target: Path, process_client: Client, scheduler: str) -> None:
    runner = process_client if scheduler == "cluster" else scheduler
    assert not write(target, scheduler=runner, resume=True, token="a").already_complete
    assert write(target, scheduler=runner, resume=True, token="a").already_complete


# Tokens


@pytest.mark.parametrize("resume", [False, True])
def test_a_token_is_applied_once(place: Path, untouched: Callable[..., Any], resume: bool) -> None:
    def append(token: Any, data: Any = X) -> Any:
        return write(place, data, append=True, token=token, resume=resume)

    write(place, token="made", resume=resume, maxshape=(None, 8), **NEW)
    assert not append("a").already_complete
    assert not append("b", X[:5]).already_complete
    # All of them are remembered, whatever shape the dataset has by now.
    for call in (lambda: append("a"), lambda: append("b"), lambda: write(place, token="made", resume=resume, **NEW)):
        assert untouched(place, call).already_complete
    np.testing.assert_array_equal(read(place), np.concatenate([X, X, X[:5]]))
    assert tokens(place) == ["made", "a", "b"]
    assert not write(place, X[:4], region=np.s_[:4], token="c").already_complete
    assert write(place, X[:4], region=np.s_[:4], token="c").already_complete
    # A dataset that replaces another one begins anew.
    assert not write(place, overwrite=True, token="d", resume=resume).already_complete
    assert tokens(place) == ["d"]
    assert write(place, overwrite=True, token="d", resume=resume).already_complete


def test_without_a_token_regions_and_overwrites_are_written_again(place: Path) -> None:
    write(place)
    for keywords in ({"region": ...}, {"overwrite": True}):
        for factor in (2, 3):
            assert not write(place, factor * X, resume=True, **keywords).already_complete
            np.testing.assert_array_equal(read(place), factor * X)


def test_an_append_that_is_resumed_needs_a_token(place: Path, untouched: Callable[..., Any]) -> None:
    write(place, maxshape=(None, 8))

    def call() -> None:
        with pytest.raises(ArgumentError, match=r"needs a token.*give token='\.\.\.'"):
            write(place, append=True, resume=True)

    untouched(place, call)


def test_tokens_in_some_datasets_of_a_call_name_both(place: Path) -> None:
    write(place, token="a")
    write(place, name="/y")
    with pytest.raises(TargetExistsError, match=r"the token 'a' is applied to /x of .*, but not to /y"):
        dcio.to_hdf5(place, {"/x": X, "/y": X}, token="a", scheduler="synchronous")


def test_many_and_long_tokens(target: Path) -> None:
    write(target, X[:1], append=True, token="é\0" + "t" * 70_000)
    for number in range(3):
        write(target, X[:1], append=True, token=f"{number}" * 30_000)
    assert [len(token) for token in tokens(target)] == [70_002, 30_000, 30_000, 30_000]
    assert len(read(target)) == 4
    assert write(target, X[:1], append=True, token="é\0" + "t" * 70_000).already_complete


@pytest.mark.parametrize("token", ["", 3, b"a"])
def test_what_is_no_token(target: Path, token: str | int | bytes) -> None:
    with pytest.raises(ArgumentTypeError, match="token="):
        write(target, token=token)


def test_an_attribute_of_that_name_that_is_not_ours(target: Path) -> None:
    write(target, maxshape=(None, 8))
    with pytest.raises(ArgumentError, match="reserved for the tokens of calls"):
        write(target, name="/y", attrs={"dask_chunkio_tokens": "[]"})
    for value in ("{}", "no", 5, "[1]"):
        with h5py.File(target, "a") as file:
            file["x"].attrs["dask_chunkio_tokens"] = value
        with pytest.raises(TargetError, match="holds no tokens"):
            write(target, append=True, token="a")


def test_a_delayed_with_a_token_may_be_computed_again(place: Path) -> None:
    delayed = write(place, append=True, token="a", compute=False)
    assert not delayed.compute(scheduler="synchronous").already_complete
    found = write(place, append=True, token="a", compute=False)
    assert found.compute(scheduler="synchronous").already_complete
    once = write(place, name="/y", token="b", compute=False)
    assert not once.compute(scheduler="threads").already_complete
    assert once.compute(scheduler="threads").already_complete
    np.testing.assert_array_equal(read(place), X)


class Fails:
    """An array that cannot be read behind a row, for now."""

    shape, dtype = X.shape, X.dtype

    def __init__(self, row: int = 8) -> None:
        self.row = row

    def __getitem__(self, selection: Any) -> Any:
        if selection[0].stop > self.row:
            raise OSError("not yet")
        return X[selection]


def cut_off(path: Path, name: str = "/x", **keywords: Any) -> None:
    with pytest.raises(SourceError, match="not yet"):
        write(path, Fails(), name, **{"buffer_shape": (4, 8), "chunks": (4, 8), **keywords})


def test_an_unfinished_write_goes_on_by_its_own_token_only(place: Path) -> None:
    cut_off(place, append=True, token="a", chunks=(4, 8))
    for token, words in (("b", "begun with token='a'"), (None, "begun with token='a'")):
        with pytest.raises(ArgumentError, match=words):
            write(place, token=token, resume=True, maxshape=(None, 8), chunks=(4, 8))
    write(place, append=True, token="a", resume=True, chunks=(4, 8))
    assert tokens(place) == ["a"]


def test_other_calls_are_complete_while_a_write_is_unfinished(place: Path) -> None:
    """A script that is run again meets its own first calls first."""
    write(place, maxshape=(None, 8), token="made", **NEW)
    write(place, name="/y", **NEW)
    cut_off(place, append=True, token="more")
    assert write(place, maxshape=(None, 8), token="made", resume=True, **NEW).already_complete
    assert write(place, name="/y", resume=True, **NEW).already_complete
    with pytest.raises(ArgumentError, match="it writes /x, not /z"):
        write(place, name="/z", resume=True)
    with pytest.raises(UnfinishedWriteError):
        write(place, name="/y", **NEW)
    write(place, append=True, token="more", resume=True)
    np.testing.assert_array_equal(read(place), np.concatenate([X, X]))


def test_an_interrupted_overwrite_is_resumed_as_it_was_begun(place: Path) -> None:
    write(place)
    cut_off(place, overwrite=True)
    reads = []

    class Source(Fails):
        def __getitem__(self, selection: Any) -> Any:
            reads.append(selection)
            return X[selection]

    source = Source()
    with pytest.raises(ArgumentError, match="begun with overwrite=True"):
        write(place, source, resume=True, chunks=(4, 8))
    assert not reads
    write(place, source, resume=True, overwrite=True, chunks=(4, 8))
    assert reads


@pytest.mark.parametrize("keywords", [{"append": True, "maxshape": (None, 8)}, {}])
def test_an_empty_folder_of_a_write_that_has_ended_is_removed(place: Path, keywords: dict[str, Any]) -> None:
    for _ in range(2):
        write(place, token="a", resume=True, **keywords)
        np.testing.assert_array_equal(read(place), X)
        assert not Path(f"{place}.writing").exists()
        Path(f"{place}.writing").mkdir()


class Cut(Exception):  # noqa: N818
    """The process has ended here."""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        pytest.param(place, kind, marks=[] if (place == "new") == (kind in ("new", "append")) else pytest.mark.heavy)
        for place in ("new", "existing")
        for kind in ("new", "append", "region", "overwrite")
    ],
    indirect=["place"],
)
def test_a_token_is_applied_once_wherever_the_removal_of_the_folder_is_cut_off(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    keywords: dict[str, dict[str, Any]] = {
        "append": {"append": True},
        "region": {"region": np.s_[:12]},
        "overwrite": {"overwrite": True},
    }
    if kind != "new":
        write(place, maxshape=(None, 8), chunks=(4, 8))
    unlink = Folder.unlink
    for number in itertools.count():
        steps = itertools.count()

        def cut(self: Folder, name: str, number: int = number, steps: Iterator[int] = steps) -> None:
            if next(steps) == number:
                raise Cut
            unlink(self, name)

        name = f"/x{number}" if kind == "new" else "/x"
        call: dict[str, Any] = {"name": name, "token": f"{number}", "resume": True, **keywords.get(kind, {})}
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "unlink", cut)
            try:
                write(place, **call)
                break
            except Cut:
                pass
        for _ in range(2):
            write(place, **call)
            assert not os.path.exists(f"{place}.writing")
        assert write(place, **call).already_complete
    assert number > 4
    if kind == "append":
        np.testing.assert_array_equal(read(place), np.concatenate([X] * (number + 2)))


@pytest.mark.parametrize("first", [{"append": True}, {"append": True, "token": "a", "resume": True}])
def test_an_append_whose_folder_is_left_is_not_done_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, first: dict[str, Any]
) -> None:
    write(place, maxshape=(None, 8), chunks=(4, 8))
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", lambda *_: (_ for _ in ()).throw(Cut()))
        with pytest.raises(Cut):
            write(place, **first)
    write(place, append=True, token="a", resume=True)
    np.testing.assert_array_equal(read(place), np.concatenate([X, X]))
    assert tokens(place) == ["a"]
    assert write(place, append=True, token="a", resume=True).already_complete
    assert os.listdir(place.parent) == ["out.h5"]


def test_a_folder_that_a_finished_write_left_is_in_nobodys_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", lambda *_: (_ for _ in ()).throw(Cut()))
        with pytest.raises(Cut):
            write(place)
    write(place, name="/y")
    assert os.listdir(place.parent) == ["out.h5"]


# Appending to what is not there


def test_append_makes_what_is_not_there(place: Path) -> None:
    """One call a day, from the first day on."""
    for day in range(3):
        write(place, X + day, append=True, attrs={"unit": "V"}, token=f"day {day}", dtype="i8", **NEW)
    np.testing.assert_array_equal(read(place), np.concatenate([X, X + 1, X + 2]))
    with h5py.File(place) as file:
        found = file["x"]
        assert (found.maxshape, found.chunks, found.compression) == ((None, 8), (4, 8), "gzip")
        assert (found.dtype, found.attrs["unit"]) == ("i8", "V")


def test_append_along_another_axis(target: Path) -> None:
    for _ in range(2):
        write(target, append=1)
    np.testing.assert_array_equal(read(target), np.concatenate([X, X], axis=1))
    with h5py.File(target) as file:
        assert file["x"].maxshape == (12, None)


@pytest.mark.parametrize(
    ("data", "keywords", "words"),
    [
        (np.float64(1), {}, "needs an axis"),
        (X, {"maxshape": (12, 8)}, "no axis can grow"),
        (X, {"append": 0, "maxshape": (12, None)}, "leaves no room to append along axis 0"),
    ],
)
def test_what_could_never_be_appended_to_is_not_made(
    target: Path, data: Any, keywords: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        write(target, data, **{"append": True, **keywords})
    assert os.listdir(target.parent) == []


class Rows:
    """Rows of a known number, one after the other: what the message asks for."""

    maxshape, dtype = X.shape, X.dtype

    def __init__(self) -> None:
        self.chunks = (dcio.DataChunk(X[at : at + 3], np.s_[at : at + 3, :]) for at in range(0, 12, 3))

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self.chunks)


def test_a_stream_is_appended_where_it_makes_the_dataset_and_by_what_the_message_asks_for(target: Path) -> None:
    write(target, Rows().chunks, append=True)
    np.testing.assert_array_equal(read(target), X)
    words = r"this stream has none\. Give an array of all of its rows, or an iterator .*attributes maxshape=\(rows"
    for keywords in ({"append": True}, {"region": ...}):
        with pytest.raises(ArgumentError, match=words):
            write(target, Rows().chunks, **keywords)
    write(target, Rows(), append=True)
    write(target, np.concatenate([chunk.data for chunk in Rows()]), append=True)
    np.testing.assert_array_equal(read(target), np.concatenate([X, X, X]))


# Refused before anything is read


def no_folder(path: Path) -> tuple[Any, ...]:
    return path / "none" / "out.h5", {}


def a_directory(path: Path) -> tuple[Any, ...]:
    (path / "out.h5").mkdir()
    return path / "out.h5", {}


def not_hdf5(path: Path) -> tuple[Any, ...]:
    (path / "out.h5").write_text("mine")
    return path / "out.h5", {}


def exists(path: Path) -> tuple[Any, ...]:
    write(path / "out.h5")
    return path / "out.h5", {}


def below_a_dataset(path: Path) -> tuple[Any, ...]:
    write(path / "out.h5")
    return path / "out.h5", {"name": "/x/y"}


def behind_an_external_link(path: Path) -> tuple[Any, ...]:
    write(path / "other.h5", name="/g/x")
    with h5py.File(path / "out.h5", "w") as file:
        file["far"] = h5py.ExternalLink("other.h5", "/g")
    return path / "out.h5", {"name": "/far/y"}


def into_an_external_link(path: Path) -> tuple[Any, ...]:
    behind_an_external_link(path)
    return path / "out.h5", {"name": "/far/x", "region": ...}


def unfinished(path: Path) -> tuple[Any, ...]:
    cut_off(path / "out.h5")
    return path / "out.h5", {}


def no_axis_to_grow(path: Path) -> tuple[Any, ...]:
    write(path / "out.h5")
    return path / "out.h5", {"append": True}


REFUSED = [no_folder, a_directory, not_hdf5, exists, below_a_dataset, behind_an_external_link, into_an_external_link]
REFUSED += [unfinished, no_axis_to_grow]


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("scheduler", ["threads", "cluster"])
def test_what_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path: Path, thread_client: Client, case: Any, scheduler: str
) -> None:
    path, keywords = case(tmp_path)
    lock, computed = threading.Lock(), []

    def block(block: Any) -> Any:
        with lock:
            computed.append(1)
        return block + 1

    # The blocks are needed by more than their own writes.
    data = da.from_array(X, chunks=(4, 8)).map_blocks(block, dtype=X.dtype, meta=X[:0])
    data = data + data.sum()
    runner = thread_client if scheduler == "cluster" else scheduler
    with pytest.raises((TargetError, ArgumentError)) as caught:
        write(path, data, scheduler=runner, **keywords)
    assert not computed
    try:
        planned = dcio.plan(path, keywords.pop("name", "/x"), data, scheduler=runner, **keywords)
    except (TargetError, ArgumentError) as error:
        # (Without the part of a dataset there is no plan.)
        assert keywords
        problem = str(error)
    else:
        assert not planned.fits
        assert f"CANNOT BE WRITTEN: {planned.target_problem}" in repr(planned)
        problem = planned.target_problem.split(",")[0].split(" holds ")[0]
    assert problem in str(caught.value)
    assert not computed


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path) and may(path, mode))
    with pytest.raises(TargetError, match="where side files are kept"):
        write(tmp_path / "out.h5")
    assert "where side files are kept" in dcio.plan(tmp_path / "out.h5", "/x", X).target_problem


def test_a_plan_of_what_can_be_written_touches_nothing(place: Path) -> None:
    before = sorted(os.listdir(place.parent))
    planned = dcio.plan(place, "/x", X)
    assert planned.fits
    assert planned.target_problem == ""
    assert sorted(os.listdir(place.parent)) == before


# What a file has besides its content


def attributes(path: Path) -> dict[str, Any]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def test_a_file_that_is_replaced_keeps_owner_mode_and_attributes(target: Path) -> None:
    write(target)
    target.chmod(0o640)
    try:
        os.setxattr(target, "user.note", b"mine")
    except (OSError, AttributeError):
        pytest.skip("no extended attributes here")
    if os.geteuid() == 0:
        os.chown(target, 1234, 4321)
    before = target.stat(), attributes(target)
    write(target, X + 1, overwrite=True)
    after = target.stat(), attributes(target)
    assert before[0].st_ino != after[0].st_ino
    for name in ("st_mode", "st_uid", "st_gid"):
        assert getattr(before[0], name) == getattr(after[0], name)
    assert before[1] == after[1]


def test_a_file_of_several_names_keeps_them(target: Path) -> None:
    write(target)
    other = target.with_name("other.h5")
    os.link(target, other)
    write(target, X + 1, overwrite=True)
    assert target.samefile(other)
    np.testing.assert_array_equal(read(other), X + 1)


def test_attributes_that_cannot_be_given_stay(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(target)
    listed = os.listxattr
    monkeypatch.setattr(os, "listxattr", lambda path: [*listed(path), "trusted.mine"])
    before = target.stat().st_ino
    write(target, X + 1, overwrite=True)
    assert target.stat().st_ino == before
    np.testing.assert_array_equal(read(target), X + 1)


# Waiting


def test_calls_that_wait_take_no_thread_from_the_one_that_they_wait_for(target: Path, thread_client: Client) -> None:
    calls = [write(target, X + n, f"/x{n}", wait=True, compute=False) for n in range(4)]
    results = thread_client.gather(thread_client.compute(calls), direct=False)
    assert len(results) == 4
    for number in range(4):
        np.testing.assert_array_equal(read(target, f"x{number}"), X + number)


def test_a_delayed_on_threads_does_not_wait_for_its_own_scheduler(target: Path) -> None:
    calls = [write(target, X + n, f"/x{n}", wait=True, compute=False) for n in range(2)]
    with h5py.File(target, "w"), pytest.raises(TargetBusyError):
        compute(*calls, scheduler="synchronous")


STORMS = {"busy_writes": "times 24 calls", "scripted_writes": "scripts"}


@pytest.mark.heavy
@pytest.mark.parametrize("script", STORMS)
def test_longer_storms(script: Any) -> None:
    storm(script, os.environ.get("DASK_CHUNKIO_STORMS", "10"))


def storm(script: Any, runs: Any) -> None:
    done = run_python("-m", f"tests.support.kills.{script}", "--runs", runs)
    assert done.returncode == 0, done.stderr
    assert f"{runs} {STORMS[script]}" in done.stdout


# What discard and recover leave where they are cut off


@pytest.mark.parametrize("keywords", [{"resume": True}, {}])
def test_a_discard_that_was_cut_off_is_completed_by_the_next_write(
    target: Path, keywords: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had hidden in the file is gone: nothing can be resumed."""
    with h5py.File(target, "w") as file:
        file["old"] = [1, 2]
    cut_off(target)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", _cut_off)
        with pytest.raises(KeyboardInterrupt):
            dcio.discard(target)
    with pytest.raises(TargetError, match=r"was discarded, or its file moved; discard what is left"):
        dcio.recover(target)
    write(target, chunks=(4, 8), **keywords)
    np.testing.assert_array_equal(read(target), X)
    assert not Path(f"{target}.writing").exists()


@pytest.mark.parametrize("keywords", [{"resume": True}, {}])
def test_a_recovery_that_was_cut_off_as_it_removed_the_folder_is_completed(
    target: Path, keywords: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(target)
    moved = target.with_name("moved.h5")
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", _cut_off)
        with pytest.raises(KeyboardInterrupt):
            dcio.recover(target, moved)
    assert moved.exists()
    with pytest.raises(TargetError, match=r"was discarded, or its file moved; discard what is left"):
        dcio.recover(target)
    write(target, chunks=(4, 8), **keywords)
    np.testing.assert_array_equal(read(target), X)
    assert not Path(f"{target}.writing").exists()


@pytest.mark.parametrize("place", ["new", "existing"])
def test_more_chunks_than_can_be_counted_are_refused_before_anything_is_made(tmp_path: Path, place: str) -> None:
    path = tmp_path / "out.h5"
    if place == "existing":
        dcio.to_hdf5(path, "/old", X, chunks=(4, 8))
    huge = np.broadcast_to(np.uint8(7), (10**12,))
    with pytest.raises(ArgumentError, match=r"/x: .* has 1000000000000 chunks, .* give it larger chunks"):
        dcio.to_hdf5(path, "/x", huge, chunks=(1,), buffer_shape=(10**6,), compression="gzip")
    assert [one.name for one in tmp_path.iterdir()] == (["out.h5"] if place == "existing" else [])


def _cut_off(*_: Any) -> None:
    raise KeyboardInterrupt
