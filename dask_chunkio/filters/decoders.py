"""The choice of the decoder for a dataset."""

from __future__ import annotations

from dask_chunkio.filters.chunk_format import ChunkFormat, Decoder
from dask_chunkio.filters.decoder import DirectDecoder, direct_inverses
from dask_chunkio.filters.isolated_decoder import IsolatedDecoder

__all__ = ["decoder_for"]


def decoder_for(form: ChunkFormat) -> Decoder:
    """Return the decoder for chunks of a dataset.

    A pipeline of which each filter is safe on damaged payloads is decoded in this process, any other by HDF5 in a
    separate process.

    Parameters
    ----------
    form : ChunkFormat
        How the chunks are stored.

    Raises
    ------
    FilterError
        If a filter is missing on this machine.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_chunkio.filters.chunk_format import Filter
    >>> decoder_for(ChunkFormat((4,), np.dtype("<i2"), (Filter(1, 0, (4,), "deflate"),))).name
    'deflate'
    """
    return IsolatedDecoder(form) if direct_inverses(form.filters) is None else DirectDecoder(form)
