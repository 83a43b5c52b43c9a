"""The bytes that HDF5 has written and that are not yet in the file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["PAGE", "Run", "StagedPages"]

PAGE = 4096
Run = tuple[int, bytes]


class StagedPages:
    """A map of pages, each with a mark for every byte that is staged.

    It is a map and not a list of writes: the time to look up a page stays constant, however long a
    transaction grows.
    """

    def __init__(self) -> None:
        self._data: dict[int, bytearray] = {}
        self._mark: dict[int, bytearray] = {}

    def __bool__(self) -> bool:
        return bool(self._data)

    def write(self, offset: int, view: memoryview) -> None:
        """Stage `view` at `offset`."""
        for page, low, high, at in _pieces(offset, len(view)):
            if page not in self._data:
                self._data[page], self._mark[page] = bytearray(PAGE), bytearray(PAGE)
            self._data[page][low:high] = view[at : at + high - low]
            self._mark[page][low:high] = b"\1" * (high - low)

    def overlay(self, offset: int, view: memoryview) -> None:
        """Copy the staged bytes over `view`, which holds the bytes of the file from `offset` on."""
        for page, low, high, at in _pieces(offset, len(view)):
            if page in self._data:
                marks = np.frombuffer(self._mark[page], np.uint8)[low:high].astype(bool)
                target = np.frombuffer(view[at : at + high - low], np.uint8)
                np.copyto(target, np.frombuffer(self._data[page], np.uint8)[low:high], where=marks)

    def erase(self, offset: int, nbytes: int) -> None:
        """Forget the staged bytes of a range that HDF5 has allocated to a payload.

        If they were applied later, they would destroy the payload (early-allocation fill, freed metadata).
        """
        first, last = offset // PAGE, (offset + nbytes - 1) // PAGE
        if last - first + 1 > len(self._data):
            touched = [page for page in self._data if first <= page <= last]
        else:
            touched = [page for page in range(first, last + 1) if page in self._data]
        for page in touched:
            low, high = max(offset - page * PAGE, 0), min(offset + nbytes - page * PAGE, PAGE)
            self._mark[page][low:high] = bytes(high - low)

    def runs(self) -> list[Run]:
        """Return the staged bytes as (offset, bytes), joined and in the order of the file."""
        joined: list[tuple[int, bytearray]] = []
        for page in sorted(self._data):
            for low, high in _marked(self._mark[page]):
                start, piece = page * PAGE + low, self._data[page][low:high]
                if joined and joined[-1][0] + len(joined[-1][1]) == start:
                    joined[-1][1].extend(piece)
                else:
                    joined.append((start, piece))
        return [(offset, bytes(data)) for offset, data in joined]

    def clear(self) -> None:
        """Forget everything."""
        self._data.clear()
        self._mark.clear()


def _pieces(offset: int, nbytes: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut a range at page borders; yield page, start and end inside it, and position in the range."""
    at = 0
    while at < nbytes:
        page, low = divmod(offset + at, PAGE)
        high = min(PAGE, low + nbytes - at)
        yield page, low, high, at
        at += high - low


def _marked(mark: bytearray) -> Iterator[tuple[int, int]]:
    low = mark.find(1)
    while low != -1:
        high = mark.find(0, low)
        high = PAGE if high == -1 else high
        yield low, high
        low = mark.find(1, high)
