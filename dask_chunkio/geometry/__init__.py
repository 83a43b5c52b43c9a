"""Chunk grids, buffer grids, regions and sizes; plain arithmetic without files."""
