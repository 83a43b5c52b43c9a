"""Random writes into files of other libraries (`tests.support.fuzz.existing_files`)."""

import importlib
import os
from typing import Any

import pytest

from tests.support.fuzz import existing_files

# How many files of h5py the heavy tests write into, and which: with another seed, others.
RUNS = int(os.environ.get("DASK_CHUNKIO_FUZZ_RUNS", "100"))
SEED = int(os.environ.get("DASK_CHUNKIO_SEED", "1"))


def fuzz(runs: Any, seed: int, maker: Any) -> None:
    steps, failures = existing_files.fuzz(runs, seed, [maker])
    words = "\n".join(f"--runs 1 --seed {number} --makers {maker}\n{words}" for number, maker, words in failures[:5])
    assert not failures, f"{len(failures)} of {runs} files\n{words}"
    assert steps >= runs // 2


def test_files_of_h5py() -> None:
    fuzz(3, 0, "h5py")


@pytest.mark.heavy
@pytest.mark.timeout(max(300, 2 * RUNS))
def test_many_files_of_h5py() -> None:
    fuzz(RUNS, SEED, "h5py")


@pytest.mark.heavy
@pytest.mark.parametrize("maker", existing_files.OTHERS)
@pytest.mark.timeout(max(300, 2 * RUNS))
def test_many_files_of_other_libraries(maker: Any) -> None:
    needed = {existing_files.OTHERS[maker], *({"tables"} if maker == "pandas" else ())}
    for module in sorted(needed):
        try:
            importlib.import_module(module)
        except ImportError:
            pytest.skip(f"files of {maker} need {module}, which is not installed here")
    fuzz(max(1, RUNS // 5), SEED, maker)
