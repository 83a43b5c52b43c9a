"""Short tracebacks for errors of users, with the frames of their own code and our message at the end.

The setting ``admin.traceback.shorten`` of dask controls this: if it is an empty list, all frames are shown.
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
# Folders of the code between a call of a user and a source of a user.
_FOLDERS = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], *package_folders()))


def shortens_tracebacks(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a function such that its errors have no frames of dask, distributed and this package.

    This applies to the errors of this package and their causes.  Other errors keep their frames, because they are not
    mistakes of a user.
    """

    @functools.wraps(function)
    def shortened(*args: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        with _Shortened():
            return function(*args, **keywords)

    return shortened


class _Shortened:
    """Context manager that shortens tracebacks on exit; unlike ``raise``, this adds no frame."""

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
    """Return a traceback without the hidden frames; the frame objects are not changed."""
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
