"""The paths of what stands beside a target."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["DAMAGED_LOG", "HIDDEN_FILE", "SIDE_FILES", "SidePaths"]

_SUFFIX = ".writing"
HIDDEN_FILE = "data.h5"
SIDE_FILES = (HIDDEN_FILE, "journal", "log", "applying", "unsynced", "lock", "stop", "manifest.json")
# Of copies of logs that were not whole: begins their names.
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
        """Holds everything that this write keeps beside the target."""
        return self.path + _SUFFIX

    @property
    def hidden_file(self) -> str:
        """A new file until it is whole."""
        return os.path.join(self.folder, HIDDEN_FILE)

    @property
    def journal(self) -> str:
        """The journal of reservations."""
        return os.path.join(self.folder, "journal")

    @property
    def log(self) -> str:
        """The log of the transaction in flight."""
        return os.path.join(self.folder, "log")

    @property
    def applying(self) -> str:
        """Which transaction of the log is being applied."""
        return os.path.join(self.folder, "applying")

    @property
    def unsynced(self) -> str:
        """There where an ``fsync`` has failed."""
        return os.path.join(self.folder, "unsynced")

    @property
    def lock(self) -> str:
        """The activity lock of those who write."""
        return os.path.join(self.folder, "lock")

    @property
    def stop(self) -> str:
        """Names the call that was interrupted, so that none of its tasks begins."""
        return os.path.join(self.folder, "stop")

    @property
    def manifest(self) -> str:
        """Says what the folder is about."""
        return os.path.join(self.folder, "manifest.json")
