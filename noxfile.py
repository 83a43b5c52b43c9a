"""What `.ci/run` does one after the other, as sessions of nox: ``nox --list``, ``nox -s lint``, ``nox -s tests-3.13``.

What follows ``--`` goes to pytest: ``nox -s tests-3.13 -- tests/filters -k deflate``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "docs", "tests"]
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
PYTHONS = [words[-1] for line in PROJECT["classifiers"] if re.fullmatch(r"3\.\d+", (words := line.split())[-1])]
IN_TWO_PROCESSES = ("-n", "2", "--dist", "worksteal")

# Parts of the heavy tests.
CRASH = (
    "tests/faults",
    "tests/kills/test_killed_conversions.py",
    "tests/kills/test_killed_processes.py",
    "tests/kills/test_part_jobs.py",
    "tests/power",
    "tests/references/test_damaged_files.py",
    "tests/replay",
    "tests/storage",
    "tests/storm",
    "tests/test_interrupts.py",
)
CLUSTER = ("tests/hosts", "tests/kills/test_cluster_faults.py", "tests/kills/test_killed_clusters.py", "tests/network")
SLURM = ("tests/slurm",)

BENCHMARKS = (
    "compare",
    "many_chunks",
    "small_memory",
    "serial_part",
    "workers",
    "deflate_levels",
    "decoding",
    "durability",
    "netcdf",
    "reading",
    "cloud",
    "references",
    "zarr_convert",
    "repack",
    "kills",
)

# Extras of users whose floors are tested together.
OLD_EXTRAS = ("filters", "hdmf", "nwb", "xarray", "references")

STORAGE_FLOOR = 95.0


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the default tests with the newest dependencies, as the README does."""
    session.install("-e", ".[test]")
    run_pytest(session, *IN_TWO_PROCESSES)


@nox.session
def neuroconv(session: nox.Session) -> None:
    """Run the tests with NeuroConv, whose dependencies do not go with those of the other tests."""
    session.install("-e", ".[neuroconv]", "hypothesis", "dask-jobqueue", "pytest", "pytest-timeout")
    run_pytest(session, "tests/integrations/test_neuroconv.py", "-p", "no:cacheprovider")
    session.install("spikeinterface", "hdmf-zarr")
    session.run("python", "-m", "benchmarks.studies.nwb", "--tiny", silent=True)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Run the default tests with the oldest supported series of each dependency, on the oldest Python.

    The extra virtualizarr is not installed: VirtualiZarr asks for a newer numpy.  Its tests are skipped.
    """
    optional = PROJECT["optional-dependencies"]
    supported = [*PROJECT["dependencies"], *(one for extra in OLD_EXTRAS for one in optional[extra])]
    # pip tries releases one after the other, for hours, unless all packages that depend on each other have a bound.
    floors = [re.sub(r">=([\d.]+)", r"==\1.*", one) for one in supported if "dask_chunkio" not in one]
    session.install("-e", ".", *floors, *(one for one in optional["test"] if "dask_chunkio" not in one))
    run_pytest(session, *IN_TWO_PROCESSES)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the rules and the format of the code with ruff."""
    session.install(*(one for one in PROJECT["optional-dependencies"]["test"] if one.startswith("ruff")))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package, the benchmarks and the tests with mypy."""
    session.install("-e", ".[test]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documents; a warning is an error."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-q", "-W", "-b", "html", "docs", f"{session.create_tmp()}/html")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Run the studies at a tiny size, or those that are named after ``--``."""
    session.install("-e", ".[test]")
    for module in session.posargs or BENCHMARKS:
        session.run("python", "-m", f"benchmarks.studies.{module}", "--tiny")


@nox.session
def asv(session: nox.Session) -> None:
    """Run each benchmark of asv once, or a command of asv: ``nox -s asv -- continuous main HEAD``."""
    session.install("-e", ".", *(one for one in PROJECT["optional-dependencies"]["dev"] if one.startswith("asv")))
    # asv asks for a description of the machine unless there is one.
    session.run("asv", "machine", "--yes", silent=True)
    session.run("asv", *(session.posargs or ("run", "--quick", "--environment", "existing", "--show-stderr")))


@nox.session
def small_memory(session: nox.Session) -> None:
    """Write 4 GB through two workers of 600 MB."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "benchmarks.studies.small_memory", "--size-gb", "4", "--memory-limit", "600MB")


@nox.session
def heavy(session: nox.Session) -> None:
    """Run all heavy tests."""
    run_heavy(session)


@nox.session
def crash(session: nox.Session) -> None:
    """Run the heavy tests of kills, failing disks, damaged files and interrupts."""
    run_heavy(session, *CRASH)


@nox.session
def cluster(session: nox.Session) -> None:
    """Run the heavy tests of clusters, of several hosts and of network file systems."""
    run_heavy(session, *CLUSTER)


@nox.session
def slurm(session: nox.Session) -> None:
    """Run the heavy tests on a real Slurm, which they start; they need root."""
    run_heavy(session, *SLURM)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which branches the default tests take, and hold the floors."""
    session.install("-e", ".[test]")
    report = Path(session.create_tmp()) / "coverage.json"
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *IN_TWO_PROCESSES, *session.posargs)
    session.run("coverage", "combine", "-q")
    session.run("coverage", "json", "-q", "--fail-under=0", "-o", str(report))
    if low := below_floor(json.loads(report.read_text())):
        session.error(f"below {STORAGE_FLOOR:g} %: {', '.join(low)}")
    session.run("coverage", "report")


def below_floor(report: dict[str, dict[str, dict[str, dict[str, float]]]]) -> list[str]:
    """Return the modules of storage that the tests cover too little."""
    covered = {name: found["summary"]["percent_covered"] for name, found in report["files"].items()}
    return [
        f"{name} {percent:.1f} %"
        for name, percent in covered.items()
        if "dask_chunkio/storage/" in name and percent < STORAGE_FLOOR
    ]


def run_heavy(session: nox.Session, *paths: str) -> None:
    """Run the heavy tests below some paths, or all."""
    session.install("-e", ".[test,mpi]")
    run_pytest(session, "-m", "heavy", "-n", "2", "--dist", "loadfile", "--durations=10", "-rs", *paths)


def run_pytest(session: nox.Session, *words: str) -> None:
    """Run pytest; hundreds of children import the package, which is compiled once."""
    session.run("python", "-m", "pytest", *words, *session.posargs, env={"PYTHONDONTWRITEBYTECODE": None})
