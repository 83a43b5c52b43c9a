"""Parallel `to_netcdf` for xarray: a Dataset, DataArray or DataTree becomes one netCDF4 file.

The import of this module adds the accessor ``chunkio`` to these three classes: ``ds.chunkio.to_netcdf("out.nc")``.

Examples
--------
>>> import dask.array as da
>>> import xarray as xr
>>> from dask_chunkio.integrations.xarray import to_netcdf
>>> ds = xr.Dataset({"wind": (("time", "x"), da.ones((100, 50), chunks=(10, 50)))})
>>> result = to_netcdf(ds, "wind.nc", encoding={"wind": {"zlib": True, "shuffle": True}})
>>> with xr.open_dataset("wind.nc", engine="h5netcdf") as found:
...     found.identical(ds)
True
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, Unpack, get_args, overload

import xarray
from dask.delayed import Delayed

from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.integrations.xarray.compat import as_dataset
from dask_chunkio.integrations.xarray.structure import Form, Node
from dask_chunkio.integrations.xarray.write import NetcdfKeywords, NetcdfWrite, RunKeywords
from dask_chunkio.results import WriteResult
from dask_chunkio.storage.hdf5.file_layout import LayoutName, parse_layout
from dask_chunkio.validation import check_flag, check_type, typed

__all__ = ["Accessor", "to_netcdf"]

Data = xarray.Dataset | xarray.DataArray | xarray.DataTree
Mode = Literal["w", "a", "x"]
_MODES = get_args(Mode)
_FORMATS = (None, "NETCDF4", "NETCDF4_CLASSIC")


@overload
def to_netcdf(
    data: Data, path: Any, mode: Mode = "w", *, compute: Literal[True] = True, **keywords: Unpack[NetcdfKeywords]
) -> WriteResult: ...


@overload
def to_netcdf(
    data: Data, path: Any, mode: Mode = "w", *, compute: Literal[False], **keywords: Unpack[NetcdfKeywords]
) -> Delayed: ...


def to_netcdf(
    data: Data,
    path: Any,
    mode: Mode = "w",
    *,
    group: str | None = None,
    encoding: Mapping[Any, Any] | None = None,
    unlimited_dims: Any = None,
    append_dim: Any = None,
    token: str | None = None,
    compute: bool = True,
    format: str | None = None,  # noqa: A002, the name in xarray
    engine: str | None = None,
    layout: LayoutName | None = None,
    invalid_netcdf: bool = False,
    write_inherited_coords: bool = False,
    **keywords: Unpack[RunKeywords],
) -> WriteResult | Delayed:
    """Write a Dataset, DataArray or DataTree to one netCDF4 file, in parallel.

    h5netcdf makes the structure of the file as in xarray's own ``to_netcdf(engine="h5netcdf")``: groups, dimensions,
    variables, attributes and all conventions.  The data of dask arrays, and of numpy arrays of at least 1 MiB, are then
    encoded and written in parallel.  The file appears under its name when it is whole.

    Parameters
    ----------
    data : xarray.Dataset, xarray.DataArray or xarray.DataTree
        What to write.
    path : str or path-like
        The file.
    mode : str
        ``"w"`` replaces a file of this name at the end; ``"a"`` adds to a copy of it, which replaces it at the end, or
        makes a new one; ``"x"`` refuses one.
    group : str, optional
        Path of the group to write to; not with a DataTree.
    encoding : mapping, optional
        Encodings of variables, as in xarray with ``engine="h5netcdf"``; for a DataTree, a mapping of those by the paths
        of its nodes.  A dask array without ``chunksizes`` that needs chunks, because it is compressed or can grow, gets
        chunks of at most 1 MiB (``chunkio.chunk-size``) that divide its blocks.
    unlimited_dims : iterable of hashable, optional
        Dimensions without a limit; for a DataTree, a mapping of those by the paths of its nodes.
    append_dim : hashable, optional
        With ``mode="a"``: the variables along this dimension are appended to those of the file, with the encodings
        of the file.  Other variables are written as without it.  If the file does not have the dimension yet, it is
        made, without a limit.
    token : str, optional
        Any string that distinguishes this append from all others to the group, for example the day.  The group keeps
        it in the attribute ``dask_chunkio_tokens``.  A call whose token is there changes nothing, so that it can be
        repeated.  An append with ``resume=True`` needs one.
    compute : bool
        If False, return a `Delayed`.  Nothing is written until it is computed.
    format : str, optional
        ``"NETCDF4"``, the default, or ``"NETCDF4_CLASSIC"``.
    engine : str, optional
        ``"h5netcdf"``; other engines are refused.
    layout : str, optional
        Layout of a new file, as in `to_hdf5`.  ``"cloud"`` keeps all metadata in the first page of the file.
        ``"cmip7"`` also gives each array chunks of at least 4 MiB, and the time coordinate and its bounds one chunk.
        Not with ``mode="a"``.
    invalid_netcdf : bool
        Whether to allow types that netCDF does not have.
    write_inherited_coords : bool
        Of a DataTree: whether each node repeats the coordinates of its parents.
    **keywords
        ``scheduler``, ``memory_limit``, ``progress``, ``callback``, ``compute_kwargs``, ``durability``, ``wait``,
        ``resume``, ``references`` and ``references_url``, as in `to_hdf5`.

    Returns
    -------
    WriteResult or Delayed
        What was written in parallel, with one dataset for each of these variables.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used, or the data cannot be appended.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> day = xr.Dataset({"t": ("time", np.ones(24))}, coords={"time": np.arange(24)})
    >>> for start in (0, 24):
    ...     result = to_netcdf(day.assign_coords(time=day.time + start), "days.nc", "a", append_dim="time")
    >>> with xr.open_dataset("days.nc", engine="h5netcdf") as found:
    ...     found.sizes["time"]
    48
    """
    for name, flag in {"compute": compute, "invalid_netcdf": invalid_netcdf}.items():
        check_flag(name, flag)
    _check_choices(mode, format, engine, append_dim)
    _check_token(token, append_dim, keywords.get("resume"))
    if isinstance(data, xarray.DataTree):
        _refuse_of_a_tree(group=group, append_dim=append_dim)
        nodes = _nodes(data, encoding or {}, unlimited_dims or {}, write_inherited_coords)
    else:
        nodes = (Node(_group(group), _dataset(data), encoding or {}, unlimited_dims),)
    form = Form(format, invalid_netcdf, append_dim, token, parse_layout(layout))
    write = NetcdfWrite(_filename(path), mode, nodes, form, keywords)
    return write.run() if compute else write.delayed()


def _check_choices(mode: Any, form: Any, engine: Any, append_dim: Any) -> None:
    if mode not in _MODES:
        raise ArgumentError(f"mode={mode!r} is not one of {', '.join(map(repr, _MODES))}")
    if form not in _FORMATS:
        raise ArgumentError(f"format={form!r} is no HDF5 file; use 'NETCDF4', 'NETCDF4_CLASSIC' or xarray's to_netcdf")
    if engine not in (None, "h5netcdf"):
        raise ArgumentError(f"engine={engine!r}: the structure is always made by h5netcdf; leave engine= out")
    if append_dim is not None and mode != "a":
        raise ArgumentError(f"append_dim={append_dim!r} needs mode='a', not mode={mode!r}, which begins a new file")


def _check_token(token: Any, append_dim: Any, resume: Any) -> None:
    is_token = token is None or (isinstance(token, str) and bool(token))
    check_type("token", token, is_token, "a string with at least one character")
    if token is not None and append_dim is None:
        raise ArgumentError(f"token={token!r} needs append_dim=: any other call may be repeated without one")
    if resume and append_dim is not None and token is None:
        raise ArgumentError(
            "resume=True with append_dim needs token=: without it, an append that is in the file would be made again"
        )


def _refuse_of_a_tree(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ArgumentError(f"{name}={value!r} is not possible with a DataTree; write its nodes with group=")


def _dataset(data: Any) -> xarray.Dataset:
    if isinstance(data, xarray.DataArray):
        return as_dataset(data)
    if not isinstance(data, xarray.Dataset):
        raise ArgumentTypeError(f"data is {typed(data)}; it must be a Dataset, a DataArray or a DataTree of xarray")
    return data


def _group(group: Any) -> str | None:
    check_type("group", group, group is None or isinstance(group, str), "the path of a group")
    return (group or "").strip("/") or None


def _filename(path: Any) -> str:
    check_type("path", path, isinstance(path, str | os.PathLike), "the path of a file; xarray itself writes to memory")
    found: str = os.fspath(path)
    if "://" in found:
        raise ArgumentError(f"path={found!r} is no file of a file system; write a local file")
    return os.path.abspath(os.path.expanduser(found))


def _nodes(
    tree: xarray.DataTree, encoding: Mapping[str, Any], unlimited_dims: Mapping[str, Any], inherits: bool
) -> tuple[Node, ...]:
    """Return what is written to each group, as xarray does it for a tree."""
    for name, given in {"encoding": encoding, "unlimited_dims": unlimited_dims}.items():
        check_type(name, given, isinstance(given, Mapping), "a mapping by the paths of the nodes of the tree")
    if unknown := sorted(set(encoding) - set(tree.groups)):
        raise ArgumentError(f"encoding= names the groups {unknown}, which the tree does not have")
    return tuple(
        Node(
            None if node is tree else node.path,
            node.to_dataset(inherit=inherits or node is tree),
            encoding.get(node.path, {}),
            unlimited_dims.get(node.path),
        )
        for node in tree.subtree
    )


@xarray.register_dataset_accessor("chunkio")
@xarray.register_dataarray_accessor("chunkio")
@xarray.register_datatree_accessor("chunkio")
class Accessor:
    """What ``ds.chunkio`` is.

    Parameters
    ----------
    data : xarray.Dataset, xarray.DataArray or xarray.DataTree
        The object that has the accessor.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> import dask_chunkio.integrations.xarray
    >>> result = xr.Dataset({"x": ("t", np.arange(3))}).chunkio.to_netcdf("accessor.nc")
    """

    def __init__(self, data: Any) -> None:
        self._data = data

    def to_netcdf(self, path: Any, mode: Mode = "w", **keywords: Any) -> Any:
        """Write the object to a netCDF4 file, in parallel; see `dask_chunkio.integrations.xarray.to_netcdf`."""
        return to_netcdf(self._data, path, mode, **keywords)
