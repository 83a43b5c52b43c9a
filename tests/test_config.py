import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.config import settings
from dask_chunkio.errors import ArgumentError

DATA = np.zeros((4096, 64), "i2")


def buffers(**keywords: Any) -> dcio.BufferGrid:
    return dcio.plan("out.h5", "/x", DATA, scheduler="threads", **keywords).datasets[0].buffers


def test_defaults_are_the_documented_ones() -> None:
    found = settings()
    assert (found.buffer_nbytes, found.chunk_nbytes, found.buffers_per_thread) == (64 << 20, 1 << 20, 4)
    assert (found.memory_limit, found.durability, found.wait, found.progress) == (None, "process", False, None)
    assert found.log_seconds == 60


def test_it_is_read_at_the_time_of_a_call(target: Path) -> None:
    with dask.config.set({"chunkio.chunk-size": "16KiB", "chunkio.buffer-size": 32768, "num_workers": 2}):
        chosen = buffers()
        assert chosen.chunks.chunk_shape == (128, 64)
        assert chosen.buffer_shape == (256, 64)
        assert buffers(chunks=(64, 64), buffer_shape=(512, 64)).buffer_shape == (512, 64)
    assert buffers().chunks.chunk_shape == (4096, 64)
    with dask.config.set({"chunkio.buffers-per-thread": 16, "num_workers": 2}):
        assert len(buffers(chunks=(64, 64))) == 32
    with dask.config.set({"chunkio.memory-limit": "400MB"}):
        planned = dcio.plan(target, "/x", DATA)
        assert planned.memory_nbytes == int(4e8 * 0.6) - (128 << 20)
        assert dcio.plan(target, "/x", DATA, memory_limit="2GB").memory_nbytes == int(2e9 * 0.6) - (128 << 20)


def test_durability_and_progress(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with dask.config.set({"chunkio.durability": "power", "chunkio.progress": True}):
        dcio.to_hdf5(target, "/x", DATA, scheduler="synchronous")
        assert "/x: 100%" in capsys.readouterr().err
        dcio.to_hdf5(target, "/y", DATA, scheduler="synchronous", progress=False)
        assert capsys.readouterr().err == ""
    with dask.config.set({"chunkio.durability": "none"}):
        with pytest.raises(ArgumentError, match="durability='none' is not one of 'process', 'power'"):
            dcio.to_hdf5(target, "/z", DATA)
        dcio.to_hdf5(target, "/z", DATA, durability="process", scheduler="synchronous")
    with h5py.File(target) as file:
        assert set(file) == {"x", "y", "z"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("buffer-size", "much"),
        ("buffer-size", 0),
        ("chunk-size", None),
        ("buffers-per-thread", 0),
        ("buffers-per-thread", "4"),
        ("memory-limit", "-1MB"),
        ("wait", "yes"),
        ("progress", 1),
        ("log-interval", "0s"),
        ("log-interval", "soon"),
    ],
)
def test_a_value_that_is_none_is_named(name: str, value: str | int | None) -> None:
    with (
        dask.config.set({f"chunkio.{name}": value}),
        pytest.raises(ArgumentError, match=rf"dask.config has chunkio.{name}=.*, which is not "),
    ):
        settings()


@pytest.mark.skipif(os.name == "nt", reason="paths")
def test_environment_and_files(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("chunkio:\n  chunk-size: 2MiB\n")
    script = "from dask_chunkio.config import settings; s = settings(); print(s.buffer_nbytes, s.chunk_nbytes, s.wait)"
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path), "DASK_CHUNKIO__BUFFER_SIZE": "8MiB"}
    here = Path(dcio.__file__).parent.parent
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=here, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(8 << 20), str(2 << 20), "False"]
