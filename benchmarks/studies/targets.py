"""What has to hold for the recording on two threads, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.studies.codecs import CODECS
from benchmarks.studies.efficiency import LEAST
from benchmarks.studies.rows import ALONE, Row, Rows
from benchmarks.studies.systems import OURS, OURS_FROM_FILE

__all__ = ["Verdict", "verdicts"]

_FAST, _GOOD = "gzip 1 + shuffle", "gzip 4 + shuffle"
_SLOW_CODEC = 500  # MB/s on one core
_ONE_AT_A_TIME = ("blosc-zstd",)  # has one lock for a process


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one target is met, in words."""

    passed: bool
    words: str

    def __str__(self) -> str:
        return f"{'PASS' if self.passed else 'MISS'}  {self.words}"


@dataclass(frozen=True, slots=True)
class _Pair:
    """A system with a codec has to be `faster` times as fast as another, at no more than `larger` times its size."""

    ours: tuple[str, str]
    theirs: tuple[str, str]
    faster: float
    larger: float | None = None

    def judge(self, rows: Rows) -> Iterator[Verdict]:
        if self.ours not in rows or self.theirs not in rows:
            return
        one, other = rows[self.ours], rows[self.theirs]
        faster, larger = one.rate / other.rate, one.of_raw / other.of_raw
        passed = faster >= self.faster and (self.larger is None or larger <= self.larger)
        words = f"{_name(one)} is {faster:.2f} x as fast as {_name(other)} (at least {self.faster})"
        if self.larger is not None:
            words += f", at {larger:.4f} x its size (at most {self.larger})"
        yield Verdict(passed, words)


def _name(row: Row) -> str:
    return f"{row.system}, {row.codec}"


def verdicts(rows: Rows) -> list[Verdict]:
    """Return one for each target whose systems and codecs were measured."""
    found = [verdict for pair in (*_FIXED, *_plugins(rows)) for verdict in pair.judge(rows)]
    return [*found, *_efficiencies(rows), *_memory(rows)]


_FIXED = (
    _Pair((OURS, _FAST), ("dask.to_hdf5", _GOOD), 10, 1.10),
    _Pair((OURS, _GOOD), ("dask.to_hdf5", _GOOD), 3.5, 1.01),
    _Pair((OURS, "none"), ("h5py", "none"), 1.0),
    *(
        _Pair((OURS, ours), (system, theirs), 1.0)
        for ours, theirs in (("zstd", "zstd"), ("blosc-zstd", "blosc-zstd"), ("blosc2-zstd", "blosc-zstd"))
        for system in ("dask to zarr", "tensorstore")
    ),
    _Pair((OURS_FROM_FILE, _GOOD), ("h5repack", _GOOD), 8),
    _Pair((OURS_FROM_FILE, _FAST), ("h5repack", _GOOD), 15),
)


def _plugins(rows: Rows) -> Iterator[_Pair]:
    """Ask of each plugin what the speed of its codec allows."""
    for codec in CODECS.values():
        one_core = rows.get((ALONE, codec.name))
        if codec.is_plugin and one_core is not None:
            faster = 1.0 if codec.name in _ONE_AT_A_TIME else 1.8 if one_core.rate < _SLOW_CODEC else 1.3
            yield _Pair((OURS, codec.name), ("h5py", codec.name), faster)


def _efficiencies(rows: Rows) -> Iterator[Verdict]:
    for row in rows.values():
        if row.efficiency is not None and CODECS[row.codec].is_plugin and row.codec not in _ONE_AT_A_TIME:
            yield Verdict(row.efficiency >= LEAST, f"{row.codec}: efficiency {row.efficiency:.2f} (at least {LEAST})")


def _memory(rows: Rows) -> Iterator[Verdict]:
    measured = [row for row in rows.values() if row.peak_nbytes is not None and row.bound_nbytes is not None]
    if measured:
        worst = max(measured, key=lambda row: (row.peak_nbytes or 0) / (row.bound_nbytes or 1))
        peak, bound = worst.peak_nbytes or 0, worst.bound_nbytes or 0
        words = f"memory rises by at most {peak / 1e6:.0f} of the {bound / 1e6:.0f} MB that the plan projects"
        yield Verdict(peak <= bound, f"{words} ({worst.codec})")
