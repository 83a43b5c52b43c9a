"""The command line as the program that is installed: exit codes, streams, processes, Ctrl-C."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from dask_chunkio.cli.main import main

DATA = np.arange(6000, dtype="i2").reshape(300, 20)


def stored(folder: Path) -> Any:
    with h5py.File(folder / "out.h5", "r") as file:
        return file["a"][()]


def program(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)


def test_the_program_is_installed(tmp_path: Path) -> None:
    command = shutil.which("dask-chunkio", path=str(Path(sys.executable).parent))
    assert command is not None
    np.save(tmp_path / "a.npy", DATA)
    result = program(command, "write", "a.npy", "out.h5", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("out.h5:/a: 11.72 kiB stored in 11.72 kiB (ratio 1.00) in ")
    np.testing.assert_array_equal(stored(tmp_path), DATA)


def test_the_module_is_the_program(tmp_path: Path) -> None:
    result = program(sys.executable, "-m", "dask_chunkio", "write", "none.npy", "out.h5", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "Error: there is no file none.npy\n")


@pytest.mark.heavy
def test_processes_from_the_program(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", DATA)
    words = "-m", "dask_chunkio", "write", "a.npy", "out.h5", "--scheduler", "processes", "--workers", "2"
    result = program(sys.executable, *words, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    np.testing.assert_array_equal(stored(tmp_path), DATA)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process group")
@pytest.mark.parametrize("scheduler", ["threads", pytest.param("processes", marks=pytest.mark.heavy)])
def test_ctrl_c(tmp_path: Path, scheduler: str) -> None:
    with open(tmp_path / "a.bin", "wb") as file:
        file.truncate(2 * 10**10)  # sparse: a write that nobody waits for
    words = ["write", "a.bin", "out.h5", "--dtype", "i2", "--shape", "-1", "--chunks", "1000000",
             "--buffer-shape", "4000000", "--compression", "gzip", "--compression-opts", "9",
             "--scheduler", scheduler]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "dask_chunkio", *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        # Not before something is committed.
        journal = tmp_path / "out.h5.writing" / "journal"
        while not (journal.exists() and journal.stat().st_size) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, stdout) == (130, "")
    said, *rest = stderr.splitlines()
    assert ": interrupted; waiting for the chunks that are being encoded" in said
    assert said.endswith("Press Ctrl-C again to leave at once")
    assert rest == [
        f"Interrupted. The committed data are kept in {tmp_path / 'out.h5.writing'}; "
        f"resume the write with: dask-chunkio resume out.h5, or remove them with: dask-chunkio discard out.h5"
    ]
    assert not (tmp_path / "out.h5").exists()


def documented() -> list[str]:
    page = Path(__file__).parent.parent / "docs" / "command_line.md"
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    return [line for line in lines.splitlines() if line.startswith(("dask-chunkio write", "dask-chunkio discard"))]


@pytest.mark.parametrize("line", documented())
def test_the_lines_of_the_documentation_run(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "zstd" in line:
        pytest.importorskip("hdf5plugin")
    recording = np.arange(64 * 10_000, dtype="<i2").reshape(-1, 64)
    np.save("recording.npy", recording)
    Path("probe.bin").write_bytes(bytes(512) + recording.tobytes()[: 384 * 2 * 100])
    with h5py.File("old.h5", "w") as file:
        file["acquisition/lfp"] = recording
    zarr = pytest.importorskip("zarr")
    zarr.open_group("images.zarr", mode="w").create_array("0", data=recording)
    _, *words = shlex.split(line, comments=True)
    if "experiment.zarr" in words[:2]:
        zarr.open_group("experiment.zarr", mode="w").create_array("a", data=recording)
        zarr.open_group("experiment.zarr").create_array("b", data=recording)
    elif "experiment.h5" in words[:2]:
        shutil.copy("old.h5", "experiment.h5")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
