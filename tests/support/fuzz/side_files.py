"""Damages the side files of writes that were cut off, and runs every entry on them; seeded, to be run again.

Usage: python -m tests.support.fuzz.side_files [--runs N] [--seed S] [--only WORDS] [--cases KIND,KIND] [--folder DIR]

KIND is undamaged, seeded, stand-ins or forged: at most N cases of each.

The outcome is what was asked for, or an error of ours; nothing else is changed than the target and its folder, nothing
is executed, memory and time have a bound.
"""

import collections
import contextlib
import faulthandler
import hashlib
import itertools
import json
import logging
import os
import random
import resource
import shutil
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
from click.testing import CliRunner

import dask_chunkio as dcio
from dask_chunkio.child_process import _SCRIPT
from dask_chunkio.cli.main import main as command_line
from dask_chunkio.cli.terminal import options_of
from dask_chunkio.errors import ChunkIOError
from dask_chunkio.storage.activity import activity_lock
from tests.support.fuzz import cut_off_writes, hostile
from tests.support.fuzz.cut_off_writes import DATA, check_new, check_old
from tests.support.options import seeded

SECONDS = 60
# Above what the process has when it begins.
MEMORY = 2 << 30
FILES = ("journal", "log", "lock", "manifest.json", "data.h5", "read-0")
LEFT = ("data.h5", "journal", "log", "lock", "manifest.json", "read-0", "read-1")


# Entries


def resume(path: Path) -> None:
    cut_off_writes.write(path, resume=True)


def write(path: Path) -> None:
    cut_off_writes.write(path)


def overwrite(path: Path) -> None:
    cut_off_writes.write(path, resume=True, overwrite=True)


def status(path: Path) -> str | None:
    found = dcio.status(path)
    return None if found is None else repr(found)


def verify(path: Path) -> str:
    return repr(dcio.verify(path))


def recover(path: Path) -> Any:
    return dcio.recover(path)


def recover_elsewhere(path: Path) -> Any:
    return dcio.recover(path, output=path.with_name("out.h5.writing-recovered"))


def discard(path: Path) -> Any:
    return dcio.discard(path)


def force(path: Path) -> Any:
    return dcio.discard(path, force=True)


def _program(*words: str) -> None:
    result = CliRunner().invoke(command_line, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2), result.output
    if result.exit_code:
        raise ChunkIOError(result.output)


def resume_program(path: Path) -> None:
    _program("resume", str(path))


def status_program(path: Path) -> None:
    _program("status", str(path))


ENTRIES: dict[str, Callable[[Path], Any]] = {
    entry.__name__: entry
    for entry in (
        resume, write, overwrite, status, verify, recover, recover_elsewhere, discard, force, resume_program,
        status_program,
    )
}  # fmt: skip
LOOKS = ("status", "verify", "status_program")


# What may happen


def snapshot(folder: Path) -> dict[str, tuple[str, int, str, str, int]]:
    """Everything below a folder, as far as a write could change it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        # A thread removes the lease of what is over.
        if path.name.startswith("lease-"):
            continue
        is_file = path.is_file() and not path.is_symlink()
        what = path.lstat()
        digest = ""
        if is_file and what.st_size < 1 << 30:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        link = os.readlink(path) if path.is_symlink() else ""
        # A folder's own times change with what is in it.
        when = what.st_mtime_ns if is_file else 0
        found[str(path.relative_to(folder))] = stat.filemode(what.st_mode), what.st_size * is_file, digest, link, when
    return found


EXECUTES = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "exec")
CHANGES = ("os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod")
# The folder of the case that runs, and what was seen.
watched: dict[str, Any] = {"folder": None, "seen": []}


def _is_usual(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "pickle.find_class":  # dask pickles its own expressions, in memory
        return str(arguments[0]).startswith("dask._expr")
    if event == "exec":  # modules that are imported late
        name: str = getattr(arguments[0], "co_filename", "")
        is_module = getattr(arguments[0], "co_name", "") == "<module>"
        return is_module and name.startswith((sys.prefix, sys.base_prefix))
    if event == "subprocess.Popen":  # the process that decodes for `verify`: its program is a constant
        return bool(arguments[0] == sys.executable and arguments[1][1:4] == ["-I", "-c", _SCRIPT])
    return False


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what is executed, and every change of a path that is none of ours."""
    folder = watched["folder"]
    if folder is None:
        return
    if event in EXECUTES:
        if not _is_usual(event, arguments):
            watched["seen"].append(f"{event} {arguments!r:.200}")
        return
    paths: tuple[Any, ...] = ()
    folders: tuple[Any, ...] = ()
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        paths = arguments[:1]
    elif event in CHANGES:
        paths = arguments[: 2 if event in ("os.rename", "os.link") else 1]
        folders = () if event in ("os.symlink", "os.truncate") else arguments[-len(paths) :]
    for path, descriptor in itertools.zip_longest(paths, folders, fillvalue=-1):
        # (Whoever starts a process may have it read nothing.)
        if not isinstance(path, str | bytes) or path == os.devnull:
            continue
        folder_of = os.readlink(f"/proc/self/fd/{descriptor}") if descriptor != -1 else ""
        name = os.path.abspath(os.path.join(folder_of, os.fsdecode(path)))
        if not name.startswith(f"{folder}/out.h5") or os.sep in name.removeprefix(f"{folder}/out.h5.writing/"):
            is_own = name == f"{folder}/out.h5" or name.startswith(f"{folder}/out.h5.writing")
            if not is_own:
                watched["seen"].append(f"{event} {arguments!r:.200}")


# Cases


class Case:
    """One folder, damaged, and one entry."""

    def __init__(self, name: str, folder: Path, templates: Path, state: str) -> None:
        self.name, self.folder, self.state = name, folder, state
        self.existing = state.startswith("existing")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(templates / state, folder)
        self.outside = folder / "elsewhere"
        (self.outside / "folder").mkdir(parents=True)
        (self.outside / "folder" / "data.h5").write_text("not yours")
        (self.outside / "file").write_text("not yours")
        cut_off_writes.make_old(self.outside / "other.h5")
        (folder / "source.npy").write_bytes(b"no array")
        self.path = folder / "out.h5"
        self.side = folder / "out.h5.writing"
        # Entries that must do what they are asked for.
        self.ends_well: tuple[str, ...] = ()
        # A log that is whole, was never written and has the right checksum can say anything about the target.
        self.is_forged_log = False
        # And such a journal anything about the new data, though not about the old.
        self.is_forged_journal = False

    def run(self, entry: str) -> tuple[list[str], str]:
        """Return what is wrong, or how it ended."""
        before = snapshot(self.folder)
        watched.update(folder=str(self.folder), seen=[])
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        outcome, answer = "done", None
        wrong: list[str] = []
        try:
            answer = ENTRIES[entry](self.path)
        except ChunkIOError as error:
            outcome = type(error).__name__
            str(error).encode("utf-8", "backslashreplace")
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-4:]
            where = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(last))
            outcome = f"{type(error).__name__}: {str(error)[:150]} ({where})"
            wrong.append(outcome)
        finally:
            watched["folder"] = None
            faulthandler.cancel_dump_traceback_later()
        wrong += watched["seen"]
        try:
            self._check(entry, outcome, answer, before)
        except AssertionError as error:
            wrong.append(f"{outcome}, but {str(error)[:300]}")
        return wrong, outcome

    def _check(self, entry: str, outcome: str, answer: Any, before: dict[str, Any]) -> None:
        assert outcome == "done" or entry not in self.ends_well, "it was not damaged"
        after = snapshot(self.folder)
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        # Behind a folder that is a link nothing is ours.
        is_link = self.side.is_symlink()
        is_ours = all(name == "out.h5" if is_link else name.startswith("out.h5") for name in changed)
        assert is_ours, f"changed {sorted(changed)}"
        assert not (changed and entry in LOOKS), f"{entry} changed {sorted(changed)}"
        if self.existing and not self.is_forged_log:
            self._check_old()
        is_written = outcome == "done" and entry in ("resume", "write", "overwrite")
        is_honest = not self.is_forged_log and not self.is_forged_journal
        if is_written and is_honest:
            self._check_new("it is not what was written")
            assert not os.path.lexists(self.side), "the folder is left"
        if not self.existing and is_honest and os.path.lexists(self.path):
            self._check_new("there is something under the final name that is not whole")
        if outcome == "done" and entry in ("discard", "force"):
            is_folder = before.get("out.h5.writing", " ")[0].startswith("d")
            assert answer is None if not is_folder else not os.path.lexists(self.side), f"{answer} was not removed"
        if outcome == "done" and entry.startswith("recover") and is_honest:
            self._check_recovered(answer)

    def _check_new(self, words: str) -> None:
        try:
            check_new(self.path)
        except (OSError, KeyError, RuntimeError, AssertionError) as error:
            raise AssertionError(f"{words}: {' '.join(str(error).split())}") from error

    def _check_old(self) -> None:
        try:
            check_old(self.path)
        except (OSError, KeyError, RuntimeError) as error:
            raise AssertionError(f"old content is harmed: {error!r}") from error
        except AssertionError as error:
            raise AssertionError(f"old content is harmed: {error}") from error

    def _check_recovered(self, answer: Any) -> None:
        with h5py.File(answer.path) as file:
            for name, path in answer.datasets.items():
                if name not in DATA:
                    continue
                found = file[path]
                for selection in found.iter_chunks():
                    try:
                        values, right = found[selection], DATA[name][selection]
                    except OSError as error:
                        raise AssertionError(f"{name} {selection} cannot be read: {error}") from error
                    is_right = (values == right).all() or not values.any()
                    assert is_right, f"{name} {selection} is neither data nor fill value"


# What is said of it, the state that is copied, what is done to it, and the entry.
Plan = tuple[str, str, Callable[[Case], None], str]


def seeded_case(seed: int, states: Sequence[str]) -> Plan:
    """One folder with up to two damages, drawn from a seed."""

    def prepare(case: Case) -> None:
        case.name += ", " + ", ".join(damage(draw, case) for _ in range(draw.choice([1, 1, 1, 2])))

    draw = random.Random(seed)
    state = draw.choice(states)
    return f"seed {seed}: {state}", state, prepare, draw.choice([*ENTRIES, *["resume"] * 3, "recover", "discard"])


def damage(draw: random.Random, case: Case) -> str:
    if not case.side.is_dir():
        return "nothing"
    there = [name for name in ("journal", "journal", "log", "manifest.json") if (case.side / name).is_file()]
    if not there or draw.random() < 0.1:
        name, kind = draw.choice(FILES), draw.choice(sorted(hostile.STAND_INS))
        hostile.replace(case.side / name, kind, case.outside)
        return f"{kind} for {name}"
    name = draw.choice(there)
    path = case.side / name
    if path.is_symlink() or path.stat().st_size > 1 << 20:
        return "nothing"
    data, kind = path.read_bytes(), draw.choice(["damaged", "shuffled", "forged", "forged"])
    if kind == "damaged":
        data = hostile.damaged(draw, data)
    elif name == "manifest.json":
        data = hostile.forged_json(draw, data)
    elif name == "log":
        case.is_forged_log = True
        data = hostile.forged_log(draw, _whole(data))
    else:
        case.is_forged_journal = True
        act = hostile.shuffled if kind == "shuffled" else hostile.forged_journal
        data = act(draw, _whole(data))
    path.write_bytes(data)
    return f"{kind} {name}"


def _whole(data: bytes) -> bytes:
    """What is readable of records that may be damaged already."""
    try:
        hostile.bodies(data)
    except ChunkIOError:
        return b""
    return data


def undamaged(states: Sequence[str]) -> list[Plan]:
    """As they were left: what the other cases are compared with."""

    def prepare(case: Case) -> None:
        # (An overwrite goes on with nothing but an overwrite.)
        case.ends_well = ("resume", *LOOKS, "discard", "force")

    return [(state, state, prepare, entry) for state in states for entry in ENTRIES]


def stand_ins() -> Iterator[Plan]:
    """Every side file, and their folder, replaced by everything else."""
    states = ("new-committed", "existing-committed", "existing-pending", "new-begun", "new-published")
    for state, name, kind, entry in itertools.product(states, ("", *FILES), hostile.STAND_INS, ENTRIES):

        def prepare(case: Case, name: str = name, kind: str = kind) -> None:
            hostile.replace(case.side / name if name else case.side, kind, case.outside)

        yield f"{state}, {kind} for {name or 'the folder'}", state, prepare, entry


def forged() -> Iterator[Plan]:
    """What somebody would forge who knows the format."""
    states = ("new-committed", "existing-created", "existing-committed", "existing-whole", "existing-finished")
    for state, (name, forge), entry in itertools.product(states, hostile.forgeries(), ENTRIES):

        def prepare(case: Case, forge: Callable[[Path], object] = forge) -> None:
            case.is_forged_journal = True
            forge(case.side)

        yield f"{state}, {name}", state, prepare, entry


def main() -> None:
    parser = seeded(__doc__, 10_000)
    parser.add_argument("--cases", default="undamaged,seeded,stand-ins,forged")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        templates, folder = Path(base, "templates"), Path(base, "case")
        cut_off_writes.make_all(templates)
        prepare(folder)
        states = sorted(entry.name for entry in templates.iterdir())
        found = {
            "undamaged": undamaged(states),
            "seeded": [seeded_case(seed, states) for seed in range(options.seed, options.seed + options.runs)],
            "stand-ins": list(stand_ins()),
            "forged": list(forged()),
        }
        cases: list[Plan] = []
        for kind in options.cases.split(","):
            sample = min(options.runs, len(found[kind]))
            cases += random.Random(options.seed).sample(found[kind], sample)
        sys.exit(run_all(cases, folder, templates, options.only))


def prepare(folder: Path) -> None:
    """Have everything imported, and set the bounds."""
    folder.mkdir()
    os.chdir(folder.parent)
    options_of(command_line)
    cut_off_writes.write(folder / "first.h5")
    for entry in ("status_program", "resume_program", "verify"):
        with contextlib.suppress(ChunkIOError):
            ENTRIES[entry](folder / "first.h5")
    logging.getLogger("dask_chunkio").setLevel(logging.ERROR)
    mock.patch.object(activity_lock, "_PAUSE", 0).start()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    sys.addaudithook(audit)


def run_all(cases: Iterable[Plan], folder: Path, templates: Path, only: str) -> int:
    tally: collections.Counter[str] = collections.Counter()
    failures = 0
    for name, state, prepare_case, entry in cases:
        if only not in f"{name}: {entry}":
            continue
        case = Case(name, folder, templates, state)
        prepare_case(case)
        # The last line says what a crash or a hang came from.
        sys.stderr.write(f"{case.name}: {entry}\n")
        wrong, outcome = case.run(entry)
        failures += bool(wrong)
        tally[outcome if not wrong else "wrong"] += 1
        for words in wrong:
            sys.stdout.write(f"{case.name}: {entry}: {words}\n")
            sys.stdout.flush()
    sys.stdout.write(json.dumps({"runs": tally.total(), "failures": failures, "outcomes": tally}) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    main()
