"""Write large arrays to HDF5 in parallel, with dask."""
