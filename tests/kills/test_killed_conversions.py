"""Conversions of zarr stores and HDF5 files that are killed."""

import os
from pathlib import Path

import pytest

from tests.support.kills.conversions import convert, make_old, make_source, require_whole
from tests.support.processes import run_python

# Ends the process in the midst of the chunks.
SCRIPT = """
import os, sys
from pathlib import Path
from dask_chunkio.integrations.zarr.chunk_copy import ChunkCopy
from dask_chunkio.sources import array
from tests.support.kills.conversions import convert

calls = []

def dying(function, most):
    def called(*words, **keywords):
        # Nothing is read when the write is planned.
        calls.extend([1] if words[-1] != () else [])
        return os._exit(9) if len(calls) > most else function(*words, **keywords)
    return called

ChunkCopy.copy, array.zarr_payloads = dying(ChunkCopy.copy, 60), dying(array.zarr_payloads, 1)
convert(Path(sys.argv[1]), Path(sys.argv[2]), len(sys.argv) > 3)
"""


@pytest.mark.parametrize("way", ["to HDF5", "to zarr", "replaced"])
def test_a_killed_conversion_is_run_again(tmp_path: Path, way: str) -> None:
    source = make_source(tmp_path, way != "to HDF5")
    target = tmp_path / ("out.h5" if way == "to HDF5" else "out.zarr")
    if way == "replaced":
        make_old(target)
    done = run_python("-c", SCRIPT, source, target, *(["replaced"] if way == "replaced" else []))
    assert done.returncode == 9, done.stderr
    assert target.exists() == (way == "replaced")
    assert any(path.name.startswith(f"{target.name}.") for path in tmp_path.iterdir())
    convert(source, target, way == "replaced")
    require_whole(target)
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name, "begun"}


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_killed_conversions() -> None:
    done = run_python("-m", "tests.support.kills.conversions", "--kills", os.environ.get("DASK_CHUNKIO_KILLS", "60"))
    assert done.returncode == 0, done.stderr
