"""Our references and those of kerchunk, of one file."""

import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest

from tests.support.processes import run_python
from tests.support.references.files import NUMBERS, make, make_readable, refs

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kerchunk") is None, reason="kerchunk is not installed")

# Without the garbage collector: kerchunk holds h5py's lock while zarr's thread may collect objects of h5py, for ever.
SCRIPT = """
import gc, json, sys, warnings
gc.disable()
warnings.simplefilter("ignore")
from kerchunk.hdf import SingleHdf5ToZarr
path, url, inline = sys.argv[1:]
made = SingleHdf5ToZarr(path, inline_threshold=int(inline), vlen_encode="leave").translate()
made["refs"] = {key: [url, *value[1:]] if isinstance(value, list) else value for key, value in made["refs"].items()}
json.dump(made, sys.stdout)
"""


def kerchunks(path: Path, inline_nbytes: int) -> dict[str, Any]:
    run = run_python("-c", SCRIPT, path, f"file://{path}", inline_nbytes, timeout=100)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)["refs"]
    return found


def plain(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return value
    if key.rpartition("/")[2].startswith(".z"):
        return json.loads(value)
    return base64.b64decode(value.removeprefix("base64:")) if value.startswith("base64:") else value.encode()


@pytest.mark.parametrize("inline_nbytes", [0, 500])
def test_the_places_and_codecs_are_those_of_kerchunk(inline_nbytes: int, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        make_readable(file)
    make(path, tmp_path / "x.json", inline_nbytes)
    ours = {key: plain(key, value) for key, value in refs(tmp_path / "x.json").items()}
    theirs = {key: plain(key, value) for key, value in kerchunks(path, inline_nbytes).items()}
    compared = set()
    for key in ours.keys() & theirs.keys():
        # kerchunk leaves the numbers of strings in the heap, and what it inlines of a compact dataset is encoded again.
        if not key.startswith(("text/", "kinds/records", "compact")) and not key.endswith(".zattrs"):
            compared.add(key)
            if key.endswith(".zarray"):
                compare_arrays(key, ours[key], theirs[key])
            else:
                assert ours[key] == theirs[key], key
    missing = {key.partition("/.zarray")[0] for key in ours.keys() - theirs.keys() if key.endswith("/.zarray")}
    # zarr from 3.2 on refuses the chunks without elements that kerchunk has for a dataset without any.
    missing.discard("unwritten/nothing")
    # kerchunk has no codec for these.
    assert missing == {"filters/fletcher32", "filters/all three", "filters/bzip2", "kinds/opaque"}
    assert len(compared) > 150
    assert not {key for key in theirs if not key.startswith(("text/", "kinds/records"))} - ours.keys()


def compare_arrays(key: str, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    if mine["fill_value"] is None:
        # No chunk is missing.
        theirs = {**theirs, "fill_value": None}
    assert {**mine, "chunks": None} == {**theirs, "chunks": None}, key
    # kerchunk has chunks without elements where the array has none.
    assert mine["chunks"] == [max(1, n) for n in theirs["chunks"]], key


def test_attributes_and_dimensions_of_netcdf(tmp_path: Path) -> None:
    path = tmp_path / "x.nc"
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": 60, "x": 50, "no variable": 4}
        file.attrs["title"] = "ä"
        time = file.create_variable("time", ("time",), "f8", data=np.arange(60.0))
        time.attrs["units"] = "days since 2000-01-01"
        file.create_variable("t", ("time", "x"), "i4", data=NUMBERS, chunks=(16, 25), fillvalue=-9)
        file.create_variable("u", ("no variable",), "f4", data=np.ones(4)).attrs["valid_range"] = np.array([0.0, 1.0])
    make(path, tmp_path / "x.json")
    ours = {key: plain(key, value) for key, value in refs(tmp_path / "x.json").items()}
    theirs = {key: plain(key, value) for key, value in kerchunks(path, 500).items()}
    assert ours == theirs
    assert ours["t/.zattrs"]["_ARRAY_DIMENSIONS"] == ["time", "x"]
    assert ours["t/.zarray"]["fill_value"] == -9
