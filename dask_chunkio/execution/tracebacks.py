"""Tracebacks of errors that users make: their own frames, and our message last.

dask's setting ``admin.traceback.shorten`` decides: where it is an empty list, every frame is shown.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

import dask

from dask_chunkio.dask_compat import package_folders
from dask_chunkio.errors import ChunkIOError

__all__ = ["shortens_tracebacks"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# What lies between a user's call and a user's source.
_FOLDERS = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], *package_folders()))


def shortens_tracebacks(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Remove the frames of dask, distributed and this package from our errors that a function raises, and their causes.

    Any other error keeps its frames: it is no mistake of a user.
    """

    @functools.wraps(function)
    def shortened(*args: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        with _Shortened():
            return function(*args, **keywords)

    return shortened


class _Shortened:
    """Shortens tracebacks on exit: an error that is raised again would gain a frame."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        patterns = dask.config.get("admin.traceback.shorten", None)
        if not isinstance(error, ChunkIOError) or not patterns:
            return
        hidden = re.compile(f".*({'|'.join(patterns)})")
        seen: set[int] = set()
        found: BaseException | None = error
        while found is not None and id(found) not in seen:
            seen.add(id(found))
            found.__traceback__ = _kept(found.__traceback__, hidden)
            found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _kept(traceback: TracebackType | None, hidden: re.Pattern[str]) -> TracebackType | None:
    """Return a traceback without the frames that are hidden; the frames themselves are not changed."""
    frames = []
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if not name.startswith(_FOLDERS) and not hidden.match(name):
            frames.append(traceback)
        traceback = traceback.tb_next
    kept: TracebackType | None = None
    for one in reversed(frames):
        kept = TracebackType(kept, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return kept
