"""Record what processes do to a folder, from outside: every call to the system that changes it, with its bytes.

A library in C is preloaded into the processes (`recorded_calls.c`).  It knows nothing of what they do, and a call
that goes past it shows: the replay of all entries has to be what is on the disk, byte for byte.
"""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import environment

SOURCE = Path(__file__).with_name("recorded_calls.c")
KINDS = ("", "create", "write", "size", "rename", "link", "remove", "mkdir", "fsync", "mode", "unknown")
_HEAD = struct.Struct("<IIIIQqQ")


@dataclass(frozen=True)
class Call:
    """One call that changed the folder.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    process : int
        Who made it.
    inode : int
        Of the file or folder.
    at : int
        Offset of a write, new size or new mode.
    path, other : str
        Below the folder; empty where the call names none, or the folder itself.
    data : bytes
        What was written.
    """

    kind: str
    process: int
    inode: int = 0
    at: int = 0
    path: str = ""
    other: str = ""
    data: bytes = b""

    def __str__(self) -> str:
        where = " -> ".join(name for name in (self.path, self.other) if name) or f"inode {self.inode}"
        size = f" {self.at}+{len(self.data)}" if self.kind == "write" else f" {self.at}" if self.kind == "size" else ""
        return f"{self.kind} {where}{size}"


def can_record() -> bool:
    """Say whether calls can be recorded here: Linux, with a compiler for C."""
    return sys.platform == "linux" and shutil.which("cc") is not None


def build(folder: str | Path) -> Path:
    """Compile the library into `folder`, and return its path."""
    library = Path(folder, "recorded_calls.so")
    command: list[str | Path] = ["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def record(library: Path, root: str | Path, log: Path, command: Sequence[str]) -> list[Call]:
    """Run a command, and return what it and its children did to `root`, in order.

    Raises
    ------
    AssertionError
        If the command fails, or makes a call that cannot be replayed.
    """
    root = os.path.realpath(root)
    log.write_bytes(b"")
    more = {"LD_PRELOAD": str(library), "RECORDED_ROOT": root, "RECORDED_LOG": str(log)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(**more))
    assert done.returncode == 0, done.stderr
    calls = list(read(log, root))
    strange = [call.path for call in calls if call.kind == "unknown"]
    assert not strange, f"calls that cannot be replayed: {strange}"
    return calls


def read(log: Path, root: str) -> Iterator[Call]:
    """Yield the calls that a log holds."""
    data, at = log.read_bytes(), 0
    while at < len(data):
        kind, process, length, other_length, inode, where, nbytes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        path, at = data[at : at + length].decode(), at + length
        other, at = data[at : at + other_length].decode(), at + other_length
        name = KINDS[kind]
        if name != "unknown":
            path, other = _below(root, path), _below(root, other)
        yield Call(name, process, inode, where, path, other, data[at : at + nbytes])
        at += nbytes


def _below(root: str, path: str) -> str:
    return os.path.relpath(path, root) if path and path != root else ""
