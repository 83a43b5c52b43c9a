"""What a buffer can be read from.

`as_source` takes whatever a user brings and returns the adapter that fits it.
"""
