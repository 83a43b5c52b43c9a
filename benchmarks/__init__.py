"""Measurements that anyone can repeat, each with one command; see docs/benchmarks.md."""

import os

# Else Blosc2's plugin begins threads for each chunk, in every system that calls it.
os.environ.setdefault("BLOSC_NTHREADS", "1")
