"""Kills one write after another at a random moment, looks at what remains, goes on with it, and compares.

Usage: kill_runs.py FIRST_SEED COUNT [--jobs N] [--scheduler NAME] [--folder DIR] [--without RULE]

Prints a line of JSON for each seed; what is wrong stands under ``problems``.  Nothing else decides
what is drawn than the seed, so that a seed can be run again.  (Which threads ran when is the system's
choice.)  With --without a rule is taken out, and problems are to be expected.

A process that has imported everything and started nothing forks every writer: a write takes
a tenth of a second, and the interpreter of each is new to it.
"""

import argparse
import contextlib
import dataclasses
import faulthandler
import json
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import dask
import kill_moments
import psutil
from kill_cases import HIDDEN, LOCAL, arguments, buffers, draw, lost, make_old_file, read_lines, snapshot, unequal
from kill_looks import look, look_at_end, plainly
from kill_without import RULES, take_out

from dask_chunkio import to_hdf5
from dask_chunkio.errors import ChunkIOError, TargetExistsError

WHOLE, FAILED, WAS_WHOLE = 0, 3, 4
_LIMIT = 120
# A frequent call is drawn more often than a rare one, but not as often as it is made.
_WEIGHTS = {"pwrite": 5, "pwritev": 4, "ftruncate": 4, "flock": 2, "unlink": 2}


@dataclasses.dataclass(frozen=True)
class How:
    """How one call of `to_hdf5` is run."""

    scheduler: str
    workers: int
    buffers: list
    context: str = "fork"
    resume: bool = False
    wait: bool = False


class Problems(list):
    """What is wrong with a run, in words."""

    def of(self, where, found):
        self.extend(f"{where}: {words}" for words in found)


# Processes


def start(folder, function, *arguments):
    """Fork a process for `function`, in a group of its own."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        log = os.open(folder / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 2)
        faulthandler.enable()
        faulthandler.dump_traceback_later(_LIMIT - 10)
        code = function(*arguments) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(child):
    """How a process ended, or None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def wait(child):
    end = time.monotonic() + _LIMIT
    while (code := ended(child)) is None:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            return f"hung for {_LIMIT} s"
        time.sleep(0.002)
    return code


def in_child(folder, function, *arguments):
    """Call `function` in a process of its own; what it returns, or words in a RuntimeError."""
    answer = folder / "answer"

    def call():
        found = function(*arguments)
        answer.write_bytes(pickle.dumps(found))

    code = wait(start(folder, call))
    if code != 0:
        raise RuntimeError(f"{function.__name__} ended with {code}: {_last_lines(folder)}")
    return pickle.loads(answer.read_bytes())


def _last_lines(folder, count=12):
    with contextlib.suppress(FileNotFoundError):
        return " | ".join((folder / "errors").read_text().strip().splitlines()[-count:])
    return ""


def end_group(leader):
    """Kill what a writer has left running."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    psutil.wait_procs(members(leader), timeout=30)


def members(leader):
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


# The write


def write(case, path, how, plan):
    """What is killed."""
    kill_moments.install()
    if plan.get("victim") == "client":
        plan = {**plan, "victim": os.getpid()}
    kill_moments.save_plan(path, plan)
    data, encoding = arguments(case, how.buffers, f"{path}.reads")
    try:
        with dask.config.set({"num_workers": how.workers, "multiprocessing.context": how.context}):
            to_hdf5(
                path, data, encoding=encoding, scheduler=how.scheduler, overwrite=case.overwrite, resume=how.resume,
                wait=how.wait, durability=case.durability, libver=case.libver if case.old == "none" else None,
                fuse=case.fuse, progress=False,
            )  # fmt: skip
    except TargetExistsError:
        traceback.print_exc()
        return WAS_WHOLE
    except ChunkIOError:
        traceback.print_exc()
        return FAILED
    return WHOLE


def killed(folder, case, path, how, moment):
    """Run a write and kill somebody; how its process ended, and its id."""
    for name in (".killed", ".plan"):
        Path(path + name).unlink(missing_ok=True)
    started = time.monotonic()
    plan = moment if moment.get("call") else {}
    child = start(folder, write, case, path, how, plan)
    if moment.get("call") or not moment:
        return wait(child), child
    journal, size, commits = Path(path + ".writing", "journal"), 0, moment.get("commits", 0)
    while ended_with(child) is None:
        now = _nbytes(journal)
        commits, size = commits - (now > size), max(now, size)
        if commits <= 0 and time.monotonic() - started >= moment.get("seconds", 0):
            break
    else:
        return wait_again(child), child
    end = time.monotonic() + moment["spin"]
    while time.monotonic() < end:
        pass
    with contextlib.suppress(ProcessLookupError, psutil.Error):
        victims = psutil.Process(child).children() if moment["victim"] is None and how.scheduler == "processes" else []
        os.kill(victims[moment["which"] % len(victims)].pid if victims else child, signal.SIGKILL)
    Path(path + ".killed").touch()
    return wait_again(child), child


_codes = {}


def ended_with(child):
    if child not in _codes and (code := ended(child)) is not None:
        _codes[child] = code
    return _codes.get(child)


def wait_again(child):
    return _codes.pop(child) if child in _codes else wait(child)


def _nbytes(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def draw_moment(rng, counts, how, seconds):
    """When to kill, and whom."""
    victim = rng.choice((None, "client")) if how.scheduler == "processes" else None
    kind = rng.random()
    if kind < 0.7:
        names = sorted(counts)
        name = rng.choices(names, [_WEIGHTS.get(name, 1) for name in names])[0]
        share = how.workers if how.scheduler == "processes" else 1
        number = rng.randrange(max(1, counts[name] // share))
        return {
            "call": name, "number": number, "position": rng.choice(kill_moments.POSITIONS), "share": rng.random(),
            "victim": victim,
        }  # fmt: skip
    common = {"spin": rng.random() * 0.01, "victim": victim, "which": rng.randrange(8)}
    if kind < 0.85:
        return {"commits": rng.randrange(1, 16), **common}
    return {"seconds": rng.random() * seconds, **common}


def words_of(moment):
    if moment.get("call"):
        return f"{moment['call']} {moment['position']}"
    return "commits" if "commits" in moment else "time"


def draw_how(rng, case, shapes, first=False):
    if first:
        scheduler = case.scheduler
    else:
        scheduler = rng.choice(LOCAL)
        # Twice as often the buffers of before, so that the reads can be counted.
        shapes = shapes if rng.random() < 0.6 else buffers(rng, case)
    context = "spawn" if scheduler == "processes" and rng.random() < 0.06 else "fork"
    return How(scheduler, case.workers if first else rng.choice((1, 2, 3)), shapes, context, resume=not first)


# One seed


def run(seed, folder, scheduler=None):
    """Kill the write of a seed, once or several times, and finish it."""
    case, rng, problems = draw(seed, scheduler), random.Random(f"kills {seed}"), Problems()
    record = {"seed": seed, "case": str(case), "scheduler": case.scheduler, "libver": case.libver, "old": case.old}
    record |= {"filters": [str(one.options.get("compression")) for one in case.datasets], "kills": []}
    try:
        _run(case, rng, folder, problems, record)
    except RuntimeError as error:
        problems.append(str(error))
    record["problems"] = problems
    return record


def _run(case, rng, folder, problems, record):
    for name in ("reference", "run"):
        (folder / name).mkdir(parents=True)
        in_child(folder, make_old_file, folder / name / "out.h5", case)
    old = in_child(folder, snapshot, folder / "run" / "out.h5") if case.old != "none" else {}
    shapes = buffers(rng, case)
    whole, counts, seconds = _reference(case, folder, shapes)
    problems.of("uninterrupted", lost(old, whole, [one.name for one in case.datasets] if case.overwrite else ()))
    path, acknowledged = str(folder / "run" / "out.h5"), []
    how = draw_how(rng, case, shapes, first=True)
    leaders = []
    try:
        for attempt in range(4):
            is_last = attempt > 0 and (attempt == 3 or rng.random() < 0.65)
            moment = {} if is_last else draw_moment(rng, counts, how, seconds)
            reads_before = len(read_lines(f"{path}.reads"))
            code, leader = killed(folder, case, path, how, moment)
            leaders.append(leader)
            _check_reads(case, how, acknowledged, path, reads_before, problems, first=attempt == 0)
            acknowledged = read_lines(kill_moments.acks_file(path))
            _check_code(code, how, bool(moment), folder, path, problems)
            if code == WHOLE:
                break
            if code == WAS_WHOLE:
                break
            lingers = how.scheduler == "processes" and rng.random() < 0.4
            if not lingers:
                end_group(leader)
                found = _look(case, folder, path, acknowledged, (old, whole), rng, problems)
                record["kills"].append({"moment": words_of(moment), "by": how.scheduler, **found})
                if found["remained"] in ("whole, folder nearly gone", "nothing begun", "whole"):
                    # The next one is a new write.
                    acknowledged = []
                    Path(kill_moments.acks_file(path)).unlink(missing_ok=True)
                if found["remained"] == "whole":
                    break
            else:
                record["kills"].append({"moment": words_of(moment), "by": how.scheduler, "remained": "not looked at"})
            how = dataclasses.replace(draw_how(rng, case, shapes), wait=lingers)
    finally:
        for leader in leaders:
            end_group(leader)
    record["attempts"] = attempt + 1
    problems.of("at the end", in_child(folder, look_at_end, path, whole))


def _reference(case, folder, shapes):
    """The uninterrupted write: what it makes, which calls it takes, and how long."""
    path = str(folder / "reference" / "out.h5")
    started = time.monotonic()
    code = wait(start(folder, write, case, path, How("synchronous", 1, shapes), {}))
    seconds = time.monotonic() - started
    if code != WHOLE:
        raise RuntimeError(f"the uninterrupted write ended with {code}: {_last_lines(folder)}")
    counts = read_lines(kill_moments.calls_file(path))[-1]
    return in_child(folder, snapshot, path), counts, seconds


def _check_code(code, how, may_die, folder, path, problems):
    was_killed = os.path.exists(f"{path}.killed")
    allowed = [WHOLE]
    if was_killed:
        allowed += [-signal.SIGKILL, *([FAILED] if how.scheduler == "processes" else [])]
    if how.resume:
        allowed.append(WAS_WHOLE)
    if code not in allowed or (was_killed and not may_die):
        problems.append(f"the write ({how}) ended with {code}: {_last_lines(folder)}")
    if code == WAS_WHOLE and os.path.exists(f"{path}.writing"):
        problems.append("all was written, and resume=True left the folder")


def _check_reads(case, how, acknowledged, path, before, problems, first):
    """What was acknowledged is not read again; and what was not is no more than what was in flight."""
    reads = read_lines(f"{path}.reads")[before:]
    done = {}
    for number, selection in acknowledged:
        done.setdefault(number, set()).update(case.datasets[number].chunks_in(selection))
    counted = [(number, selection) for number, selection, _ in reads if case.datasets[number].counts_reads]
    for number, selection in counted:
        if case.datasets[number].chunks_in(selection) <= done.get(number, set()):
            problems.append(f"dataset {number}: {selection} was committed, and is read again")
    if first and case.fuse:
        now = {(number, str(selection)) for number, selection in read_lines(kill_moments.acks_file(path))}
        in_flight = {(number, str(selection)) for number, selection in counted} - now
        threads = 1 if how.scheduler == "synchronous" else how.workers
        if len(in_flight) > threads:
            problems.append(f"{len(in_flight)} buffers were in flight in {threads} threads")


def _look(case, folder, path, acknowledged, snapshots, rng, problems):
    """Look at what remains, at a copy where a look changes something."""
    found = {"plain": in_child(folder, plainly, path, *snapshots, case) if case.old != "none" else "no old file"}
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(os.path.dirname(path), copy)
    answer = in_child(folder, look, case, path, str(copy / "out.h5"), acknowledged, snapshots, rng.random() < 0.3)
    problems.of(f"after the kill, {answer['remained']}", answer.pop("problems"))
    # Now and then what was recovered is resumed, and not what the kill has left.
    if answer["recovered"] and rng.random() < 0.3:
        shutil.rmtree(copy)
        problems.of("recovered", in_child(folder, _recovered, path))
    return {**found, **answer}


def _recovered(path):
    from dask_chunkio import recover

    recover(path)
    return []


# Many seeds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scheduler", choices=LOCAL)
    parser.add_argument("--folder", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    parser.add_argument("--without", choices=sorted(RULES))
    parser.add_argument("--keep", action="store_true", help="keep what a seed with problems has left, and say where")
    options = parser.parse_args()
    take_out(options.without)
    faulthandler.enable()
    folder = Path(tempfile.mkdtemp(prefix="dask-chunkio-kills-", dir=options.folder))
    try:
        drivers = [os.fork() or _drive(options, folder, job) for job in range(options.jobs)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(driver, 0)[1]) for driver in drivers]
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return max(codes)


def _drive(options, folder, job):
    code = 1
    try:
        for seed in range(options.first + job, options.first + options.count, options.jobs):
            own = folder / str(seed)
            record = run(seed, own, options.scheduler)
            if options.keep and record["problems"]:
                record["folder"] = str(own)
            else:
                shutil.rmtree(own, ignore_errors=True)
            os.write(1, (json.dumps(record) + "\n").encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


__all__ = ["HIDDEN"]
if __name__ == "__main__":
    sys.exit(main())
