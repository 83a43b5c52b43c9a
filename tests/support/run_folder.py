"""A folder for all temporary files of a run of pytest.  The next run removes it if this one is killed."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where no folder is left behind by a lock.
    fcntl = None  # type: ignore[assignment]

_PREFIX = "dask-chunkio-tests-"


def make_run_folder(parent: Path) -> tuple[Path, Callable[[], None]]:
    """Make a folder that lasts as long as this process, and remove those of runs that were killed.

    Parameters
    ----------
    parent : Path
        Where to make it.

    Returns
    -------
    folder : Path
        The new folder.
    remove : callable
        Removes it.
    """
    held = contextlib.ExitStack()
    # While this lock is held, no other run takes a folder that has no lock yet for one that was left behind.
    with _locked(parent, wait=True):
        _remove_left_behind(parent)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Tests that root runs as another user come through here to their own folders.
        folder.chmod(0o711)
        held.enter_context(_locked(folder))
    held.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder, held.close


def _remove_left_behind(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with _locked(folder) as is_locked:
            if is_locked:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Lock a folder; False if another process has locked it, or where folders have no locks."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            if is_locked := fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            is_locked = False
        yield is_locked
