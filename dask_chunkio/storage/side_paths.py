"""The paths of the files beside a target."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["DAMAGED_LOG", "HIDDEN_FILE", "SIDE_FILES", "SidePaths"]

_SUFFIX = ".writing"
HIDDEN_FILE = "data.h5"
SIDE_FILES = (HIDDEN_FILE, "journal", "log", "applying", "unsynced", "lock", "stop", "manifest.json")
# Prefix of the names of the copies of incomplete logs.
DAMAGED_LOG = "log.damaged-"


@dataclass(frozen=True, slots=True)
class SidePaths:
    """The side folder of a target and the files in it.

    Parameters
    ----------
    path : str
        Absolute path of the target.
    """

    path: str

    @property
    def folder(self) -> str:
        """The folder that holds everything that this write keeps beside the target."""
        return self.path + _SUFFIX

    @property
    def hidden_file(self) -> str:
        """The new file until it is complete."""
        return os.path.join(self.folder, HIDDEN_FILE)

    @property
    def journal(self) -> str:
        """The journal of reservations."""
        return os.path.join(self.folder, "journal")

    @property
    def log(self) -> str:
        """The redo log of the transaction in progress."""
        return os.path.join(self.folder, "log")

    @property
    def applying(self) -> str:
        """The mark of the transaction that is being applied."""
        return os.path.join(self.folder, "applying")

    @property
    def unsynced(self) -> str:
        """A file that exists if an ``fsync`` has failed."""
        return os.path.join(self.folder, "unsynced")

    @property
    def lock(self) -> str:
        """The activity lock of the processes that write."""
        return os.path.join(self.folder, "lock")

    @property
    def stop(self) -> str:
        """A file that names an interrupted call, so that no more tasks of it begin."""
        return os.path.join(self.folder, "stop")

    @property
    def manifest(self) -> str:
        """The manifest, which describes the folder."""
        return os.path.join(self.folder, "manifest.json")
