"""What this package uses of zarr: opening stores, listing their nodes, creating arrays."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numcodecs
import numpy as np
import zarr
from zarr.codecs import BytesCodec
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, ZipStore

from dask_chunkio.errors import SourceError
from dask_chunkio.filters.deflate import DEFLATE
from dask_chunkio.filters.fletcher32 import FLETCHER32
from dask_chunkio.filters.shuffle import SHUFFLE
from dask_chunkio.sources.zarr_codecs import BLOSC, BLOSC_COMPRESSORS, BLOSC_SHUFFLES, ZSTD, Codec

__all__ = ["consolidate", "create_array", "create_group", "default_format", "list_nodes", "memory_store", "open_node"]
__all__ += ["folder_store", "is_group", "open_array", "quiet"]

_ARRAY_TO_BYTES = (DEFLATE, BLOSC, ZSTD)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out zarr's warnings of codecs and types that its format 3 does not specify yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not in the Zarr version 3 specification.*")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield


def open_node(source: Any) -> Any:
    """Open the group or array at the root of a store.

    Raises
    ------
    SourceError
        If there is none, or it cannot be read.
    """
    if isinstance(source, zarr.Group | zarr.Array):
        return source
    # A store may raise any exception: for missing files, for missing packages for a URL, or of its own.
    try:
        store = ZipStore(source, mode="r") if str(source).endswith(".zip") else source
        found = zarr.open(store, mode="r")
        if isinstance(found, zarr.Group) and "://" not in str(source):
            # Consolidated metadata may be older than the store, and are needed only where nothing can be listed.
            found = zarr.open_group(store, mode="r", use_consolidated=False)
        return found
    except Exception as error:
        raise SourceError(
            f"cannot read {source} as zarr: {type(error).__name__}: {str(error) or 'no reason given'}"
        ) from error


def list_nodes(group: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, str]]]:
    """Return the path and the node of each group and array below a group, and those that zarr cannot open, with why.

    The paths have no slash at the beginning, and are sorted.

    Raises
    ------
    SourceError
        If they cannot be listed.
    """
    try:
        return sorted(group.members(max_depth=None)), []
    except Exception as error:
        # zarr does not say which one it cannot open.
        opened, failed = _opened_one_by_one(group, "")
        if not failed:
            raise SourceError(f"{group.store_path}: cannot list its groups and arrays: {error}") from error
        return sorted(opened), sorted(failed)


def _opened_one_by_one(group: Any, prefix: str) -> tuple[list[tuple[str, Any]], list[tuple[str, str]]]:
    opened: list[tuple[str, Any]] = []
    failed: list[tuple[str, str]] = []
    for name in sorted(sync(_names(group))):
        try:
            node = group[name]
        except KeyError:
            # A folder that is no node, or a file.
            continue
        except Exception as error:
            failed.append((f"{prefix}{name}", f"zarr cannot open it: {type(error).__name__}: {error}"))
            continue
        opened.append((f"{prefix}{name}", node))
        if is_group(node):
            below = _opened_one_by_one(node, f"{prefix}{name}/")
            opened += below[0]
            failed += below[1]
    return opened, failed


async def _names(group: Any) -> list[str]:
    return [name.strip("/") async for name in group.store.list_dir(group.path)]


def is_group(node: Any) -> bool:
    """Return whether a node is a group."""
    return isinstance(node, zarr.Group)


def folder_store(path: str) -> Any:
    """Return the store that a folder is."""
    return LocalStore(path)


def memory_store() -> Any:
    """Return an empty store in memory."""
    return MemoryStore()


def default_format() -> int:
    """Return the format that zarr is configured to write."""
    return int(zarr.config.get("default_zarr_format", 3))


def create_group(store: Any, path: str, zarr_format: Any, attributes: Mapping[str, Any]) -> None:
    """Create a group with its attributes.

    Parameters
    ----------
    store : zarr store
        Where.
    path : str
        Its path, without a slash at the beginning.
    zarr_format : int
        2 or 3.
    attributes : mapping
        JSON values.
    """
    zarr.create_group(store, path=path, zarr_format=zarr_format, attributes=dict(attributes))


def create_array(
    store: Any,
    path: str,
    dtype: Any,
    layout: tuple[Sequence[int], Sequence[int]],
    *,
    codecs: Sequence[Codec],
    zarr_format: Any,
    **keywords: Any,
) -> Any:
    """Create an array whose chunks are stored by given codecs.

    Parameters
    ----------
    store : zarr store
        Where.
    path : str
        Its path, without a slash at the beginning.
    dtype : numpy.dtype or type
        Type of its elements; `str` for strings of any length.
    layout : tuple of sequence of int
        Shape of the array and of its chunks.
    codecs : sequence of Codec
        What encodes the bytes.
    zarr_format : int
        2 or 3.
    **keywords
        Further ones of `zarr.create_array`.

    Returns
    -------
    zarr.Array
        An array that stores every chunk that is written, also those that hold only the fill value.
    """
    shape, chunks = layout
    steps = _version_2(codecs, dtype) if zarr_format == 2 else _version_3(codecs, dtype)
    return zarr.create_array(
        store,
        name=path,
        shape=tuple(shape),
        chunks=tuple(chunks),
        dtype=dtype,
        zarr_format=zarr_format,
        config={"write_empty_chunks": True},
        **steps,
        **keywords,
    )


def _version_2(codecs: Sequence[Codec], dtype: Any) -> dict[str, Any]:
    made = [numcodecs.VLenUTF8()] if dtype is str else []
    made += [numcodecs.get_codec({"id": codec.name, **_options_2(codec)}) for codec in codecs]
    if codecs and codecs[-1].code in _ARRAY_TO_BYTES:
        return {"filters": made[:-1] or None, "compressors": made[-1]}
    return {"filters": made or None, "compressors": None}


def _options_2(codec: Codec) -> dict[str, Any]:
    if codec.code == BLOSC:
        level, shuffle, compressor = codec.options
        return {"cname": BLOSC_COMPRESSORS[compressor], "clevel": level, "shuffle": shuffle}
    if codec.code == SHUFFLE:
        return {"elementsize": codec.options[0]}
    return {} if codec.code == FLETCHER32 else {"level": codec.options[0]}


def _version_3(codecs: Sequence[Codec], dtype: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"filters": None, "compressors": [_named_3(codec, dtype) for codec in codecs] or None}
    if dtype is not str and np.dtype(dtype).byteorder == ">":
        found["serializer"] = BytesCodec(endian="big")
    return found


def _named_3(codec: Codec, dtype: Any) -> dict[str, Any]:
    if codec.code == ZSTD:
        return {"name": "zstd", "configuration": {"level": codec.options[0], "checksum": False}}
    if codec.code != BLOSC:
        return {"name": f"numcodecs.{codec.name}", "configuration": _options_2(codec)}
    level, shuffle, compressor = codec.options
    configuration = {
        "cname": BLOSC_COMPRESSORS[compressor],
        "clevel": level,
        "shuffle": BLOSC_SHUFFLES[shuffle],
        "typesize": 1 if dtype is str else np.dtype(dtype).itemsize,
        "blocksize": 0,
    }
    return {"name": "blosc", "configuration": configuration}


def open_array(store: Any, path: str) -> Any:
    """Open an array for reading.

    Parameters
    ----------
    store : zarr store
        Where it is.
    path : str
        Its path, without a slash at the beginning.
    """
    return zarr.open_array(store, path=path, mode="r")


def consolidate(store: Any) -> None:
    """Store the metadata of all nodes in one place, as xarray expects it in format 2."""
    zarr.consolidate_metadata(store)
