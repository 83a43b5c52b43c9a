from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dask_chunkio.storage.hdf5.staged_pages import PAGE, StagedPages

SIZE = 5 * PAGE
borders = [page * PAGE + step for page in range(5) for step in (-1, 0, 1) if page * PAGE + step >= 0]
offsets = st.one_of(st.sampled_from(borders), st.integers(0, SIZE - 1))
lengths = st.one_of(st.integers(1, 40), st.sampled_from([PAGE - 1, PAGE, PAGE + 1, 3 * PAGE]), st.integers(1, SIZE))


class Pages(RuleBasedStateMachine):
    """Beside the pages, one long array of bytes and one of marks."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = StagedPages()
        self.bytes = np.zeros(3 * SIZE, "u1")
        self.marks = np.zeros(3 * SIZE, bool)

    @rule(offset=offsets, length=lengths, seed=st.integers(0, 1000))
    def write(self, offset: Any, length: Any, seed: int) -> None:
        data = np.random.default_rng(seed).integers(0, 256, length, "u1")
        self.pages.write(offset, data.data)
        self.bytes[offset : offset + length] = data
        self.marks[offset : offset + length] = True

    @rule(offset=offsets, length=lengths)
    def erase(self, offset: Any, length: Any) -> None:
        self.pages.erase(offset, length)
        self.marks[offset : offset + length] = False

    @rule()
    def erase_nearly_everything(self) -> None:
        """A hole far longer than all that is staged."""
        self.pages.erase(17, 1 << 40)
        self.marks[17:] = False

    @rule()
    def clear(self) -> None:
        self.pages.clear()
        self.marks[:] = False
        assert not self.pages

    @rule(offset=offsets, length=lengths)
    def overlay(self, offset: Any, length: Any) -> None:
        under = np.full(length, 0xAB, "u1")
        self.pages.overlay(offset, under.data)
        marks = self.marks[offset : offset + length]
        np.testing.assert_array_equal(under, np.where(marks, self.bytes[offset : offset + length], 0xAB))

    @invariant()
    def runs_are_what_is_marked(self) -> None:
        edges = np.flatnonzero(np.diff(self.marks.astype("i1"), prepend=0, append=0)).tolist()
        expected = [(low, self.bytes[low:high].tobytes()) for low, high in zip(edges[::2], edges[1::2], strict=True)]
        assert self.pages.runs() == expected


Pages.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=20)
TestPages = Pages.TestCase


def test_what_is_staged_is_a_copy() -> None:
    """HDF5 fills its buffer anew as soon as the call returns."""
    pages, buffer = StagedPages(), bytearray(b"first")
    pages.write(3, memoryview(buffer))
    buffer[:] = b"other"
    assert pages.runs() == [(3, b"first")]
    ((_, found),) = pages.runs()
    pages.write(3, memoryview(b"F"))
    assert found == b"first"
