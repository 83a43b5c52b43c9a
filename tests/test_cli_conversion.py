"""Whole zarr stores and HDF5 files on the command line."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result

from dask_chunkio.cli.main import main
from dask_chunkio.integrations.zarr.compat import quiet

DATA = np.arange(600, dtype="i2").reshape(30, 20)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = zarr.open_group("in.zarr", mode="w", attributes={"day": 1})
    for name in ("a", "g/b"):
        root.create_array(name, data=DATA, chunks=(10, 20))
    with h5py.File("in.h5", "w") as file:
        file.create_dataset("g/x", data=DATA, chunks=(10, 20), compression="gzip")
        file["g"].attrs["day"] = 1


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def done(*words: str) -> str:
    result = run(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def failed(words: tuple[str, ...], message: str, code: int = 1) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr.splitlines()[-1]


def test_a_store_becomes_a_file() -> None:
    assert "out.h5: 2 arrays in" in done("write", "in.zarr", "out.h5", "--no-progress")
    with h5py.File("out.h5") as file:
        assert np.array_equal(file["g/b"], DATA)
        assert file.attrs["day"] == 1
        assert file["a"].id.get_create_plist().get_filter(0)[0] == 32015
    options = ("--overwrite", "--compression", "gzip", "--compression-opts", "2", "--shuffle", "--no-progress")
    done("write", "in.zarr", "out.h5", *options)
    with h5py.File("out.h5") as file:
        assert (file["a"].compression, file["a"].compression_opts, file["a"].shuffle) == ("gzip", 2, True)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_file_becomes_a_store(zarr_format: int) -> None:
    words = ("write", "in.h5", "out.zarr/", "--zarr-format", str(zarr_format), "--threads", "2")
    assert "1 array in" in done(*words)
    with quiet():
        root: Any = zarr.open_group("out.zarr", mode="r")
        assert root.metadata.zarr_format == zarr_format
        assert root["g"].attrs["day"] == 1
        assert np.array_equal(root["g/x"][...], DATA)
    failed(words, "out.zarr exists already; give --overwrite to replace it")
    done(*words, "--overwrite")


def test_one_array_is_written_as_before() -> None:
    done("write", "in.zarr:/g/b", "out.h5", "--no-progress")
    with h5py.File("out.h5") as file:
        assert set(file) == {"b"}
        assert not file["b"].attrs


def test_what_is_left_out_is_listed() -> None:
    with h5py.File("in.h5", "r+") as file:
        file["link"] = h5py.SoftLink("/g")
    failed(("write", "in.h5", "out.zarr"), "leave them out with --skip-unsupported: /link: it is a link to /g")
    result = run("write", "in.h5", "out.zarr", "--skip-unsupported")
    assert result.exit_code == 0
    assert ", 1 left out" in result.stdout
    assert result.stderr == "left out: /link: it is a link to /g, and zarr has no links\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("in.h5", "out.zarr", "--chunks", "5,5"), "--chunks is for the write of one array"),
        (("in.h5", "out.zarr", "--out-dtype", "f4"), "--out-dtype is for the write of one array"),
        (("in.h5", "out.zarr", "--part", "0/2"), "--part is for the write of one array"),
        (("in.h5", "out.zarr", "--plan"), "--plan is for the write of one array"),
        (("in.zarr", "out.h5", "--layout", "cloud"), "--layout is for the write of one array"),
        (("in.zarr", "out.h5", "--references", "out.json"), "--references is for the write of one array"),
        (("in.h5", "out.zarr", "--memory-limit", "1GB"), "leave --memory-limit"),
        (("in.h5", "out.zarr", "--compression", "none"), "--compression none: each array keeps its own filters"),
        (("in.h5", "out.zarr", "--compression", "lzf"), "zarr has no codecs that are equal"),
        (("in.h5:/g/x", "out.zarr"), "a whole HDF5 file"),
        (("in.h5", "out.zarr:/x"), "a whole HDF5 file"),
        (("in.zarr", "out.zarr"), "the source is no HDF5 file"),
        (("nothing.h5", "out.zarr"), "the source is no HDF5 file"),
        (("in.zarr", "out.h5", "--zarr-format", "2"), "--zarr-format and --threads are for a conversion to zarr"),
        (("in.h5", "out.h5", "--skip-unsupported"), "--skip-unsupported is for the conversion"),
        (("in.h5", "out.h5", "--zarr-format", "2"), "--zarr-format is for the conversion"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str) -> None:
    failed(("write", *words), message)
    assert sorted(path.name for path in Path().iterdir()) == ["in.h5", "in.zarr"]


def test_a_plan_is_of_one_array() -> None:
    failed(("plan", "in.zarr", "out.h5"), "--plan is for the write of one array")
