"""HDF5 files whose metadata writes are staged in memory."""
