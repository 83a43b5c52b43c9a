"""What the command line says: by its own options, and on one line."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import dask_chunkio
from dask_chunkio.cli.main import main
from dask_chunkio.cli.terminal import in_options, options_of

OPTIONS = options_of(main)
KEYWORD = re.compile(rf"(?<![\w/.])({'|'.join(OPTIONS)})=")


def texts() -> list[str]:
    """Return every text of the package in which a keyword is named that the command line has an option for."""
    found: list[str] = []
    for path in sorted(Path(dask_chunkio.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        raised = [one for one in ast.walk(tree) if isinstance(one, ast.Raise | ast.Return)]
        strings = {one.value for outer in raised for one in ast.walk(outer) if isinstance(one, ast.Constant)}
        found += [text for text in strings if isinstance(text, str) and KEYWORD.search(text)]
    return sorted(set(found))


def test_every_remedy_is_said_by_an_option() -> None:
    assert len(texts()) > 30
    assert {"overwrite", "resume", "wait", "token", "durability", "memory_limit", "force"} <= OPTIONS.keys()
    for text in texts():
        said = in_options(text, OPTIONS)
        assert not KEYWORD.search(said), said
        assert "--" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pass overwrite=True to replace it", "pass --overwrite to replace it"),
        ("wait for it (wait=True), or", "wait for it (--wait), or"),
        ("go on with resume=True: what", "go on with --resume: what"),
        ("give token='...', any string", "give --token ..., any string"),
        ("chunks=(5,) has 1 axes", "--chunks 5 has 1 axes"),
        ("Give buffer_shape=(40, 8), or a larger memory_limit", "Give --buffer-shape 40,8, or a larger --memory-limit"),
        ("memory_limit='1 cat' is not a size", "--memory-limit 1 cat is not a size"),
        ("give a dtype= that holds them", "give a --out-dtype that holds them"),
        ("scheduler='threads'", "--scheduler threads"),
        ("/data/resume=True/x.h5 and maxshape=(None, 3)", "/data/resume=True/x.h5 and maxshape=(None, 3)"),
    ],
)
def test_keywords_are_said_as_options(words: str, said: str) -> None:
    assert in_options(words, OPTIONS) == said


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def test_errors_of_commands_name_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.arange(40.0).reshape(4, 10))
    write = ("write", "a.npy", "out.h5", "--scheduler", "synchronous", "--no-progress")
    assert run(*write).exit_code == 0
    again = run(*write)
    assert again.exit_code == 1
    assert "pass --overwrite to replace it" in again.output
    assert "=True" not in again.output
    plan = run("plan", "a.npy", "out.h5")
    assert "CANNOT BE WRITTEN" in plan.output
    assert "--overwrite" in plan.output
    cast = run(*write, "--overwrite", "--out-dtype", "i4")
    assert "--out-dtype" in cast.output
    assert "--memory-limit" in run(*write, "--overwrite", "--memory-limit", "many").output
