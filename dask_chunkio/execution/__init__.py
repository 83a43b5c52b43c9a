"""The dask graph of a write, its tasks, and the supervision of a running write."""
