"""Files that need a filter plugin, read in processes that have not loaded it, or do not have it."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

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
def packed(tmp_path):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = tmp_path / "packed.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=DATA, chunks=(10, 100), **hdf5plugin.Zstd())
        file.create_dataset("plain", data=DATA, chunks=(10, 100), compression="gzip")
    return path


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout


VERIFY = "import sys, dask_chunkio as d; f = d.verify(sys.argv[1]); print(f.ok, f.checked, f.problems, *f.undecodable)"


def test_verify_loads_the_plugins_that_are_installed(packed):
    assert run(VERIFY, packed).split() == ["True", "8", "()"]


def test_a_missing_plugin_is_not_damage(packed):
    found = run(BLOCKED + VERIFY, packed)
    assert found.startswith("False 4 () /x: cannot decode: plugin zstd (32015) is missing; install it")
    assert "pip install hdf5plugin" in found


def test_the_command_line_says_by_its_status_that_a_plugin_is_missing(packed):
    script = BLOCKED + "from dask_chunkio.cli import main; main(['verify', sys.argv[1]])"
    done = subprocess.run([sys.executable, "-c", script, str(packed)], capture_output=True, text=True, check=False)
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


@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_a_source_loads_the_plugins_that_are_installed(packed, tmp_path, scheduler):
    script = tmp_path / "write.py"
    script.write_text(WRITE)
    output = tmp_path / "out.h5"
    done = subprocess.run(
        [sys.executable, script, packed, output, scheduler], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    with h5py.File(output) as file:
        np.testing.assert_array_equal(file["y"][...], DATA)


def test_a_source_whose_plugin_is_missing_is_refused_before_anything_is_written(packed, tmp_path):
    found = run(BLOCKED + WRITE, packed, tmp_path / "out.h5", "synchronous")
    assert found.startswith("/x: cannot decode: plugin zstd (32015) is missing")
    assert [path.name for path in tmp_path.iterdir()] == ["packed.h5"]
