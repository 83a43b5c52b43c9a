"""The owner of a write: the call that may take its transactions."""

from __future__ import annotations

import dataclasses
import getpass
import os
import socket
import time
from dataclasses import dataclass

from dask_chunkio.storage.journal.records import OWNER, json_object, pack_json

__all__ = ["Owner"]


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
    started : str
        When that task ran, with the time zone.
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
    started: str
    exclusive: bool
    durability: str = "process"

    @classmethod
    def here(cls, write_id: str, epoch: int, exclusive: bool, durability: str = "process") -> Owner:
        """Return an owner that names this process."""
        started = time.strftime("%Y-%m-%d %H:%M:%S %z")
        return cls(write_id, epoch, socket.gethostname(), os.getpid(), _user(), started, exclusive, durability)

    def __str__(self) -> str:
        return f"started {self.started} by {self.user} on {self.host} (process {self.pid})"

    def pack(self) -> bytes:
        """Return the record."""
        return pack_json(OWNER, dataclasses.asdict(self))

    @classmethod
    def unpack(cls, body: bytes) -> Owner:
        """Read the body of a record.

        Raises
        ------
        ValueError, TypeError
            If its content is impossible.
        """
        owner = cls(**json_object(body))
        for part in dataclasses.fields(owner):
            kind = {"int": int, "bool": bool}.get(str(part.type), str)
            if type(getattr(owner, part.name)) is not kind:
                raise ValueError(f"its {part.name} is {getattr(owner, part.name)!r}")
        if not 0 <= owner.epoch < 1 << 62:
            raise ValueError(f"its epoch is {owner.epoch}")
        return owner


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"
