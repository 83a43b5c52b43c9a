"""Where bytes reach HDF5 files: the only part of the package that keeps HDF5 files open.

`hdf5.staged_file` presents a file to HDF5: it stages metadata in memory, and reserves space for payloads
without writing them.  `redo_log` and `journal` make a transaction durable.  `transaction` combines them.
"""
