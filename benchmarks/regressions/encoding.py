"""One chunk through the filters, without any file."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

__all__ = ["Encode"]

_SHAPE = (2048, 256)
_KEYWORDS: dict[str, dict[str, Any]] = {
    "gzip 1 + shuffle": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "gzip 4 + shuffle": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
}


class Encode:
    """1 MiB of noise."""

    repeat = (5, 20, 0.5)
    params = (list(_KEYWORDS),)
    param_names = ("codec",)

    def setup(self, codec: str) -> None:
        """Make the encoder as the package does, from the filters of a dataset."""
        try:
            from dask_chunkio.filters.chunk_format import ChunkFormat
            from dask_chunkio.filters.encoders import encoder_for
            from dask_chunkio.filters.hdf5_encoder import read_filters
        except ImportError as error:
            # asv skips the benchmark for this commit.
            raise NotImplementedError from error
        keywords = _KEYWORDS[codec]
        with h5py.File("unused", "w", driver="core", backing_store=False) as file:
            made = file.create_dataset("x", _SHAPE, np.int16, chunks=_SHAPE, **keywords)
            filters = read_filters(made.id.get_create_plist())
        self.encoder = encoder_for(ChunkFormat(_SHAPE, np.dtype(np.int16), filters), keywords)
        self.chunk = np.random.default_rng(0).normal(0, 20, _SHAPE).astype(np.int16)

    def time_encode(self, codec: str) -> None:  # noqa: ARG002
        """Encode the chunk."""
        self.encoder.encode(self.chunk)
