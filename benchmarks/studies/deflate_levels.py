"""Which engine and level stands for each of zlib's levels: python -m benchmarks.studies.deflate_levels.

Prints, for each kind of data, zlib's size and speed at each level beside those of the engine
that `dask_chunkio.filters.deflate` chooses for it; with --all, of every engine and level.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import zlib
from collections.abc import Callable, Sequence, Sized

import deflate as libdeflate
from isal import isal_zlib

from benchmarks.studies.data import KINDS, chunk_shape, make, whole_chunks
from dask_chunkio.filters.deflate import deflate, engine_for
from dask_chunkio.filters.shuffle import shuffle

CHUNK = 1 << 20

Compress = Callable[[bytes, int], Sized]


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the tables, and say whether level 4 and up stay within 1 %."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.deflate_levels", description=__doc__)
    parser.add_argument("--chunks", type=int, default=8, help="of 1 MiB, of each kind of data")
    parser.add_argument("--all", action="store_true", help="every engine and level")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, to see that it works")
    options = parser.parse_args(argv)
    count, size = (1, 1 << 15) if options.tiny else (options.chunks, CHUNK)
    worst = 0.0
    for kind in KINDS:
        chunks = shuffled(kind, count, size)
        print(f"\n{kind}\n\n| level | zlib: size, MB/s | engine | size, MB/s | larger | faster |")
        print("| ---: | ---: | --- | ---: | ---: | ---: |")
        for level in range(1, 10):
            size_zlib, speed_zlib = measure(zlib.compress, level, chunks)
            size_own, speed_own = measure(deflate, level, chunks)
            larger = size_own / size_zlib
            worst = max(worst, larger) if level >= 4 else worst
            print(
                f"| {level} | {size_zlib:.4f}, {speed_zlib:.0f} | {engine_for(level)} "
                f"| {size_own:.4f}, {speed_own:.0f} | {larger:.3f} | {speed_own / speed_zlib:.1f} x |"
            )
        if options.all:
            print_all(chunks)
    print(f"\n{'PASS' if worst <= 1.01 else 'MISS'}  from level 4 up at most {worst:.4f} of zlib's size (1.01)")
    return 0 if options.tiny or worst <= 1.01 else 1


def shuffled(kind: str, count: int, size: int) -> list[bytes]:
    """Return about `count` shuffled chunks, each of at most `size` bytes."""
    array = make(kind, count * size)
    chunks = itertools.islice(whole_chunks(array, chunk_shape(kind, array, size)), count)
    return [bytes(shuffle(chunk.reshape(-1).view("u1").data, array.itemsize)) for chunk in chunks]


def measure(compress: Compress, level: int, chunks: list[bytes]) -> tuple[float, float]:
    """Return stored bytes for each byte, and MB/s of one core."""
    started = time.perf_counter()
    stored = sum(len(compress(chunk, level)) for chunk in chunks)
    seconds = time.perf_counter() - started
    raw = sum(map(len, chunks))
    return stored / raw, raw / seconds / 1e6


def print_all(chunks: list[bytes]) -> None:
    """Print every level of every engine."""
    print("\n| engine | size, MB/s |\n| --- | ---: |")
    for name, compress, levels in (
        ("isal", isal_zlib.compress, range(4)),
        ("libdeflate", libdeflate.zlib_compress, range(1, 13)),
    ):
        for level in levels:
            size, speed = measure(compress, level, chunks)
            print(f"| {name} {level} | {size:.4f}, {speed:.0f} |")


if __name__ == "__main__":
    sys.exit(main())
