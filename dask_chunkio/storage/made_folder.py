"""The folder for the files beside a target: created, and described by a manifest."""

from __future__ import annotations

import os
import time

from dask_chunkio.storage.filesystem.io import sync_folder
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal.manifest import Manifest
from dask_chunkio.storage.target import Target

__all__ = ["describe_folder", "make_folder"]


def make_folder(target: Target) -> Folder:
    """Create the folder for the files beside a target.

    Raises
    ------
    FileExistsError
        If it exists.
    TargetError
        If it cannot be created.
    """
    try:
        os.mkdir(target.folder)
    except FileExistsError:
        raise
    except OSError as error:
        raise target.refused(error, target.folder) from error
    return Folder(target.folder)


def describe_folder(target: Target) -> None:
    """Write the manifest, which describes the folder.

    Raises
    ------
    TargetError
        If it cannot be written, for example for lack of space.
    """
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    try:
        parts = 0 if target.share is None else target.share.count
        began = now, target.command, os.getcwd()
        manifest = Manifest(target.path, target.mode, *began, target.durability, target.owner_id, parts)
        manifest.save(target.manifest)
        if target.durability == "power":
            sync_folder(target.folder)
            sync_folder(os.path.dirname(target.path))
    except OSError as error:
        raise target.refused(error, target.manifest) from error
