"""Decisions made before a write begins: datasets, chunks, buffers, memory and workers."""
