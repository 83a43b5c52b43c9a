"""Damages HDF5 files, and runs `verify` on them; or, of writes that were cut off, `recover` and `discard` too; seeded.

Usage: python -m tests.support.fuzz.finished_files [--runs N] [--seed S] [--folder DIR] [--show] [--unfinished]
           [--started]

Bytes are flipped, zeroed, cut off, replaced by numbers, or copied from elsewhere in the file.  Each run ends with an
answer or an error of ours, in a process that lives on, within a bound of time and memory; looks change nothing.
"""

import collections
import contextlib
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import h5py
import numpy as np

import dask_chunkio as dcio
from dask_chunkio.errors import ChunkIOError
from dask_chunkio.reading import verification as verifying
from dask_chunkio.reading import verification_process
from dask_chunkio.storage.activity import activity_lock
from tests.support.fuzz import cut_off_writes
from tests.support.fuzz.side_files import snapshot
from tests.support.options import seeded

SECONDS = 60
# Above what the process has when it begins.
MEMORY = 2 << 30
NUMBERS = [0, 1, 2, 3, 255, 1 << 15, (1 << 16) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1]
LOOKS = ("verify", "status")
UNFINISHED = ("status", "verify", "recover", "recover", "discard", "discard", "force")
STATES = ("new-committed", "new-pending", "new-whole", "existing-committed", "existing-pending", "existing-whole")
# Of processor time, after which HDF5 is taken to be lost in one step.
PATIENCE = 2


# Files


def make_all(folder: Path) -> None:
    """Write one file of each kind of index and format."""
    rng = np.random.default_rng(7)
    ints = rng.integers(0, 50, (40, 30)).astype("i4")
    rows = np.zeros(12, [("a", "i2"), ("b", "f8")])
    rows["a"] = np.arange(12)
    for libver in ("earliest", "v110", "latest"):
        path = folder / f"{libver}.h5"
        datasets: dict[str, tuple[Any, dict[str, Any]]] = {
            "/g/deflated": (ints, {"chunks": (8, 10), "compression": "gzip", "shuffle": True, "fletcher32": True}),
            "/g/deep/plain": (ints, {"chunks": (40, 30)}),
            "/rows": (rows, {"chunks": (5,), "compression": "gzip"}),
            "/grown": (ints, {"chunks": (10, 10), "maxshape": (None, 30), "compression": "lzf"}),
            "/wide": (ints, {"chunks": (10, 10), "maxshape": (40, None)}),
            "/both": (ints, {"chunks": (10, 10), "maxshape": (None, None), "scaleoffset": 0}),
        }
        sources = {name: source for name, (source, _) in datasets.items()}
        encoding: dict[str, Any] = {name: options for name, (_, options) in datasets.items()}
        dcio.to_hdf5(path, sources, encoding=encoding, libver=libver, scheduler="synchronous", progress=False)
        with h5py.File(path, "r+", libver=libver) as file:
            file["whole"] = ints
            file["words"] = np.array(["one", "three", "", "a longer word"] * 5, h5py.string_dtype())
            file["number"] = 3.5
            file["nothing"] = h5py.Empty("f4")
            file["link"] = h5py.SoftLink("/g/deflated")
            file["g/lost"] = h5py.ExternalLink("nowhere.h5", "/x")
            file["g"].attrs["units"] = "mV"
            ragged = file.create_dataset("ragged", (6,), h5py.vlen_dtype("i4"), chunks=(2,))
            for n in range(6):
                ragged[n] = np.arange(n)
            compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            compact.set_layout(h5py.h5d.COMPACT)
            space = h5py.h5s.create_simple((4,))
            h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_INT32, space, compact)
            file.create_dataset("enum", data=np.arange(6, dtype="i1"), dtype=h5py.enum_dtype({"A": 0, "B": 1}, "i1"))


# Damages


def damage(draw: random.Random, whole: bytes) -> tuple[bytes, list[str]]:
    """Return damaged bytes, and what was done to them."""
    data = bytearray(whole)
    done: list[str] = []
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        kind = draw.choice(["flip", "flip", "byte", "number", "number", "zero", "copy", "cut", "noise"])
        # Metadata is spread over a small part of the file: it is found by its signatures.
        at = draw.choice(_metadata(data)) + draw.randrange(64) if draw.random() < 0.7 else draw.randrange(len(data))
        at = min(at, len(data) - 9)
        if kind == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif kind == "byte":
            data[at] = draw.choice([0, 1, 127, 128, 254, 255, draw.randrange(256)])
        elif kind == "number":
            width = draw.choice([2, 4, 8])
            data[at : at + width] = struct.pack("<Q", draw.choice(NUMBERS))[:width]
        elif kind in ("zero", "noise"):
            nbytes = min(draw.choice([1, 8, 64, 512, 4096]), len(data) - at)
            data[at : at + nbytes] = bytes(nbytes) if kind == "zero" else draw.randbytes(nbytes)
        elif kind == "copy":
            nbytes, source = draw.choice([8, 64, 512]), draw.randrange(len(data) - 512)
            data[at : at + nbytes] = data[source : source + nbytes]
        elif kind == "cut" and draw.random() < 0.5:
            del data[max(at, 600) :]
            return bytes(data), [*done, f"cut at {at}"]
        done.append(f"{kind} at {at}")
    return bytes(data), done


def _metadata(data: bytearray) -> list[int]:
    signs = (
        b"\x89HDF", b"TREE", b"HEAP", b"SNOD", b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"BTHD", b"BTLF",
        b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EADB", b"GCOL", b"deflate", b"\x08\x00\x18\x00", b"\x01\x00\x01\x00",
    )  # fmt: skip
    found = [0]
    for sign in signs:
        at = data.find(sign)
        while at != -1 and len(found) < 4000:
            found.append(at)
            at = data.find(sign, at + 1)
    return found


# Runs


def run(seed: int, templates: Sequence[Path], folder: Path) -> tuple[str, str]:
    """Return how one run ended, from a child that may crash."""
    draw = random.Random(seed)
    template = draw.choice(templates)
    data, done = damage(draw, template.read_bytes())
    entry = "verify"
    path = folder / "damaged.h5"
    path.write_bytes(data)
    return _outcome(f"seed {seed}: {template.stem}, {', '.join(done)}: {entry}", entry, path)


def run_unfinished(seed: int, templates: Sequence[Path], folder: Path) -> tuple[str, str]:
    """Return how a run ended on a write that was cut off, and whose HDF5 file is damaged."""
    draw = random.Random(seed)
    template = draw.choice(templates)
    shutil.rmtree(folder)
    shutil.copytree(template, folder)
    path = folder / "out.h5"
    damaged = path if path.exists() else folder / "out.h5.writing" / "data.h5"
    data, done = damage(draw, damaged.read_bytes())
    damaged.write_bytes(data)
    entry = draw.choice(UNFINISHED)
    return _outcome(f"seed {seed}: {template.stem}, {', '.join(done)}: {entry}", entry, path)


def _outcome(name: str, entry: str, path: Path) -> tuple[str, str]:
    is_look = entry in LOOKS
    before = snapshot(path.parent)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(entry, path, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        words = answer.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        words = f"wrong: signal {os.WTERMSIG(status)}"
    elif is_look and snapshot(path.parent) != before:
        words = f"wrong: the folder was changed ({words})"
    return name, words or "wrong: no answer"


def _in_child(entry: str, path: Path, writer: int) -> NoReturn:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    try:
        found: Any = dcio.discard(path, force=True) if entry == "force" else getattr(dcio, entry)(path)
        is_verified = entry == "verify"
        words = ("ok" if found.ok else "problems") if is_verified else "answer"
        if is_verified:
            bad = [line for line in (*found.problems, *found.undecodable) if not line.isprintable()]
            if any("HDF5 crashed" in line or "HDF5 exceeded its time limit" in line for line in found.problems):
                words = "crashed or endless, and said so"
            words = f"wrong: {bad[0]!r}" if bad else words
    except ChunkIOError as error:
        words = type(error).__name__ if str(error).replace("\n", "").isprintable() else f"wrong: {error!r}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-4:]
        where = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(last))
        words = f"wrong: {type(error).__name__}: {str(error)[:150]} ({where})"
    os.write(writer, words.encode("utf-8", "backslashreplace"))
    os._exit(0)


def finished(folder: Path) -> list[Path]:
    make_all(folder)
    files = sorted(folder.iterdir())
    for path in files:
        assert dcio.verify(path).ok, path
    return files


def unfinished(folder: Path) -> list[Path]:
    for state in STATES:
        kind, _, moment = state.partition("-")
        cut_off_writes.make(folder / state, moment, existing=kind == "existing")
    # What a dead process leaves is believed in for a while.
    mock.patch.object(activity_lock, "_PAUSE", 0).start()
    return sorted(folder.iterdir())


class _Forked:
    """What `verify` starts, without the time that Python takes to start."""

    def __init__(self, path: str, done: int) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)

            def say(*words: object) -> None:
                os.write(writer, json.dumps(words).encode() + b"\n")

            verification_process.decode_file(path, done, say)
            os._exit(0)
        os.close(writer)
        self.stdout = os.fdopen(reader, encoding="utf-8")

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextlib.contextmanager
def _forked(path: str, done: int) -> Iterator[_Forked]:
    process = _Forked(path, done)
    with process.stdout:
        yield process


def main() -> int:
    parser = seeded(__doc__, 2000)
    parser.add_argument("--show", action="store_true", help="print each run")
    parser.add_argument("--started", action="store_true", help="start each process as `verify` does, not by a fork")
    parser.add_argument("--unfinished", action="store_true", help="damage the files of writes that were cut off")
    options = parser.parse_args()
    tally: collections.Counter[str] = collections.Counter()
    failures = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        templates, folder = Path(base, "templates"), Path(base, "case")
        templates.mkdir()
        folder.mkdir()
        one_run, found = (run_unfinished, unfinished(templates)) if options.unfinished else (run, finished(templates))
        if not options.started:
            mock.patch.object(verifying, "_decoder", _forked).start()
            mock.patch.object(verification_process, "_SECONDS", PATIENCE).start()
        for seed in range(options.seed, options.seed + options.runs):
            name, words = one_run(seed, found, folder)
            is_wrong = words.startswith("wrong")
            failures += is_wrong
            tally["wrong" if is_wrong else words] += 1
            if is_wrong or options.show:
                sys.stdout.write(f"{name}: {words}\n")
                sys.stdout.flush()
    sys.stdout.write(json.dumps({"runs": options.runs, "failures": failures, "outcomes": tally}) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
