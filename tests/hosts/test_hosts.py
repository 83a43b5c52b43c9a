"""Scheduler, client and workers on hosts of their own: network namespaces with their own addresses."""

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support.hosts import network_client
from tests.support.network.mounts import file_system, mounted
from tests.support.processes import environment, python

HOSTS = {"scheduler": "10.213.77.1", "client": "10.213.77.2", "worker1": "10.213.77.3", "worker2": "10.213.77.4"}
PREFIX = "dcio"


def run(*words: Any, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, words)), check=check, capture_output=True, text=True, timeout=120)


def what_is_missing() -> str:
    """One line, or nothing where namespaces can be made."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "several hosts cannot be tested: ip or unshare are not installed (packages iproute2 and util-linux)"
    # Each process of pytest-xdist asks.
    probe = f"{PREFIX}-probe-{os.getpid()}"
    made = run("ip", "netns", "add", probe, check=False)
    run("ip", "netns", "delete", probe, check=False)
    if made.returncode:
        return f"several hosts cannot be tested: network namespaces are not permitted ({made.stderr.strip()})"
    return ""


MISSING = what_is_missing()
pytestmark = [pytest.mark.heavy, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@contextlib.contextmanager
def hosts() -> Iterator[None]:
    """A bridge, and a namespace with an address for each host."""
    bridge = f"{PREFIX}-bridge"
    with contextlib.ExitStack() as stack:
        run("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(run, "ip", "link", "delete", bridge, check=False)
        run("ip", "link", "set", bridge, "up")
        for number, (name, address) in enumerate(HOSTS.items()):
            space, outer, inner = f"{PREFIX}-{name}", f"{PREFIX}-o{number}", f"{PREFIX}-i{number}"
            run("ip", "netns", "add", space)
            stack.callback(run, "ip", "netns", "delete", space, check=False)
            run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
            # Removed with its namespace only, it would go some time later, and be in the way of the next.
            stack.callback(run, "ip", "link", "delete", outer, check=False)
            run("ip", "link", "set", outer, "master", bridge, "up")
            run("ip", "-n", space, "address", "add", f"{address}/24", "dev", inner)
            run("ip", "-n", space, "link", "set", inner, "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
        yield


def on(host: Any, *words: Any) -> list[Any]:
    return ["ip", "netns", "exec", f"{PREFIX}-{host}", *map(str, words)]


@contextlib.contextmanager
def cluster_of_hosts(tmp_path: Path, mounts: tuple[Any, ...] = ()) -> Iterator[Any]:
    """The address of a scheduler with two workers, each on its host; each may have a folder of its own as `shared`."""
    address = f"tcp://{HOSTS['scheduler']}:8786"
    scheduler = python("-m", "distributed.cli.dask_scheduler", "--host", HOSTS["scheduler"])
    worker = python("-m", "distributed.cli.dask_worker", address, "--nthreads", 1)
    commands = [on("scheduler", *scheduler, "--no-dashboard")]
    for number, host in enumerate(("worker1", "worker2")):
        own = ("--host", HOSTS[host], "--local-directory", tmp_path / host)
        bound = bind(mounts[number], tmp_path / "shared") if mounts else ()
        commands.append(on(host, *bound, *worker, *own, "--no-dashboard"))
    with hosts(), (tmp_path / "log").open("w") as log:
        processes = [subprocess.Popen(command, env=environment(), stdout=log, stderr=log) for command in commands]
        yield address
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def bind(mount: Any, folder: Any) -> tuple[str, ...]:
    """The words before a command that sees a mount as `folder`, alone."""
    return ("unshare", "--mount", "sh", "-c", f'mount --bind {mount} {folder} && exec "$@"', "sh")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    with cluster_of_hosts(tmp_path) as address:
        yield address


def test_a_client_without_the_folder(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    path = folder / "out.h5"
    client = shlex.join(python("-m", "tests.support.hosts.remote_client", cluster, path))
    script = f"mount -t tmpfs none {folder} && exec {client}"
    done = subprocess.run(
        on("client", "unshare", "--mount", "sh", "-c", script),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    log = (tmp_path / "log").read_text()
    assert done.returncode == 0, done.stderr + log
    assert done.stdout.splitlines() == [f"{path} 26 0 WriteFinished", "refused"], done.stdout + done.stderr
    assert os.listdir(folder) == ["out.h5"]
    lazy = np.arange(3000).reshape(300, 10) * 2
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["a"][...], np.arange(3200).reshape(400, 8))
        np.testing.assert_array_equal(file["b"][...], lazy)
        np.testing.assert_array_equal(file["c"][...], np.concatenate([lazy, lazy]))
    assert all(address in log for address in HOSTS.values())


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Any]:
    """Two mounts of one file system that keeps what it knows of files, as clients of NFS do."""
    program, missing = file_system()
    if missing:
        pytest.skip(missing)
    with mounted(program, tmp_path, 2) as mounts:
        yield mounts


def test_hosts_that_see_what_others_write_when_they_open_or_lock_it(tmp_path: Path, mounts: Any) -> None:
    (tmp_path / "shared").mkdir()
    path = tmp_path / "shared" / "out.h5"
    with cluster_of_hosts(tmp_path, mounts) as address:
        command = on("client", *python("-m", "tests.support.hosts.network_client", address, path))
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "done\n", done.stderr + (tmp_path / "log").read_text()
    data = network_client.DATA
    expected = np.concatenate([data, data])
    expected[:3010] = data[::-1][:3010]
    with h5py.File(tmp_path / "stored" / "out.h5") as file:
        np.testing.assert_array_equal(file["x"][...], expected)
        assert len(np.unique(file["host"])) == 2
    assert os.listdir(tmp_path / "stored") == ["out.h5"]
