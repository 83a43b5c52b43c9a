"""The ranks of an MPI program write one file in parts, without MPI in HDF5."""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.mpi_rank import DATA
from tests.support.processes import environment, python

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(find_spec("mpi4py") is None, reason="mpi4py is not installed"),
    pytest.mark.skipif(shutil.which("mpiexec") is None, reason="no MPI is installed (openmpi-bin)"),
]


def test_four_ranks(tmp_path: Path) -> None:
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    as_root["OMPI_MCA_rmaps_base_oversubscribe"] = "1"
    command = ["mpiexec", "-n", "4", *python("-m", "tests.support.mpi_rank", tmp_path)]
    done = subprocess.run(command, env=environment(**as_root), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = sorted(line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("rank"))
    assert said == ["done"] * 3 + ["whole"]
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["x"][...], DATA)
    assert os.listdir(tmp_path) == ["out.h5"]
