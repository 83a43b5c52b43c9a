"""Detection of pipelines that HDF5 accepts but that crash the process or store unreadable data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dask_chunkio.filters.chunk_format import Filter

__all__ = ["hazard"]

_SZIP, _NBIT, _SCALEOFFSET = 4, 5, 6
_ZFP, _SZS = 32013, frozenset({32017, 32024})
_SZ3 = 32024
# Its output for 21 to 60 elements of one byte, or 21 to 30 of two, exceeds what it allocates for it (hdf5plugin 7.1).
_LEAST_OF_SZ3 = 128
_BLOSCS = frozenset({32001, 32026})
# These process as many elements as a chunk has, whatever the size of their input: szip, zfp, sz, fcidecomp, sz3, sperr,
# htj2k.
_OF_ELEMENTS = frozenset({_SZIP, 32013, 32017, 32018, 32024, 32028, 32033})


def hazard(filters: Sequence[Filter], dtype: np.dtype[Any], chunk_nbytes: int | None = None) -> str | None:
    """Return why a pipeline must not be used for elements of a dtype, and what to do; None if it may be used.

    Parameters
    ----------
    filters : sequence of Filter
        The pipeline.
    dtype : numpy.dtype
        Type of the elements.
    chunk_nbytes : int, optional
        Bytes of a chunk before filters; None for a dataset without chunks.

    Examples
    --------
    >>> steps = [Filter(code, 1, (0,) * 20, name) for code, name in [(6, "scaleoffset"), (4, "szip")]]
    >>> hazard(steps, np.dtype("i4"))
    'szip after scaleoffset reads and writes beyond its memory; leave one of the two out'
    """
    packed: Filter | None = None
    for step in filters:
        if step.code in _BLOSCS and len(step.options) > 2 and not step.options[2]:
            return (
                f"{step.name} divides by the size of elements, and those of variable length have none, which ends the "
                f"process; choose another compression, such as gzip or zstd, or none"
            )
        if packed is not None and step.code in _OF_ELEMENTS:
            return f"{step.name} after {packed.name} reads and writes beyond its memory; leave one of the two out"
        if (reason := _misread(step, dtype)) is not None:
            return reason
        is_small = chunk_nbytes is not None and chunk_nbytes < _LEAST_OF_SZ3
        if step.code == _SZ3 and is_small and dtype.itemsize <= 2:
            return (
                f"{step.name} writes beyond its memory for chunks of less than {_LEAST_OF_SZ3} bytes of {dtype}, and "
                f"this one has {chunk_nbytes}; give larger chunks, or choose another compression"
            )
        packed = step if step.code in (_NBIT, _SCALEOFFSET) else packed
    return None


def _misread(step: Filter, dtype: np.dtype[Any]) -> str | None:
    """Return why a lossy filter would misinterpret elements of a dtype, and what to do; None if it would not."""
    if step.code in _SZS and (dtype.kind not in "iuf" or (dtype.kind == "f" and dtype.itemsize not in (4, 8))):
        return f"{step.name} takes integers, float32 and float64 only, not {dtype}; choose another compression"
    if step.code in (*_SZS, _ZFP) and dtype.kind in "iuf" and dtype != dtype.newbyteorder("="):
        return (
            f"{step.name} takes {dtype} for numbers of the machine's byte order, so that their values are lost; give "
            f"dtype={dtype.newbyteorder('=').name!r}, or choose another compression"
        )
    return None
