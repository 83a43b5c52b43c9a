"""What a power failure may leave of recorded calls: `simulated_disk` says, of what no fsync has covered."""

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from tests.support.power.simulated_disk import ROOT, Disk, Event, Name, State, choices
from tests.support.replay.call_recorder import Call

__all__ = ["Disk", "power_states"]


class Numbers:
    """The numbers of files and folders as `State` takes them: an inode may come again for another file."""

    def __init__(self, start: Disk) -> None:
        state = State(start)
        self.paths, self.files = {"": ROOT, **state.paths}, {number: number for _, number in start.files}
        self._last = max(state.numbers)

    def new(self, call: Call) -> int:
        self._last += 1
        self.paths[call.path] = self._last
        return self._last

    def entry(self, path: str) -> Name:
        folder, name = os.path.split(path)
        return self.paths[folder], name


def events_of(start: Disk, calls: Iterable[Call]) -> Iterator[Event | None]:
    """Yield the event of each call, or None where there is nothing that could be lost."""
    numbers = Numbers(start)
    for call in calls:
        yield _EVENTS[call.kind](numbers, call)


def _created(numbers: Numbers, call: Call) -> Event:
    number = numbers.files[call.inode] = numbers.new(call)
    return ("create", *numbers.entry(call.path), number)


def _made(numbers: Numbers, call: Call) -> Event:
    return ("mkdir", *numbers.entry(call.path), numbers.new(call))


def _renamed(numbers: Numbers, call: Call) -> Event:
    number = numbers.paths[call.other] = numbers.paths.pop(call.path)
    return ("rename", *numbers.entry(call.path), *numbers.entry(call.other), number)


def _linked(numbers: Numbers, call: Call) -> Event:
    number = numbers.paths[call.other] = numbers.paths[call.path]
    return ("create", *numbers.entry(call.other), number)


def _removed(numbers: Numbers, call: Call) -> Event:
    del numbers.paths[call.path]
    return ("remove", *numbers.entry(call.path))


def _synced(numbers: Numbers, call: Call) -> Event:
    return ("fsync", numbers.files[call.inode] if call.inode in numbers.files else numbers.paths[call.path])


_EVENTS: dict[str, Callable[[Numbers, Call], Event | None]] = {
    "create": _created,
    "mkdir": _made,
    "rename": _renamed,
    "link": _linked,
    "remove": _removed,
    "fsync": _synced,
    "write": lambda numbers, call: ("write", numbers.files[call.inode], call.at, call.data),
    "size": lambda numbers, call: ("size", numbers.files[call.inode], call.at),
    "mode": lambda numbers, call: None,  # noqa: ARG005
}


def power_states(start: Disk, calls: Sequence[Call], draw: random.Random, each: int) -> Iterator[tuple[str, Disk]]:
    """Yield (words, disk): what may be left after each number of calls, `each` of them drawn from what is possible."""
    state, events = State(start), [None, *events_of(start, calls)]
    for count, event in enumerate(events):
        if event is not None:
            state.add(event)
        possible = list(choices(state, draw, 4, draw.random() < 0.2))
        for kept, is_torn in draw.sample(possible, min(each, len(possible))):
            last = f"call {count}, {calls[count - 1]}" if count else "the start"
            words = f"power lost after {last}; {state.describe(kept)}{', torn' if is_torn else ''}"
            yield words, state.disk(kept, draw if is_torn else None)
