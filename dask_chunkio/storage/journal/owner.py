"""The owner of a write: the call that may take its transactions."""

from __future__ import annotations

import dataclasses
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dask_chunkio.printable import TIME_FORM, local_time
from dask_chunkio.storage.journal.records import OWNER, fields_of, json_object, pack_json

__all__ = ["Owner", "moment_of", "user_name"]


@dataclass(frozen=True, slots=True)
class Owner:
    """The call that writes, from a certain record of the journal on.

    Parameters
    ----------
    write_id : str
        Identifier of one call of `to_hdf5`.
    epoch : int
        1 for the call that began the write, one more for each call that resumed it.
    host, pid, user : str, int, str
        Where the first task of the call ran.
    started : datetime.datetime
        Time at which that task ran, in UTC and to the second.
    exclusive : bool
        Whether a single process takes all transactions.
    durability : str
        ``"process"`` or ``"power"``: what its transactions survive.
    """

    write_id: str
    epoch: int
    host: str
    pid: int
    user: str
    started: datetime
    exclusive: bool
    durability: str = "process"

    @classmethod
    def here(cls, write_id: str, epoch: int, exclusive: bool, durability: str = "process") -> Owner:
        """Return an owner that names this process."""
        # What is read back from the journal has to be equal: a record has whole seconds.
        started = datetime.now(UTC).replace(microsecond=0)
        return cls(write_id, epoch, socket.gethostname(), os.getpid(), user_name(), started, exclusive, durability)

    def __str__(self) -> str:
        return f"started {local_time(self.started)} by {self.user} on {self.host} (process {self.pid})"

    def pack(self) -> bytes:
        """Return the record."""
        return pack_json(OWNER, {**fields_of(self), "started": self.started.strftime(TIME_FORM)})

    @classmethod
    def unpack(cls, body: bytes) -> Owner:
        """Read the body of a record.

        Raises
        ------
        ValueError, TypeError
            If its content is impossible.
        """
        found = json_object(body)
        owner = cls(**{**found, "started": moment_of(found.get("started"))})
        for part in dataclasses.fields(owner):
            kind = {"int": int, "bool": bool, "datetime": datetime}.get(str(part.type), str)
            if type(getattr(owner, part.name)) is not kind:
                raise ValueError(f"its {part.name} is {getattr(owner, part.name)!r}")
        if not 0 <= owner.epoch < 1 << 62:
            raise ValueError(f"its epoch is {owner.epoch}")
        return owner


def moment_of(text: Any) -> datetime:
    """Return the time that a record names.

    Raises
    ------
    ValueError
        If it names none.
    """
    try:
        return datetime.strptime(text, TIME_FORM).astimezone(UTC)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"whose started is {text!r}") from error


def user_name() -> str:
    """Return the name of the user of this process, or "unknown"."""
    # Imported here: it is slow to import, and only processes that begin a write need it.
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"
