"""Replay every prefix of the calls to the system of whole writes, resume each, and judge what comes of it.

Usage: python -m tests.support.replay.replay_writes [--all | --most N] [--power N] [--seed S] [--jobs N]
           [--keep FOLDER] [CASE ...]

Each write is recorded from outside (`call_recorder`).  A state is what its folder holds after the first calls, and
a part of the next one where that writes bytes; for writes that promise it also what a power failure may leave of
what no fsync has covered.  Processes that are forked for it look at each state by plain h5py, resume it by the
same call, and judge the result.
"""

import argparse
import contextlib
import copy
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tests.support.files import MEMORY
from tests.support.processes import import_for_writes, python
from tests.support.promises import require
from tests.support.replay.call_recorder import Call, build, record
from tests.support.replay.call_replayer import Tree
from tests.support.replay.power_states import Disk, power_states
from tests.support.replay.replay_cases import CASES, FILE
from tests.support.replay.state_judge import Judge

SECONDS = 120
HOWS = ("resume",) * 8 + ("recover", "discard")


@dataclass(frozen=True)
class Recording:
    """What a folder held before a write, and every call that the write made."""

    start: Tree
    disk: Disk
    calls: list[Call]


def recorded(name: str, library: Path, folder: str | Path) -> Recording:
    """Record a write, and make sure that nothing was missed: the replay is what is on the disk."""
    root = Path(folder, "recorded")
    root.mkdir()
    CASES[name].begin(root)
    start, disk = Tree.at(root), Disk.at(str(root))
    command = python("-m", "tests.support.replay.replay_cases", name, root)
    calls = record(library, root, Path(folder, "log"), command)
    replayed = copy.deepcopy(start)
    for call in calls:
        replayed.add(call)
    require(replayed.key == Tree.at(root).key, f"{name}: the recorder has missed something")
    return Recording(start, disk, calls)


def prefix_states(recording: Recording, draw: random.Random) -> Iterator[tuple[str, Tree]]:
    """Yield (words, tree) after each number of calls, and in the middle of each that writes bytes."""
    tree = copy.deepcopy(recording.start)
    yield "at the start", tree
    for count, call in enumerate(recording.calls, 1):
        if call.kind == "write" and len(call.data) > 1:
            torn, length = copy.deepcopy(tree), draw.randrange(1, len(call.data))
            torn.add_part(call, length)
            yield f"after {length} bytes of call {count}, {call}", torn
        tree.add(call)
        if call.kind != "fsync":
            yield f"after call {count}, {call}", tree


@dataclass
class Tally:
    """What came of the states of a case."""

    states: int = 0
    unreadable: int = 0
    failures: list[str] = field(default_factory=list)


class Pool:
    """Forked processes that judge states, some at a time.

    Parameters
    ----------
    judge : Judge
        Of the case.
    folder : path
        Where states are made.
    jobs : int
        Processes at a time; most wait, for locks that nobody holds.
    keep : path, optional
        Where states that fail are copied.
    """

    def __init__(self, judge: Judge, folder: str | Path, jobs: int, keep: Path | None = None) -> None:
        self.judge, self.folder, self.jobs, self.keep = judge, Path(folder), jobs, keep
        self.tally, self._numbers = Tally(), itertools.count()
        # Number, words, how and beginning, by process.
        self._running: dict[int, tuple[int, str, str, float]] = {}

    def add(self, words: str, tree: Tree | Disk, how: str) -> None:
        """Have a state judged, as soon as a process is free."""
        while len(self._running) >= self.jobs:
            self._collect()
        number = next(self._numbers)
        root = self.folder / f"state-{number}"
        root.mkdir()
        tree.make(root)
        if self.keep is not None:
            tree.make(_empty(self.folder / f"kept-{number}"))
        child = os.fork()
        if child == 0:
            _judge_and_leave(self.judge, root, how, self.folder / f"words-{number}")
        self._running[child] = number, words, how, time.monotonic()

    def finish(self) -> Tally:
        """Wait for all, and return the tally."""
        while self._running:
            self._collect()
        return self.tally

    def _collect(self) -> None:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            self._kill_late()
            time.sleep(0.005)
            return
        number, words, how, _ = self._running.pop(child)
        said = self.folder / f"words-{number}"
        lines = said.read_text().splitlines() if said.exists() else []
        self.tally.states += 1
        self.tally.unreadable += "unreadable" in lines
        if status:
            told = lines[-1] if lines and os.WIFEXITED(status) else f"ended by signal {status & 127}"
            self.tally.failures.append(f"{words}; {how}: {told}")
        self._clear(number, bool(status))

    def _clear(self, number: int, failed: bool) -> None:
        for name in ("state", "kept"):
            folder = self.folder / f"{name}-{number}"
            if name == "kept" and failed and self.keep is not None and folder.exists():
                shutil.move(folder, self.keep / f"{len(self.tally.failures)}")
            shutil.rmtree(folder, ignore_errors=True)

    def _kill_late(self) -> None:
        for child, (*_, begun) in self._running.items():
            if time.monotonic() - begun > SECONDS:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _judge_and_leave(judge: Judge, root: Path, how: str, said: Path) -> NoReturn:
    code = 1
    try:
        with open(said, "a") as file:
            if not _looks_right(judge, root):
                # A transaction that was cut off: the log has the rest.
                log = Path(root, FILE + ".writing", "log")
                require(judge.old is not None and log.exists() and log.stat().st_size, "half-written, without a log")
                file.write("unreadable\n")
            judge.judge(root, how)
        code = 0
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        words = str(error).replace("\n", " ")
        with open(said, "a") as file:
            file.write(f"{type(error).__name__}: {words} ({Path(where.filename).name}:{where.lineno})\n")
    finally:
        os._exit(code)


def _looks_right(judge: Judge, root: Path) -> bool:
    """Look in a process of its own: HDF5 may crash on what is half-written."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            judge.look(root)
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def replay(name: str, library: Path, folder: str | Path, options: argparse.Namespace) -> tuple[Tally, int]:
    """Record a case, judge its states, and return the tally and how many calls there are."""
    draw = random.Random(f"{name} {options.seed}")
    recording = recorded(name, library, folder)
    states: Iterable[tuple[str, Tree | Disk]] = prefix_states(recording, draw)
    if CASES[name].call.get("durability") == "power":
        states = itertools.chain(states, power_states(recording.disk, recording.calls, draw, options.power))
        total = len(recording.calls) * (2 + options.power)
    else:
        total = len(recording.calls) * 2
    share = 1 if options.all else options.most / total
    judge = Judge(CASES[name], folder, not options.once)
    pool = Pool(judge, folder, options.jobs, options.keep and _empty(options.keep / name))
    for words, tree in states:
        if draw.random() < share:
            pool.add(words, tree, draw.choice(HOWS))
    return pool.finish(), len(recording.calls)


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="; ".join(CASES))
    parser.add_argument("--all", action="store_true", help="every state")
    parser.add_argument("--most", type=int, default=20, help="states of a case, about, without --all")
    parser.add_argument("--power", type=int, default=2, help="states of a power failure at each call")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--once", action="store_true", help="do not make the same call again when it has ended well")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--keep", type=Path, help="where the states that fail are copied to")
    options = parser.parse_args(arguments)
    say(f"seed {options.seed}")
    import_for_writes()
    if options.keep:
        options.keep.mkdir(parents=True)
    together: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="replay-") as top:
        library = build(top)
        for name in options.cases or CASES:
            with tempfile.TemporaryDirectory(dir=top) as folder:
                tally, calls = replay(name, library, folder, options)
            together.update(calls=calls, states=tally.states, failed=len(tally.failures), unreadable=tally.unreadable)
            after = f"{tally.unreadable} read by plain h5py only after the log was replayed"
            say(f"{name}: {calls} calls, {tally.states} states, {after}, {len(tally.failures)} failed")
            for words in tally.failures:
                say(f"  {words}")
    seconds = time.monotonic() - started
    say(f"{together['calls']} calls, {together['states']} states, {together['failed']} failed, {seconds:.0f} s")
    return 1 if together["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
