"""Sources that need a filter plugin or a codec, read in processes that have not loaded it, or do not have it."""

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from dask_chunkio import plan, to_hdf5
from dask_chunkio.cli.main import main
from dask_chunkio.errors import FilterError

DATA = np.arange(4000, dtype="i4").reshape(40, 100)
# In front of the one that is installed: in the process that decodes, too.
BLOCKED = """
import os, sys, tempfile
folder = tempfile.TemporaryDirectory()
with open(os.path.join(folder.name, "hdf5plugin.py"), "w") as file:
    file.write("raise ImportError('not here')")
sys.path.insert(0, folder.name)
"""


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = tmp_path / "packed.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=DATA, chunks=(10, 100), **hdf5plugin.Zstd())
        file.create_dataset("plain", data=DATA, chunks=(10, 100), compression="gzip")
    return path


def ended(*words: object) -> subprocess.CompletedProcess[str]:
    """Run Python without the plugins of netCDF4, which its import adds to the environment of the process."""
    environment = {name: value for name, value in os.environ.items() if name != "HDF5_PLUGIN_PATH"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def run(script: str, *arguments: object) -> str:
    done = ended("-c", script, *arguments)
    assert not done.returncode, done.stderr
    return done.stdout


VERIFY = "import sys, dask_chunkio as d; f = d.verify(sys.argv[1]); print(f.ok, f.checked, f.problems, *f.undecodable)"


def test_verify_loads_the_plugins_that_are_installed(packed: Path) -> None:
    assert run(VERIFY, packed).split() == ["True", "8", "()"]


def test_a_missing_plugin_is_not_damage(packed: Path) -> None:
    found = run(BLOCKED + VERIFY, packed)
    assert found.startswith("False 4 () /x: cannot decode: plugin zstd (32015) is missing; install it")
    assert "pip install hdf5plugin" in found


def test_the_command_line_says_by_its_status_that_a_plugin_is_missing(packed: Path) -> None:
    script = BLOCKED + "from dask_chunkio.cli.main import main; main(['verify', sys.argv[1]])"
    done = ended("-c", script, packed)
    assert done.returncode == 3, done.stderr
    assert "no problems" in done.stdout
    assert "not checked: /x: cannot decode: plugin zstd (32015) is missing" in done.stdout


WRITE = """
import sys, h5py, dask_chunkio as d
if __name__ == "__main__":
    with h5py.File(sys.argv[1]) as file:
        try:
            d.to_hdf5(sys.argv[2], "/y", file["x"], scheduler=sys.argv[3], progress=False, buffer_shape=(10, 100))
        except d.errors.FilterError as error:
            print(error)
"""


@pytest.mark.parametrize("scheduler", ["synchronous", pytest.param("processes", marks=pytest.mark.heavy)])
def test_a_source_loads_the_plugins_that_are_installed(packed: Path, tmp_path: Path, scheduler: str) -> None:
    script = tmp_path / "write.py"
    script.write_text(WRITE)
    output = tmp_path / "out.h5"
    done = ended(script, packed, output, scheduler)
    assert not done.returncode, done.stderr
    with h5py.File(output) as file:
        np.testing.assert_array_equal(file["y"][...], DATA)


def test_a_source_whose_plugin_is_missing_is_refused_before_anything_is_written(packed: Path, tmp_path: Path) -> None:
    found = run(BLOCKED + WRITE, packed, tmp_path / "out.h5", "synchronous")
    assert found.startswith("/x: cannot decode: plugin zstd (32015) is missing")
    assert [path.name for path in tmp_path.iterdir()] == ["packed.h5"]


# zarr: a codec of numcodecs is looked for when the first chunk is decoded, any other as the array is opened.
ZFPY = {"name": "numcodecs.zfpy", "configuration": {}}
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
SHARDED = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [10, 10],
        "codecs": [ZFPY],
        "index_codecs": [BYTES, {"name": "crc32c"}],
        "index_location": "end",
    },
}
UNKNOWN = {"name": "nosuch", "configuration": {}}


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    zarr = pytest.importorskip("zarr", minversion="3")
    if importlib.util.find_spec("zfpy") is not None:
        pytest.skip("the codec is there")

    def changed(codecs: list[Any], name: str = "a.zarr") -> Path:
        zarr.create_array(tmp_path / name, shape=(40, 20), chunks=(10, 20), dtype="f8")
        metadata = tmp_path / name / "zarr.json"
        metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "codecs": codecs}))
        return tmp_path / name

    return changed


@pytest.mark.parametrize("codecs", [[ZFPY], [SHARDED]])
@pytest.mark.parametrize("call", [plan, to_hdf5])
def test_a_zarr_array_whose_codec_is_missing_is_refused_before_anything_is_read(
    stored: Callable[..., Path], tmp_path: Path, codecs: list[Any], call: Callable[..., Any]
) -> None:
    zarr = pytest.importorskip("zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.open_array(stored(codecs), mode="r")
    with pytest.raises(FilterError, match=r"a\.zarr: cannot decode: codec zfpy is missing; install the package"):
        call(tmp_path / "out.h5", "/x", array)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
@pytest.mark.parametrize(("codecs", "name"), [([ZFPY], "zfpy"), ([BYTES, UNKNOWN], "nosuch")])
@pytest.mark.parametrize("command", ["plan", "write"])
def test_the_command_line_names_the_codec_that_is_missing(
    stored: Callable[..., Path], tmp_path: Path, codecs: list[Any], name: str, command: str
) -> None:
    done = CliRunner().invoke(main, [command, str(stored(codecs)), str(tmp_path / "out.h5")])
    assert done.exit_code == 1
    assert f"a.zarr: cannot decode: codec {name} is missing; install the package" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize(
    "words",
    [
        "Unknown codec: 'nosuch'",
        "An implementation for codec 'nosuch' is not available. Register one explicitly using the codec registry (see "
        "https://zarr.readthedocs.io), or install a Python package that registers a codec implementation with zarr.",
        "codec not available: \"'nosuch'\"",
        "nosuch",
    ],
)
def test_the_name_of_a_codec_is_found_in_what_every_zarr_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    error = type("UnknownCodecError", (ValueError,), {})(words)
    monkeypatch.setattr("zarr.open", mock.Mock(side_effect=error))
    (tmp_path / "a.zarr").mkdir()
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "a.zarr"), str(tmp_path / "out.h5")])
    assert "a.zarr: cannot decode: codec nosuch is missing; install" in done.output


def test_a_codec_that_is_missing_is_not_taken_for_an_array_that_is(stored: Callable[..., Path], tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    zarr.open_group(tmp_path / "g.zarr", mode="w")
    store = stored([BYTES, UNKNOWN], "g.zarr/x").parent
    done = CliRunner().invoke(main, ["plan", f"{store}:/x", str(tmp_path / "out.h5")])
    assert "g.zarr:/x: cannot decode: codec nosuch is missing" in done.output


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
def test_a_zarr_array_whose_codecs_are_here_is_read(stored: Callable[..., Path], tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    lzma = {"name": "numcodecs.lzma", "configuration": {"preset": 1}}
    array = zarr.open_array(stored([BYTES, lzma]), mode="r+")
    array[:] = DATA[:, :20]
    to_hdf5(tmp_path / "out.h5", "/x", array, scheduler="synchronous", progress=False)
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["x"][...], DATA[:, :20])
