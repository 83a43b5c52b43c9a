"""Events, the log and the bar: what a write tells of itself on every scheduler."""

import dataclasses
import logging
import sys
import types
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentTypeError, SourceError
from dask_chunkio.execution.progress import wants_progress
from tests.support.iterators import FromArray

DATA = np.arange(6000, dtype="i4").reshape(600, 10)
LAYOUT: dict[str, Any] = {"chunks": (50, 10), "buffer_shape": (100, 10)}


class Failing:
    shape, dtype = DATA.shape, DATA.dtype

    def __getitem__(self, selection: Any) -> Any:
        if selection[0].start >= 300:
            raise OSError("the device is gone")
        return DATA[selection]


def heard(target: Path, source: Any = DATA, **keywords: Any) -> tuple[list[Any], dcio.WriteResult]:
    events: list[Any] = []
    result = dcio.to_hdf5(target, "/x", source, callback=events.append, **{**LAYOUT, **keywords})
    return events, result


def check_events(events: list[Any], result: dcio.WriteResult, target: Path) -> None:
    started, *committed, finished = events
    assert started == dcio.WriteStarted(str(target), ("/x",), DATA.nbytes, 6)
    assert all(isinstance(event, dcio.BufferCommitted) for event in committed)
    assert sorted(event.buffer for event in committed) == list(range(6))
    assert [event.done_nbytes for event in committed] == [4000 * count for count in range(1, 7)]
    assert {(event.path, event.dataset, event.nbytes) for event in committed} == {(str(target), "/x", 4000)}
    assert finished == dcio.WriteFinished(str(target), DATA.nbytes, result.stored_nbytes, result.seconds)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("fuse", [True, False])
def test_every_event_once(target: Path, scheduler: str, fuse: bool) -> None:
    check_events(*heard(target, scheduler=scheduler, fuse=fuse), target)


def test_every_event_from_processes(target: Path) -> None:
    check_events(*heard(target, scheduler="processes"), target)


def test_events_from_a_client(target: Path, process_client: Client) -> None:
    """What is heard of after the result is not told any more."""
    events, result = heard(target, FromArray(DATA), scheduler=process_client)
    assert events[0] == dcio.WriteStarted(str(target), ("/x",), DATA.nbytes, 6)
    assert isinstance(events[-1], dcio.WriteFinished)
    buffers = [event.buffer for event in events[1:-1]]
    assert len(set(buffers)) == len(buffers)
    assert result.nbytes == DATA.nbytes


def test_events_are_frozen(target: Path) -> None:
    events, _ = heard(target, scheduler="synchronous")
    for event in events:
        with pytest.raises(dataclasses.FrozenInstanceError):
            event.path = "other"


def test_a_failure_is_told(target: Path) -> None:
    events: list[Any] = []
    with pytest.raises(SourceError) as raised:
        dcio.to_hdf5(target, "/x", Failing(), callback=events.append, scheduler="synchronous", **LAYOUT)
    assert isinstance(events[-1], dcio.WriteFailed)
    assert events[-1].error is raised.value
    resumed: list[Any] = []
    dcio.to_hdf5(target, "/x", DATA, callback=resumed.append, scheduler="synchronous", resume=True, **LAYOUT)
    assert [event.buffer for event in resumed[1:-1]] == list(range(6))  # what is found there counts as done


def test_a_callback_that_fails_does_no_harm(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[dcio.WriteEvent] = []

    def failing(event: dcio.WriteEvent) -> None:
        calls.append(event)
        raise ValueError("no window")

    with caplog.at_level(logging.ERROR, "dask_chunkio"):
        result = dcio.to_hdf5(target, "/x", DATA, callback=failing, scheduler="threads", **LAYOUT)
    assert result.buffers == 6
    assert len(calls) == 1
    assert "failed on a WriteStarted and is not called again" in caplog.text
    assert "no window" in caplog.text


def test_a_callback_that_is_none(target: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="callback='bar' is not callable"):
        dcio.to_hdf5(target, "/x", DATA, callback="bar")  # type: ignore[call-overload]
    assert not target.exists()


def test_the_log(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dask_chunkio"), dask.config.set({"chunkio.log-interval": "1us"}):
        _, result = heard(target, scheduler="synchronous")
    first, *between, last = [record.getMessage() for record in caplog.records if record.name == "dask_chunkio"]
    assert first == f"writing /x to {target}: 23.44 kiB in 6 buffers"
    assert len(between) == 6
    assert between[2].startswith(f"{target}: 50.0 %, 11.72 kiB committed, ")
    assert between[2].endswith(" min left")
    assert last.startswith(f"{target} is whole: 23.44 kiB stored in 23.44 kiB, in ")
    assert vars(caplog.records[-1])["chunkio_event"] == dcio.WriteFinished(
        str(target), DATA.nbytes, result.stored_nbytes, result.seconds
    )


def test_the_log_is_quiet_between_two_intervals(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dask_chunkio"):
        heard(target, scheduler="threads")
    assert len(caplog.records) == 2


def test_the_log_tells_of_a_failure(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dask_chunkio"), pytest.raises(SourceError):
        dcio.to_hdf5(target, "/x", Failing(), scheduler="synchronous", **LAYOUT)
    assert caplog.records[-1].levelno == logging.WARNING
    assert f"{target} was not finished: /x, buffer 3," in caplog.records[-1].getMessage()


def test_a_listener_may_write(target: Path, tmp_path: Path) -> None:
    """From inside, in the thread that tells it."""
    written = []

    def copy(event: dcio.WriteEvent) -> None:
        if isinstance(event, dcio.WriteFinished):
            written.append(dcio.to_hdf5(tmp_path / "log.h5", "/x", [event.nbytes], scheduler="synchronous"))

    dcio.to_hdf5(target, "/x", DATA, callback=copy, scheduler="synchronous", **LAYOUT)
    assert len(written) == 1


class ZMQInteractiveShell:
    """Has the name of the shell of a Jupyter kernel."""


class Shell(ZMQInteractiveShell):
    """That of a notebook service."""


class TerminalInteractiveShell:
    """That of IPython on a terminal."""


def runs_in(monkeypatch: pytest.MonkeyPatch, shell: Any) -> None:
    ipython = types.ModuleType("IPython")
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)


@pytest.mark.parametrize(
    ("shell", "shown"),
    [(ZMQInteractiveShell(), True), (Shell(), True), (TerminalInteractiveShell(), False), (None, False)],
    ids=["kernel", "service", "terminal", "script"],
)
@pytest.mark.usefixtures("capsys")
def test_a_notebook_has_a_bar_by_default(monkeypatch: pytest.MonkeyPatch, shell: Any, shown: bool) -> None:
    runs_in(monkeypatch, shell)
    assert wants_progress(None) is shown
    assert wants_progress(True)
    assert not wants_progress(False)


@pytest.mark.usefixtures("capsys")
def test_without_ipython_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not wants_progress(None)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    assert not wants_progress(None)


class Bar:
    """What tqdm gives in a notebook."""

    made: "tuple[Bar, ...]" = ()

    def __init__(self, total: int, desc: str, **how: Any) -> None:
        self.total, self.desc, self.n, self.how, self.closed = total, desc, 0, how, False
        Bar.made += (self,)

    def update(self, count: int) -> None:
        self.n += count

    def close(self) -> None:
        self.closed = True


@pytest.mark.usefixtures("capsys")
def test_the_bar_in_a_notebook_is_a_notebooks(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_in(monkeypatch, ZMQInteractiveShell())
    # tqdm.auto decides when it is imported first, which an earlier test may have done.
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    monkeypatch.setattr(Bar, "made", ())
    dcio.to_hdf5(target, "/x", DATA, **LAYOUT)
    (bar,) = Bar.made
    assert (bar.desc, bar.n, bar.total, bar.closed) == ("/x", DATA.nbytes, DATA.nbytes, True)
    dcio.to_hdf5(target, "/y", DATA, progress=False, **LAYOUT)
    assert len(Bar.made) == 1
