"""An HDF5 file as a zarr store: what it has becomes groups and arrays, whose chunks are then copied or encoded."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import ArgumentError, ChunkIOError, FilterError, IntegrityError, TargetError
from dask_chunkio.filters.chunk_format import ChunkFormat
from dask_chunkio.filters.names import resolve_compression
from dask_chunkio.filters.plugin import require_decoder
from dask_chunkio.geometry.sizing import readable_chunk_shape
from dask_chunkio.integrations.zarr import compat
from dask_chunkio.integrations.zarr.array_write import Planned, write_array
from dask_chunkio.integrations.zarr.attributes import UnstorableError
from dask_chunkio.integrations.zarr.dimensions import dimension_names, dimensions_by_id, is_only_dimension
from dask_chunkio.integrations.zarr.elements import convert_attributes, convert_elements, convert_fill
from dask_chunkio.integrations.zarr.nearest import nearest_codecs
from dask_chunkio.integrations.zarr.objects import Objects, list_objects
from dask_chunkio.integrations.zarr.records import Conversion, ConvertedArray, Options, Refusal, require_all
from dask_chunkio.isolated_call import is_isolated
from dask_chunkio.reading.file_state import opened
from dask_chunkio.reading.structure_check import check_structure
from dask_chunkio.sources.zarr_codecs import Codec, ZarrForm, codecs_of, has_equal_filters
from dask_chunkio.storage.hdf5.dataset import DatasetSpec, describe, preview
from dask_chunkio.storage.store_folder import StoreFolder

__all__ = ["hdf5_to_zarr"]

# What netCDF puts before the name of a variable that is no coordinate of the dimension of that name.
_NOT_COORDINATE = "_nc4_non_coord_"
_TEXT_ITEMSIZE = 16
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, ArithmeticError, SystemError, AttributeError)


@dataclass(slots=True)
class _Plan:
    """All groups and datasets of a file."""

    zarr_format: int
    is_netcdf: bool
    by_id: Mapping[int, str]
    refused: list[Refusal]
    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    arrays: list[Planned] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def hdf5_to_zarr(source: str, target: str, options: Options) -> Conversion:
    """Convert an HDF5 file to a zarr store; see `dask_chunkio.convert`.

    Parameters
    ----------
    source : str
        Absolute path of the file.
    target : str
        Absolute path of the folder of the store.
    options : Options
        How.

    Returns
    -------
    Conversion
        What was done.
    """
    started = time.monotonic()
    isolated = is_isolated(options.isolated)
    if isolated:
        check_structure(source, indexes=True)
    is_durable = options.drafting.get("durability") == "power"
    with compat.quiet(), opened(source) as file:
        with StoreFolder(target, overwrite=options.overwrite, is_durable=is_durable, source=source) as folder:
            plan = _planned_whole(file, source, options)
            require_all(source, plan.refused, options)
            try:
                _write(source, folder.store, plan, (options.threads, isolated))
            except OSError as error:
                if isinstance(error, ChunkIOError):
                    raise
                raise TargetError(f"cannot write {target}: {error.strerror or error}") from error
        arrays = tuple(
            ConvertedArray(one.path, tuple(one.dataset.shape), one.dtype, one.is_copied) for one in plan.arrays
        )
    return Conversion(target, arrays, tuple(plan.refused), tuple(plan.notes), time.monotonic() - started)


def _planned_whole(file: h5py.File, source: str, options: Options) -> _Plan:
    try:
        return _planned(file, options)
    except ChunkIOError:
        raise
    except _UNREADABLE as error:
        raise IntegrityError(f"{source}: HDF5 cannot read all metadata ({error}); the file is damaged") from error


def _planned(file: h5py.File, options: Options) -> _Plan:
    zarr_format = options.zarr_format or compat.default_format()
    objects = list_objects(file, zarr_format)
    by_id = dimensions_by_id([one for one in objects.datasets.values() if one.is_scale])
    plan = _Plan(zarr_format, "_NCProperties" in file.attrs, by_id, objects.refused)
    for path, group in objects.groups.items():
        plan.groups[path] = convert_attributes(path, group, plan.is_netcdf, plan.refused)
    only = {path for path, one in objects.datasets.items() if is_only_dimension(one)}
    for path, dataset in objects.datasets.items():
        if path not in only:
            _add_array(plan, _renamed(path, only, objects), dataset, options)
        else:
            found = convert_attributes(path, dataset, plan.is_netcdf, plan.refused)
            plan.refused.extend(
                Refusal(f"{path}@{name}", "a dimension without values has no attributes") for name in found
            )
    used = {posixpath.join(posixpath.dirname(one.path), name) for one in plan.arrays for name in one.names if name}
    plan.notes.extend(
        f"{path}: no array beside it has this dimension, so that zarr cannot keep its length of {len(one)}"
        for path, one in ((path, objects.datasets[path]) for path in sorted(only - used))
        if not any(name == posixpath.basename(path) for array in plan.arrays for name in array.names)
    )
    return plan


def _renamed(path: str, only: set[str], objects: Objects) -> str:
    """Return the path under which netCDF shows a variable."""
    folder, name = posixpath.split(path)
    own = posixpath.join(folder, name.removeprefix(_NOT_COORDINATE))
    return own if own in only or own not in objects.datasets | objects.groups else path


def _add_array(plan: _Plan, path: str, dataset: h5py.Dataset, options: Options) -> None:
    try:
        plan.arrays.append(_array(plan, path, dataset, options))
    except (UnstorableError, FilterError) as error:
        plan.refused.append(Refusal(path, str(error).removeprefix(f"{dataset.name}: ")))


def _array(plan: _Plan, path: str, dataset: h5py.Dataset, options: Options) -> Planned:
    elements = convert_elements(dataset, plan.zarr_format)
    attributes = {**convert_attributes(path, dataset, plan.is_netcdf, plan.refused), **elements.attributes}
    names = _names(plan, path, dataset)
    has_names = bool(names) and all(name is not None for name in names)
    fill = convert_fill(dataset, elements, attributes, plan.zarr_format, has_names or not dataset.shape)
    form = describe(dataset).form if dataset.chunks else None
    chunks = _chunks(dataset)
    codecs = _codecs(path, dataset, form, options)
    is_copied = form is not None and _is_copied(dataset, elements.dtype, ZarrForm(chunks, form.dtype, codecs))
    if not is_copied:
        require_decoder(dataset)
    found = Planned(path, dataset, elements.dtype, chunks, codecs, names, attributes, fill, is_copied)
    _try_out(found, plan.zarr_format)
    return found


def _names(plan: _Plan, path: str, dataset: h5py.Dataset) -> tuple[str | None, ...]:
    names = dimension_names(dataset, plan.by_id)
    if plan.zarr_format == 2 and any(names) and not all(names):
        plan.notes.append(f"{path}: only some of its dimensions have names, which format 2 cannot store")
        return (None,) * len(names)
    return names


def _chunks(dataset: h5py.Dataset) -> tuple[int, ...]:
    shape, itemsize = tuple(dataset.shape), dataset.dtype.itemsize
    return tuple(dataset.chunks) if dataset.chunks else readable_chunk_shape(shape, itemsize or _TEXT_ITEMSIZE)


def _codecs(path: str, dataset: h5py.Dataset, form: ChunkFormat | None, options: Options) -> tuple[Codec, ...]:
    itemsize = 0 if dataset.dtype.hasobject else dataset.dtype.itemsize
    if options.filters and dataset.shape and dataset.size:
        return _wanted(path, dataset, itemsize, options)
    if form is None:
        return ()
    found = codecs_of(form.filters)
    is_equal = found is not None and itemsize and has_equal_filters(ZarrForm(form.chunk_shape, form.dtype, found))
    return found if is_equal and found is not None else nearest_codecs(form.filters, itemsize)


def _wanted(path: str, dataset: h5py.Dataset, itemsize: int, options: Options) -> tuple[Codec, ...]:
    """Return the codecs that are equal to the filters which the user has chosen, as HDF5 would set them."""
    wanted = {name: value for name, value in resolve_compression(options.filters).items() if value is not None}
    dtype = np.dtype(f"V{itemsize}") if dataset.dtype.names is not None else dataset.dtype
    chunks = _chunks(dataset)
    try:
        (layout,) = preview([DatasetSpec(path, chunks, dtype, chunks, wanted)])
    except ChunkIOError as error:
        raise type(error)(f"{path}: {error}") from error
    found = codecs_of(layout.form.filters)
    if found is None:
        names = ", ".join(map(str, layout.form.filters))
        raise ArgumentError(f"zarr has no codecs that are equal to the filters {names}; choose gzip, zstd or blosc")
    return found


def _is_copied(dataset: h5py.Dataset, dtype: Any, form: ZarrForm) -> bool:
    layout = describe(dataset)
    return (
        layout.is_chunked and dtype == layout.form.dtype and has_equal_filters(form) and form.is_stored_as(layout.form)
    )


def _try_out(one: Planned, zarr_format: int) -> None:
    """Have zarr create the array in memory, and open it.

    Raises
    ------
    UnstorableError
        If it cannot.
    """
    try:
        store = compat.memory_store()
        _create(store, one, "x", zarr_format)
        # zarr writes some metadata that it cannot read.
        compat.open_array(store, "x")
    except Exception as error:
        raise UnstorableError(f"zarr cannot create it: {type(error).__name__}: {error}") from error


def _create(store: Any, one: Planned, path: str, zarr_format: int) -> Any:
    attributes = dict(one.attributes)
    keywords: dict[str, Any] = {}
    if any(one.names) and zarr_format == 3:
        keywords["dimension_names"] = one.names
    elif zarr_format == 2 and all(one.names):
        # xarray wants it of arrays without dimensions, too.
        attributes["_ARRAY_DIMENSIONS"] = list(one.names)
    layout = one.dataset.shape, one.chunks
    keywords |= {"fill_value": one.fill.value, "attributes": attributes, "codecs": one.codecs}
    return compat.create_array(store, path, one.element_type, layout, zarr_format=zarr_format, **keywords)


def _write(source: str, folder: str, plan: _Plan, how: tuple[int | None, bool]) -> None:
    threads, isolated = how
    store = compat.folder_store(folder)
    for path, attributes in plan.groups.items():
        compat.create_group(store, path.strip("/"), plan.zarr_format, attributes)
    for one in plan.arrays:
        made = _create(store, one, one.path.strip("/"), plan.zarr_format)
        write_array(source, folder, one, made, threads, isolated=isolated)
    if plan.zarr_format == 2:
        compat.consolidate(store)
