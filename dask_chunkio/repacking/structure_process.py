"""The steps of a repack that read the metadata of the old file, in a process that they may crash.

A damaged heap or index may make HDF5 crash or hang.  The steps are: what becomes of each dataset; the structure of the
copy; the comparison of the copy with the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import h5py

from dask_chunkio.errors import TargetError
from dask_chunkio.filters.plugin import add_plugin_paths, plugin_paths
from dask_chunkio.isolated_call import call_isolated
from dask_chunkio.isolated_process import Steps
from dask_chunkio.reading.dataset_record import memory_for
from dask_chunkio.reading.file_state import require_not_written_here
from dask_chunkio.repacking.comparison import require_same
from dask_chunkio.repacking.decisions import Decisions
from dask_chunkio.repacking.new_file import FileOptions, copy_user_block, created_file
from dask_chunkio.repacking.patterns import Selection
from dask_chunkio.repacking.results import RepackedDataset
from dask_chunkio.repacking.rules import parse_rules
from dask_chunkio.repacking.structure import Structure, work_of
from dask_chunkio.repacking.walk import Found
from dask_chunkio.storage.filesystem.descriptors import close_descriptor, open_descriptor
from dask_chunkio.storage.preconditions import opened_to_look
from dask_chunkio.storage.target import Target

__all__ = ["Decided", "Request", "answer", "compare", "make_structure", "survey"]

# Beside what the metadata of the file may take: two chunks of the largest size that is decoded.
_MEMORY = 3 << 30
_Begin = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What the steps need to know.

    Parameters
    ----------
    source : str
        Absolute path of the file.
    filters, layouts : tuple of str
        The rules, as `repack` takes them.
    minimum : int
        As `repack` takes it.
    selection : Selection
        Which objects are copied.
    options : FileOptions
        The options for the new file.
    chunk_nbytes : int
        Size of a chunk whose shape is not given.
    isolated : bool
        Whether another process does the steps.
    """

    source: str
    filters: tuple[str, ...]
    layouts: tuple[str, ...]
    minimum: int
    selection: Selection
    options: FileOptions
    chunk_nbytes: int
    isolated: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """What becomes of the datasets.

    Parameters
    ----------
    filled : tuple of str
        Those that are filled in parallel.
    datasets : tuple of RepackedDataset
        Those whose filters or layout change; without their size in the copy, unless it was estimated.
    notes : tuple of str
        What could not be done.
    counts : mapping of str to int
        How many objects of each kind were copied.
    """

    filled: tuple[str, ...] = ()
    datasets: tuple[RepackedDataset, ...] = ()
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] | None = None

    def results(self, path: str) -> tuple[RepackedDataset, ...]:
        """Describe what has changed, with the sizes in the copy."""
        with h5py.File(path, "r") as file:
            return tuple(replace(one, stored_after=file[one.name].id.get_storage_size()) for one in self.datasets)


def make_structure(request: Request, path: str) -> Decided:
    """Make the copy, but for the elements of the datasets that are filled.

    Parameters
    ----------
    request : Request
        What is copied.
    path : str
        The new file; what stands there is replaced.

    Raises
    ------
    IntegrityError
        If the file is damaged, or holds what cannot be copied.
    ArgumentError
        If a rule cannot be used.
    TargetError
        If the copy cannot be written.
    WorkerError
        If the process cannot be started, or was killed.
    """
    return _decided(_asked(request, "make", path=path, mode=_mode_of_new_files(path)))


def survey(request: Request, estimates: bool = False) -> Decided:
    """Decide what becomes of each dataset, without copying anything; errors as of `make_structure`."""
    return _decided(_asked(request, "survey", estimates=estimates))


def compare(request: Request, path: str) -> None:
    """Compare a copy with the file.

    Raises
    ------
    IntegrityError
        If they differ; the message names the first difference.
    """
    _asked(request, "compare", path=path)


def _asked(request: Request, question: Literal["make", "survey", "compare"], **more: Any) -> Any:
    asked = {**asdict(request), "question": question, "plugins": plugin_paths(), **more}
    if not request.isolated:
        return answer(asked, None)[0]
    require_not_written_here(request.source)
    return call_isolated(__name__, asked, request.source, memory_for(request.source) + _MEMORY)[0]


def _mode_of_new_files(path: str) -> int:
    """Return the mode of a file that this process creates; another one may have another mask."""
    with contextlib.suppress(FileNotFoundError):
        # What is left of a structure that was cut off.
        os.unlink(path)
    try:
        descriptor = open_descriptor(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        try:
            return os.fstat(descriptor).st_mode & 0o777
        finally:
            close_descriptor(descriptor)
            os.unlink(path)
    except OSError as error:
        raise TargetError(f"cannot create {path}: {error.strerror}") from error


def _decided(words: Mapping[str, Any]) -> Decided:
    datasets = tuple(RepackedDataset(**{**one, "shape": tuple(one["shape"])}) for one in words["datasets"])
    return Decided(tuple(words["filled"]), datasets, tuple(words["notes"]), words["counts"])


# In the process that has the file open


def answer(asked: Any, steps: Steps | None) -> tuple[Any, Sequence[Any]]:
    """Do one of the steps.

    Parameters
    ----------
    asked : mapping
        A `Request`, the question and what belongs to it.
    steps : Steps or None
        Told of each object that is read; None in the process of the user.
    """
    known = plugin_paths()
    add_plugin_paths(path for path in asked["plugins"] if path not in known)
    step = _Step(asked, (lambda *_: None) if steps is None else steps.begin)
    begin = step.begin
    begin("/", os.path.getsize(asked["source"]))
    with opened_to_look(Target(asked["source"], "")) as source:
        if asked["question"] == "compare":
            require_same(source, asked["path"], step.selection, step.is_at(source))
            return None, ()
        decisions = Decisions(step.rules, asked["chunk_nbytes"], estimates=asked.get("estimates", False))
        decisions.find_names(source, step.selection)
        if asked["question"] == "survey":
            return step.survey(source, decisions), ()
        with _masked(asked["mode"] if steps is not None else None):
            return step.make(source, decisions), ()


@contextlib.contextmanager
def _masked(mode: int | None) -> Iterator[None]:
    """Create files with the mode that the process of the user would give them."""
    if mode is not None:
        os.umask(0o666 & ~mode)
    yield


class _Step:
    """One step, in the process that does it."""

    def __init__(self, asked: Any, begin: _Begin) -> None:
        self.begin, self._asked = begin, asked
        self.rules = parse_rules(asked["filters"], asked["layouts"], asked["minimum"])
        self.selection = Selection(**{name: tuple(values) for name, values in asked["selection"].items()})

    def survey(self, source: h5py.File, decisions: Decisions) -> dict[str, Any]:
        self.begin("/", 8 * source.id.get_filesize())
        decisions.survey(source, self.selection)
        if self._asked["estimates"]:
            decisions.require_all_used()
        return _words(decisions, {}, 0)

    def make(self, source: h5py.File, decisions: Decisions) -> dict[str, Any]:
        path, options = self._asked["path"], dict(self._asked["options"])
        bounds = options.pop("libver")
        with contextlib.suppress(FileNotFoundError):
            # What a process has left that has crashed.
            os.unlink(path)
        with created_file(path, source, FileOptions(libver=bounds and tuple(bounds), **options)) as target:
            structure = Structure(source, target, self.selection, decisions, self.begin)
            structure.copy()
            self.begin("/", source.id.get_filesize())
        copy_user_block(source, path)
        decisions.require_all_used()
        return _words(decisions, structure.counts, structure.references.lost)

    def is_at(self, source: h5py.File) -> Callable[[Found], None]:
        """Return what begins the comparison of an object."""
        nbytes = source.id.get_filesize()

        def begin(found: Found) -> None:
            self.begin(found.text, nbytes)
            if found.is_hard and found.first is None:
                self.begin(found.text, nbytes + 2 * work_of(h5py.h5o.open(found.group, found.name), nbytes))

        return begin


def _words(decisions: Decisions, counts: Mapping[str, int], lost: int) -> dict[str, Any]:
    words = f"{lost} references to objects that are not copied, or not there, have become empty"
    notes = list(dict.fromkeys([*decisions.notes, *([words] if lost else [])]))
    return {
        "filled": decisions.filled,
        "datasets": [asdict(one) for one in decisions.results(None)],
        "notes": notes,
        "counts": dict(counts),
    }
