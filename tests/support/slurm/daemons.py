"""A real Slurm of one node, on the loopback address, for the tests."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import PATIENCE, wait_until

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=2
JobRequeue=1
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=4000 State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")


def what_is_missing() -> str:
    """One line, or nothing where a Slurm can be started here."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        return f"Slurm cannot be started: {', '.join(missing)} are not installed (packages slurm-wlm and munge)"
    if getpass.getuser() != "root":
        return "Slurm cannot be started: its daemons have to run as root"
    return ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextlib.contextmanager
def running(folder: str | Path) -> Iterator[None]:
    """Run the daemons; SLURM_CONF names their configuration meanwhile."""
    folder = Path(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0], controller_port=_port(), node_port=_port(), folder=folder
        )
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_munge())
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(configuration)
        stack.callback(_restore, before)
        for name in ("slurmctld", "slurmd"):
            daemon = subprocess.Popen(
                [_program(name) or name, "-D", *(["-c"] if name == "slurmctld" else [])],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(_ended, daemon)
        wait_until(_is_idle, "the node of Slurm is idle", folder / "slurmctld.log", folder / "slurmd.log")
        try:
            yield
        finally:
            call("scancel", "--state=PENDING", "--quiet")
            call("scancel", "--state=RUNNING", "--quiet")


def _restore(before: str | None) -> None:
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


@contextlib.contextmanager
def _munge() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if not _munge_answers():
            Path("/run/munge").mkdir(mode=0o755, exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            command = ["runuser", "-u", "munge", "--", _program("munged") or "munged", "-F"]
            stack.callback(_ended, subprocess.Popen(command, start_new_session=True))
            wait_until(_munge_answers, "munged answers")
        yield


def _munge_answers() -> bool:
    return subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _is_idle() -> bool:
    # Before the controller answers, sinfo fails.
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.stdout.strip() in ("idle", "mixed")


def call(*command: str) -> str:
    """What a command of Slurm's prints; it has to succeed, as no output is an answer, too."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()
