from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

import dask_chunkio
from dask_chunkio.storage.activity import activity_lock
from tests.support.run_folder import make_run_folder

# A shell that starts this in the background has Ctrl-C ignored, in all processes that are started from here too.
signal.signal(signal.SIGINT, signal.default_int_handler)

MEMORY = Path("/dev/shm")
NOBODY = 65534

# The clusters of all tests wait for most of a run.  As distributed is configured, that takes an eighth of a core each.
WATCHED_SELDOM = {
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.worker.profile.enabled": False,
}


# netCDF4 adds plugins of its own to the environment as it is imported, and children would load them.
PLUGIN_PATH = os.environ.get("HDF5_PLUGIN_PATH")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the files of the default tests in memory, unless ``TMPDIR`` is set; the heavy ones use the disk.

    All temporary files but those of ``tmp_path`` are in a folder that is removed at the end: killed processes and
    examples of documents leave theirs.
    """
    # A worker of pytest-xdist has the variables of the process that started it.
    if hasattr(config, "workerinput"):
        return
    in_memory = _serves(MEMORY)
    by_default = in_memory and config.option.markexpr == "not heavy" and "TMPDIR" not in os.environ
    place = MEMORY if by_default else Path(tempfile.gettempdir())
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(place))
    os.environ["TMPDIR"] = tempfile.tempdir = str(_run_folder(config, place))
    # (dask evaluates variables whose names begin with DASK_ as Python, which warns of some paths.)
    if by_default or not in_memory:
        os.environ["CHUNKIO_MEMORY"] = os.environ["TMPDIR"]
    else:
        os.environ["CHUNKIO_MEMORY"] = str(_run_folder(config, MEMORY))


def _run_folder(config: pytest.Config, place: Path) -> Path:
    folder, remove = make_run_folder(place)
    config.add_cleanup(remove)
    return folder


def _serves(folder: Path) -> bool:
    """Whether there is room, and files have attributes of users (before Linux 6.6, those in memory have none)."""
    if not os.access(folder, os.W_OK) or shutil.disk_usage(folder).free < 2 << 30:
        return False
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.setxattr(file.fileno(), "user.note", b"mine")
        except OSError:
            return False
    return True


def _restore_plugin_path() -> None:
    if PLUGIN_PATH is None:
        os.environ.pop("HDF5_PLUGIN_PATH", None)
    else:
        os.environ["HDF5_PLUGIN_PATH"] = PLUGIN_PATH


@pytest.fixture(autouse=True)
def own_plugins() -> Iterator[None]:
    """Keep the plugins of netCDF4 from the children of a test, whenever it is imported."""
    _restore_plugin_path()
    yield
    _restore_plugin_path()


@pytest.fixture(scope="session", autouse=True)
def quick_looks() -> Iterator[None]:
    """Look as often as always whether a write is let go, but over 50 ms: the tasks of tests leave no longer gaps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activity_lock, "_PAUSE", 0.01)
        yield


@pytest.fixture
def bound_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of a user whom permissions bind, and who runs the test: nobody, where it is root that runs the tests."""
    if os.name == "nt":
        pytest.skip("Windows has other permissions")
    if os.geteuid() != 0:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


@pytest.fixture(scope="session")
def process_client() -> Iterator[Client]:
    """Two worker processes of one thread; not the current client unless a test enters it."""
    with dask.config.set(WATCHED_SELDOM):
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1")
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="session")
def thread_client() -> Iterator[Client]:
    """One worker of two threads, in this process."""
    with dask.config.set(WATCHED_SELDOM):
        cluster = LocalCluster(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0")
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The names that each fill of a draft wrote."""
    calls: list[tuple[str, ...]] = []
    fill = dask_chunkio.Draft.fill

    def noting(self: Any, sources: Any, **keywords: Any) -> Any:
        calls.append(tuple(sources))
        return fill(self, sources, **keywords)

    monkeypatch.setattr(dask_chunkio.Draft, "fill", noting)
    return calls
