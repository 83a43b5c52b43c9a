"""The command references, and the options --references and --references-url of write."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from dask_chunkio.cli.main import main
from tests.support.references.files import NUMBERS, expected, read, refs, require_equal


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", NUMBERS)


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done


def test_write_with_references() -> None:
    run("write", "x.npy", "x.h5", "--compression", "gzip", "--chunks", "16,25", "--references", "x.json")
    require_equal(read("x.json"), expected("x.h5"))
    words = ("x.npy", "y.h5", "--chunks", "16,25", "--references", "y.json", "--references-url", "s3://b/")
    assert f"References to its chunks in {os.path.abspath('y.json')}" in run("plan", *words).output
    run("write", *words)
    assert refs("y.json")["x/0.0"] == ["s3://b/y.h5", *refs("y.json")["x/0.0"][1:]]
    text = run("write", "x.npy", "z.h5", "--compression", "lzf", "--references", "z.json", code=1).stderr
    assert "/x: --references cannot describe it" in text


def test_of_any_file() -> None:
    with h5py.File("x.h5", "w") as file:
        file.create_dataset("x", data=NUMBERS, chunks=(16, 25))
        file["lost"] = h5py.Empty("i4")
    text = run("references", "x.h5", "-o", "x.json", code=1).stderr
    assert "/lost: it has no elements" in text
    assert "--skip-unsupported" in text
    assert text.count("\n") == 1
    assert not os.path.exists("x.json")
    text = run("references", "x.h5", "-o", "x.json", "--skip-unsupported", "--url", "s3://b/x.h5").stdout
    assert "8 chunks of 1 datasets in s3://b/x.h5" in text
    assert "left out: /lost" in text
    run("references", "x.h5", "-o", "x.json", "--skip-unsupported", "--inline-nbytes", "100000")
    assert all(isinstance(value, str) for value in refs("x.json").values())
