"""The choice of the encoder for a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask_chunkio.filters.chunk_format import ChunkFormat, Encoder
from dask_chunkio.filters.encoder import DirectEncoder, direct_steps
from dask_chunkio.filters.hdf5_encoder import Hdf5Encoder

__all__ = ["encoder_for"]


def encoder_for(form: ChunkFormat, options: Mapping[str, Any]) -> Encoder:
    """Return the encoder for chunks of a dataset.

    Parameters
    ----------
    form : ChunkFormat
        How its chunks are stored.
    options : mapping
        The keywords of `h5py.Group.create_dataset` with which the dataset was created.

    Raises
    ------
    FilterError
        If a filter is missing on this machine.
    """
    return Hdf5Encoder(form, options) if direct_steps(form.filters) is None else DirectEncoder(form)
