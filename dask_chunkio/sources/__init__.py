"""Sources from which buffers are read.

`as_source` takes an object of the user and returns the adapter for it.
"""
