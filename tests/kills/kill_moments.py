"""When and whom to kill: at a chosen call to the system of a process that runs tasks of the write.

A plan stands in a file beside the target, so that it reaches tasks in any process.  The
functions here that are called like those of `dask_chunkio.tasks` read it, and go on there.
"""

import collections
import contextlib
import fcntl
import json
import os
import signal
import threading

from kill_cases import append_line

from dask_chunkio import graph, tasks

# Calls that change the disk, and the locks; of the rare ones each is as likely to be drawn as a frequent kind.
CALLS = ("pwrite", "pwritev", "ftruncate", "fsync", "open", "mkdir", "link", "replace", "rename", "unlink", "rmdir")
_EARLY, _HALFWAY, _LATE = "before", "halfway", "after"
POSITIONS = (_EARLY, _HALFWAY, _LATE)
_os_open, _pwrite = os.open, os.pwrite

_armed: set[int] = set()
_counts: collections.Counter[str] = collections.Counter()
_counting = threading.Lock()


def plan_file(path):
    return f"{path}.plan"


def acks_file(path):
    return f"{path}.acks"


def calls_file(path):
    return f"{path}.calls"


def save_plan(path, plan):
    with open(plan_file(path), "w") as file:
        json.dump(plan, file)


# What stands in the graph in place of the functions of `tasks`


def create_target(creation):
    arm(creation.target.path)
    made = tasks.create_target(creation)
    _say_counts(creation.target.path)
    return made


def read_buffer(layout, *arguments):
    arm(layout.target.path)
    return tasks.read_buffer(layout, *arguments)


def commit_buffer(layout, *arguments):
    arm(layout.target.path)
    return tasks.commit_buffer(layout, *arguments)


def write_buffer(layout, *arguments):
    arm(layout.target.path)
    return tasks.write_buffer(layout, *arguments)


def commit_block(layout, *arguments):
    arm(layout.target.path)
    return tasks.commit_block(layout, *arguments)


def write_in_order(layout, *arguments):
    arm(layout.target.path)
    return tasks.write_in_order(layout, *arguments)


def finish_target(layout, *arguments):
    arm(layout.target.path)
    finished = tasks.finish_target(layout, *arguments)
    _say_counts(layout.target.path)
    return finished


NAMES = ("create_target", "read_buffer", "commit_buffer", "write_buffer", "commit_block", "write_in_order")
NAMES += ("finish_target",)


def install():
    """Have graphs that are made here run the functions above."""
    for name in NAMES:
        setattr(graph, name, globals()[name])


def arm(path):
    """Follow the plan of this write in this process, once."""
    with _counting:
        if os.getpid() in _armed:
            return
        _armed.add(os.getpid())
    plan = {}
    with contextlib.suppress(FileNotFoundError), open(plan_file(path)) as file:
        plan = json.load(file)
    tasks._commit = _acknowledging(tasks._commit, path)
    _counts.clear()
    for name in CALLS:
        setattr(os, name, _counted(getattr(os, name), name, path, plan))
    fcntl.flock = _counted(fcntl.flock, "flock", path, plan)


def _acknowledging(commit, path):
    """Say of each buffer that it is committed, as soon as its task knows."""

    def acknowledging(layout, place, data, lock):
        receipt = commit(layout, place, data, lock)
        if not isinstance(data, tasks.Receipt):
            selection = layout.jobs[place[0]].buffers[place[1]]
            append_line(acks_file(path), [place[0], [[axis.start, axis.stop] for axis in selection]])
        return receipt

    return acknowledging


def _counted(function, name, path, plan):
    def counted(*arguments, **keywords):
        if not _concerns(name, arguments, path):
            return function(*arguments, **keywords)
        with _counting:
            number = _counts[name]
            _counts[name] += 1
        if plan.get("call") != name or plan.get("number") != number:
            return function(*arguments, **keywords)
        if plan["position"] == _HALFWAY and name in ("pwrite", "pwritev"):
            _write_part(arguments, plan["share"])
        elif plan["position"] == _LATE:
            found = function(*arguments, **keywords)
            kill(path, plan)
            return found
        kill(path, plan)
        return function(*arguments, **keywords)

    return counted


def _concerns(name, arguments, path):
    if name == "open":
        return bool(arguments[1] & os.O_CREAT) and str(arguments[0]).startswith(f"{path}.writing")
    return isinstance(arguments[0], int) or any(str(one).startswith(str(path)) for one in arguments[:2])


def _write_part(arguments, share):
    descriptor, views, offset = arguments
    data = b"".join(views) if isinstance(views, list) else bytes(views)
    _pwrite(descriptor, data[: int(len(data) * share)], offset)


def kill(path, plan):
    """Kill whom the plan says, once in all processes."""
    try:
        os.close(_os_open(f"{path}.killed", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    victim = plan.get("victim") or os.getpid()
    os.kill(victim, signal.SIGKILL)
    if victim == os.getpid():
        threading.Event().wait()


def _say_counts(path):
    append_line(calls_file(path), dict(_counts))
