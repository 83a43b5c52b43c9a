"""Answers of a process of its own that does what a damaged file makes HDF5 do."""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dask_chunkio.errors import TargetError
from dask_chunkio.isolated_process import Steps

__all__ = ["answer"]


def answer(asked: Any, steps: Steps) -> tuple[Any, Sequence[Any]]:
    """Do what is asked for."""
    steps.begin(asked.get("at", ""))
    found: tuple[Any, Sequence[Any]] = _ANSWERS[asked["do"]](asked)
    return found


def _echo(asked: Any) -> tuple[Any, Sequence[Any]]:
    return [asked["words"], os.getpid(), os.getppid(), os.getcwd()], [np.arange(asked["length"]), b"", b"abc"]


def _crash(asked: Any) -> Any:
    os.kill(os.getpid(), asked["signal"])
    signal.pause()


def _loop(asked: Any) -> Any:  # noqa: ARG001
    while True:
        pass


def _wait(asked: Any) -> Any:  # noqa: ARG001
    os.read(os.pipe()[0], 1)


def _allocate(asked: Any) -> Any:
    return np.ones(asked["nbytes"], np.uint8).size, ()


def _leave(asked: Any) -> Any:  # noqa: ARG001
    os._exit(0)


def _refuse(asked: Any) -> Any:
    raise TargetError(asked.get("words", "/x/y.h5 is no file; give another one"))


def _fail(asked: Any) -> Any:  # noqa: ARG001
    raise KeyError("no object")


_ANSWERS: dict[str, Callable[[Any], Any]] = {
    "echo": _echo, "crash": _crash, "loop": _loop, "wait": _wait, "allocate": _allocate, "leave": _leave,
    "refuse": _refuse, "fail": _fail,
}  # fmt: skip
