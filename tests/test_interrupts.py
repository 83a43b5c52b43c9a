"""Ctrl-C: said at once, heard between two chunks, and never in the middle of what it would break."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dask_chunkio import GenericDataChunkIterator, UnfinishedWrite, WriteEvent, status, to_hdf5
from dask_chunkio.execution.interrupts import Interrupts, interruptible
from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.storage import session
from tests.support.processes import run_python, wait_until

STORM = "tests.support.faults.pressed_writes"
DATA = np.arange(1200, dtype="i4").reshape(120, 10)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to itself")


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Scripted(GenericDataChunkIterator):
    """Calls a function before it reads each buffer."""

    def __init__(self, before: Callable[[int], Any], rows: int = 10) -> None:
        self.before = before
        super().__init__(buffer_shape=(rows, 10), chunk_shape=(5, 10))

    def _get_data(self, selection: tuple[slice, ...]) -> Any:
        self.before(selection[0].start)
        return DATA[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        return DATA.shape

    def _get_dtype(self) -> np.dtype[Any]:
        return DATA.dtype


@pytest.fixture(autouse=True)
def handler_is_as_before() -> Iterator[None]:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("read", ["concurrent", "ordered"])
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_what_is_waited_for_is_said_and_tasks_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scheduler: str, read: Any
) -> None:
    path = tmp_path / "out.h5"
    reads: list[int] = []

    def before(start: int) -> None:
        reads.append(start)
        if start == 40:
            press()
            if scheduler == "threads":
                # The main thread has to have heard of it, before all is read.
                wait_until(lambda: "interrupted; waiting for" in caplog.text)

    with pytest.raises(KeyboardInterrupt) as caught:
        to_hdf5(path, "/x", Scripted(before), scheduler=scheduler, read=read)
    assert "resume the write by the same call with resume=True" in caught.value.__notes__[0]
    assert len(reads) < 12
    assert status(path) is not None
    wait_until(lambda: "Press Ctrl-C again to leave at once" in caplog.text)
    assert f"{path}: interrupted; waiting for" in caplog.text
    to_hdf5(path, "/x", DATA, chunks=(5, 10), resume=True, scheduler="threads")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)


def test_encoding_stops_between_two_chunks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def encoder_for(*_: Any) -> Any:
        class Encoder:
            def encode(self, _: Any) -> Any:
                encoded.append(1)
                if len(encoded) == 3:
                    press()
                    # The main thread has to have heard of it.
                    wait_until(lambda: "interrupted; waiting for" in caplog.text)
                raise_after(encoded)
                return Payload(bytes(200))

        return Encoder()

    monkeypatch.setattr("dask_chunkio.execution.tasks.encoder_for", encoder_for)
    with pytest.raises(KeyboardInterrupt):
        to_hdf5(tmp_path / "out.h5", "/x", Scripted(lambda _: None, 120), scheduler="threads")
    assert len(encoded) == 3
    # Nothing else shows that what was noted of the call is dropped: the next one has another name.
    assert not session._cancelled


def raise_after(encoded: list[int]) -> None:
    assert len(encoded) < 20, "nothing stops it"


@pytest.mark.parametrize("read", ["concurrent", "ordered"])
def test_the_second_press_leaves_while_the_source_is_held_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, read: Any
) -> None:
    path, free = tmp_path / "out.h5", threading.Event()
    threads: list[threading.Thread] = []

    def before(_: int) -> None:
        threads.append(threading.current_thread())
        if threads[0] is threading.current_thread():
            press()
            # Two signals at once are one.
            wait_until(lambda: "interrupted; waiting for" in caplog.text)
            press()
        assert free.wait(60)

    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            to_hdf5(path, "/x", Scripted(before), scheduler="threads", read=read)
        assert "resume=True" in caught.value.__notes__[0]
        assert not free.is_set()
    finally:
        free.set()
    for thread in threads:
        thread.join(60)
    wait_until(lambda: not unfinished(path).running)
    to_hdf5(path, "/x", DATA, chunks=(5, 10), resume=True, scheduler="threads")


def unfinished(path: Path) -> UnfinishedWrite:
    found = status(path)
    assert found is not None
    return found


def test_a_process_that_was_told_twice_does_not_wait_for_a_source(tmp_path: Path) -> None:
    words = (
        "import logging, os, signal, sys, threading, numpy, dask_chunkio.execution.threads\n"
        "heard = threading.Event()\n"
        "class Told(logging.Handler):\n"
        "    def emit(self, _):\n"
        "        heard.set()\n"
        "class Held:\n"
        "    shape, dtype = (10, 10), numpy.dtype('i4')\n"
        "    def __getitem__(self, _):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        heard.wait()\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        threading.Event().wait()\n"
        "logging.getLogger('dask_chunkio').addHandler(Told())\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "dask_chunkio.execution.threads._PATIENCE = 0.1\n"
        "dask_chunkio.to_hdf5(sys.argv[1], '/x', Held(), scheduler='threads')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", words, str(tmp_path / "out.h5")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "KeyboardInterrupt" in done.stderr


def test_the_end_of_a_write_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"

    def heard(event: WriteEvent) -> None:
        if type(event).__name__ == "WriteFinished":
            press()

    for scheduler in ("threads", "synchronous"):
        with pytest.raises(KeyboardInterrupt) as caught:
            to_hdf5(path, f"/{scheduler}", DATA, scheduler=scheduler, callback=heard)
        # (In the main thread, a callback of the user's is interrupted itself.)
        if scheduler == "threads":
            assert caught.value.__notes__ == [f"Ctrl-C was pressed as the write ended: {path} is complete."]
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file[scheduler][...], DATA)


@pytest.mark.parametrize("aside", [False, True])
def test_a_handler_of_the_users_decides(tmp_path: Path, aside: bool) -> None:
    pressed: list[int] = []

    def handle(*_: Any) -> None:
        pressed.append(1)
        if len(pressed) == 2:
            raise TimeoutError("enough")

    signal.signal(signal.SIGINT, handle)
    scheduler = "threads" if aside else "synchronous"

    def before(start: int) -> None:
        if start == 40 and not pressed:
            press()
            wait_until(lambda: pressed)

    try:
        to_hdf5(tmp_path / "out.h5", "/x", Scripted(before), scheduler=scheduler)
        assert pressed == [1]
        if aside:
            with pytest.raises(TimeoutError, match="enough"):
                interruptible(Interrupts("x"), press_and_wait, aside=True)
        assert signal.getsignal(signal.SIGINT) is handle
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def press_and_wait() -> None:
    press()
    time.sleep(1)


def test_other_threads_set_no_handler(tmp_path: Path) -> None:
    seen: list[Any] = []

    def write() -> None:
        to_hdf5(tmp_path / "out.h5", "/x", Scripted(lambda _: seen.append(signal.getsignal(signal.SIGINT))))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert set(seen) == {signal.default_int_handler}


@pytest.mark.parametrize("rounds", [1, pytest.param(0, marks=pytest.mark.heavy)])
def test_a_storm(rounds: int) -> None:
    seed = "7" if rounds else os.environ.get("CTRL_C_SEED", "11")
    count = str(rounds) if rounds else os.environ.get("CTRL_C_ROUNDS", "36")
    done = run_python("-m", STORM, count, seed, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
