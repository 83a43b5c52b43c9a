"""From a chunk to its payload: HDF5's filter pipeline, run outside HDF5.

Nothing here opens a file of the user's or knows of dask.  What is encoded, and how, is
read from a dataset's creation property list (`storage.hdf5.dataset.describe`) and never guessed.
"""
