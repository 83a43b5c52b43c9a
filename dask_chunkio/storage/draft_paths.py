"""The paths of a draft: the folder beside the final name, and the files in it."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["DRAFT_FILES", "DraftPaths"]

_SUFFIX = ".draft"
_HIDDEN = "hidden"
# The leases of the processes that hold the draft are there, too.
DRAFT_FILES = ("draft.json", "lock", _HIDDEN)


@dataclass(frozen=True, slots=True)
class DraftPaths:
    """The folder of a draft and the files in it.

    Parameters
    ----------
    path : str
        Absolute path of the final name.
    write_id : str
        Identifies the process that holds the draft among all that ever do.
    """

    path: str
    write_id: str = ""

    @classmethod
    def of_file(cls, file: str) -> DraftPaths:
        """Return the draft to which a hidden file belongs."""
        return cls(os.path.dirname(os.path.dirname(file)).removesuffix(_SUFFIX))

    @property
    def folder(self) -> str:
        """The folder that holds everything of the draft."""
        return self.path + _SUFFIX

    @property
    def lock(self) -> str:
        """The activity lock of the process that holds the draft."""
        return os.path.join(self.folder, "lock")

    @property
    def manifest(self) -> str:
        """The state of the draft."""
        return os.path.join(self.folder, "draft.json")

    @property
    def hidden(self) -> str:
        """The folder that holds nothing but the file, and the side files of the write that fills it."""
        return os.path.join(self.folder, _HIDDEN)

    @property
    def file(self) -> str:
        """The HDF5 file; it has its final base name, which some libraries check."""
        return os.path.join(self.hidden, os.path.basename(self.path))
