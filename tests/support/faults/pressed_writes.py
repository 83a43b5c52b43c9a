"""Writes under a storm of Ctrl-C at random moments; ends with 1 at the first that does not end as it should.

Usage: python -m tests.support.faults.pressed_writes ROUNDS SEED [HOW...]

Each round is a process that writes and is sent SIGINT, once or many times.  It has to end soon, by
`KeyboardInterrupt` and nothing else; the file is whole or as it was; and the same call with `resume=True`
makes it whole.
"""

import contextlib
import faulthandler
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np

import dask_chunkio as dcio
from dask_chunkio.cli.main import main as command_line

SHAPE = (240, 4000)
CHUNKS = (4, 4000)
DATA = np.random.default_rng(0).integers(0, 50, SHAPE, "i2")
HOW = ("threads", "synchronous", "ordered", "dask", "dask synchronous", "region", "append", "command", "h5py")
INTERRUPTED, WHOLE = 130, 0
# Seconds in which a process ends after the last Ctrl-C, on a machine that is busy with others.
SOON = 20.0
BARE = ("SystemError", "InvalidState", "Fatal", "dumped", "Exception ignored", "BlockingIOError", "RuntimeError")


def note(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


class Source(dcio.GenericDataChunkIterator):
    def _get_data(self, selection: Any) -> Any:
        time.sleep(0.002)
        return DATA[selection]

    def _get_maxshape(self) -> Any:
        return SHAPE

    def _get_dtype(self) -> Any:
        return DATA.dtype


def write(how: str, path: Path, resume: bool) -> None:
    """Write DATA to /x, in one of the ways."""
    common: dict[str, Any] = {"resume": resume, "progress": False}
    if how not in ("region", "append"):
        common |= {"compression": "gzip", "compression_opts": 9}
    scheduler = "synchronous" if "synchronous" in how or how == "h5py" else "threads"
    with dask.config.set(num_workers=2):
        if how in ("threads", "synchronous", "ordered"):
            common["read"] = "ordered" if how == "ordered" else "concurrent"
            source = Source(chunk_shape=CHUNKS, buffer_shape=(20, 4000))
            dcio.to_hdf5(path, "/x", source, scheduler=scheduler, **common)
        elif how.startswith("dask"):
            source = da.from_array(DATA, chunks=(20, 4000)) + 0
            dcio.to_hdf5(path, "/x", source, chunks=CHUNKS, scheduler=scheduler, **common)
        elif how == "h5py":
            with h5py.File(path.with_name("source.h5")) as file:
                dcio.to_hdf5(path, "/x", file["x"], chunks=CHUNKS, scheduler=scheduler, **common)
        elif how == "region":
            dcio.to_hdf5(path, "/x", DATA[3:], region=np.s_[3:], scheduler=scheduler, **common)
        elif how == "append":
            dcio.to_hdf5(path, "/x", DATA[3:], append=True, token="t", scheduler=scheduler, **common)
        else:
            run_command(path, resume)


def run_command(path: Path, resume: bool) -> None:
    words = ["write", str(path.with_name("source.npy")), f"{path}:/x", "--chunks", "4,4000"]
    words += ["--buffer-shape", "20,4000", "--compression", "gzip", "--compression-opts", "9"]
    words += ["--resume"] if resume else []
    try:
        command_line(words)
    except SystemExit as exit_:
        if exit_.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        if exit_.code != 0:
            raise


def prepare(how: str, path: Path) -> None:
    """Make what the write finds."""
    np.save(path.with_name("source.npy"), DATA)
    with h5py.File(path.with_name("source.h5"), "w") as file:
        file.create_dataset("x", data=DATA, chunks=(20, 4000), compression="gzip", compression_opts=1)
    if how in ("region", "append"):
        with h5py.File(path, "w") as file:
            rows = 3 if how == "append" else SHAPE[0]
            dataset = file.create_dataset(
                "x", (rows, 4000), "i2", chunks=CHUNKS, maxshape=(None, 4000), compression="gzip", compression_opts=9
            )
            dataset[:3] = DATA[:3]


def child(how: str, path: Path, resume: bool, log: Path) -> int:
    """Write in a process of its own; returns its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable()
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        Path(f"{log}.began").touch()
        write(how, path, resume)
        code = WHOLE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        note("returned")
    # By the interpreter's own way out, which waits for threads.
    raise SystemExit(code)


def ended(pid: int, within: float, log: Path) -> int:
    end = time.monotonic() + within
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGABRT)
    os.waitpid(pid, 0)
    raise AssertionError(f"still running {within:g} s after the last Ctrl-C: {log.read_text()}")


def storm(how: str, folder: str, draw: random.Random) -> tuple[int, float]:
    """One round; how the process that was interrupted has ended, and in how many seconds after the last press."""
    path, log = Path(folder) / "out.h5", Path(folder) / "log"
    prepare(how, path)
    pid = child(how, path, how == "append", log)
    while not Path(f"{log}.began").exists():
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.5))
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 10, 30))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        time.sleep(draw.choice((0, 0.0005, 0.005, 0.03, 0.1)))
    pressed = time.monotonic()
    code = ended(pid, SOON, log)
    took = time.monotonic() - pressed
    words = log.read_text()
    assert code in (WHOLE, INTERRUPTED, -signal.SIGINT), f"exit code {code}: {words}"
    assert not any(word in words for word in BARE), words
    require_whole_or_as_before(how, path, code)
    assert ended(child(how, path, True, log), 60, log) == WHOLE, log.read_text()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)
    assert not path.with_name("out.h5.writing").exists()
    return code, took


def require_whole_or_as_before(how: str, path: Path, code: int) -> None:
    """Look at the file as plain h5py sees it; a part of a dataset that is there is written chunk by chunk."""
    if how in ("region", "append"):
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["x"][:3], DATA[:3])
            found = file["x"][3:]
            assert ((found == DATA[3 : 3 + len(found)]) | (found == 0)).all()
    elif path.exists():
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["x"][...], DATA)
    else:
        assert code != WHOLE


def main(rounds: str, seed: str, *how: str) -> None:
    codes: list[int] = []
    draw, longest = random.Random(int(seed)), 0.0
    for number in range(int(rounds)):
        way = (how or HOW)[number % len(how or HOW)]
        # No context: a child leaves through here, too.
        folder = tempfile.mkdtemp()
        try:
            code, took = storm(way, folder, draw)
        except (AssertionError, OSError):
            note(f"round {number}, {way}, {folder}:")
            raise
        shutil.rmtree(folder)
        longest = max(longest, took)
        codes.append(code)
    whole = codes.count(WHOLE)
    note(f"{rounds} rounds: {whole} whole, {len(codes) - whole} interrupted, at most {longest:.1f} s after Ctrl-C")


if __name__ == "__main__":
    main(*sys.argv[1:])
