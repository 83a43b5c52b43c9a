"""The parts of a write that independent jobs divide among themselves, as the journal records them."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from dask_chunkio.geometry.grid import Box
from dask_chunkio.geometry.share import Share
from dask_chunkio.printable import TIME_FORM, local_time
from dask_chunkio.storage.filesystem.boot import boot_id
from dask_chunkio.storage.journal.owner import moment_of, user_name
from dask_chunkio.storage.journal.records import PART, json_object, pack_json

__all__ = ["PartState", "conflict", "enter_part", "missing_parts"]


@dataclass(frozen=True, slots=True)
class PartState:
    """A part of a write, and the job that has written it or writes it.

    Parameters
    ----------
    number, count : int
        Number of the part, and number of all parts.
    host, pid, user : str, int, str
        Where the first task of the job ran.
    started : datetime.datetime
        Time at which the job began, in UTC and to the second.
    finished : datetime.datetime or None
        Time at which the whole part was committed; None before.
    boot : str
        Identifier of the boot of the machine.
    is_durable : bool
        Whether the part was on the disk by then.
    job : str
        Identifier of the call.
    boxes : tuple of box
        For each dataset, start and stop along each axis of the region for which the job has data of its own; empty for
        a dataset that is divided by the numbers of the parts.
    is_alone : bool
        Whether no other call has begun the same part; not recorded.
    """

    number: int
    count: int
    host: str
    pid: int
    user: str
    started: datetime
    finished: datetime | None = None
    boot: str = ""
    is_durable: bool = False
    job: str = ""
    boxes: tuple[Box, ...] = ()
    is_alone: bool = True

    @classmethod
    def here(cls, share: Share, job: str, boxes: tuple[Box, ...] = ()) -> PartState:
        """Return a part that a call begins in this process."""
        host, pid, user = socket.gethostname(), os.getpid(), user_name()
        return cls(share.number, share.count, host, pid, user, _now(), boot=boot_id(), job=job, boxes=boxes)

    def __str__(self) -> str:
        where = f"by {self.user} on {self.host} (process {self.pid})"
        started = f"started {local_time(self.started)} {where}"
        return started if self.finished is None else f"{started}, finished {local_time(self.finished)}"

    @property
    def is_committed(self) -> bool:
        """Whether the whole part is in the file.

        Where a commit does not wait for the disk, the failure of a machine may have lost payloads of a finished part.
        """
        return self.finished is not None and (self.is_durable or self.boot == boot_id())

    def has_region_of(self, dataset: int) -> bool:
        """Return whether the job has data of its own for a dataset, whose number is given."""
        return any(self.boxes[dataset : dataset + 1])

    def done(self, is_durable: bool) -> PartState:
        """Return the part as finished now; `is_durable` says whether it is on the disk."""
        return replace(self, finished=_now(), boot=boot_id(), is_durable=is_durable)

    def pack(self) -> bytes:
        """Return the record."""
        times = {
            "started": self.started.strftime(TIME_FORM),
            "finished": "" if self.finished is None else self.finished.strftime(TIME_FORM),
        }
        found = {**dataclasses.asdict(self), **times}
        del found["is_alone"]
        return pack_json(PART, found)

    @classmethod
    def unpack(cls, body: bytes) -> PartState:
        """Read the body of a record.

        Raises
        ------
        ValueError, TypeError, KeyError, ArgumentError
            If its content is impossible.
        """
        found = json_object(body)
        finished = moment_of(found["finished"]) if found["finished"] else None
        read = {"started": moment_of(found["started"]), "finished": finished, "boxes": _boxes(found["boxes"])}
        part = cls(**{**found, **read})
        if not all(type(number) is int for number in (part.number, part.count, part.pid)):
            raise ValueError(f"a part with the numbers {part.number!r}, {part.count!r} and {part.pid!r}")
        if not all(type(word) is str for word in (part.host, part.user, part.boot, part.job)):
            raise ValueError(f"a part of {part.user!r} on {part.host!r}")
        if type(part.is_durable) is not bool:
            raise ValueError(f"a part whose is_durable is {part.is_durable!r}")
        Share(part.number, part.count)
        return part


def enter_part(parts: dict[int, PartState], part: PartState) -> None:
    """Enter a part among others; one that is committed stays so when its job is run again.

    Raises
    ------
    ValueError
        If the others are of another number of parts.
    """
    # Parts are entered one by one: all others have the same number.
    if parts and next(iter(parts.values())).count != part.count:
        raise ValueError(f"a part of {part.count}, where others are of another number of parts")
    was = parts.get(part.number)
    is_alone = was is None or (was.is_alone and was.job == part.job)
    if was is not None and was.finished is not None and part.finished is None:
        part = was
    parts[part.number] = replace(part, is_alone=is_alone)


def missing_parts(parts: Mapping[int, PartState], count: int) -> tuple[int, ...]:
    """Return the numbers of the parts that are not committed."""
    return tuple(number for number in range(count) if number not in parts or not parts[number].is_committed)


def conflict(mine: PartState, others: Iterable[PartState], names: Sequence[str]) -> str | None:
    """Return in words why a job cannot write the regions that it has; None if it can.

    Parameters
    ----------
    mine : PartState
        The part of the job.
    others : iterable of PartState
        The parts that jobs have begun; one of them may be an earlier run of this job.
    names : sequence of str
        Names of the datasets.

    Raises
    ------
    ValueError
        If the others have regions of other datasets.
    """
    for other in others:
        for name, my_box, other_box in zip(names, mine.boxes, other.boxes, strict=True):
            their, my = f"part {other.number} [{_ranges(other_box)}]", f"part {mine.number} [{_ranges(my_box)}]"
            if bool(my_box) != bool(other_box):
                return f"{name}: some jobs give region= and others do not; all have to, or none"
            if other.number == mine.number and my_box != other_box:
                return f"{name}: {my} was begun as {their}"
            if other.number != mine.number and my_box and _overlap(my_box, other_box):
                return f"{name}: {my} overlaps {their}"
    return None


def _overlap(one: Box, other: Box) -> bool:
    return all(max(a, b) < min(c, d) for (a, c), (b, d) in zip(one, other, strict=True))


def _ranges(box: Box) -> str:
    return ", ".join(f"{start}:{stop}" for start, stop in box)


def _boxes(found: Any) -> tuple[Box, ...]:
    boxes = tuple(tuple((start, stop) for start, stop in box) for box in found)
    if not all(type(at) is int and at >= 0 for box in boxes for bounds in box for at in bounds):
        raise ValueError(f"a part with the boxes {boxes!r}")
    return boxes


def _now() -> datetime:
    # What is read back from the journal has to be equal: a record has whole seconds.
    return datetime.now(UTC).replace(microsecond=0)
