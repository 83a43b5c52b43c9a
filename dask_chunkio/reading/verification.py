"""Check that a file holds what was written: compare every payload, or decode every chunk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dask_chunkio.child_process import child_command
from dask_chunkio.errors import TargetError, WorkerError
from dask_chunkio.filters.plugin import plugin_paths
from dask_chunkio.printable import printable
from dask_chunkio.storage.filesystem.side_folder import is_left
from dask_chunkio.storage.inspection.comparison import compare_payloads
from dask_chunkio.storage.target import Target

__all__ = ["VerificationReport", "verify_file"]

# Number of datasets of a file on which HDF5 may crash before the remaining ones are skipped.
_MOST_CRASHES = 20
# The signal with which the system ends a process that uses more processor time than `decoding` allows.
_TIME_IS_OVER = int(getattr(signal, "SIGXCPU", 0)) or None


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The result of `verify`.

    Parameters
    ----------
    path : str
        The file that was checked; for an unfinished write, the one that is being written.
    checked : int
        Number of chunks that were compared with their checksums, or decoded.
    problems : tuple of str
        One line for each problem.
    by_checksum : bool
        Whether there was a journal to compare with.
    undecodable : tuple of str
        One line for each dataset that was not checked because a plugin is missing.
    """

    path: str
    checked: int
    problems: tuple[str, ...]
    by_checksum: bool
    undecodable: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything was checked, and no problem was found."""
        return not self.problems and not self.undecodable


def verify_file(path: str, report: Callable[[int], object] = lambda _: None) -> VerificationReport:
    """Do what `dask_chunkio.verify` does.

    Parameters
    ----------
    path : str
        The file.
    report : callable
        Told now and then how many more bytes of the file were read.

    Raises
    ------
    TargetError, IntegrityError, WorkerError
        As `dask_chunkio.verify`.
    """
    target = Target(os.path.realpath(path), "")
    if is_left(target.folder) and not target.is_begun and not os.path.exists(target.path):
        return VerificationReport(target.path, 0, (), True)
    found = target.found() if target.is_begun else None
    if found is None:
        return _decoded(target.path, report)
    try:
        checked, problems = compare_payloads(found)
    except OSError as error:
        raise TargetError(f"cannot read {found.folder}: {error.strerror or error}") from error
    return VerificationReport(found.file, checked, tuple(problems), True)


def _decoded(path: str, report: Callable[[int], object]) -> VerificationReport:
    if not os.path.exists(path):
        raise TargetError(f"there is no file {path}")
    if os.path.isdir(path):
        raise TargetError(f"{path} is a directory, not an HDF5 file")
    findings = _Findings(report)
    while (ending := findings.take_in(path)) is not None:
        if not findings.goes_on_after(ending):
            break
    if findings.refused is not None:
        raise TargetError(f"{path} cannot be opened as an HDF5 file: {findings.refused}")
    return VerificationReport(path, findings.checked, tuple(findings.problems), False, tuple(findings.undecodable))


class _Findings:
    """The results of the processes that decode a file; each begins after the dataset on which the last one crashed.

    Parameters
    ----------
    report : callable
        Told how many more bytes were read.

    Attributes
    ----------
    checked : int
        Number of chunks that were decoded.
    problems, undecodable : dict of str
        Lines; a line that a second process repeats is kept once.
    refused : str or None
        Why the file could not be opened.
    """

    def __init__(self, report: Callable[[int], object]) -> None:
        self._report = report
        self.checked = self._done = self._crashes = 0
        self.problems: dict[str, None] = {}
        self.undecodable: dict[str, None] = {}
        self.refused: str | None = None
        self._dataset: str | None = None
        self._is_finished = False

    def take_in(self, path: str) -> str | None:
        """Decode the rest in one process; return in words how it ended, or None if it read everything."""
        self._dataset = None
        with _decoder(path, self._done) as process:
            for line in process.stdout or ():
                self._take(*_said(line))
            code = process.wait()
        if self._is_finished or self.refused is not None:
            return None
        if -code == _TIME_IS_OVER:
            return "HDF5 exceeded its time limit"
        return f"HDF5 crashed, with {f'signal {-code}' if code < 0 else f'exit code {code}'},"

    def goes_on_after(self, ending: str) -> bool:
        """Record how a process ended; return whether the datasets after the one that it was reading can be checked."""
        self._crashes += 1
        where = "while it listed the content of the file" if self._dataset is None else "while it read this dataset"
        goes_on = self._dataset is not None and self._crashes < _MOST_CRASHES
        rest = "" if goes_on else "; what comes after it was not checked"
        name = "the file" if self._dataset is None else self._dataset
        self.problems[printable(f"{name}: {ending} {where}{rest}")] = None
        return goes_on

    def _take(self, what: str, words: Any) -> None:
        if what == "in":
            self._dataset = str(words)
            self._done += 1
        elif what == "checked":
            self.checked += int(words)
        elif what == "read":
            self._report(int(words))
        elif what in ("problem", "undecodable"):
            (self.problems if what == "problem" else self.undecodable)[printable(words)] = None
        elif what == "refused":
            self.refused = printable(words)
        self._is_finished = what == "finished"


def _said(line: str) -> tuple[str, Any]:
    """Return the content of a line; a process that is about to crash may print anything."""
    try:
        what, words = json.loads(line)
        return str(what), words
    except (ValueError, TypeError, RecursionError):
        return "", None


@contextlib.contextmanager
def _decoder(path: str, done: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process that decodes a file, and end it with the context."""
    words = child_command("dask_chunkio.reading.verification_process", [path, done, plugin_paths()])
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8",
            errors="replace",
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise WorkerError(f"cannot start {sys.executable}, which is to decode {path}: {error}") from error
    with process:
        try:
            yield process
        finally:
            process.kill()
