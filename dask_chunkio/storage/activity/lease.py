"""The lease of a process on a write: says, where locks do not reach, that somebody is at work.

One file for each process and write, ``lease-…``, a record of fixed length that its process writes
again and again.  A reader compares what it finds with what it has seen before, or with the clock of
the file system: the clocks of hosts may differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import socket
import uuid
from dataclasses import dataclass, replace

import psutil

from dask_chunkio.storage.filesystem.descriptors import close_descriptor, open_descriptor
from dask_chunkio.storage.filesystem.io import open_side_file, pread_into, pwrite_all
from dask_chunkio.storage.journal.records import LEASE, first_record, json_object, pack_record

__all__ = [
    "DEFAULT_SECONDS",
    "LEASES",
    "MOST_SECONDS",
    "Lease",
    "SeenLease",
    "create_lease",
    "leases_in",
    "remove_lease",
    "renew_lease",
]

LEASES = "lease-"
# Ends the name of a file that is to be one.
_NEW = ".new"
DEFAULT_SECONDS = 30.0
# No lease is believed in for longer, whatever a file says.
MOST_SECONDS = 600.0
_NBYTES = 1024
_HEAD = 24


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a write.

    Parameters
    ----------
    write_id : str
        Of the call of `to_hdf5`.
    host, boot : str
        Name of the host, and what tells its boot from any other.
    pid : int
        Process.
    started : str
        When it started, to tell it from another one of that number.
    scheduler : str
        Of the cluster whose worker it is; empty for a process of its own.  A cluster outlives its workers.
    seconds : float
        How long after its last renewal it is believed in.
    counter : int
        How often it was renewed.
    """

    write_id: str
    host: str
    boot: str
    pid: int
    started: str
    scheduler: str
    seconds: float
    counter: int = 0

    @classmethod
    def here(cls, write_id: str, scheduler: str, seconds: float) -> Lease:
        """Return the lease of this process."""
        pid = os.getpid()
        return cls(write_id, socket.gethostname()[:64], boot_id(), pid, process_start(pid), scheduler, seconds)

    def __str__(self) -> str:
        who = f"a worker of the cluster {self.scheduler}" if self.scheduler else "a process"
        return f"{who} on {self.host} (process {self.pid})"

    @property
    def is_of_this_boot(self) -> bool:
        """Whether its process is, or was, one of this very machine."""
        return self.boot == boot_id()

    @property
    def is_of_live_process(self) -> bool:
        """Whether its process is one of this machine that lives."""
        return self.is_of_this_boot and process_start(self.pid) == self.started != ""

    def at(self, counter: int) -> Lease:
        """Return it as it is renewed."""
        return replace(self, counter=counter)

    def pack(self) -> bytes:
        """Return a record that has the same length each time."""
        body = json.dumps(dataclasses.asdict(self)).encode()
        return pack_record(LEASE, body.ljust(_NBYTES - _HEAD))

    @classmethod
    def unpack(cls, data: bytes) -> Lease | None:
        """Read a record; None if it is torn, damaged, or none."""
        try:
            record = first_record(data, "a lease")
            if record is None or record[0] != LEASE:
                return None
            lease = cls(**json_object(record[2]))
            texts = lease.write_id, lease.host, lease.boot, lease.started, lease.scheduler
            if not all(type(text) is str for text in texts) or type(lease.pid) is not int:
                return None
            return replace(lease, seconds=min(max(float(lease.seconds), 0.0), MOST_SECONDS))
        except (ValueError, TypeError, OverflowError, RuntimeError):
            return None


@dataclass(frozen=True, slots=True)
class SeenLease:
    """A lease as it was read.

    Parameters
    ----------
    path : str
        Its file.
    lease : Lease or None
        None where it cannot be read.
    data : bytes
        What the file held.
    modified : float
        When the file system says that it was renewed.
    """

    path: str
    lease: Lease | None
    data: bytes
    modified: float

    def __str__(self) -> str:
        return "a process" if self.lease is None else str(self.lease)

    @property
    def seconds(self) -> float:
        """How long it is believed in without a sign."""
        return DEFAULT_SECONDS if self.lease is None else self.lease.seconds


def create_lease(folder: str, lease: Lease) -> str:
    """Write the file of a lease, and return its path."""
    path = os.path.join(folder, f"{LEASES}{uuid.uuid4().hex[:12]}")
    # Left empty by a process that was killed, a lease could not say who is dead.
    new = path + _NEW
    descriptor = open_descriptor(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0))
    try:
        try:
            pwrite_all(descriptor, lease.pack(), 0)
        finally:
            close_descriptor(descriptor)
        os.rename(new, path)
    except OSError:
        # On a full disk it is tried again and again.
        remove_lease(new)
        raise
    return path


def renew_lease(path: str, lease: Lease) -> None:
    """Write a lease again, where it is there: closing the file is what shows it to the clients of a network's.

    Raises
    ------
    FileNotFoundError
        If somebody has removed it: the write is over.
    """
    descriptor = open_side_file(path, create=False)
    try:
        pwrite_all(descriptor, lease.pack(), 0)
    finally:
        close_descriptor(descriptor)


def remove_lease(path: str) -> None:
    """Let a lease go."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def leases_in(folder: str) -> list[SeenLease]:
    """Return the leases in a folder; those that cannot be opened are none."""
    found = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if name.startswith(LEASES) and not name.endswith(_NEW):
                with contextlib.suppress(OSError):
                    found.append(_read(os.path.join(folder, name)))
    return found


def _read(path: str) -> SeenLease:
    descriptor = open_side_file(path, write=False)
    try:
        data = bytearray(_NBYTES)
        count = pread_into(descriptor, memoryview(data), 0)
        read = bytes(data[:count])
        return SeenLease(path, Lease.unpack(read), read, os.fstat(descriptor).st_mtime)
    finally:
        close_descriptor(descriptor)


@functools.cache
def boot_id() -> str:
    """Return what tells this boot of this machine from any other."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"{socket.gethostname()[:64]} {psutil.boot_time():.0f}"


def process_start(pid: int) -> str:
    """Return when a process of this machine started; empty if it does not live."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            words = file.read().rpartition(")")[2].split()
        return "" if words[0] in "ZX" else words[19]
    except FileNotFoundError:
        return _process_start(pid)
    except (OSError, IndexError):
        return ""


def _process_start(pid: int) -> str:
    """Return it where there is no ``/proc``."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except (psutil.Error, OSError):
        return ""
