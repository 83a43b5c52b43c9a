"""Estimate of the stored size of a dataset, from a sample of its chunks."""

from __future__ import annotations

from dask_chunkio.errors import ChunkIOError
from dask_chunkio.filters.chunking import cut_chunk
from dask_chunkio.filters.encoders import encoder_for
from dask_chunkio.geometry.grid import Selection
from dask_chunkio.model import DatasetJob
from dask_chunkio.sources.base import Source, read_checked
from dask_chunkio.sources.dask_array import DaskArraySource

__all__ = ["estimated_nbytes"]

_SAMPLE = 3


def estimated_nbytes(sample: int | None, job: DatasetJob, source: Source) -> int | None:
    """Return the estimated size of all payloads of a dataset in bytes, or None if it cannot be estimated.

    Parameters
    ----------
    sample : int or None
        Number of chunks that are read and encoded.  None stands for 3, or for 0 if the source is a dask array, whose
        chunks are expensive to compute.  Sources that are read in order are never sampled: reading consumes them.
    job : DatasetJob
        The dataset.
    source : Source
        The source of the dataset.
    """
    count = len(job.layout.chunks)
    if job.read == "ordered" or not job.layout.is_chunked or job.layout.region is not None:
        return None
    if not job.layout.form.filters:
        return count * job.layout.form.nbytes
    sample = (0 if isinstance(source, DaskArraySource) else _SAMPLE) if sample is None else sample
    chosen = _spread(count, sample)
    if not chosen:
        return 0 if not count else None
    try:
        return sum(_payload_nbytes(job, source, job.layout.chunks[chunk]) for chunk in chosen) * count // len(chosen)
    except ChunkIOError:
        # The source may be readable on the workers although it is not readable here.
        return None


def _spread(count: int, sample: int) -> list[int]:
    """Return numbers spread over a grid of `count` chunks: the middle one of each of `sample` equal parts."""
    sample = min(sample, count)
    return [(2 * number + 1) * count // (2 * sample) for number in range(sample)]


def _payload_nbytes(job: DatasetJob, source: Source, cell: Selection) -> int:
    form = job.layout.form
    data = read_checked(source, cell, (job.source_dtype, form.dtype), f"{job.layout.name}, a chunk to estimate by")
    return encoder_for(form, job.options).encode(cut_chunk(data, cell, cell, form)).nbytes
