"""The entry point of the engine "chunkio" of `xarray.open_dataset`.

xarray imports this module when anybody opens a file with any engine: so it imports nothing that takes time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import xarray
from xarray.backends import BackendEntrypoint

__all__ = ["ChunkioBackend"]


class ChunkioBackend(BackendEntrypoint):
    """Opens netCDF-4 and other HDF5 files of the local file system."""

    description = "Read netCDF-4 and HDF5 files with chunks decoded in parallel (dask_chunkio)"
    url = "https://pypi.org/project/dask-chunkio"

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        mask_and_scale: Any = True,
        decode_times: Any = True,
        concat_characters: Any = True,
        decode_coords: Any = True,
        drop_variables: str | Iterable[str] | None = None,
        use_cftime: Any = None,
        decode_timedelta: Any = None,
        group: str | None = None,
        invalid_netcdf: bool | None = None,
        phony_dims: str | None = None,
        decode_vlen_strings: bool = True,
        isolated: bool | None = None,
    ) -> xarray.Dataset:
        """Open a file, or a group of it, lazily.

        Parameters
        ----------
        filename_or_obj : str or path-like
            The file.
        mask_and_scale, decode_times, concat_characters, decode_coords, drop_variables, use_cftime, decode_timedelta
            As `xarray.open_dataset` takes them.
        group, invalid_netcdf, phony_dims, decode_vlen_strings
            As the engine "h5netcdf" takes them.
        isolated
            As `dask_chunkio.open_array` takes it: a separate process checks all metadata of the file first.
        """
        from dask_chunkio.integrations.xarray.engine import open_dataset

        decoding = {
            "mask_and_scale": mask_and_scale,
            "decode_times": decode_times,
            "concat_characters": concat_characters,
            "decode_coords": decode_coords,
            "drop_variables": drop_variables,
            "use_cftime": use_cftime,
            "decode_timedelta": decode_timedelta,
        }
        opening = {
            "group": group,
            "invalid_netcdf": invalid_netcdf,
            "phony_dims": phony_dims,
            "decode_vlen_strings": decode_vlen_strings,
        }
        return open_dataset(filename_or_obj, opening, decoding, isolated)
