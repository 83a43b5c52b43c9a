"""The structure of a netCDF4 file, made by xarray and h5netcdf, and the arrays that are left to fill.

xarray encodes the variables, lazily where they are dask arrays.  h5netcdf makes groups, dimensions, variables and
attributes, and writes the variables that are small.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask.base
import h5py
import numpy as np
import xarray

from dask_chunkio.config import settings
from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.geometry.sizing import readable_chunk_shape
from dask_chunkio.integrations.xarray.append import append
from dask_chunkio.integrations.xarray.compat import (
    Variables,
    check_dataset,
    dataset_name,
    dump,
    open_store,
    remaining_chunks,
)
from dask_chunkio.planning.layout import LEAST_CMIP7, is_large, large_chunk_shape
from dask_chunkio.storage.hdf5.file_layout import LayoutName, measure_file
from dask_chunkio.storage.tokens import add_token, read_tokens

__all__ = ["AppliedError", "Form", "Node", "Part", "make_structure"]

# Smaller numpy arrays are written with the structure.
_LEAST_NBYTES = 1 << 20
_FILTERS = ("zlib", "szip", "bzip2", "blosc", "zstd", "compression", "shuffle", "fletcher32")


@dataclass(frozen=True, slots=True)
class Node:
    """What is written to one group of a file.

    Parameters
    ----------
    group : str or None
        Path of the group; None for the root.
    dataset : xarray.Dataset
        Its variables and attributes.
    encoding : mapping
        Encodings of variables, by their names.
    unlimited_dims : iterable, optional
        Dimensions without a limit; by default those that the dataset's own encoding names.
    """

    group: str | None
    dataset: xarray.Dataset
    encoding: Mapping[Any, Any]
    unlimited_dims: Iterable[Any] | None


@dataclass(frozen=True, slots=True)
class Form:
    """How a file is made.

    Parameters
    ----------
    format : str, optional
        ``"NETCDF4"`` or ``"NETCDF4_CLASSIC"``.
    invalid_netcdf : bool
        Whether types are allowed that netCDF does not have.
    append_dim : hashable, optional
        Dimension along which variables of the file grow.
    token : str, optional
        Name of the append, which the group of the file keeps.
    layout : str, optional
        Layout of a new file.
    """

    format: str | None = None
    invalid_netcdf: bool = False
    append_dim: Any = None
    token: str | None = None
    layout: LayoutName | None = None


class AppliedError(Exception):
    """The file has what is to be appended: it knows the token of the append."""


@dataclass(frozen=True, slots=True)
class Part:
    """An array to fill in.

    Parameters
    ----------
    name : str
        Absolute path of the HDF5 dataset.
    source : dask.array.Array or numpy.ndarray
        Its encoded data.
    region : tuple of slice, optional
        The part of the dataset to fill; by default all of it.
    """

    name: str
    source: Any
    region: tuple[slice, ...] | None


@dataclass(frozen=True, slots=True)
class Parts:
    """Receiver of the data of all variables: small data are written, large data are noted.

    Parameters
    ----------
    writes : bool
        Whether small data are written; not if the structure was complete before.
    is_classic : bool
        Whether the file has the classic data model.
    found : list of Part
        What was noted.
    """

    writes: bool
    is_classic: bool
    found: list[Part] = field(default_factory=list)

    def add(self, source: Any, target: Any, region: tuple[slice, ...] | None = None) -> None:
        """Write the data of a variable, or note it."""
        is_lazy = dask.base.is_dask_collection(source)
        if self._is_parallel(source.dtype, target) and (is_lazy or _is_large(source)):
            self.found.append(Part(dataset_name(target), source, region))
        elif not is_lazy and hasattr(source, "chunks"):
            raise ArgumentTypeError(
                f"{dataset_name(target)}: its chunked array is a {type(source).__name__}, no dask array; load it "
                f"first, for example by ds.compute()"
            )
        elif self.writes:
            target[... if region is None else region] = source.compute() if is_lazy else source

    def _is_parallel(self, dtype: np.dtype[Any], target: Any) -> bool:
        """Return whether our own writer stores such elements as h5netcdf does, which checks enumerations."""
        kinds = "biufc" if self.is_classic else "biufcSU"
        return dtype.kind in kinds and h5py.check_enum_dtype(target.get_array().dtype) is None


def _is_large(source: Any) -> bool:
    return isinstance(source, np.ndarray) and source.nbytes >= _LEAST_NBYTES


def make_structure(path: str, nodes: Sequence[Node], form: Form, *, adds: bool, is_complete: bool) -> list[Part]:
    """Make the structure of a file, and return what is left to fill.

    Parameters
    ----------
    path : str
        The file.
    nodes : sequence of Node
        What is written to which group.
    form : Form
        How the file is made.
    adds : bool
        Whether to add to a file that exists; otherwise it is replaced.
    is_complete : bool
        Whether the file has its structure already: then it is not changed.

    Returns
    -------
    list of Part
        In the order of the variables.

    Raises
    ------
    AppliedError
        If the file has the token already.
    """
    is_made = not is_complete and not adds
    options = _options(nodes, form) if is_made and form.layout is not None else {}
    # A new file need not be read to know its structure: it is made again, in memory.
    place = io.BytesIO() if is_complete and not adds else path
    mode = "w" if not adds else "r" if is_complete else "a"
    return _made(place, mode, nodes, form, is_complete=is_complete, options=options)


def _made(
    place: str | io.BytesIO,
    mode: str,
    nodes: Sequence[Node],
    form: Form,
    *,
    is_complete: bool,
    options: Mapping[str, Any] | None = None,
) -> list[Part]:
    parts = Parts(not is_complete, form.format == "NETCDF4_CLASSIC")
    with open_store(
        place, mode, form=form.format, invalid_netcdf=form.invalid_netcdf, options=options or None
    ) as store:
        for node in nodes:
            child = store if node.group is None else store.get_child_store(node.group)
            _add_node(child, node, form, parts)
    return parts.found


def _options(nodes: Sequence[Node], form: Form) -> dict[str, Any]:
    """Return the keywords of `h5py.File` for the layout, after the structure was made in memory."""
    if form.layout is None:
        return {}
    place = io.BytesIO()
    _made(place, "w", nodes, form, is_complete=True)
    with h5py.File(place, "r+") as file:
        return measure_file(file).layout(form.layout).keywords


def _add_node(store: Any, node: Node, form: Form, parts: Parts) -> None:
    unlimited = check_dataset(node.dataset, node.unlimited_dims, form.invalid_netcdf)
    dim = form.append_dim
    if parts.writes and form.token is not None and form.token in read_tokens(store.ds):
        raise AppliedError
    if dim is None:
        _dump(store, node, unlimited or set(), form, parts)
        return
    _require_dimension(node.dataset, dim)
    if dim in store.get_dimensions() or dim in store.get_parent_dimensions():
        append(store, node.dataset, node.encoding, dim, parts)
    else:
        _dump(store, node, (unlimited or set()) | {dim}, form, parts)
    if parts.writes and form.token is not None:
        add_token(store.ds, form.token)


def _dump(store: Any, node: Node, unlimited: set[Any], form: Form, parts: Parts) -> None:
    encoder = functools.partial(_with_chunk_shapes, given=node.encoding, unlimited=unlimited, layout=form.layout)
    dump(node.dataset, store, parts, encoder=encoder, encoding=node.encoding, unlimited_dims=unlimited)


def _require_dimension(dataset: xarray.Dataset, dim: Any) -> None:
    if dim not in dataset.dims:
        names = ", ".join(map(str, dataset.dims))
        raise ArgumentError(f"append_dim={dim!r} is no dimension of the dataset; it has {names}")


def _with_chunk_shapes(
    variables: Variables,
    attrs: dict[str, Any],
    given: Mapping[Any, Any],
    unlimited: set[Any],
    layout: LayoutName | None = None,
) -> tuple[Variables, dict[str, Any]]:
    """Choose chunk shapes for dask arrays whose encodings have none; for CMIP7, for all arrays that need chunks."""
    if layout == "cmip7":
        whole = _of_time(variables)
        return {
            name: _for_cmip7(name, one, given.get(name), unlimited, name in whole) for name, one in variables.items()
        }, attrs
    return {name: _with_chunk_shape(one, name in given, unlimited) for name, one in variables.items()}, attrs


def _with_chunk_shape(variable: xarray.Variable, is_given: bool, unlimited: set[Any]) -> xarray.Variable:
    itemsize = _itemsize(variable)
    if not itemsize or not variable.size or not dask.base.is_dask_collection(variable):
        return variable
    encoding = dict(variable.encoding)
    is_chunked = any(encoding.get(name) for name in _FILTERS) or not unlimited.isdisjoint(variable.dims)
    if not variable.ndim or not is_chunked or remaining_chunks(variable, is_given) is not None:
        return variable
    encoding.pop("original_shape", None)
    encoding["chunksizes"] = _chunk_shape(variable, itemsize)
    found = variable.copy(deep=False)
    found.encoding = encoding
    return found


def _of_time(variables: Variables) -> set[Any]:
    """Return the names of the time coordinate and of its bounds."""
    time = variables.get("time")
    bounds = None if time is None else time.attrs.get("bounds", time.encoding.get("bounds"))
    return {"time", bounds} if isinstance(bounds, str) else {"time"}


def _for_cmip7(
    name: Any, variable: xarray.Variable, given: Mapping[Any, Any] | None, unlimited: set[Any], is_of_time: bool
) -> xarray.Variable:
    """Give a variable that needs chunks those that the archive of CMIP7 accepts; refuse others that the user chose."""
    itemsize, shape = _itemsize(variable), variable.shape
    asked = (given or {}).get("chunksizes")
    chunks = remaining_chunks(variable, given is not None)
    is_chunked = any({**variable.encoding, **(given or {})}.get(key) for key in (*_FILTERS, "chunksizes"))
    if not itemsize or not variable.size or not shape or not (is_chunked or not unlimited.isdisjoint(variable.dims)):
        return variable
    best = shape if is_of_time else large_chunk_shape(shape, itemsize, _block(variable))
    if chunks is not None and _suits_cmip7(tuple(chunks), shape, itemsize, is_of_time):
        return variable
    if asked is not None:
        needs = "the time coordinate in one chunk" if is_of_time else f"chunks of at least {LEAST_CMIP7} bytes"
        raise ArgumentError(
            f"{name}: layout='cmip7' needs {needs}, and its encoding has chunksizes={tuple(asked)}; leave it out, or "
            f"give {best}"
        )
    encoding = {key: one for key, one in variable.encoding.items() if key not in ("original_shape", "preferred_chunks")}
    found = variable.copy(deep=False)
    found.encoding = {**encoding, "chunksizes": best}
    return found


def _suits_cmip7(chunks: Shape, shape: Shape, itemsize: int, is_of_time: bool) -> bool:
    if is_of_time:
        return all(c >= n for c, n in zip(chunks, shape, strict=True))
    return is_large(chunks, shape, itemsize)


def _block(variable: xarray.Variable) -> Shape | None:
    if not dask.base.is_dask_collection(variable):
        return None
    return tuple(max(1, *map(int, blocks)) for blocks in variable.data.chunks)


def _chunk_shape(variable: xarray.Variable, itemsize: int) -> Shape:
    """Return a chunk shape that divides the blocks, so that each block is encoded where it was computed."""
    block = tuple(max(1, *map(int, blocks)) for blocks in variable.data.chunks)
    return readable_chunk_shape(variable.shape, itemsize, block, settings().chunk_nbytes)


def _itemsize(variable: xarray.Variable) -> int:
    """Return the bytes of an element in the file; 0 for text, whose elements are encoded in other ways."""
    dtype = variable.encoding.get("dtype", variable.dtype)
    found = np.dtype(object if dtype is str else dtype)
    return found.itemsize if found.kind in "biufcmM" else 0
