"""Names and messages out of files reach nobody's terminal as they are."""

import io
import logging
import pickle
import traceback
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from dask_chunkio import errors, status, to_hdf5, verify
from dask_chunkio.cli.main import main
from dask_chunkio.errors import ChunkIOError
from dask_chunkio.printable import printable

# Clears the screen, sets the title, goes back in the line, writes from right to left, and is no character at all.
EVIL = "\x1b[2J\x1b]0;gone\x07\r\x9b31m\u202e\u2066\udcff\x7f\x00"
NAMES = "a\x1b[2J\rb\u202e"


def is_safe(words: str) -> bool:
    return all(one.isprintable() or one in "\n\t" for one in words)


@given(st.text())
def test_what_is_printable_stays_and_the_rest_is_escaped(text: str) -> None:
    shown = printable(text)
    assert is_safe(shown)
    shown.encode()
    if is_safe(text):
        assert shown == text


def test_what_is_too_long_keeps_its_ends() -> None:
    shown = printable("a" * 10**6 + "what to do")
    assert len(shown) < 7000
    assert shown.startswith("aaa")
    assert shown.endswith("what to do")


@pytest.mark.parametrize("name", errors.__all__)
def test_no_error_of_ours_shows_what_a_terminal_obeys(name: str) -> None:
    error = getattr(errors, name)(f"{EVIL}; what to do")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert str(one) == r"\x1b[2J\x1b]0;gone\x07\r\x9b31m\u202e\u2066\udcff\x7f\x00; what to do"
        assert is_safe("".join(traceback.format_exception(one)))
    assert len(str(getattr(errors, name)("x" * 10**7))) < 10_000


def run(*words: object) -> Result:
    done = CliRunner().invoke(main, list(map(str, words)))
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert is_safe(done.output), done.output
    return done


def test_verify_and_its_command_quote_the_names_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / f"{NAMES}.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(NAMES, data=np.arange(40), chunks=(10,), compression="gzip")
        dataset.id.write_direct_chunk((10,), b"no deflate stream")
    found = verify(path)
    assert len(found.problems) == 1
    assert is_safe(found.problems[0])
    done = run("verify", path)
    assert done.exit_code == 1
    assert r"a\x1b[2J\rb\u202e" in done.output


def test_status_and_the_notes_of_a_write_quote_its_names(tmp_path: Path) -> None:
    path = tmp_path / f"{NAMES}.h5"

    class Failing:
        shape, dtype = (4, 10), np.dtype("i4")

        def __getitem__(self, selection: Any) -> None:
            raise ValueError(EVIL)

    with pytest.raises(ChunkIOError) as caught:
        to_hdf5(path, f"/{NAMES}", Failing(), chunks=(2, 10), scheduler="synchronous", progress=False)
    assert caught.value.__notes__
    assert all(map(is_safe, caught.value.__notes__))
    assert is_safe(str(caught.value))
    unfinished = status(path)
    assert unfinished is not None
    assert unfinished.datasets[0].name == f"/{NAMES}"
    assert is_safe(repr(unfinished))
    assert r"a\x1b[2J\rb\u202e" in run("status", path).output
    assert run("recover", path).exit_code == 0
    assert run("discard", "--yes", path).exit_code == 0


def test_the_log_of_a_write_quotes_its_names(tmp_path: Path) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("dask_chunkio")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        to_hdf5(tmp_path / f"{NAMES}.h5", f"/{NAMES}", np.arange(40), progress=False, scheduler="synchronous")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert stream.getvalue()
    assert is_safe(stream.getvalue())


@pytest.mark.parametrize("words", [("status", NAMES), ("write", f"{NAMES}.npy", "out.h5"), ("verify", NAMES)])
def test_a_name_on_the_command_line_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words).exit_code == 1
