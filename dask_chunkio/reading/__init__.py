"""Parallel reading: chunks are found once through HDF5, then read and decoded without it."""
