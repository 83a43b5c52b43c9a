"""Writes through dask-jobqueue on a real Slurm."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from distributed import Client

import dask_chunkio as dcio
from tests.support.gates import data, open_gate, readers, reads
from tests.support.processes import environment, python, wait_until
from tests.support.slurm import array_job, daemons, part_job
from tests.support.slurm.batch_write import BUFFERS, LAYOUT, source
from tests.support.slurm.daemons import call
from tests.support.unfinished import unfinished

jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("slurm"),
    pytest.mark.skipif(bool(daemons.what_is_missing()), reason=daemons.what_is_missing()),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with daemons.running(tmp_path_factory.mktemp("slurm")):
        yield


@contextlib.contextmanager
def cluster_of(folder: Path, *extra: Any) -> Iterator[tuple[Any, ...]]:
    with (
        jobqueue.SLURMCluster(
            cores=1,
            processes=1,
            memory="1GB",
            walltime="00:10:00",
            interface="lo",
            python=sys.executable,
            local_directory=str(folder),
            log_directory=str(folder / "logs"),
            worker_extra_args=list(extra),
            job_script_prologue=[f"export PYTHONPATH={environment()['PYTHONPATH']}", f"cd {folder}"],
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def written(pool: ThreadPoolExecutor, folder: Path, client: Any, free: Any) -> Any:
    keywords: dict[str, Any] = {**LAYOUT, "scheduler": client}
    gated = source(folder, free)
    return pool.submit(lambda: dcio.to_hdf5(folder / "out.h5", "/x", gated, **keywords))


def check(folder: Path, lost: int = 0) -> None:
    with h5py.File(folder / "out.h5") as file:
        np.testing.assert_array_equal(file["x"][...], data(BUFFERS), strict=True)
    assert not (folder / "out.h5.writing").exists()
    again = [buffer for _, buffer in reads(folder)]
    assert len(again) <= BUFFERS + lost, again


def jobs() -> Any:
    return call("squeue", "-h", "-t", "RUNNING", "-o", "%i").split()


def test_a_write(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with cluster_of(tmp_path) as (cluster, client):
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=60)
        assert len(jobs()) == 2
        writing = written(pool, tmp_path, client, 0)
        wait_until(lambda: len(readers(tmp_path)) == 2, "both jobs read")
        open_gate(tmp_path)
        assert writing.result(60).buffers == BUFFERS
    check(tmp_path)
    assert os.getpid() not in readers(tmp_path)


def test_a_job_is_cancelled_in_the_middle(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with cluster_of(tmp_path) as (cluster, client):
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=60)
        writing = written(pool, tmp_path, client, 8)
        wait_until(lambda: len(reads(tmp_path)) >= 10, "both wait at the gate")
        call("scancel", jobs()[0])
        wait_until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1, "a worker is gone")
        open_gate(tmp_path)
        assert writing.result(60).buffers == BUFFERS
    check(tmp_path, lost=1)


def test_workers_reach_the_end_of_their_lifetime(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with cluster_of(tmp_path, "--lifetime", "6s", "--lifetime-stagger", "1s") as (cluster, client):
        cluster.adapt(minimum_jobs=2, maximum_jobs=2, interval="500ms")
        client.wait_for_workers(2, timeout=60)
        writing = written(pool, tmp_path, client, 8)
        wait_until(lambda: len(readers(tmp_path)) >= 3, "a job has taken the place of another")
        open_gate(tmp_path)
        assert writing.result(120).buffers == BUFFERS
    check(tmp_path, lost=2 * len(readers(tmp_path)))


def test_an_adaptive_cluster_grows_from_one_job_to_three(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with cluster_of(tmp_path) as (cluster, client):
        cluster.adapt(minimum_jobs=1, maximum_jobs=3, interval="500ms", target_duration="1s")
        client.wait_for_workers(1, timeout=60)
        writing = written(pool, tmp_path, client, 4)
        wait_until(lambda: len(readers(tmp_path)) == 3, "three jobs read")
        open_gate(tmp_path)
        assert writing.result(60).buffers == BUFFERS
        wait_until(lambda: len(jobs()) == 1, "two jobs are given back")
    check(tmp_path, lost=3)


def test_a_batch_job_that_is_requeued_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    command = shlex.join(python("-m", "tests.support.slurm.batch_write", tmp_path))
    script.write_text(f"#!/bin/bash\nexec {command}\n")
    path = f"--export=ALL,PYTHONPATH={environment()['PYTHONPATH']}"
    job = call("sbatch", "--parsable", "--requeue", "-n1", "-c2", path, "-o", str(tmp_path / "log"), str(script))
    assert job.isdecimal()
    wait_until(lambda: len(reads(tmp_path)) >= 14, "the job waits at the gate", tmp_path / "log")
    committed = unfinished(tmp_path / "out.h5").datasets[0].committed
    assert committed > 0
    call("scontrol", "requeue", job)
    wait_until((tmp_path / "out.h5").exists, "the requeued job has finished the write", tmp_path / "log")
    wait_until(lambda: job not in call("squeue", "-h", "-o", "%i").split(), "the job has ended")
    check(tmp_path, lost=BUFFERS - committed // 2)
    assert len(readers(tmp_path)) == 2


def submit(folder: Path, array: str, *words: object) -> str:
    """Submit a job array that runs a Python module, and return its number; job N logs to the file log-N."""
    script = folder / "job.sh"
    script.write_text(f"#!/bin/bash\nexec {shlex.join(python('-m', *words))}\n")
    exported = f"--export=ALL,PYTHONPATH={environment()['PYTHONPATH']}"
    how = (f"--array={array}", "-n1", "-c1", "--open-mode=append", exported, "-o", str(folder / "log-%a"))
    number: str = call("sbatch", "--parsable", *how, str(script))
    assert number.isdecimal()
    return number


def test_the_jobs_of_an_array_wait_for_one_another(tmp_path: Path) -> None:
    """They know nothing of one another, and write one file at once; neighbours share chunks."""
    path = array_job.make(tmp_path)
    submit(tmp_path, f"0-{array_job.JOBS - 1}", "tests.support.slurm.array_job", tmp_path)
    logs = [tmp_path / f"log-{number}" for number in range(array_job.JOBS)]
    wait_until(lambda: all(map(Path.exists, logs)) and not call("squeue", "-h"), "all jobs have ended")
    # A job may say that it waits for another one.
    assert [log.read_text().splitlines()[-1] for log in logs] == ["done"] * array_job.JOBS
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], array_job.DATA, strict=True)
        found = np.concatenate([file[f"job/{number}"][...] for number in range(array_job.JOBS)])
        np.testing.assert_array_equal(found, array_job.DATA, strict=True)
    assert not Path(f"{path}.writing").exists()


def test_an_array_writes_one_file_in_parts(tmp_path: Path) -> None:
    """One job is requeued in the middle, and one is cancelled and submitted again."""
    path, module, jobs = tmp_path / "out.h5", "tests.support.slurm.part_job", part_job.JOBS
    for number in (2, 4):
        (tmp_path / f"hold-{number}").touch()
    array = submit(tmp_path, f"0-{jobs - 1}", module, tmp_path)
    wait_until(lambda: (tmp_path / "came-2").exists() and (tmp_path / "came-4").exists(), "both jobs read")
    wait_until(lambda: len(call("squeue", "-h", "-r").splitlines()) == 2, "the others have ended")
    assert unfinished(path).running
    call("scontrol", "requeue", f"{array}_2")
    call("scancel", f"{array}_4")
    wait_until(lambda: not unfinished(path).running, "both have ended")
    assert unfinished(path).missing_parts == (2, 4)
    for number in (2, 4):
        (tmp_path / f"hold-{number}").unlink()
    submit(tmp_path, "4", module, tmp_path, 4)

    def said() -> list[str]:
        return sorted((tmp_path / f"log-{number}").read_text().split()[-1] for number in range(jobs))

    wait_until(lambda: set(said()) <= {"done", "whole"}, "all jobs have written their parts", tmp_path / "log-2")
    assert said() == ["done"] * (jobs - 1) + ["whole"]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], part_job.DATA, strict=True)
    assert not Path(f"{path}.writing").exists()
