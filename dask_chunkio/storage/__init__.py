"""Write HDF5 files; the only part of the package that changes a target.

The steps of a write are `begin`, `writer` (commits buffers), `finish` and `recovery`.  `transaction` makes what they
change durable at once.  `session` holds the open writers of this process.
"""
