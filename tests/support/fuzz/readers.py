"""Damages the metadata of HDF5 files of many kinds, runs a reader on each, and counts how that ended; seeded.

Usage: python -m tests.support.fuzz.readers READER... [--runs N] [--seed S] [--folder DIR] [--seconds 100] [--kinds N]
           [--in-process]

The reader runs in a child, which is replaced when it crashes, takes longer than it may, or more memory.  Each run has
to end with data or an error of ours; nothing but what was asked for may be written.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import random
import select
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import dask_chunkio as dcio
from dask_chunkio import isolated_call
from dask_chunkio.errors import ChunkIOError, TargetError
from tests.support.fuzz.damaged_metadata import Template, damage, templates
from tests.support.options import seeded

# More than this, above what the process has when it begins, is too much for files of 200 kB.
_MEMORY = 600 << 20
_MOST_READ = 1 << 22
# The last one is left by a write that can be resumed.
_WRITTEN = ("out.h5", "out.json", "out.zarr", "out.h5.writing", "out.h5.draft")
BAD = ("crash", "hang", "memory", "other", "written")


# Readers: each takes the damaged file, the names of its datasets, and keywords; it returns what it has read.

Read = Callable[[Path, Sequence[str], dict[str, Any]], Any]


def _every(names: Sequence[str], read: Callable[[str], Any]) -> Any:
    """Read each dataset, although others have failed; raise the first error."""
    found, errors = [], []
    for name in names:
        try:
            found.append(read(name))
        except ChunkIOError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return found


def _some(array: Any) -> Any:
    return array[...] if array.nbytes <= _MOST_READ else array[(slice(0, 2),) * array.ndim]


def open_array(path: Path, names: Sequence[str], keywords: dict[str, Any]) -> Any:
    return _every(names, lambda name: _some(dcio.open_array(path, name, **keywords)))


def from_hdf5(path: Path, names: Sequence[str], keywords: dict[str, Any]) -> Any:
    def read(name: str) -> Any:
        array = dcio.from_hdf5(path, name, **keywords)
        return array.compute(scheduler="synchronous") if array.nbytes <= _MOST_READ else None

    return _every(names[:6], read)


def xarray(path: Path, names: Sequence[str], keywords: dict[str, Any]) -> Any:  # noqa: ARG001
    from xarray import open_dataset

    with open_dataset(path, engine="chunkio", phony_dims="sort", decode_times=False, **keywords) as found:
        return [_some(found[name].variable).values for name in found.variables]


def verify(path: Path, names: Sequence[str], keywords: dict[str, Any]) -> Any:  # noqa: ARG001
    return dcio.verify(path).ok


def repack(path: Path, names: Sequence[str], keywords: dict[str, Any]) -> Any:
    keywords = {**keywords, "filters": ["SHUF", "GZIP=1"]} if len(names) % 2 else keywords
    dcio.repack(path, path.with_name("out.h5"), scheduler="synchronous", progress=False, verify=True, **keywords)
    return True


def references(path: Path, names: Sequence[str], keywords: dict[str, Any]) -> Any:  # noqa: ARG001
    return dcio.write_references(path, path.with_name("out.json"), skip_unsupported=True).arrays


def convert(path: Path, names: Sequence[str], keywords: dict[str, Any]) -> Any:  # noqa: ARG001
    dcio.convert(path, path.with_name("out.zarr"), skip_unsupported=True, **keywords)
    return True


def source(path: Path, names: Sequence[str], keywords: dict[str, Any]) -> Any:
    """Whoever opens the file with h5py has to have looked at it first."""
    from dask_chunkio.reading.structure_check import check_structure

    if keywords.get("isolated", True):
        check_structure(str(path))

    def write(name: str) -> Any:
        with contextlib.ExitStack() as stack:
            try:
                dataset = stack.enter_context(h5py.File(path))[name]
                if not isinstance(dataset, h5py.Dataset) or dataset.nbytes > _MOST_READ:
                    return None
            except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
                raise TargetError(f"h5py cannot open it: {error}") from error
            dcio.to_hdf5(
                path.with_name("out.h5"), "/x", dataset, overwrite=True, scheduler="synchronous", progress=False
            )
        with h5py.File(path.with_name("out.h5")) as file:
            return file["x"][()]

    return _every(names[:4], write)


READERS: dict[str, Read] = {
    one.__name__: one for one in (open_array, from_hdf5, xarray, verify, repack, references, convert, source)
}
_TAKES_KEYWORD = {"open_array", "from_hdf5", "xarray", "repack", "convert", "source"}


# Runs


@dataclass(frozen=True, slots=True)
class Case:
    """A reader, and the right answers."""

    reader: str
    keywords: dict[str, Any]
    files: Sequence[Template]
    right: dict[str, str]
    folder: Path

    def one(self, seed: int) -> str:
        """Return how one run ended, in words."""
        draw = random.Random(seed)
        template = draw.choice([one for one in self.files if one.name in self.right])
        path = self.folder / "damaged.h5"
        path.write_bytes(damage(draw, template))
        return f"{template.name}: {self.ended(path, template)}"

    def ended(self, path: Path, template: Template) -> str:
        try:
            with _watched_memory() as is_too_much:
                words = self._read(path, template)
            words = "memory" if is_too_much() else words
        finally:
            left = {one.name for one in self.folder.iterdir()} - {path.name, *_WRITTEN}
            _clear(self.folder)
        return f"written {left}" if left else words

    def _read(self, path: Path, template: Template) -> str:
        try:
            found = _digest(READERS[self.reader](path, template.datasets, self.keywords))
        except ChunkIOError as error:
            text = str(error)
            return type(error).__name__ if text.replace("\n", "").isprintable() else f"other {text!r}"
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-4:]
            where = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(last))
            return f"other {type(error).__name__}: {str(error)[:150]} ({where})"
        return "right" if self.right.get(template.name) == found else "data"


def _digest(found: Any) -> str:
    return hashlib.sha1(repr(found).encode("utf-8", "backslashreplace")).hexdigest()


def _clear(folder: Path) -> None:
    import shutil

    for one in folder.iterdir():
        shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()


@contextlib.contextmanager
def _watched_memory() -> Iterator[Callable[[], bool]]:
    Path("/proc/self/clear_refs").write_text("5")
    before, after = _most_memory(), 0
    yield lambda: after - before > _MEMORY
    after = _most_memory()


def _most_memory() -> int:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def _serve(case: Case, seeds: range, writer: int) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    for seed in seeds:
        os.write(writer, f"{json.dumps([seed, case.one(seed)])}\n".encode())


def results(case: Case, seeds: range, seconds: float) -> Iterator[tuple[int, str]]:
    """Yield each seed, and how its run ended; a process that has crashed or hangs is replaced."""
    at = seeds.start
    while at < seeds.stop:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reader)
            os.setsid()
            try:
                _serve(case, range(at, seeds.stop), writer)
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb", 0) as lines:
            for seed, words in _answers(lines, seconds):
                yield seed, words
                at = seed + 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if at < seeds.stop:
            code = os.waitstatus_to_exitcode(status)
            yield at, "hang" if code == -signal.SIGKILL else f"crash {code}"
            _clear(case.folder)
            at += 1


def _answers(lines: Any, seconds: float) -> Iterator[tuple[int, str]]:
    while select.select([lines], [], [], seconds)[0]:
        if not (line := lines.readline()):
            return
        seed, words = json.loads(line)
        yield seed, words


def prepared(reader: str, keywords: dict[str, Any], base: Path, kinds: int = 99) -> Case:
    """Make the files, and read each of them undamaged."""
    # A loop is noticed sooner than in the files of users.
    isolated_call._SECONDS = 3.0
    folder, made = base / "case", base / "templates"
    folder.mkdir()
    made.mkdir()
    case = Case(reader, keywords if reader in _TAKES_KEYWORD else {}, templates(made, kinds), {}, folder)
    for template in case.files:
        path = folder / "damaged.h5"
        path.write_bytes(template.data)
        words = case.ended(path, template)
        # What a file points to is not there, so that an error of ours is right for some; others are no netCDF.
        if words.split()[0] not in BAD:
            case.right[template.name] = ""
            path.write_bytes(template.data)
            with contextlib.suppress(Exception):
                case.right[template.name] = _digest(READERS[reader](path, template.datasets, case.keywords))
        _clear(folder)
    return case


def main() -> int:
    parser = seeded(__doc__, 2000)
    parser.add_argument("readers", nargs="+", choices=sorted(READERS), metavar="READER", help=", ".join(READERS))
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--in-process", action="store_true", help="without the process that bounds HDF5")
    parser.add_argument("--kinds", type=int, default=99, help="of files")
    parser.add_argument("--show", action="store_true", help="print each run")
    options = parser.parse_args()
    np.set_printoptions(threshold=sys.maxsize)
    return 1 if sum(_failures(reader, options) for reader in options.readers) else 0


def _failures(reader: str, options: Any) -> int:
    """Run a reader; print how that ended, and return how often it was wrong."""
    tally: collections.Counter[str] = collections.Counter()
    failures = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        case = prepared(reader, {"isolated": False} if options.in_process else {}, Path(base), options.kinds)
        for seed, words in results(case, range(options.seed, options.seed + options.runs), options.seconds):
            kind = (words.partition(": ")[2] or words).split()[0]
            tally[kind] += 1
            failures += kind in BAD
            if kind in BAD or options.show:
                sys.stdout.write(f"seed {seed}: {words}\n")
                sys.stdout.flush()
    said = {"reader": reader, "files": len(case.right), "runs": options.runs, "failures": failures}
    sys.stdout.write(json.dumps({**said, "outcomes": tally}) + "\n")
    return failures


if __name__ == "__main__":
    sys.exit(main())
