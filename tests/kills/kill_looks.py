"""What must hold after a kill, looked at in a process of its own."""

import math
import os
import shutil

import h5py
import numpy as np
from kill_cases import HIDDEN, lost, snapshot, unequal

from dask_chunkio import discard, recover, status, verify
from dask_chunkio.errors import TargetError
from dask_chunkio.storage.log import read_turn


def plainly(path, old, whole, case):
    """How HDF5 finds an existing file that nobody has brought into order: for the record, it may be in any state."""
    if not os.path.exists(path):
        return "gone"
    try:
        found = snapshot(path)
    except Exception as error:  # SystemError among others
        return f"cannot be read ({type(error).__name__})"
    return "wrong" if _harmed(old, whole, found, case) else "intact"


def _harmed(old, whole, found, case):
    """In words, what is wrong with an existing file: neither as before, nor with all datasets whole."""
    names = [one.name for one in case.datasets]
    if not lost(old, found, names) and not lost({name: whole[name] for name in names}, found):
        return []
    visible = [name for name in found if name not in old and not name.startswith(HIDDEN)]
    return lost(old, found) + [f"{name} is visible, and the write is not done" for name in visible]


def look(case, path, copy, acknowledged, snapshots, discards):
    """Say what remains and what is wrong with it; `copy` is a copy of it, to be changed."""
    old, whole = snapshots
    problems = []
    remained = _remained(path, whole, case)
    answer = {"remained": remained, "recovered": False, "problems": problems}
    if not os.path.exists(f"{path}.writing"):
        problems += _under_final_name(path, old, whole, case)
        if acknowledged and remained != "whole":
            problems.append(f"{len(acknowledged)} buffers were acknowledged, and nothing is left")
        return answer
    state = status(path)
    if state is not None and state.datasets:
        expected = [len(_chunks_of(case, acknowledged, number)) for number in range(len(case.datasets))]
        for number, one in enumerate(state.datasets):
            if one.committed < expected[number]:
                problems.append(f"{one.name}: {expected[number]} chunks acknowledged, {one.committed} in the journal")
    if discards:
        other = copy + ".d"
        os.mkdir(other)
        for name in ("out.h5", "out.h5.writing"):
            source = os.path.join(os.path.dirname(copy), name)
            if os.path.isdir(source):
                shutil.copytree(source, os.path.join(other, name))
            elif os.path.exists(source):
                shutil.copy(source, other)
        problems += _discarded(os.path.join(other, "out.h5"), old, whole, case)
    try:
        recovered = recover(copy)
    except TargetError:
        problems += _under_final_name(path, old, whole, case)
        if acknowledged and not remained.startswith("whole"):
            raise
        return answer
    answer["recovered"] = True
    problems += _under_final_name(copy, old, whole, case)
    problems += _acknowledged(case, recovered, acknowledged)
    if recovered.committed < sum(len(_chunks_of(case, acknowledged, n)) for n in range(len(case.datasets))):
        problems.append(f"{recovered.committed} chunks committed, fewer than acknowledged")
    return answer


def look_at_end(path, whole):
    """In words, how the file differs from that of an uninterrupted write, and what is left beside it."""
    problems = unequal(whole, snapshot(path))
    if not verify(path).ok:
        problems.append("verify finds problems")
    left = [name for name in os.listdir(os.path.dirname(path)) if name.startswith("out.h5.w")]
    return problems + [f"{name} is left" for name in left]


def _remained(path, whole, case):
    """One of few words for the state in which the kill has left the file and its folder."""
    folder = f"{path}.writing"
    if not os.path.isdir(folder):
        return "whole" if _is_whole(path, whole, case) else "nothing begun"
    journal, log = os.path.join(folder, "journal"), os.path.join(folder, "log")
    if not os.path.exists(journal):
        return "whole, folder nearly gone" if _is_whole(path, whole, case) else "hardly begun"
    data = b""
    if os.path.exists(log):
        with open(log, "rb") as file:
            data = file.read()
    if data:
        return "turn to apply" if read_turn(data) is not None else "turn to drop"
    state = status(path)
    if state is None or not state.datasets:
        return "hardly begun"
    if state.finished:
        return "whole, not cleaned up"
    return "between turns" if verify(path).ok else "payloads on their way"


def _is_whole(path, whole, case):
    if not os.path.exists(path):
        return False
    try:
        found = snapshot(path)
    except Exception:  # SystemError among others
        return False
    return all(found.get(one.name) == whole[one.name] for one in case.datasets)


def _under_final_name(path, old, whole, case):
    """In words, what of an old file is harmed, and what is visible that is not done."""
    if not os.path.exists(path):
        return ["the old file is gone"] if old else []
    found = snapshot(path)
    if not old:
        return unequal(whole, found)
    return _harmed(old, whole, found, case)


def _discarded(path, old, whole, case):
    discard(path)
    problems = [f"discard left {name}" for name in os.listdir(os.path.dirname(path)) if name != "out.h5"]
    if not os.path.exists(path):
        return problems + (["discard removed the old file"] if old else [])
    found = snapshot(path)
    if not unequal(whole, found):
        return problems
    if not old:
        return [*problems, "discard left half a file"]
    return problems + [f"after discard: {words}" for words in unequal(old, found)]


def _chunks_of(case, acknowledged, number):
    one = case.datasets[number]
    return {chunk for of, selection in acknowledged if of == number for chunk in one.chunks_in(selection)}


def _acknowledged(case, recovered, acknowledged):
    """Every chunk is right, or holds the fill value and was not acknowledged."""
    problems = []
    with h5py.File(recovered.path, "r") as file:
        for number, one in enumerate(case.datasets):
            dataset, done = file[recovered.datasets[one.name]], _chunks_of(case, acknowledged, number)
            found, right = dataset[()], one.numbers.whole()
            fill = np.asarray(one.options.get("fillvalue", 0), one.numbers.dtype)
            cells = [range(0, n, c) for n, c in zip(one.numbers.shape, one.chunks, strict=True)]
            for flat in range(math.prod(map(len, cells))):
                origin, rest = [], flat
                for span in reversed(cells):
                    rest, at = divmod(rest, len(span))
                    origin.append(span[at])
                origin = tuple(reversed(origin))
                place = tuple(slice(at, at + n) for at, n in zip(origin, one.chunks, strict=True))
                is_right = found[place].tobytes() == right[place].tobytes()
                if origin in done and not is_right:
                    problems.append(f"{one.name}: the chunk at {origin} was acknowledged and is not there")
                elif not is_right and not (found[place] == fill).all():
                    problems.append(f"{one.name}: the chunk at {origin} is garbage")
    return problems[:5]
