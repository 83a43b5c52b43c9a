"""Measurements with a table and targets, each with one command; see docs/benchmarks.md."""

import os

# Otherwise Blosc2's plugin starts threads for each chunk, in every system that calls it.
os.environ.setdefault("BLOSC_NTHREADS", "1")
