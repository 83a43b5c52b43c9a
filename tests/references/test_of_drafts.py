"""References that a draft makes of its file when it has its name."""

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
from hdmf.backends.hdf5 import H5DataIO
from hdmf.build import BuildManager, DatasetBuilder, GroupBuilder, TypeMap
from hdmf.spec import NamespaceCatalog

import dask_chunkio
from dask_chunkio import draft
from dask_chunkio.errors import ArgumentError, TargetError, TargetExistsError
from dask_chunkio.integrations.hdmf import HDF5IO
from dask_chunkio.integrations.xarray import to_netcdf
from dask_chunkio.references import datasets, of_draft, output
from dask_chunkio.storage.chunk_index import list_stored
from tests.support.processes import run_python
from tests.support.references.files import FLOATS, NUMBERS, expected, read, refs, require_equal

FORM: dict[str, Any] = {"chunks": (16, 25), "compression": "gzip", "shuffle": True}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The datasets for whose chunks HDF5 is asked."""
    names: list[str] = []
    real = list_stored

    def noted(dataset: h5py.Dataset) -> Any:
        names.append(dataset.name)
        return real(dataset)

    monkeypatch.setattr(datasets, "list_stored", noted)
    return names


def make(path: str, names: Sequence[str] = ("x", "y", "own")) -> None:
    with h5py.File(path, "w") as file:
        for name in names:
            file.create_dataset(name, NUMBERS.shape, "f8", **FORM)
        file["own"][...] = 3 * NUMBERS
        file["alias"] = file["x"]


def require_right(left_out: Sequence[str] = ()) -> None:
    right = expected("x.h5")
    for name in left_out:
        del right[name]
    require_equal(read("x.json"), right)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", pytest.param("processes", marks=pytest.mark.heavy)])
def test_what_was_filled_is_not_looked_up(listed: list[str], scheduler: str) -> None:
    with draft("x.h5", references="x.json") as new:
        make(new.path)
        new.fill({"/x": NUMBERS, "/made": NUMBERS}, scheduler=scheduler, progress=False)
        result = new.fill("/y", da.from_array(2 * NUMBERS, chunks=(20, 50)), scheduler=scheduler, progress=False)
        assert not os.path.exists("x.json")
    assert result.places is None
    assert listed == ["/own"]
    require_right()
    assert sorted(os.listdir()) == ["x.h5", "x.json"]


def rewrite(name: str) -> Any:
    def change(new: Any) -> None:
        with h5py.File(new.path, "r+") as file:
            file[name][...] = np.random.default_rng(0).random(NUMBERS.shape)

    return change


def replace(new: Any) -> None:
    with h5py.File(new.path, "r+") as file:
        del file["x"]
        file.create_dataset("x", data=NUMBERS, chunks=(4, 4))


CHANGES: dict[str, Any] = {
    "by another program": rewrite("x"),
    "replaced": replace,
    "by a fill of a part": lambda new: new.fill("/alias", NUMBERS[:20] + 0.125, region=np.s_[:20], progress=False),
    "by a fill of the same": lambda new: new.fill("/x", NUMBERS + 0.125, progress=False),
    "by a fill of another name": lambda new: new.fill("/alias", NUMBERS + 0.125, progress=False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_since_it_was_filled_is_found_where_it_is(change: str) -> None:
    with draft("x.h5", references="x.json") as new:
        make(new.path)
        new.fill({"/x": NUMBERS}, progress=False)
        CHANGES[change](new)
        new.fill({"/y": NUMBERS}, progress=False)
    require_right()


def test_a_change_in_the_same_tick_of_the_clock_is_noticed(listed: list[str]) -> None:
    with draft("x.h5", references="x.json") as new:
        make(new.path)
        new.fill({"/x": NUMBERS}, progress=False)
        known = os.stat(new.path)
        with open(new.path, "r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(first)
        # As if the clock had not gone on since the fill.
        os.utime(new.path, ns=(known.st_atime_ns, known.st_mtime_ns + of_draft._MARK_NS))
        assert os.stat(new.path).st_size == known.st_size
    assert "/alias" in listed
    require_right()


def test_a_file_system_without_such_times_is_looked_at(monkeypatch: pytest.MonkeyPatch, listed: list[str]) -> None:
    monkeypatch.setattr(of_draft, "_MARK_NS", 0)
    with draft("x.h5", references="x.json") as new:
        make(new.path)
        new.fill({"/x": NUMBERS}, progress=False)
    assert "/alias" in listed
    require_right()


def test_jobs_make_them_once() -> None:
    for number in range(3):
        assert not os.path.exists("x.json")
        with draft("x.h5", part=(number, 3), references="x.json") as new:
            if new.is_new:
                make(new.path)
            new.fill("/x", NUMBERS, progress=False)
    require_right()


def test_an_existing_file_and_a_folder_of_parquet_files() -> None:
    make("x.h5")
    with draft("x.h5", mode="a", references="x.parquet", references_url="s3://bucket/") as new:
        new.fill("/more", NUMBERS, progress=False, **FORM)
    assert os.path.isfile("x.parquet/.zmetadata")
    with draft("x.h5", mode="a", references="x.json", references_url="s3://bucket/") as new:
        new.fill("/x", FLOATS, progress=False)
    assert refs("x.json")["alias/0.0"][0] == "s3://bucket/x.h5"


def test_what_cannot_be_referenced_is_left_out_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    with draft("x.h5", references="x.json") as new:
        make(new.path)
        with h5py.File(new.path, "r+") as file:
            file.create_dataset("rows", (3,), h5py.ref_dtype)
            file.create_dataset("lzf", NUMBERS.shape, "i4", compression="lzf")
        with pytest.raises(ArgumentError, match="/lzf: references= cannot describe it"):
            new.fill("/lzf", NUMBERS, progress=False)
        new.fill("/x", NUMBERS, progress=False)
    assert "x.json does not contain /rows" in caplog.text
    require_right(["rows", "lzf"])


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"references": "x.txt"}, ArgumentError, "has no ending"),
        ({"references": "x.json", "references_url": ""}, ArgumentError, "url='' is empty"),
        ({"references": "no/x.json"}, TargetError, "there is no folder"),
        ({"references": "taken.json"}, TargetExistsError, "holds no references"),
    ],
    ids=str,
)
def test_mistakes_are_refused_before_anything_is_made(keywords: Any, error: type[Exception], words: str) -> None:
    Path("taken.json").write_text("mine")
    with pytest.raises(error, match=words), draft("x.h5", **keywords):
        pytest.fail("it has begun")
    assert os.listdir() == ["taken.json"]


def test_a_draft_that_fails_has_none() -> None:
    def failing() -> None:
        with draft("x.h5", references="x.json") as new:
            make(new.path)
            new.fill("/x", NUMBERS, progress=False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert not os.path.exists("x.json")
    with draft("x.h5", resume=True, references="x.json") as new:
        new.fill("/x", NUMBERS, progress=False)
    require_right()


def test_a_file_whose_references_cannot_be_written_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    new = draft("x.h5", references="x.json").open()
    make(new.path)
    new.fill("/x", NUMBERS, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(output, "pwrite_all", _no_space)
        with pytest.raises(TargetError, match=r"x\.h5 is written and whole, but not its references"):
            new.publish()
    assert repr(new).endswith("closed>")
    assert os.listdir() == ["x.h5"]
    dask_chunkio.write_references("x.h5", "x.json")
    require_right()


def _no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


SCRIPT = """
import os, signal, sys
import h5py, numpy as np
import dask_chunkio
from dask_chunkio.references import of_draft
from tests.references.test_of_drafts import NUMBERS, make

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "kill":
    of_draft.references_of_write = killed
with dask_chunkio.draft("x.h5", resume=True, references="x.json") as new:
    if new.is_new:
        make(new.path)
    new.fill({"/x": NUMBERS, "/y": NUMBERS}, scheduler="synchronous", progress=False)
"""


def test_a_script_that_is_killed_before_it_makes_them_makes_them_when_it_is_run_again() -> None:
    Path("script.py").write_text(SCRIPT)
    assert run_python("script.py", "kill").returncode == -signal.SIGKILL
    assert os.path.exists("x.h5")
    assert not os.path.exists("x.json")
    run_python("script.py", "again", check=True)
    require_right()
    assert sorted(os.listdir()) == ["script.py", "x.h5", "x.json"]


def test_a_netcdf_file(listed: list[str]) -> None:
    data = xr.Dataset({"t": (("time", "x"), NUMBERS)}, coords={"time": np.arange(NUMBERS.shape[0])}).chunk(time=20)
    keywords: Any = {"references": "x.json", "progress": False}
    encoding = {"t": {"zlib": True, "chunksizes": (16, 25)}}
    to_netcdf(data, "x.h5", encoding=encoding, unlimited_dims=["time"], **keywords)
    assert "/t" not in listed
    require_right(["x"])
    again = data.assign_coords(time=data.time + NUMBERS.shape[0])
    for _ in range(2):
        to_netcdf(again, "x.h5", "a", append_dim="time", token="second", **keywords)
        require_right(["x"])
        os.unlink("x.json")


def test_a_file_of_hdmf() -> None:
    builder = GroupBuilder("root")
    builder.set_dataset(DatasetBuilder("x", H5DataIO(FLOATS, **FORM)))
    builder.set_dataset(DatasetBuilder("small", NUMBERS))
    keywords: Any = {"parallel_threshold": 0, "layout": "cloud", "references": "x.json", "progress": False}
    with HDF5IO("x.h5", manager=BuildManager(TypeMap(NamespaceCatalog())), mode="w", **keywords) as io:
        io.write_builder(builder)
    require_right()
