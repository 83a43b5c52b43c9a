"""A storm: processes that write into one file at once are killed, stopped, interrupted and attacked, at random.

Usage: python -m tests.support.storm.storm [--kills N] [--seed S] [--folder DIR]

Each round makes a file of other people's, and some jobs that append (with a token), write regions, add datasets and
replace them.  All processes wait for one another (``wait=True``), and always say ``resume=True``; a job is started
again until it has ended well.  Meanwhile `discard`, `recover` and other calls are tried against a writer that stands
at a gate: they are refused while it lives, stopped or not, and go through when it is dead, even where a child that it
has forked lives on.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

import dask_chunkio as dcio
from tests.support.files import MEMORY
from tests.support.processes import adopt_orphans, end_children
from tests.support.promises import Broken, require
from tests.support.storm.jobs import FILE, NO_CLUSTER, SECONDS, Job, attempt, begin, forked_deaf, gate_of
from tests.support.storm.judge import require_whole

KINDS = ("append", "append", "region", "region", "new", "overwrite")
SCHEDULERS = ("synchronous",) * 10 + ("threads",) * 10 + ("processes", "cluster")
AT_ONCE, JOBS = 4, 8
# A process hangs that goes on for so long after anything has happened in the storm: no other one began, ended, or was
# sent a signal.  Longer than the sign of a dead process on a cluster is believed (30 s).
PATIENCE = 45.0
# How soon after its death a writer is known to be dead: by its locks; on a cluster, by its lease of 30 s.
DEAD_AFTER, DEAD_ON_CLUSTER = 20.0, 45.0
# Longer than any look at a lock: a writer that commits nothing for so long still is alive.
IDLE = 0.8
ATTACKS = ("discard", "recover", "same call", "other call")


@dataclass
class Attempt:
    """A process that makes the call of a job.

    Parameters
    ----------
    job : Job
        The call.
    scheduler : str
        Which runs it.
    pid : int
        The process.
    said : path
        Where it says how it ended.
    action : str
        What is going to happen to it: ``"kill"``, ``"kill one"``, ``"interrupt"``, ``"stop"`` or nothing.
    due : float
        When.
    began : float
        Since when it could have gone on; later where it was stopped or stood at a gate.
    """

    job: Job
    scheduler: str
    pid: int
    said: Path
    action: str
    due: float
    began: float
    hit: str = ""
    is_stopped: bool = False
    words: str | None = None

    @property
    def stacks(self) -> str:
        """The traceback of its error, and its stacks where it was asked for them."""
        path = Path(f"{self.said}.stacks")
        return path.read_text() if path.exists() else ""

    def ended(self) -> str | None:
        """Return how the process ended, or None while it lives."""
        if self.words is None and (status := os.waitpid(self.pid, os.WNOHANG))[0]:
            how = f"signal {os.WTERMSIG(status[1])}" if os.WIFSIGNALED(status[1]) else f"exit {status[1] >> 8}"
            self.words = self.said.read_text() if self.said.exists() else how
        return self.words

    def end(self) -> None:
        """Kill it if it lives."""
        if self.words is None:
            self.signal_all(signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def members(self) -> list[int]:
        """Return the process and those that it has started and still knows."""
        with contextlib.suppress(psutil.NoSuchProcess):
            mine = psutil.Process(self.pid)
            return [self.pid, *(child.pid for child in mine.children(recursive=True))]
        return [self.pid]

    def signal_all(self, number: int) -> None:
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Round:
    """Some jobs in one folder, until all have ended well.

    Parameters
    ----------
    folder : path
        An empty one.
    draw : random.Random
        Chooses.
    kills : int
        How many at least.
    tally : Counter
        Of what happened.
    """

    def __init__(self, folder: str | Path, draw: random.Random, kills: int, tally: Counter[str]) -> None:
        self.folder, self.draw, self.kills, self.tally = Path(folder), draw, kills, tally
        self.path = self.folder / FILE
        first = draw.randrange(2)
        self.jobs = [Job(number, draw.choice(KINDS)) for number in range(first, first + JOBS)]
        self.waiting, self.is_discarded = list(self.jobs), False
        self.running: list[Attempt] = []
        self._number, self._last_event = 0, time.monotonic()
        begin(self.path, self.jobs)

    def run(self) -> None:
        """Let it storm; raises `Broken` where a promise is not kept."""
        try:
            while self.waiting or self.running:
                self._start_some()
                for one in list(self.running):
                    self._act(one)
                    self._collect(one)
                self._attack_one_at_a_gate()
                time.sleep(0.01)
            require_whole(self.folder, self.jobs)
            self._make_all_calls_again()
            require_whole(self.folder, self.jobs)
        finally:
            (self.folder / "over").touch()
            for one in self.running:
                one.end()
            end_children()

    # Processes

    def _start_some(self) -> None:
        self.draw.shuffle(self.waiting)
        while self.waiting and len(self.running) < AT_ONCE:
            self._start(self.waiting.pop())

    def _start(self, job: Job) -> None:
        self._number += 1
        said = self.folder / f"said-{self._number}"
        arguments = job, str(self.folder), str(said), self.draw.choice(SCHEDULERS), self.draw.random()
        action = self._action()
        now = self._last_event = time.monotonic()
        due = now + self.draw.choice([0.05, 0.3, 1.0]) * self.draw.random()
        slow = arguments[3] in ("processes", "cluster")
        pid = forked_deaf(attempt, *arguments)
        self.running.append(Attempt(job, arguments[3], pid, said, action, due + 3 * slow * self.draw.random(), now))

    def _action(self) -> str:
        if self.kills <= 0:
            return ""
        return self.draw.choice(["kill"] * 7 + ["kill one", "interrupt", "interrupt", "stop", "stop", "", "", ""])

    def _act(self, one: Attempt) -> None:
        now = time.monotonic()
        if os.path.exists(gate_of(self.folder, one.job.number)):
            one.began = now
        if not one.action or now < one.due:
            return
        self._last_event = now
        action, one.action = one.action, ""
        if action == "stop":
            one.signal_all(signal.SIGSTOP)
            one.is_stopped, one.action, one.due = True, self.draw.choice(["kill", "go on"]), now + self.draw.random()
            self.tally["stopped"] += 1
        elif action == "go on":
            one.signal_all(signal.SIGCONT)
            one.is_stopped, one.began = False, now
        elif action == "interrupt":
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGINT)
            one.hit, one.began = "interrupt", now
            if self.draw.random() < 0.3:
                one.action, one.due = "interrupt", now + 0.3 * self.draw.random()
            self.tally["interrupted"] += 1
        else:
            self._kill(one, self.draw.choice(one.members()) if action == "kill one" else None)

    def _kill(self, one: Attempt, member: int | None = None) -> None:
        if member is None or member == one.pid:
            one.signal_all(signal.SIGKILL)
            one.hit = "kill"
        else:
            os.kill(member, signal.SIGKILL)
            one.hit = "kill one"
        self.kills -= 1
        self.tally["kills"] += 1

    def _collect(self, one: Attempt) -> None:
        words = one.ended()
        if words is None:
            quiet = time.monotonic() - max(one.began, self._last_event)
            if quiet > PATIENCE + SECONDS * bool(self._gated()) and not one.is_stopped:
                self._require_no_hang(one)
            return
        self._last_event = time.monotonic()
        self.running.remove(one)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(gate_of(self.folder, one.job.number))
        if words == "ok":
            return
        self.waiting.append(one.job)
        self.tally[words.partition(":")[0]] += 1
        how = one.hit or "left alone"
        require(self._is_expected(one, words), f"job {one.job} ({how}) ended with {words}\n{one.stacks}")

    def _is_expected(self, one: Attempt, words: str) -> bool:
        if words == "signal 9":
            return one.hit == "kill"
        if words == "interrupted":
            return one.hit == "interrupt"
        if one.hit == "kill one" and words.startswith(("WorkerError", NO_CLUSTER)):
            return True
        # Another job was cut off: this one cannot go on with that.
        if words.startswith("ArgumentError") and "cannot be resumed" in words and "it writes" in words:
            return True
        return words.startswith(("UnfinishedWriteError", "ArgumentError")) and "unfinished write" in words

    def _require_no_hang(self, one: Attempt) -> None:
        one.signal_all(signal.SIGUSR1)
        time.sleep(0.5)
        raise Broken(f"job {one.job} ({one.hit or 'left alone'}) has not ended in time\n{one.stacks}")

    # Attacks

    def _gated(self) -> list[Attempt]:
        return [one for one in self.running if os.path.exists(gate_of(self.folder, one.job.number))]

    def _attack_one_at_a_gate(self) -> None:
        for one in self._gated():
            if one.hit:
                os.unlink(gate_of(self.folder, one.job.number))
                continue
            one.action, one.is_stopped = "", False
            time.sleep(IDLE)
            if self.draw.random() < 0.3:
                one.signal_all(signal.SIGSTOP)
            how = self.draw.choice(ATTACKS)
            words = self._attack(how, one.job)
            is_at_gate = os.path.exists(gate_of(self.folder, one.job.number)) and one.ended() is None
            require(is_at_gate, f"the writer did not stay at its gate: {words}")
            require(words.startswith("TargetBusyError"), f"{how}, while job {one.job} lives: {words}")
            self.tally["refused while it lived"] += 1
            if self.draw.random() < 0.5:
                one.signal_all(signal.SIGCONT)
                one.began = time.monotonic()
            else:
                self._attack_the_dead(one)
            os.unlink(gate_of(self.folder, one.job.number))

    def _attack_the_dead(self, one: Attempt) -> None:
        """Kill all of its processes, but for a child that its source has forked, and may be stopped: what was refused
        goes through.

        No other process is stopped meanwhile: what it holds, it would keep.
        """
        for other in self.running:
            if other.is_stopped and other is not one:
                other.signal_all(signal.SIGCONT)
                other.is_stopped, other.began = False, time.monotonic()
        for pid in one.members():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if pid == one.pid or not _is_forked_child(pid):
                    os.kill(pid, signal.SIGKILL)
        one.hit = "kill"
        self.kills -= 1
        self.tally["kills"] += 1
        how, most = (
            self.draw.choice(("discard", "recover")),
            DEAD_ON_CLUSTER if one.scheduler == "cluster" else DEAD_AFTER,
        )
        end = time.monotonic() + most
        while (words := self._attack(how, one.job)).startswith("TargetBusyError"):
            require(time.monotonic() < end, f"{how}, {most:.0f} s after job {one.job} was killed: {words}")
        # Where nothing was committed there is nothing to recover.
        is_through = words == "ok" or words.startswith("TargetError: the write") or "no unfinished write" in words
        require(is_through, f"{how}, when job {one.job} is dead: {words}")
        self.tally["gone through when it was dead"] += 1
        self._last_event = time.monotonic()

    def _attack(self, how: str, job: Job) -> str:
        """Return how a second call ends, made in a process of its own while the first one goes on."""
        self._number += 1
        said = self.folder / f"attacked-{self._number}"
        child = forked_deaf(attack, how, job, self.path, said)
        end = time.monotonic() + PATIENCE
        while not os.waitpid(child, os.WNOHANG)[0]:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "it did not come back"
            time.sleep(0.01)
        return said.read_text() if said.exists() else "it said nothing"

    # In the end

    def _make_all_calls_again(self) -> None:
        for job in self.jobs:
            said = self.folder / f"again-{job.number}"
            child = forked_deaf(attack, "same call", job, self.path, said)
            os.waitpid(child, 0)
            words = said.read_text() if said.exists() else "nothing"
            require(words == "ok", f"{job}, made once more after its end, says {words}")


def _is_forked_child(pid: int) -> bool:
    """Say whether a process is none that a pool or a cluster has started: those are other programs."""
    return bool(psutil.Process(pid).cmdline() == psutil.Process(os.getpid()).cmdline())


def attack(how: str, job: Job, path: Path, said: Path) -> None:
    """Try to take a write from whoever is at it."""
    try:
        if how == "discard":
            dcio.discard(path)
        elif how == "recover":
            dcio.recover(path)
        elif how == "same call":
            job.call(path, job.data, scheduler="synchronous")
        else:
            Job(999, "new").call(path, job.data, scheduler="synchronous")
        words = "ok"
    except BaseException as error:
        words = f"{type(error).__name__}: {error}"
    said.write_text(words)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--folder", default=MEMORY)
    parser.add_argument("--go-on", action="store_true", help="after a round that fails")
    options = parser.parse_args(arguments)
    tally: Counter[str] = Counter()
    failures, started = 0, time.monotonic()
    draw = random.Random(options.seed)
    sys.stdout.write(f"seed {options.seed}\n")
    adopt_orphans()
    while tally["kills"] < options.kills:
        folder = tempfile.mkdtemp(dir=options.folder, prefix="storm-")
        seed = draw.randrange(1 << 30)
        try:
            Round(folder, random.Random(seed), min(25, options.kills - tally["kills"]), tally).run()
            tally["rounds"] += 1
        except BaseException as error:
            failures += 1
            tally["rounds"] += 1
            sys.stdout.write(f"round {tally['rounds']}, seed {seed}: {type(error).__name__}: {error}\n")
            if not isinstance(error, Broken):
                traceback.print_exc()
            if not options.go_on or isinstance(error, KeyboardInterrupt):
                break
        finally:
            sys.stdout.flush()
            shutil.rmtree(folder, ignore_errors=True)
    figures = ", ".join(f"{name} {count}" for name, count in tally.items())
    sys.stdout.write(f"{failures} rounds failed; {figures}; {time.monotonic() - started:.0f} s\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
