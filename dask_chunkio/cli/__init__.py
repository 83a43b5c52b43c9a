"""The command line ``dask-chunkio``."""
