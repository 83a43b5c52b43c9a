"""Specifications of the datasets of a write: new ones to create, and existing ones to find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dask_chunkio.config import Settings
from dask_chunkio.errors import AlignmentError, ArgumentError
from dask_chunkio.filters.compatibility import check_conversion, is_partial
from dask_chunkio.geometry.grid import Box, Shape
from dask_chunkio.geometry.region import growing_axis, parse_region
from dask_chunkio.geometry.sizing import buffer_budget, readable_chunk_shape
from dask_chunkio.planning.request import DatasetRequest
from dask_chunkio.planning.resources import Workers
from dask_chunkio.sources.base import Source
from dask_chunkio.sources.stream import is_open_ended
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec
from dask_chunkio.storage.regions import Wanted

__all__ = ["Scale", "most_rows", "spec_of", "spec_of_part", "wanted_of"]


@dataclass(frozen=True, slots=True)
class Scale:
    """The workers and settings from which sizes of chunks and buffers are chosen."""

    workers: Workers
    settings: Settings

    @property
    def buffer_nbytes(self) -> int:
        """Maximum size of a buffer whose shape is not given, in bytes."""
        budget = buffer_budget(self.workers.memory_nbytes, self.workers.threads_per_worker)
        return min(self.settings.buffer_nbytes, budget)

    @property
    def count(self) -> int:
        """Minimum number of buffers."""
        return self.settings.buffers_per_thread * self.workers.threads


_FILTERS = ("compression", "compression_opts", "shuffle", "fletcher32", "scaleoffset")


def wanted_of(request: DatasetRequest, spec: DatasetSpec | None, fills: bool = False, in_parts: bool = False) -> Wanted:
    """Return the dataset to look for in the file.

    `spec` is the dataset to create if there is none to append to, or, if the call `fills` datasets, none to fill.
    `in_parts` says that several jobs fill them.
    """
    names = {"filters" if name in _FILTERS else name for name in request.given}
    given = names & {"attrs", "chunks", "dtype", "fillvalue", "filters", "maxshape"}
    shape = None if is_open_ended(request.source) else request.source.shape
    fills = in_parts or (fills and not request.may_be_there)
    keeps_shape = in_parts and request.region is not None
    return Wanted(shape, request.region, request.append, spec, tuple(sorted(given)), fills, keeps_shape)


def spec_of(request: DatasetRequest, scale: Scale) -> DatasetSpec:
    """Return the specification of a new dataset."""
    source, options, shape = request.source, request.options, request.source.shape
    open_ended = is_open_ended(source)
    if open_ended:
        options = {"maxshape": (None, *shape[1:]), **options}
        most = most_rows(options)
        shape = shape if most is None else (min(most, shape[0]), *shape[1:])
    check_conversion(source.dtype, request.dtype, request.name)
    chunks = request.chunks or _chunks(source, shape, request.dtype.itemsize, scale.settings.chunk_nbytes)
    spec = DatasetSpec(
        request.name, shape, request.dtype, chunks, options, request.attrs, source.dtype, open_ended=open_ended
    )
    return spec if request.append is None else _appendable(spec, request.append, open_ended)


def _chunks(source: Source, shape: Shape, itemsize: int, nbytes: int) -> Shape:
    """Return the chunk shape that the source recommends, clipped to `shape`, or a chunk shape that suits `shape`."""
    chunk, block = source.shapes.chunk, source.shapes.block
    if chunk is None:
        return readable_chunk_shape(shape, itemsize, block, nbytes)
    return tuple(min(c, max(n, 1)) for c, n in zip(chunk, shape, strict=True))


def _appendable(spec: DatasetSpec, append: Any, open_ended: bool) -> DatasetSpec:
    """Return the specification of a dataset that can grow, for a call that appends to a dataset that does not exist."""
    shape, maxshape = spec.shape, spec.options.get("maxshape")
    if not shape:
        raise ArgumentError(f"{spec.name}: append= needs an axis, and the source has none; give it one")
    axis = growing_axis(spec.name, append, tuple(None if at == 0 else n for at, n in enumerate(shape)), shape)
    if isinstance(maxshape, (tuple, list)) and len(maxshape) == len(shape):
        axis = growing_axis(spec.name, append, tuple(maxshape), shape)
        most = maxshape[axis]
        if most is not None and not open_ended and most <= shape[axis]:
            raise ArgumentError(f"{spec.name}: maxshape={maxshape!r} leaves no room to append along axis {axis}")
    if open_ended and axis != 0:
        raise ArgumentError(f"{spec.name}: a stream is appended along axis 0, not {axis}")
    grows = tuple(None if at == axis else length for at, length in enumerate(shape))
    return replace(spec, options={"maxshape": grows, **spec.options}, appends=True)


def most_rows(options: Mapping[str, Any]) -> int | None:
    """Return the maximum number of rows that ``maxshape`` allows; None without a limit."""
    maxshape = options.get("maxshape")
    first = maxshape[0] if isinstance(maxshape, (tuple, list)) and maxshape else maxshape
    return int(first) if isinstance(first, (int, np.integer)) and not isinstance(first, bool) else None


def spec_of_part(request: DatasetRequest, layout: DatasetLayout) -> DatasetSpec:
    """Return the specification of the existing dataset, or the part of one, that the request writes."""
    source, form = request.source, layout.form
    check_conversion(source.dtype, form.dtype, request.name)
    spec = DatasetSpec(request.name, source.shape, form.dtype, form.chunk_shape, source_dtype=source.dtype)
    box = _own_box(request, layout) if request.region is not None and layout.is_filled else None
    return replace(spec, there=layout, open_ended=is_open_ended(source), box=box)


def _own_box(request: DatasetRequest, layout: DatasetLayout) -> Box:
    """Return the bounds of the region that this job, one of several, has the data for.

    Raises
    ------
    ArgumentError, ArgumentTypeError, AlignmentError
        If there is no such region, or if it shares a chunk with those of other jobs.
    """
    name, chunks = request.name, layout.form.chunk_shape
    if not layout.is_chunked:
        raise ArgumentError(
            f"{name} is written by HDF5 itself, as it has no chunks, or elements of no fixed length; jobs with data of "
            f"their own cannot fill it. Discard the draft, and give it chunks or another type in the structure"
        )
    if is_partial(request.source.dtype, layout.form.dtype):
        raise ArgumentError(f"{name}: the source has only some of its fields; give all of them")
    region = parse_region(name, request.region, None, request.source.shape, (layout.shape, layout.shape, chunks))
    bounds = tuple(zip(region.start, region.stop, strict=True))
    if 0 in region.shape:
        return ((0, 0),) * len(bounds)
    for axis, ((start, stop), chunk, end) in enumerate(zip(bounds, chunks, layout.shape, strict=True)):
        if start % chunk or (stop % chunk and stop != end):
            first, last = start // chunk * chunk, min(-(-stop // chunk) * chunk, end)
            raise AlignmentError(
                f"{name}: the region {start}:{stop} along axis {axis} shares chunks of {chunk} with other jobs; give "
                f"this job the region {first}:{last}"
            )
    return bounds
