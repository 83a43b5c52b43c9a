"""What a user sees of an error: the own frames, and our message last."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
import dask, numpy as np
import dask.array as da
import dask_chunkio as dcio
import dask_chunkio.write
from distributed import Client

class Frames(dcio.GenericDataChunkIterator):
    def _get_data(self, selection):
        return read_frames(selection)
    def _get_maxshape(self):
        return (40, 10)
    def _get_dtype(self):
        return np.dtype("i4")

def read_frames(selection):
    raise ValueError("the camera was off")

def bad_block(block):
    raise ValueError("the camera was off")

def write(source, **keywords):
    dcio.to_hdf5(f"{kind}.h5", "/x", source, progress=False, chunks=(10, 10), **keywords)

if __name__ == "__main__":
    scheduler, *kinds = sys.argv[1:]
    for kind in kinds:
        # The last one in this process, the others in one like it.
        if kind == kinds[-1] or os.fork() == 0:
            os.dup2(os.open(f"{kind}.txt", os.O_WRONLY | os.O_CREAT), 2)
            break
        _, status = os.wait()
        assert os.waitstatus_to_exitcode(status) == 1, f"{kind} ended with {status}"
    client = None
    if scheduler == "cluster":
        client = Client(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None)
        scheduler = client
    if kind == "everything":
        dask.config.set({"admin.traceback.shorten": []})
    if kind == "mistake":
        write(np.zeros((40, 10)), compression="gzp")
    elif kind == "array":
        write(da.zeros((40, 10), chunks=(10, 10)).map_blocks(bad_block, dtype="f8"), scheduler=scheduler)
    elif kind == "delayed":
        dcio.to_hdf5(f"{kind}.h5", "/x", Frames(), compute=False).compute(scheduler=scheduler)
    else:
        write(Frames(buffer_shape=(10, 10), chunk_shape=(10, 10)), scheduler=scheduler)
"""


KINDS = ("mistake", "array", "delayed", "everything", "source")


def run(folder: Path, scheduler: str, *kinds: str) -> dict[str, list[str]]:
    """Return the lines of the traceback with which a script ends, for each kind."""
    script = folder / "measure.py"
    script.write_text(textwrap.dedent(SCRIPT))
    words = [sys.executable, "-W", "ignore", str(script), scheduler, *kinds]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 1, done.stderr
    said = {kind: (folder / f"{kind}.txt").read_text(encoding="utf-8") for kind in kinds}
    return {
        kind: words[words.index("Traceback (most recent call last)") :].splitlines() for kind, words in said.items()
    }


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """From threads: what takes a second is the import of everything, which is done once."""
    return run(tmp_path_factory.mktemp("shown"), "threads", *KINDS)


def files(lines: list[str]) -> list[str]:
    return [line.split('"')[1] for line in lines if line.startswith('  File "')]


def functions(lines: list[str]) -> list[str]:
    return [line.rpartition(" in ")[2] for line in lines if line.startswith('  File "')]


def last_message(lines: list[str]) -> str:
    return next(line for line in reversed(lines) if line.startswith("dask_chunkio.errors."))


def test_a_mistake_shows_the_call_and_our_message(shown: dict[str, list[str]]) -> None:
    lines = shown["mistake"]
    assert {os.path.basename(name) for name in files(lines)} == {"measure.py"}
    assert functions(lines) == ["<module>", "write"]
    assert last_message(lines).startswith("dask_chunkio.errors.ArgumentError: /x: compression='gzp' is not known")


@pytest.mark.heavy
@pytest.mark.parametrize("scheduler", ["processes", "cluster"])
def test_an_error_of_a_source_in_another_process_shows_its_frames_and_the_call(tmp_path: Path, scheduler: str) -> None:
    check_source(run(tmp_path, scheduler, "source")["source"])


def test_an_error_of_a_source_shows_its_frames_and_the_call(shown: dict[str, list[str]]) -> None:
    check_source(shown["source"])


def check_source(lines: list[str]) -> None:
    assert functions(lines) == ["_get_data", "read_frames", "<module>", "write"]
    assert "ValueError: the camera was off" in lines
    assert "the camera was off" in last_message(lines)


def test_an_error_of_an_upstream_task_shows_its_frames_and_the_call(shown: dict[str, list[str]]) -> None:
    lines = shown["array"]
    assert {os.path.basename(name) for name in files(lines)} == {"measure.py"}, "\n".join(lines)
    assert functions(lines) == ["bad_block", "<module>", "write"]
    assert "/x" in last_message(lines)
    assert "the camera was off" in last_message(lines)


def test_a_graph_that_is_computed_elsewhere_shows_the_frames_of_its_source(shown: dict[str, list[str]]) -> None:
    lines = shown["delayed"]
    own = [name for name in files(lines) if os.path.basename(name) != "measure.py"]
    assert not [name for name in own if f"{os.sep}dask_chunkio{os.sep}" in name], "\n".join(lines)
    assert functions(lines)[:3] == ["_get_data", "read_frames", "<module>"]


def test_a_setting_of_dasks_shows_everything(shown: dict[str, list[str]]) -> None:
    names = files(shown["everything"])
    assert [name for name in names if f"{os.sep}dask_chunkio{os.sep}" in name]
