"""Conversions of zarr stores and HDF5 files that are killed."""

import os

import pytest

from tests.support.processes import run_python


def killed(kills: int) -> None:
    done = run_python("-m", "tests.support.kills.conversions", "--kills", kills)
    assert done.returncode == 0, done.stderr


def test_a_few_killed_conversions() -> None:
    killed(2)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_killed_conversions() -> None:
    killed(int(os.environ.get("DASK_CHUNKIO_KILLS", "60")))
