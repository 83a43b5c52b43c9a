"""What ``layout=`` asks of the datasets of a write: new datasets, and for the archive of CMIP7 large chunks.

The program ``check_cmip7_packing`` (package cmip7_repack) accepts a file if all metadata lie before the data, the
time coordinate and its bounds have one chunk, and chunks of the variable have at least 4 MiB.  A chunk that would have
4 MiB with one more row is large enough for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dask_chunkio.errors import ArgumentError
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.geometry.sizing import readable_chunk_shape
from dask_chunkio.planning.request import DatasetRequest
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec
from dask_chunkio.storage.hdf5.file_layout import LayoutName

__all__ = ["LEAST_CMIP7", "check_cmip7", "is_large", "large_chunk_shape", "require_new", "specs_for_cmip7"]

LEAST_CMIP7 = 4 << 20
_TIME = "/time"


def require_new(requests: Sequence[DatasetRequest], layout: LayoutName) -> None:
    """Refuse requests that write into an existing file, whose layout cannot be changed.

    Raises
    ------
    ArgumentError
        If a request has ``region`` or ``append``.
    """
    for one in requests:
        if one.may_be_there:
            word = "region=" if one.region is not None else "append="
            raise ArgumentError(
                f"{one.name}: layout={layout!r} is chosen when a file is created, and {word} writes into an existing "
                f"one, which keeps its layout; leave layout= out (a file to append to is created by a call with "
                f"maxshape=, layout= and without append=)"
            )


def specs_for_cmip7(requests: Sequence[DatasetRequest], specs: Mapping[str, DatasetSpec]) -> dict[str, DatasetSpec]:
    """Return the specifications with chunks for the archive of CMIP7, where the user gave none.

    Raises
    ------
    ArgumentError
        If the time coordinate is a stream, whose length is unknown.
    """
    whole = _of_time({name: spec.attrs.get("bounds") for name, spec in specs.items()})
    found = dict(specs)
    for request in requests:
        spec = specs.get(request.name)
        if spec is None or not spec.shape:
            continue
        if request.name in whole and spec.open_ended:
            raise ArgumentError(
                f"{request.name}: layout='cmip7' keeps the time coordinate in one chunk, but the length of this stream "
                f"is unknown; give an array"
            )
        if request.chunks is None:
            block = request.source.shapes.block
            shape = tuple(max(n, 1) for n in spec.shape)
            chosen = shape if request.name in whole else large_chunk_shape(shape, spec.dtype.itemsize, block)
            found[request.name] = replace(spec, chunks=chosen)
    return found


def _of_time(bounds: Mapping[str, object]) -> set[str]:
    """Return the names of the time coordinate and its bounds, from the names of the bounds of all datasets."""
    name = bounds.get(_TIME)
    return {_TIME} | ({f"/{name.strip('/')}"} if isinstance(name, str) else set())


def large_chunk_shape(shape: Shape, itemsize: int, block: Shape | None = None) -> Shape:
    """Return the shape of a chunk that is large enough for CMIP7, and divides the blocks of an array if it can.

    Examples
    --------
    >>> large_chunk_shape((3650, 180, 360), 4)
    (115, 90, 180)
    >>> large_chunk_shape((12, 180, 360), 4)
    (12, 180, 360)
    """
    for blocks in (block, None) if block is not None else (None,):
        for factor in (1, 2, 4, 8):
            found = readable_chunk_shape(shape, itemsize, blocks, factor * LEAST_CMIP7)
            if is_large(found, shape, itemsize):
                return found
    return shape


def is_large(chunk: Shape, shape: Shape, itemsize: int) -> bool:
    """Return whether a chunk is large enough for CMIP7, or the only one."""
    row = math.prod(chunk[1:]) * itemsize if len(chunk) > 1 else 0
    is_only = all(c >= n for c, n in zip(chunk, shape, strict=True))
    return is_only or math.prod(chunk) * itemsize + row >= LEAST_CMIP7


def check_cmip7(layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec]) -> None:
    """Refuse datasets whose chunks the archive of CMIP7 does not accept.

    Raises
    ------
    ArgumentError
        If the chunks that the user gave are too small, or the time coordinate has several.
    """
    whole = _of_time({spec.name: spec.attrs.get("bounds") for spec in specs})
    for layout in layouts:
        if layout.shape and layout.is_chunked and 0 not in layout.shape:
            _check_chunks(layout, is_whole=layout.name in whole)


def _check_chunks(layout: DatasetLayout, is_whole: bool) -> None:
    shape, chunk, itemsize = layout.shape, layout.form.chunk_shape, layout.form.dtype.itemsize
    if is_whole and len(layout.chunks) > 1:
        raise ArgumentError(
            f"{layout.name}: chunks={chunk} cuts the time coordinate into {len(layout.chunks)} chunks, but "
            f"layout='cmip7' keeps it in one; leave chunks= out, or give {shape}"
        )
    if not is_whole and not is_large(chunk, shape, itemsize):
        raise ArgumentError(
            f"{layout.name}: chunks={chunk} has {math.prod(chunk) * itemsize} bytes, but layout='cmip7' needs "
            f"{LEAST_CMIP7}; leave chunks= out, or give chunks={large_chunk_shape(shape, itemsize)}"
        )
