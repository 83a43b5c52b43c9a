"""A disk that refuses what `os` is told to write, from some call on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock


class FailingDisk:
    """Counts every call under `root` that may need space, and has one of them, or all from it on, fail.

    Parameters
    ----------
    root : str
        A folder.
    at : int, optional
        Number of the first call that fails; none by default.
    error : int
        Its ``errno``.
    lasts : bool
        Whether all calls after it fail too.  A write then gets half of its bytes into the file first.
    """

    def __init__(
        self, root: str | os.PathLike[str], at: int | None = None, error: int = 0, lasts: bool = False
    ) -> None:
        self.root = os.path.realpath(root)
        self.at, self.error, self.lasts = at, error, lasts
        self.calls: list[tuple[str, str]] = []
        self.failed: list[tuple[str, str]] = []
        self.acks: list[tuple[Any, ...]] = []
        self._files: dict[int, Any] = {}
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def failing(self) -> Iterator[FailingDisk]:
        with contextlib.ExitStack() as stack:
            for name in ("open", "close", "pwrite", "pwritev", "ftruncate", "fsync", "mkdir", "link", "replace"):
                method, real = getattr(self, f"_{name}"), getattr(os, name)
                stack.enter_context(mock.patch.object(os, name, self._locked(method, real)))
            yield self

    def note(self, _kind: str, *ack: Any) -> None:
        self.acks.append(ack)

    def _locked(self, method: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            with self._lock:
                return method(real, *args, **keywords)

        return call

    def _may_fail(self, name: str, path: Any, before: Callable[[], object] | None = None) -> None:
        number = len(self.calls)
        self.calls.append((name, os.path.relpath(path, self.root)))
        if self.at is None or number < self.at or (number > self.at and not self.lasts):
            return
        if before is not None and self.lasts:
            before()
        self.failed.append(self.calls[-1])
        raise OSError(self.error, os.strerror(self.error), path)

    def _is_inside(self, path: Any) -> bool:
        path = os.path.abspath(os.fspath(path))
        return bool(path == self.root or path.startswith(self.root + os.sep))

    def _open(self, real: Any, path: Any, flags: Any, *args: Any, **keywords: Any) -> Any:
        if isinstance(path, int) or keywords.get("dir_fd") is not None or not self._is_inside(path):
            return real(path, flags, *args, **keywords)
        if flags & os.O_CREAT and not os.path.lexists(path):
            self._may_fail("open", path)
        descriptor = real(path, flags, *args, **keywords)
        self._files[descriptor] = path
        return descriptor

    def _close(self, real: Any, descriptor: Any) -> None:
        self._files.pop(descriptor, None)
        real(descriptor)

    def _pwrite(self, real: Any, descriptor: Any, data: Any, offset: Any) -> Any:
        if descriptor in self._files:
            half = memoryview(data)[: len(data) // 2]
            self._may_fail("pwrite", self._files[descriptor], lambda: half and real(descriptor, half, offset))
        return real(descriptor, data, offset)

    def _pwritev(self, real: Any, descriptor: Any, views: Any, offset: Any, *flags: Any) -> Any:
        if descriptor in self._files:
            half = views[: len(views) // 2]
            self._may_fail("pwritev", self._files[descriptor], lambda: half and real(descriptor, half, offset))
        return real(descriptor, views, offset, *flags)

    def _ftruncate(self, real: Any, descriptor: Any, size: Any) -> None:
        if descriptor in self._files and size > os.fstat(descriptor).st_size:
            self._may_fail("ftruncate", self._files[descriptor])
        real(descriptor, size)

    def _fsync(self, real: Any, descriptor: Any) -> None:
        if descriptor in self._files:
            self._may_fail("fsync", self._files[descriptor])
        real(descriptor)

    def _mkdir(self, real: Any, path: Any, *args: Any, **keywords: Any) -> None:
        if self._is_inside(path):
            self._may_fail("mkdir", path)
        real(path, *args, **keywords)

    def _link(self, real: Any, source: Any, path: Any, **keywords: Any) -> None:
        if self._is_inside(path):
            self._may_fail("link", path)
        real(source, path, **keywords)

    def _replace(self, real: Any, source: Any, path: Any, **keywords: Any) -> None:
        if self._is_inside(path):
            self._may_fail("replace", path)
        real(source, path, **keywords)
