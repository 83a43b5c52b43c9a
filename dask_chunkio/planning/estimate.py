"""The stored size of a dataset, from a few of its chunks."""

from __future__ import annotations

from dask_chunkio.errors import ChunkIOError
from dask_chunkio.filters.chunking import cut_chunk
from dask_chunkio.filters.hdf5_encoder import encoder_for
from dask_chunkio.geometry.grid import Selection
from dask_chunkio.model import DatasetJob
from dask_chunkio.sources.base import Source, read_checked
from dask_chunkio.sources.dask_array import DaskArraySource

__all__ = ["estimated_nbytes"]

_SAMPLE = 3


def estimated_nbytes(sample: int | None, job: DatasetJob, source: Source) -> int | None:
    """Return how long all payloads of a dataset are going to be, or None where that is not known.

    Parameters
    ----------
    sample : int or None
        How many chunks are read and encoded; None for 3, and for none where reading is dear or spoils the source.
    job : DatasetJob
        The dataset.
    source : Source
        What is written.
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
        # Where the write runs, the source may well be readable.
        return None


def _spread(count: int, sample: int) -> list[int]:
    """Return numbers from all over a grid: the first of each of so many equal parts, and the last of none but one."""
    sample = min(sample, count)
    return [(2 * number + 1) * count // (2 * sample) for number in range(sample)]


def _payload_nbytes(job: DatasetJob, source: Source, cell: Selection) -> int:
    form = job.layout.form
    data = read_checked(source, cell, (job.source_dtype, form.dtype), f"{job.layout.name}, a chunk to estimate by")
    return encoder_for(form, job.options).encode(cut_chunk(data, cell, cell, form)).nbytes
