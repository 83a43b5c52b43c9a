"""Measurements that anyone can repeat, each with one command; see docs/benchmarks.md."""
