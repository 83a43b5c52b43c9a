"""Conversion of a chunk to its payload: the filter pipeline of HDF5, run outside HDF5.

This subpackage opens no file of the user and does not use dask.  It takes the pipeline from the
creation property list of a dataset (`storage.hdf5.dataset.describe`) and never guesses it.
"""
