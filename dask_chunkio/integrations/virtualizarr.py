"""Virtual Datasets of VirtualiZarr, whose arrays are references to the chunks of an HDF5 file.

They are made from the index of the file, without VirtualiZarr's own reader: that one ignores that chunks can skip
filters.  With VirtualiZarr they are combined, and written to Icechunk or as kerchunk's references.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError, IntegrityError
from dask_chunkio.paths import local_path
from dask_chunkio.reading.array import Hdf5Array
from dask_chunkio.reading.stored_array import index_dataset
from dask_chunkio.references.model import ArrayReferences
from dask_chunkio.references.output import parse_url, url_of
from dask_chunkio.references.scan import scan_file
from dask_chunkio.references.text import decoded_text

__all__ = ["virtual_dataset"]

_BIG = "its fields are big-endian, which zarr forgets in version 3; write references for version 2 (write_references)"


def virtual_dataset(
    file: str | os.PathLike[str],
    group: str = "/",
    *,
    url: str | None = None,
    skip_unsupported: bool = False,
    loadable_variables: Collection[str] = (),
) -> Any:
    """Return a group of an HDF5 file as a virtual Dataset.

    Parameters
    ----------
    file : str or path-like
        An HDF5 file.
    group : str
        The group.
    url : str, optional
        Where readers find the file, as in `dask_chunkio.write_references`.
    skip_unsupported : bool
        Leave out the datasets of the group that cannot be read through references.
    loadable_variables : collection of str
        Datasets of the group that are read and decoded now, as by VirtualiZarr: coordinates by which files are combined
        (``xarray.combine_by_coords``), or whose chunks differ from file to file.

    Returns
    -------
    xarray.Dataset
        One variable for each dataset of the group: a ``ManifestArray`` if its chunks are in the file, or an array of
        numpy for small data that HDF5 keeps among its metadata, and for strings of variable length.

    Raises
    ------
    ArgumentError
        If VirtualiZarr is not installed, or there is no such group or loadable variable.
    TargetError
        If the file cannot be opened.
    IntegrityError
        If the file is damaged; or if the group has datasets that references cannot describe.

    Notes
    -----
    The file is read in this process: HDF5 crashes on some damaged files.  `dask_chunkio.verify` finds them.
    """
    try:
        from virtualizarr.manifests import ManifestGroup
    except ImportError as error:
        raise ArgumentError(f"VirtualiZarr cannot be imported ({error}); install dask_chunkio[virtualizarr]") from error
    path, name = os.path.abspath(local_path("file", file)), group.strip("/")
    references = scan_file(path, url_of(path, parse_url(url)), inline_nbytes=0)
    mine = {
        array.name.rpartition("/")[2]: array for array in references.arrays if array.name.rpartition("/")[0] == name
    }
    unread = {key: f"/{array.name}: {_BIG}" for key, array in mine.items() if _has_big_fields(array)}
    _require_all(path, name, [*references.left_out, *unread.values()], skip_unsupported)
    found = next((one for one in references.groups if one.name == name), None)
    if found is None:
        raise ArgumentError(f"{path} has no group {group!r}")
    mine = {key: array for key, array in mine.items() if key not in unread}
    loaded = _decoded(path, mine, loadable_variables)
    mine = {key: array for key, array in mine.items() if key not in loaded}
    virtual = {key: _manifest_array(array, references.url) for key, array in mine.items() if _is_virtual(array)}
    made = ManifestGroup(arrays=virtual, attributes=dict(found.attributes)).to_virtual_dataset()
    made = made.assign({key: _loaded(array) for key, array in mine.items() if not _is_virtual(array)}).merge(loaded)
    return made.set_coords(sorted(_coordinates(references.arrays, name) & set(made.variables)))


def _coordinates(arrays: Sequence[ArrayReferences], group: str) -> set[str]:
    """Return the names in the attributes ``coordinates`` of a group, by the conventions of netCDF."""
    found = (array.attributes.get("coordinates") for array in arrays if array.name.rpartition("/")[0] == group)
    return {name for words in found if isinstance(words, str) for name in words.split()}


def _decoded(path: str, arrays: Mapping[str, ArrayReferences], names: Collection[str]) -> Any:
    """Return a Dataset of the variables that are read now."""
    import xarray

    wanted = (names,) if isinstance(names, str) else tuple(names)
    if unknown := [name for name in wanted if name not in arrays]:
        raise ArgumentError(
            f"{path} has no {', '.join(map(repr, unknown))} to load; loadable_variables= takes some of "
            f"{', '.join(map(repr, arrays))}"
        )
    return xarray.decode_cf(xarray.Dataset({name: _read(path, arrays[name]) for name in wanted}))


def _read(path: str, array: ArrayReferences) -> Any:
    import xarray

    if array.dtype.hasobject:
        return _loaded(array)
    stored = Hdf5Array(index_dataset(path, f"/{array.name}"), threads=1)
    attributes = dict(array.attributes)
    if array.is_masked and array.fill is not None:
        attributes["_FillValue"] = array.fill[()]
    return xarray.Variable(array.dimensions, stored[...], attributes)


def _is_virtual(array: ArrayReferences) -> bool:
    # VirtualiZarr cannot write arrays without elements to Icechunk.
    return not array.inlined and 0 not in array.shape


def _has_big_fields(array: ArrayReferences) -> bool:
    return any(array.dtype[field].byteorder == ">" for field in array.dtype.names or ())


def _require_all(path: str, name: str, lines: Sequence[str], skip_unsupported: bool) -> None:
    inside = f"/{name}/" if name else "/"
    left_out = [line for line in lines if line.startswith(inside)]
    if left_out and not skip_unsupported:
        raise IntegrityError(
            f"{path} has datasets that cannot be read through references: {'; '.join(left_out)}; "
            f"skip_unsupported=True leaves them out"
        )


def _manifest_array(array: ArrayReferences, url: str) -> Any:
    from virtualizarr.manifests import ChunkManifest, ManifestArray
    from virtualizarr.manifests.utils import create_v3_array_metadata

    codecs = [_of_version_3(codec) for codec in array.codecs]
    metadata = create_v3_array_metadata(
        shape=array.shape,
        data_type=array.dtype,
        chunk_shape=array.chunk_shape,
        fill_value=None if array.fill is None else array.fill.item(),
        codecs=codecs,
        attributes=_attributes(array),
        dimension_names=array.dimensions,
    )
    if not len(array.table):
        return ManifestArray(metadata=metadata, chunkmanifest=ChunkManifest(entries={}, shape=array.cells))
    paths = np.full(array.cells, "", np.dtypes.StringDType())
    offsets, lengths = np.zeros(array.cells, np.uint64), np.zeros(array.cells, np.uint64)
    numbers = array.table.numbers
    paths.reshape(-1)[numbers] = url
    offsets.reshape(-1)[numbers], lengths.reshape(-1)[numbers] = array.table.offsets, array.table.lengths
    manifest = ChunkManifest.from_arrays(paths=paths, offsets=offsets, lengths=lengths, validate_paths=False)
    return ManifestArray(metadata=metadata, chunkmanifest=manifest)


def _of_version_3(codec: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"numcodecs.{codec['id']}",
        "configuration": {key: value for key, value in codec.items() if key != "id"},
    }


def _attributes(array: ArrayReferences) -> dict[str, Any]:
    from virtualizarr.parsers.utils import encode_cf_fill_value

    attributes = dict(array.attributes)
    if array.is_masked and array.fill is not None:
        attributes["_FillValue"] = encode_cf_fill_value(array.fill, array.dtype)
    return attributes


def _loaded(array: ArrayReferences) -> Any:
    import xarray

    if not array.inlined:
        data = np.empty(array.shape, array.dtype)
    elif array.dtype.hasobject:
        data = decoded_text(array.inlined[0], array.shape)
    else:
        data = np.frombuffer(array.inlined[0], array.dtype).reshape(array.shape)
    return xarray.Variable(array.dimensions, data, _attributes(array))
