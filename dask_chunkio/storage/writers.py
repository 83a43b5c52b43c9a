"""The writers of this process: one for each write, found by the tasks that need it.

The only state of the package that outlives a call.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Sequence

from dask_chunkio.errors import TargetError
from dask_chunkio.storage.dataset import DatasetLayout, DatasetSpec
from dask_chunkio.storage.target import Target, discard_unfinished, publish, require_free
from dask_chunkio.storage.turn import Lock, Writer

__all__ = ["create", "end", "finish", "release", "writer_for"]

_writers: dict[tuple[int, str, str], Writer] = {}
_ended: set[str] = set()
_registry = threading.Lock()


def writer_for(target: Target, exclusive: bool = False) -> Writer:
    """Return this process's writer of a write, opening it the first time.

    Raises
    ------
    TargetError
        If the write was finished or discarded meanwhile.
    """
    key = (os.getpid(), target.folder, target.write_id)
    with _registry:
        if target.write_id in _ended:
            raise TargetError(f"the write of {target.path} has ended; nothing more is committed to it")
        if key not in _writers:
            _forget_stale()
            try:
                _writers[key] = Writer(target, exclusive)
            except OSError as error:
                raise TargetError(
                    f"{target.folder} cannot be used ({error.strerror}): the write was finished or discarded "
                    f"meanwhile, or this machine does not see that folder"
                ) from error
        return _writers[key]


def end(target: Target) -> None:
    """End a write in this process for good: tasks that come late are refused."""
    with _registry:
        _ended.add(target.write_id)
    release(target)


def release(target: Target) -> None:
    """Let go of a write in this process; what is not committed is abandoned."""
    with _registry:
        writer = _writers.pop((os.getpid(), target.folder, target.write_id), None)
    if writer is not None:
        writer.close()


def _forget_stale() -> None:
    for key in [key for key in _writers if key[0] != os.getpid() or not os.path.isdir(key[1])]:
        writer = _writers.pop(key)
        # A forked child must not close HDF5 objects of its parent.
        if key[0] == os.getpid():
            writer.close()


def create(target: Target, specs: Sequence[DatasetSpec], exclusive: bool, lock: Lock) -> tuple[DatasetLayout, ...]:
    """Begin a write: make its folder, its file and its datasets.

    Run again for the same write it finds them made and changes nothing.
    """
    if not os.path.isdir(target.folder):
        require_free(target, tuple(spec.name for spec in specs))
    is_new = target.open_folder()
    try:
        return writer_for(target, exclusive).create(specs, lock)
    except BaseException:
        if is_new:
            release(target)
            discard_unfinished(target.path)
        raise


def finish(target: Target, layouts: Sequence[DatasetLayout], buffers: Sequence[int], lock: Lock) -> list[int]:
    """End a write: check the file and give it its final name; return stored bytes of each dataset."""
    stored = writer_for(target).finish(layouts, buffers, lock)
    release(target)
    publish(target)
    return stored


@atexit.register
def _close_all() -> None:
    for key, writer in list(_writers.items()):
        if key[0] == os.getpid():
            writer.close()
