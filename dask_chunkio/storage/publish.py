"""Publication of a new file under its final name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from dask_chunkio.errors import TargetExistsError
from dask_chunkio.storage.filesystem.io import sync_folder
from dask_chunkio.storage.filesystem.metadata import copy_metadata
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.preconditions import require_free
from dask_chunkio.storage.side_paths import HIDDEN_FILE
from dask_chunkio.storage.target import Target

__all__ = ["publish"]


def publish(
    target: Target,
    names: tuple[str, ...],
    folder: Folder,
    made: os.stat_result,
    let_go: Callable[[], object] = lambda: None,
) -> None:
    """Give a new file its final name, and remove the folder.

    The bytes reach the disk before the name does: after a power failure the name
    either stands for the complete file or does not exist.

    Parameters
    ----------
    target : Target
        The target of the write.
    names : tuple of str
        The datasets that the write has made.
    folder : Folder
        The folder of the write.
    made : os.stat_result
        Identity of the new file.  If a worker that was presumed dead runs the same task, it may have given the file
        its name already.
    let_go : callable
        Closes the files of the folder that the caller has open.

    Raises
    ------
    TargetExistsError
        If a file that may not be replaced has appeared under that name meanwhile.
    """
    if target.mode == "new":
        try:
            _give_name(target, names, folder)
        except OSError:
            if not _is_file(target.path, made):
                raise
        sync_folder(os.path.dirname(target.path))
    if target.fills:
        # The draft removes the folder when it has recorded that the fill is complete.
        let_go()
    else:
        folder.remove(let_go)


def _is_file(path: str, made: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path), made)
    return False


def _give_name(target: Target, names: tuple[str, ...], folder: Folder) -> None:
    if target.overwrite and os.path.lexists(target.path):
        _replace(target, names, folder)
    else:
        _rename_to_free_name(target, folder)


def _replace(target: Target, names: tuple[str, ...], folder: Folder) -> None:
    if require_free(target, names) != "new":
        raise TargetExistsError(
            f"{target.path} was changed by another program during the write; the new data are whole in "
            f"{target.file}: move that file where you want it"
        )
    copy_metadata(target.path, target.file)
    folder.move(HIDDEN_FILE, target.path)


def _rename_to_free_name(target: Target, folder: Folder) -> None:
    try:
        folder.link(HIDDEN_FILE, target.path)
    except FileExistsError:
        raise TargetExistsError(
            f"{target.path} was created by another program during the write; the new data are whole in "
            f"{target.file}: move that file where you want it"
        ) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(target.path):
            raise TargetExistsError(f"{target.path} exists; the new data are whole in {target.file}") from None
        folder.move(HIDDEN_FILE, target.path)
