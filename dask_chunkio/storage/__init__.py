"""Where bytes reach the file: the only part of the package that holds HDF5 files open.

`hdf5_file` shows HDF5 a file whose metadata is staged and whose payloads are only reserved;
`log` makes a transaction durable and keeps the journal; `transaction` puts the two together.
"""
