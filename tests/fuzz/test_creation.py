"""Random creations by plain h5py and by us; `python -m tests.support.fuzz.creation --runs 5000` for more."""

import os
from typing import Any

import pytest

from tests.support.fuzz.creation import DOCUMENTED, DOCUMENTS, MORE, OF_NO_ELEMENTS, case_of, check

RUNS = int(os.environ.get("DASK_CHUNKIO_RUNS", "150"))


def test_a_few_creations_are_h5pys() -> None:
    for seed in range(25):
        check(case_of(seed))


@pytest.mark.heavy
def test_creations_are_h5pys() -> None:
    first = int(os.environ.get("DASK_CHUNKIO_SEED", "1000"))
    for seed in range(first, first + RUNS):
        case = case_of(seed)
        try:
            check(case)
        except Exception as error:
            error.add_note(f"seed {seed}: {case}")
            raise


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(2))
def test_creations_by_processes_are_h5pys(seed: int) -> None:
    check(case_of(seed, processes=True))


@pytest.mark.parametrize("words", sorted({*DOCUMENTED.values(), *MORE.values(), *OF_NO_ELEMENTS.values()}))
def test_what_differs_is_in_the_documents(words: Any) -> None:
    assert words in " ".join(DOCUMENTS.read_text().split())
