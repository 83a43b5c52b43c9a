"""Leases: files which show, where locks do not reach, that a process works on a write.

Each process has one file for each write, ``lease-…``: a record of fixed length that the process overwrites again
and again.  A reader compares its content with the content that it saw before, or its modification time with the
clock of the file system, because the clocks of hosts may differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from dataclasses import dataclass, replace

import psutil

from dask_chunkio.storage.activity.limits import DEFAULT_SECONDS, MOST_SECONDS
from dask_chunkio.storage.filesystem.boot import boot_id
from dask_chunkio.storage.filesystem.descriptors import close_descriptor, open_descriptor
from dask_chunkio.storage.filesystem.io import open_side_file, pread_into, pwrite_all
from dask_chunkio.storage.journal.records import LEASE, fields_of, first_record, json_object, pack_record

__all__ = [
    "LEASES",
    "Lease",
    "SeenLease",
    "create_lease",
    "leases_in",
    "remove_lease",
    "renew_lease",
]

LEASES = "lease-"
# Suffix of a lease file that is not complete yet.
_NEW = ".new"
_NBYTES = 1024
_HEAD = 24


@dataclass(frozen=True, slots=True)
class Lease:
    """The process that holds a write.

    Parameters
    ----------
    write_id : str
        Identifier of the call of `to_hdf5`.
    host, boot : str
        Name of the host, and identifier of its current boot.
    pid : int
        Number of the process.
    started : str
        When the process started, to tell it from another process with the same number.
    scheduler : str
        Address of the scheduler if the process is a worker of a cluster; else empty.  A cluster outlives its workers.
    seconds : float
        How long the lease is valid after its last renewal.
    counter : int
        Number of renewals.
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
        """Whether the process runs, or ran, on this machine since its last boot."""
        return self.boot == boot_id()

    @property
    def is_of_live_process(self) -> bool:
        """Whether the process is alive, and runs on this machine."""
        return self.is_of_this_boot and process_start(self.pid) == self.started != ""

    def at(self, counter: int) -> Lease:
        """Return the lease with another number of renewals."""
        return replace(self, counter=counter)

    def pack(self) -> bytes:
        """Return the lease as a record, which always has the same length."""
        body = json.dumps(fields_of(self)).encode()
        return pack_record(LEASE, body.ljust(_NBYTES - _HEAD))

    @classmethod
    def unpack(cls, data: bytes) -> Lease | None:
        """Read a record; return None if it is torn, damaged or not a lease."""
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
    """A lease as it was read from its file.

    Parameters
    ----------
    path : str
        Path of the file.
    lease : Lease or None
        The lease; None if it cannot be read.
    data : bytes
        Content of the file.
    modified : float
        Time of the last renewal, by the clock of the file system.
    """

    path: str
    lease: Lease | None
    data: bytes
    modified: float

    def __str__(self) -> str:
        return "a process" if self.lease is None else str(self.lease)

    @property
    def seconds(self) -> float:
        """How long the lease is valid without a renewal."""
        return DEFAULT_SECONDS if self.lease is None else self.lease.seconds


def create_lease(folder: str, lease: Lease) -> str:
    """Write the file of a lease, and return its path."""
    path = os.path.join(folder, f"{LEASES}{uuid.uuid4().hex[:12]}")
    # Written under another name first: if a killed process left an empty lease, it would not name the dead process.
    new = path + _NEW
    descriptor = open_descriptor(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0))
    try:
        try:
            pwrite_all(descriptor, lease.pack(), 0)
        finally:
            close_descriptor(descriptor)
        os.rename(new, path)
    except OSError:
        # On a full disk the caller tries again and again: leave no file behind.
        remove_lease(new)
        raise
    return path


def renew_lease(path: str, lease: Lease) -> None:
    """Write a lease again if its file exists.

    Closing the file makes the change visible to the clients of a network file system.

    Raises
    ------
    FileNotFoundError
        If another process has removed the file: the write is over.
    """
    descriptor = open_side_file(path, create=False)
    try:
        pwrite_all(descriptor, lease.pack(), 0)
    finally:
        close_descriptor(descriptor)


def remove_lease(path: str) -> None:
    """Remove the file of a lease; errors are ignored."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def leases_in(folder: str) -> list[SeenLease]:
    """Return the leases in a folder; files that cannot be opened are skipped."""
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


def process_start(pid: int) -> str:
    """Return when a process of this machine started; empty if it is not alive."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            words = file.read().rpartition(")")[2].split()
        return "" if words[0] in "ZX" else words[19]
    except FileNotFoundError:
        return _process_start(pid)
    except (OSError, IndexError):
        return ""


def _process_start(pid: int) -> str:
    """Return the same where ``/proc`` does not exist."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except (psutil.Error, OSError):
        return ""
