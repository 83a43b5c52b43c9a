"""What a folder holds after some of the calls that changed it."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.replay.call_recorder import Call

# Seconds since a lease was renewed that cannot be believed in any more, not even another host's.
_LONG_AGO = 3600


class Content:
    """Bytes and mode of a file, whatever its names."""

    def __init__(self, data: bytes = b"", mode: int = 0o644) -> None:
        self.data, self.mode = bytearray(data), mode


@dataclass
class Tree:
    """Folders and files below a folder, changed call by call.

    Parameters
    ----------
    folders : dict
        Mode by path.
    files : dict
        `Content` by path; two names of a file have the same.
    """

    folders: dict[str, int] = field(default_factory=dict)
    files: dict[str, Content] = field(default_factory=dict)
    # None for a folder.
    _inodes: dict[int, Content | None] = field(default_factory=dict)

    @classmethod
    def at(cls, root: str | Path) -> Tree:
        """Return what a folder holds now."""
        tree = cls()
        for folder, _, names in os.walk(root):
            if folder != str(root):
                found = os.stat(folder)
                tree.folders[os.path.relpath(folder, root)] = stat.S_IMODE(found.st_mode)
                tree._inodes[found.st_ino] = None
            for name in names:
                path = os.path.join(folder, name)
                found = os.stat(path)
                if found.st_ino not in tree._inodes:
                    with open(path, "rb") as file:
                        tree._inodes[found.st_ino] = Content(file.read(), stat.S_IMODE(found.st_mode))
                tree.files[os.path.relpath(path, root)] = tree._content(found.st_ino)
        return tree

    def add(self, call: Call) -> None:
        """Have one more call made."""
        getattr(self, f"_add_{call.kind}")(call)

    def add_part(self, call: Call, length: int) -> None:
        """Have the beginning of a write made: its process died in it."""
        self._put(call.inode, call.at, call.data[:length])

    def _content(self, inode: int) -> Content:
        content = self._inodes[inode]
        assert content is not None, "a folder"
        return content

    def _put(self, inode: int, at: int, data: bytes) -> None:
        held = self._content(inode).data
        held.extend(bytes(max(0, at + len(data) - len(held))))
        held[at : at + len(data)] = data

    def _add_create(self, call: Call) -> None:
        self.files[call.path] = self._inodes[call.inode] = Content(mode=stat.S_IMODE(call.at))

    def _add_write(self, call: Call) -> None:
        self._put(call.inode, call.at, call.data)

    def _add_size(self, call: Call) -> None:
        held = self._content(call.inode).data
        held.extend(bytes(max(0, call.at - len(held))))
        del held[call.at :]

    def _add_rename(self, call: Call) -> None:
        if call.path in self.folders:
            self.folders[call.other] = self.folders.pop(call.path)
            below = call.path + "/"
            for path in [path for path in self.files if path.startswith(below)]:
                self.files[os.path.join(call.other, path.removeprefix(below))] = self.files.pop(path)
        elif self.files[call.path] is not self.files.get(call.other):
            self.files[call.other] = self.files.pop(call.path)

    def _add_link(self, call: Call) -> None:
        self.files[call.other] = self.files[call.path]

    def _add_remove(self, call: Call) -> None:
        if self.files.pop(call.path, None) is None:
            del self.folders[call.path]

    def _add_mkdir(self, call: Call) -> None:
        self.folders[call.path] = stat.S_IMODE(call.at)

    def _add_mode(self, call: Call) -> None:
        if (content := self._inodes.get(call.inode)) is not None:
            content.mode = call.at
        elif call.path in self.folders:
            self.folders[call.path] = call.at

    def _add_fsync(self, call: Call) -> None:
        pass

    def make(self, root: str | Path) -> None:
        """Have `root`, an empty folder, hold it, long enough after the calls that nobody waits for a lease."""
        for path, mode in sorted(self.folders.items()):
            os.mkdir(os.path.join(root, path), mode)
        first: dict[Content, str] = {}
        for path, content in self.files.items():
            here = os.path.join(root, path)
            if content in first:
                os.link(first[content], here)
                continue
            with open(here, "wb") as file:
                file.write(content.data)
            os.chmod(here, content.mode)
            if os.path.basename(path).startswith("lease-"):
                os.utime(here, (0, time.time() - _LONG_AGO))
            first[content] = here

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for folders that hold the same under the same names."""
        first: dict[int, str] = {}
        files = tuple(
            (path, first.setdefault(id(content), path), content.mode, bytes(content.data))
            for path, content in sorted(self.files.items())
        )
        return tuple(sorted(self.folders.items())), files
