"""A zarr store as an HDF5 file: its structure in a draft, which its arrays then fill."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import h5py
import numpy as np
from zarr import Array

from dask_chunkio.drafts import draft, require_made_from
from dask_chunkio.errors import ArgumentError, ArgumentTypeError, ChunkIOError
from dask_chunkio.filters.names import resolve_compression
from dask_chunkio.filters.plugin import require_filter
from dask_chunkio.geometry.sizing import readable_chunk_shape
from dask_chunkio.integrations.zarr.attributes import (
    ENUM,
    JSON_NAMES,
    enum_of,
    from_json,
    json_text,
    stored_fill,
)
from dask_chunkio.integrations.zarr.compat import is_group, list_nodes, open_node, quiet
from dask_chunkio.integrations.zarr.dimensions import STRUCTURE, Named, Scales, make_scales, plan_scales
from dask_chunkio.integrations.zarr.nearest import nearest_filters
from dask_chunkio.integrations.zarr.records import Conversion, ConvertedArray, Options, Refusal, require_all
from dask_chunkio.sources.zarr_chunks import zarr_form
from dask_chunkio.sources.zarr_codecs import ZarrForm, filters_of
from dask_chunkio.storage.hdf5.dataset import describe
from dask_chunkio.storage.journal.draft_manifest import DraftPurpose
from dask_chunkio.storage.recovery import discard

__all__ = ["zarr_to_hdf5"]

# What HDF5 gives a meaning of its own.
_RESERVED = STRUCTURE | {"_NCProperties", JSON_NAMES}
_OF_SCALES = frozenset({"CLASS", "NAME"})
_DIMENSIONS = "_ARRAY_DIMENSIONS"
_MOST_CHUNK_NBYTES = 2**32 - 1
_TEXT_ITEMSIZE = 16


class ZarrText:
    """A zarr array of strings as an array of Python's, which HDF5 stores with any length.

    Parameters
    ----------
    array : zarr.Array
        An array of strings.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = h5py.string_dtype()

    def __getitem__(self, index: Any) -> Any:
        found = np.asarray(self._array[index]).astype(object)
        return found if self.shape else found[()]


@dataclass(frozen=True, slots=True)
class _Planned:
    """An array, and the dataset that is made for it."""

    path: str
    array: Any
    source: Any
    dtype: np.dtype[Any]
    form: ZarrForm | None
    names: tuple[str | None, ...]
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class _Plan:
    """All groups and arrays of a store."""

    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    arrays: list[_Planned] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def zarr_to_hdf5(source: Any, target: str, options: Options) -> Conversion:
    """Convert a zarr store to an HDF5 file; see `dask_chunkio.convert`.

    Parameters
    ----------
    source : str or zarr object
        The store, or a group or an array of it.
    target : str
        Absolute path of the file.
    options : Options
        How.

    Returns
    -------
    Conversion
        What was done.
    """
    started = time.monotonic()
    with quiet():
        plan = _planned(source)
        require_all(str(source), plan.refused, options)
        _write(plan, target, options, _name_of(source))
        arrays = tuple(_converted(target, plan))
    return Conversion(target, arrays, tuple(plan.refused), tuple(plan.notes), time.monotonic() - started)


def _name_of(source: Any) -> str:
    """Return the path or the URL of a store."""
    name = source if isinstance(source, str) else str(getattr(source, "store_path", source))
    return name.removeprefix("file://")


def _words_of(options: Options) -> str:
    """Return the filters that every process describes alike; those of plugins may be any objects."""
    simple = {name: value for name, value in options.filters.items() if isinstance(value, str | int | None)}
    return f", with {simple}" if simple else ""


def _planned(source: Any) -> _Plan:
    root, plan = open_node(source), _Plan()
    if not is_group(root):
        stem = PurePath(str(getattr(root, "path", "") or getattr(root, "store_path", source))).stem
        plan.groups["/"] = {}
        _add_array(plan, f"/{stem or 'data'}", root)
        return plan
    plan.groups["/"] = _kept_attributes(plan, "/", dict(root.attrs))
    nodes, unreadable = list_nodes(root)
    plan.refused.extend(Refusal(f"/{name}", reason) for name, reason in unreadable)
    for name, node in nodes:
        path, parent = f"/{name}", posixpath.dirname(f"/{name}")
        if any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
            plan.refused.append(Refusal(path, "HDF5 has no such name"))
        elif parent not in plan.groups:
            plan.refused.append(Refusal(path, f"{parent} is left out"))
        elif is_group(node):
            plan.groups[path] = _kept_attributes(plan, path, dict(node.attrs))
        else:
            _add_array(plan, path, node)
    return plan


def _add_array(plan: _Plan, path: str, array: Array[Any]) -> None:
    attributes, metadata = dict(array.attrs), array.metadata.to_dict()
    reason = _why_not(metadata, np.dtype(array.dtype))
    if reason is not None:
        plan.refused.append(Refusal(path, reason))
        return
    form = zarr_form(array)
    dtype = np.dtype(array.dtype) if form is None else form.dtype
    source: Any = ZarrText(array) if dtype.kind in "OTU" else array
    dtype = h5py.string_dtype() if dtype.kind in "OTU" else dtype
    if (members := enum_of(attributes, dtype)) is not None:
        dtype = h5py.enum_dtype(members, basetype=dtype)
        del attributes[ENUM]
    had_names = _DIMENSIONS in attributes
    names = _names(attributes, metadata, array.ndim)
    _decode_fill(attributes, array, dtype, has_names=had_names and _DIMENSIONS not in attributes)
    kept = _kept_attributes(plan, path, attributes, may_be_scale=names == (posixpath.basename(path),))
    plan.arrays.append(_Planned(path, array, source, dtype, form, names, kept))


def _why_not(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> str | None:
    """Return why HDF5, or this package, cannot store the elements of an array."""
    if dtype.kind == "O":
        ids = {str(step.get("id")) for step in metadata.get("filters") or ()}
        ids |= {str(step.get("name")) for step in metadata.get("codecs") or ()}
        # Elements of other codecs are any objects; some are read by executing what the store holds.
        if not ids & {"vlen-utf8"} or "pickle" in ids:
            return f"its elements are objects of the codecs {', '.join(sorted(ids))}, which are not strings"
        return None
    if dtype.kind in "TU":
        return None
    if dtype.kind in "mM":
        return f"HDF5 has no times ({dtype}); store integers with the attribute units, as xarray does"
    try:
        h5py.h5t.py_create(dtype, logical=True)
    except (TypeError, ValueError) as error:
        return f"HDF5 has no type for {dtype}: {error}"
    return "its compound type has texts or objects" if _has_text(dtype) else None


def _has_text(dtype: np.dtype[Any]) -> bool:
    if dtype.names is None:
        return dtype.base.kind in "OTUmM"
    return any(_has_text(dtype[name]) for name in dtype.names)


def _names(attributes: dict[str, Any], metadata: Mapping[str, Any], ndim: int) -> tuple[str | None, ...]:
    """Return the names of dimensions, and take them out of the attributes."""
    found = attributes.get(_DIMENSIONS) if metadata["zarr_format"] == 2 else metadata.get("dimension_names")
    is_valid = isinstance(found, list | tuple) and len(found) == ndim
    if not is_valid or not all(name is None or (isinstance(name, str) and "\0" not in name) for name in found or ()):
        return (None,) * ndim
    attributes.pop(_DIMENSIONS, None)
    return tuple(name or None for name in found or ())


def _decode_fill(attributes: dict[str, Any], array: Array[Any], dtype: np.dtype[Any], has_names: bool) -> None:
    """Store the ``_FillValue`` of netCDF as an element, as xarray understands the array."""
    if array.metadata.zarr_format == 3:
        if "_FillValue" in attributes and (found := stored_fill(attributes["_FillValue"], dtype)) is not None:
            attributes["_FillValue"] = found
    elif has_names and array.metadata.fill_value is not None and dtype.kind in "biufcS":
        attributes["_FillValue"] = np.asarray(array.metadata.fill_value).astype(dtype)[()]


def _kept_attributes(
    plan: _Plan, path: str, attributes: Mapping[str, Any], may_be_scale: bool = False
) -> dict[str, Any]:
    found, texts = {}, []
    is_scale = may_be_scale or attributes.get("CLASS") == "DIMENSION_SCALE"
    reserved = _RESERVED | _OF_SCALES if is_scale else _RESERVED
    for name, value in attributes.items():
        if name in reserved or not name or "\0" in name:
            plan.refused.append(Refusal(f"{path}@{name}", "HDF5 uses this name itself"))
            continue
        typed = value if isinstance(value, np.generic) else from_json(value)
        if typed is None:
            texts.append(name)
            typed = json_text(value)
        found[name] = typed
    return {**found, JSON_NAMES: np.array(texts, h5py.string_dtype())} if texts else found


def _write(plan: _Plan, target: str, options: Options, source: str) -> None:
    scales = _scales(plan)
    mode: Any = "w" if options.overwrite else "x"
    with draft(target, mode=mode, resume=options.resume, **options.drafting) as made:
        is_new = made.is_new
        require_made_from(made, f"{source}{_words_of(options)}", DraftPurpose("conversion", source, time.time()))
        if is_new:
            _make_structure(made.path, plan, scales, options)
        # HDF5 has nothing to write to where there are no elements.
        sources = {one.path: one.source for one in plan.arrays if 0 not in one.array.shape}
        if not sources:
            return
        try:
            made.fill(sources, **options.run)
        except (ArgumentError, ArgumentTypeError):
            if is_new:
                # The structure is made again in no time: the next call need not resume this one.
                made.keep()
                discard(target)
            raise


def _scales(plan: _Plan) -> Scales:
    scales = plan_scales(_named(plan), {*plan.groups, *(one.path for one in plan.arrays)})
    for one in plan.arrays:
        for name, scale in zip(one.names, scales.attached[one.path], strict=True):
            if name is not None and scale is None:
                plan.notes.append(f"{one.path}: its dimension {name!r} is only a label: no dimension scale is possible")
    return scales


def _named(plan: _Plan) -> list[Named]:
    return [Named(one.path, tuple(one.array.shape), one.names) for one in plan.arrays]


def _make_structure(path: str, plan: _Plan, scales: Scales, options: Options) -> None:
    with h5py.File(path, "w") as file:
        for group, attributes in plan.groups.items():
            _set_attributes(file.require_group(group), attributes)
        for one in plan.arrays:
            try:
                dataset = _made(file, one, options)
            except ChunkIOError as error:
                raise type(error)(f"{one.path}: {error}") from error
            except (TypeError, ValueError, OSError, RuntimeError, OverflowError) as error:
                raise ArgumentError(f"{one.path}: HDF5 cannot create this dataset: {error}") from error
            _set_attributes(dataset, one.attributes)
        make_scales(file, _named(plan), scales)


def _set_attributes(target: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        try:
            target.attrs[name] = value
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            raise ArgumentError(f"{target.name}: HDF5 cannot store the attribute {name!r}: {error}") from error


def _made(file: h5py.File, one: _Planned, options: Options) -> h5py.Dataset:
    shape, keywords = tuple(one.array.shape), {"track_times": False, **_fill(one)}
    if not shape or 0 in shape:
        return file.create_dataset(one.path, shape, one.dtype, **keywords)
    chunks, itemsize = _chunks(one, shape), 0 if one.dtype.hasobject else one.dtype.itemsize
    if options.filters:
        wanted = {name: value for name, value in resolve_compression(options.filters).items() if value is not None}
        return file.create_dataset(one.path, shape, one.dtype, chunks=chunks, **keywords, **wanted)
    codecs = nearest_filters(one.array.metadata.to_dict(), itemsize) if one.form is None else one.form.codecs
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    for code, values in filters_of(codecs):
        require_filter(code)
        if code == h5py.h5z.FILTER_FLETCHER32:
            plist.set_fletcher32()
        else:
            plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, values)
    return file.create_dataset(one.path, shape, one.dtype, chunks=chunks, dcpl=plist, **keywords)


def _fill(one: _Planned) -> dict[str, Any]:
    value = one.array.metadata.fill_value
    if value is None:
        return {}
    if one.dtype.hasobject:
        return {"fillvalue": str(value)} if value else {}
    return {"fillvalue": np.asarray(value).astype(one.dtype)[()]}


def _chunks(one: _Planned, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the chunks of the array, not longer than its axes, if HDF5 can have them."""
    itemsize = _TEXT_ITEMSIZE if one.dtype.hasobject else one.dtype.itemsize
    try:
        chunks = tuple(min(int(n), m) for n, m in zip(one.array.chunks, shape, strict=True))
    except (NotImplementedError, TypeError, ValueError):
        # Chunks of several shapes.
        chunks = tuple(shape)
    if int(np.prod(chunks, dtype=object)) * itemsize <= _MOST_CHUNK_NBYTES:
        return chunks
    return readable_chunk_shape(tuple(shape), itemsize, None)


def _converted(target: str, plan: _Plan) -> Iterator[ConvertedArray]:
    with h5py.File(target, "r") as file:
        for one in plan.arrays:
            layout, form = describe(file[one.path]), one.form
            is_copied = layout.is_chunked and form is not None and form.is_stored_as(layout.form)
            yield ConvertedArray(one.path, layout.shape, file[one.path].dtype, is_copied)
