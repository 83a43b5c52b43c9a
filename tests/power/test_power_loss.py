"""The power fails: after every call, with every loss that the disk may make of what was not synced."""

import os
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio
from dask_chunkio.errors import TargetError
from tests.support.power.power_writes import (
    FILE,
    SEED,
    TIMES,
    Case,
    acked,
    broken,
    check,
    disk_with_everything,
    recorded,
    some_of,
    without_pauses,
)
from tests.support.power.simulated_disk import disks_after


def noise(seed: int, rows: int, columns: int = 64) -> Any:
    """Chunks of it are longer than a sector, and do not get shorter by compression."""
    return np.random.default_rng(seed).integers(0, 1 << 30, (rows, columns)).astype("i4")


def others(path: Any, **keywords: Any) -> None:
    """Other people's file, with space in it that is free, and a dataset that is to be replaced."""
    with h5py.File(path, "w", **keywords) as file:
        file.attrs["by"] = "others"
        file["gone"] = noise(1, 12)
        file["theirs"] = noise(2, 10)
        file.create_dataset("g/packed", data=noise(3, 8), chunks=(4, 64), compression="gzip")
        file["x"] = noise(4, 3)
        del file["gone"]


def others_with_known_space(path: Any) -> None:
    others(path, libver="v110", fs_strategy="fsm", fs_persist=True)


def only_ours(path: Any) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = noise(5, 5)


X, NEW = noise(6, 12), noise(7, 6)
OVER = {"overwrite": True}
CASES = {
    "new": Case({"/x": X}),
    "replaced": Case({"/x": X}, only_ours, keywords=OVER),
    "existing": Case({"/x": X, "/g/new": NEW}, others, keywords=OVER),
    "existing, v110 with known free space": Case({"/x": X, "/g/new": NEW}, others_with_known_space, keywords=OVER),
}
MORE_CASES = {
    "new, many processes": replace(CASES["new"], exclusive=False),
    "existing, many processes": replace(CASES["existing"], exclusive=False),
    "new, v110": replace(CASES["new"], keywords={"libver": "v110", "compression": "gzip"}),
    "read one at a time": replace(CASES["new"], keywords={"read": "serial"}),
    "read in order": replace(CASES["new"], keywords={"read": "ordered"}),
}
LONG = {"/x": noise(8, 200), "/g/new": noise(9, 100)}
LARGE = {
    "new": replace(CASES["new"], data=LONG, rows=8, buffer=3, scheduler="threads"),
    "existing": replace(CASES["existing"], data=LONG, rows=8, buffer=3, scheduler="threads"),
}


def no_disk_is_broken(case: Case, most: int, limit: int, seed: int = 1, moments: int | None = None) -> None:
    random = Random(seed)
    recorder = recorded(case)
    prefixes = set(some_of(range(len(recorder.events) + 1), moments, random)) if moments else None
    found = disks_after(recorder, random, most, prefixes=prefixes)
    found = dict(some_of(list(found.items()), limit, random))
    words = broken(case, recorder, found)
    assert not words, f"{len(found)} disks\n" + "\n".join(words)


@pytest.mark.parametrize("name", ["new", "existing"])
def test_whatever_a_power_failure_leaves_of_a_write_recovers(name: str) -> None:
    no_disk_is_broken(CASES[name], most=2, limit=30)


@pytest.mark.heavy
@pytest.mark.parametrize("name", [*CASES, *MORE_CASES])
def test_whatever_a_power_failure_leaves_of_a_write_recovers_searched_longer(name: str) -> None:
    no_disk_is_broken((CASES | MORE_CASES)[name], most=64, limit=60 * TIMES, seed=SEED, moments=25 * TIMES)


@pytest.mark.heavy
@pytest.mark.parametrize("name", LARGE)
def test_whatever_a_power_failure_leaves_of_a_large_write_recovers(name: str) -> None:
    no_disk_is_broken(LARGE[name], most=3, limit=60 * TIMES, seed=SEED, moments=25 * TIMES)


def unsynced(recorder: Any, paths: Any) -> None:
    """Take every sync of some files and folders out of what was recorded."""
    numbers: dict[str, int | None] = {}
    for event in recorder.events:
        if event[0] in ("mkdir", "create"):
            numbers.setdefault(event[2], event[3])
    numbers |= {"": 0, FILE: next((n for path, n in recorder.start.files if path == FILE), numbers.get("data.h5"))}
    created = (event for event in recorder.events if event[0] == "create")
    # (It is written under another name first.)
    numbers["manifest.json"] = next((event[3] for event in created if event[2].startswith("manifest.json")), None)
    gone = {numbers[path] for path in paths}
    recorder.events = [event for event in recorder.events if not (event[0] == "fsync" and event[1] in gone)]


@pytest.mark.parametrize("name", ["new", pytest.param("existing", marks=pytest.mark.heavy)])
@pytest.mark.parametrize(
    "what",
    [
        "log",
        *(
            pytest.param(name, marks=pytest.mark.heavy)
            for name in ("", "out.h5.writing", "manifest.json", "journal", FILE)
        ),
    ],
)
def test_without_one_of_the_syncs_a_disk_is_broken(name: str, what: str) -> None:
    case = CASES[name]
    recorder = recorded(case)
    unsynced(recorder, [what])
    # (Where names keep their order, one sync of a folder is enough for those before.)
    end = next(count for count, event in enumerate(recorder.events) if event[0] == "remove")
    found = list(disks_after(recorder, Random(1), 12, any_names=not what, prefixes=range(end)).items())
    Random(1).shuffle(found)
    assert broken(case, recorder, dict(found), most=1)


def second_call(how: str) -> Callable[..., Any]:
    """Return what is done about a write that was cut off, in a folder."""
    calls: dict[str, Callable[[str], object]] = {"recover": dask_chunkio.recover, "discard": dask_chunkio.discard}
    return lambda root: calls[how](os.path.join(root, FILE))


def cut_off_twice(
    name: str,
    how: str,
    *,
    died: bool,
    most: int,
    cuts: Callable[..., Any],
    upto: int | None = None,
    limit: int | None = None,
) -> None:
    """A write is cut off, `how` brings it into order, and the power fails while it does.

    The first cut is the end of the process, which leaves what it wrote in the system's memory, or of the power.

    Parameters
    ----------
    cuts : callable
        Chooses from the events after which number the first one is.
    upto : int, optional
        After how many events of `how` the second one is at the latest.
    limit : int, optional
        Of disks for each first cut.
    """
    case, checked = CASES[name], set()
    first, random = recorded(case), Random(2)
    action = second_call(how) if how != "resume" else lambda root: case.write(root, resume=True)
    for count in cuts(first.events):
        disk = disk_with_everything(first, count)
        before = {"after": first.events[:count], "before": first.start} if died else {}
        try:
            second = recorded(case, action, disk, **before)
        except TargetError:  # there is nothing to recover
            continue
        if not died:
            second.events[:0] = [event for event in first.events[:count] if event[0] == "ack"]
        start = count if died else 0
        end = len(second.events) + 1 if upto is None else min(start + upto, len(second.events) + 1)
        found = disks_after(second, random, most, prefixes=range(start, end))
        found = {key: left for key, left in found.items() if key not in checked}
        found = dict(some_of(list(found.items()), limit or len(found), random))
        checked |= set(found)
        words = broken_old(case, found) if how == "discard" else broken(case, second, found, most=1)
        assert not words, f"cut off after event {count} {first.events[count - 1][:2]}: " + "\n".join(words)
    assert checked


def broken_old(case: Case, found: dict[Any, Any]) -> list[str]:
    old = case.old()
    with without_pauses():
        for disk, count, what in found.values():
            try:
                check(case, old, disk, [], "discard")
            except Exception as error:
                return [f"then after event {count}, {what}: {type(error).__name__}: {error} [{disk}]"]
    return []


HOWS = ("resume", "recover", "discard")


def third_turn(after: int) -> Any:
    """Return where the third transaction has written its log, or so many events later."""

    def cuts(events: Any) -> list[Any]:
        # The log is the only file that is emptied again and again.
        emptied = [event[1] for event in events if event[0] == "size" and event[2] == 0]
        log = max(set(emptied), key=emptied.count)
        written = [count for count, event in enumerate(events, 1) if event[0] == "write" and event[1] == log]
        return [written[2] + after]

    return cuts


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("after", [pytest.param(0, marks=pytest.mark.heavy), 4])
def test_the_power_may_fail_while_a_write_whose_process_died_is_brought_into_order(how: str, after: int) -> None:
    cut_off_twice("existing", how, died=True, most=3, cuts=third_turn(after), upto=12)


def entered(events: Any) -> Any:
    """Return where a transaction's records are in the journal, and its ``fsync`` has not been made."""
    created = (event for event in events if event[0] == "create" and event[2] == "journal")
    journal = next(created)[3]
    written = [count for count, event in enumerate(events, 1) if event[0] == "write" and event[1] == journal]
    return written[2:3]


@pytest.mark.parametrize("how", HOWS)
def test_records_that_a_process_left_in_memory_reach_the_disk_before_their_log_is_emptied(how: str) -> None:
    cut_off_twice("existing", how, died=True, most=3, cuts=entered, upto=12)


@pytest.mark.parametrize("how", HOWS)
def test_the_power_may_fail_again_while_a_write_is_brought_into_order(how: str) -> None:
    cut_off_twice("existing", how, died=False, most=3, cuts=third_turn(4), upto=12)


def anywhere(count: int) -> Callable[..., Any]:
    return lambda events: some_of(range(5, len(events)), count, Random(SEED))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["new", "existing"])
@pytest.mark.parametrize("died", [True, False])
@pytest.mark.parametrize("how", HOWS)
def test_the_power_may_fail_while_a_write_is_brought_into_order_searched_longer(
    name: str, how: str, died: bool
) -> None:
    cut_off_twice(name, how, died=died, most=1, cuts=anywhere(4 * TIMES), limit=10 * TIMES)


@pytest.mark.parametrize("name", ["new", "replaced"])
def test_a_new_file_that_has_its_name_is_whole_even_where_commits_do_not_wait_for_the_disk(name: str) -> None:
    case = replace(CASES[name], durability="process")
    recorder, old = recorded(case), case.old()
    named = 0
    for disk, count, what in disks_after(recorder, Random(1), 5).values():
        found = {path: disk.content[number] for path, number in disk.files}
        whole = disk_with_everything(recorder)
        final = {path: whole.content[number] for path, number in whole.files}[FILE]
        before = {path: recorder.start.content[number] for path, number in recorder.start.files}.get(FILE)
        assert found.get(FILE) in (before, final), f"after event {count}, {what}"
        named += found.get(FILE) == final
    assert named
    assert acked(recorder, len(recorder.events))
    assert old is not None
