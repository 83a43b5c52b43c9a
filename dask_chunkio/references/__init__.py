"""References to the chunks of HDF5 files, in the format of kerchunk: readers of zarr read the file without HDF5."""
