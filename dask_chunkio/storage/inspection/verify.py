"""Check that a file holds what was written: compare every payload, or decode every chunk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import TargetError, WorkerError
from dask_chunkio.geometry.grid import ChunkGrid
from dask_chunkio.paths import local_path
from dask_chunkio.printable import printable
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import open_side_file
from dask_chunkio.storage.filesystem.side_folder import is_left
from dask_chunkio.storage.journal.journal import Journal
from dask_chunkio.storage.journal.payloads import read_payload
from dask_chunkio.storage.target import Target

__all__ = ["VerificationReport", "verify"]

# Number of datasets of a file on which HDF5 may crash before the remaining ones are skipped.
_MOST_CRASHES = 20
# The signal with which the system ends a process that uses more processor time than `decoding` allows.
_TIME_IS_OVER = int(getattr(signal, "SIGXCPU", 0)) or None
_PACKAGE = str(Path(__file__).parents[2])
# Runs the package without its `__init__`, which takes seconds to import dask.
_SCRIPT = """
import json, sys, types
folder, sys.path[:] = json.loads(sys.argv.pop())
package = sys.modules["dask_chunkio"] = types.ModuleType("dask_chunkio")
package.__path__ = [folder]
from dask_chunkio.storage.inspection.decoding import main
main()
"""


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


def verify(path: str | os.PathLike[str]) -> VerificationReport:
    """Compare every payload of an unfinished write with its checksum, or decode every chunk of any other file.

    Parameters
    ----------
    path : str or path-like
        An HDF5 file, or one that is being written.

    Returns
    -------
    VerificationReport
        One line for each problem.  A chunk that is reserved, and whose payload was never placed, is a
        problem: a resumed write reads its source again.
        A dataset whose filter plugin is missing is not checked; `VerificationReport.undecodable` names it.
        Chunks are decoded in a separate process: HDF5 crashes on some damaged files, which is reported as a problem.

    Raises
    ------
    TargetError
        If there is no such file, or it is not HDF5.
    IntegrityError
        If the side files of a write are damaged.
    WorkerError
        If the process that decodes cannot be started.

    Examples
    --------
    >>> import os, tempfile
    >>> import h5py, numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "x.h5")
    >>> with h5py.File(path, "w") as file:
    ...     _ = file.create_dataset("x", data=np.arange(100), chunks=(10,), compression="gzip")
    >>> verify(path).checked, verify(path).ok
    (10, True)
    """
    target = Target(os.path.realpath(local_path("path", path)), "")
    if is_left(target.folder) and not target.is_begun and not os.path.exists(target.path):
        return VerificationReport(target.path, 0, (), True)
    found = target.found() if target.is_begun else None
    if found is None:
        return _decoded(target.path)
    try:
        return _compared(found)
    except OSError as error:
        raise TargetError(f"cannot read {found.folder}: {error.strerror or error}") from error


def _compared(target: Target) -> VerificationReport:
    problems, checked = [], 0
    file = open_side_file(target.file, write=False)
    try:
        journal = _journal(target)
        for number, made in enumerate(journal.created.datasets if journal.created else ()):
            grid = ChunkGrid(made.shape, made.chunks)
            table = journal.table(number)
            for chunk in np.flatnonzero(table["state"]):
                checked += 1
                if read_payload(file, table[chunk]) is None:
                    where = f"the chunk at {grid.origin(int(chunk))}" if made.is_chunked else "the data"
                    problems.append(printable(f"{made.name}: {where} is not what was committed"))
    finally:
        close_descriptor(file)
    return VerificationReport(target.file, checked, tuple(problems), True)


def _journal(target: Target) -> Journal:
    try:
        descriptor = open_side_file(target.journal, write=False)
    except FileNotFoundError:
        return Journal(-1, target.journal)
    try:
        journal = Journal(descriptor, target.journal)
        journal.refresh()
    finally:
        close_descriptor(descriptor)
    return journal


def _decoded(path: str) -> VerificationReport:
    if not os.path.exists(path):
        raise TargetError(f"there is no file {path}")
    if os.path.isdir(path):
        raise TargetError(f"{path} is a directory, not an HDF5 file")
    findings = _Findings()
    while (ending := findings.take_in(path)) is not None:
        if not findings.goes_on_after(ending):
            break
    if findings.refused is not None:
        raise TargetError(f"{path} cannot be opened as an HDF5 file: {findings.refused}")
    return VerificationReport(path, findings.checked, tuple(findings.problems), False, tuple(findings.undecodable))


class _Findings:
    """The results of the processes that decode a file; each begins after the dataset on which the last one crashed.

    Attributes
    ----------
    checked : int
        Number of chunks that were decoded.
    problems, undecodable : dict of str
        Lines; a line that a second process repeats is kept once.
    refused : str or None
        Why the file could not be opened.
    """

    def __init__(self) -> None:
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
    plugins = [h5py.h5pl.get(n).decode("utf-8", "surrogateescape") for n in range(h5py.h5pl.size())]
    # Isolated: a json.py in the working folder, which may be the folder of the file, must not be imported.
    words = [sys.executable, "-I", "-c", _SCRIPT, json.dumps([path, done, plugins]), json.dumps([_PACKAGE, sys.path])]
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
