"""Checks of the codecs of zarr arrays: zarr would look for some of them only in the middle of a write."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from dask_chunkio.errors import FilterError

__all__ = ["missing_codec", "require_codecs"]

_OF_NUMCODECS = "numcodecs."


def require_codecs(array: Any) -> None:
    """Check that this process can decode a zarr array.

    Parameters
    ----------
    array : zarr.Array
        The array, of any version of the format.

    Raises
    ------
    FilterError
        If a codec needs a package that is missing; the data may be intact.
    """
    numcodecs = sys.modules.get("numcodecs")
    metadata: Any = getattr(array, "metadata", None)
    # zarr finds all other codecs when it opens the array.
    if numcodecs is None or not hasattr(metadata, "to_dict"):
        return
    for name, configuration in _codecs(metadata.to_dict()):
        try:
            numcodecs.get_codec({"id": name, **configuration})
        except Exception as error:
            raise missing_codec(str(getattr(array, "store_path", array)), name) from error


def missing_codec(where: str, name: str) -> FilterError:
    """Return the error for a missing codec."""
    return FilterError(
        f"{where}: cannot decode: codec {name} is missing; install the package that brings it where the array is read"
    )


def _codecs(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the names and configurations of the codecs of numcodecs, including those inside shards."""
    for codec in (*metadata.get("codecs", ()), *metadata.get("index_codecs", ())):
        name, configuration = str(codec.get("name")), codec.get("configuration") or {}
        if name.startswith(_OF_NUMCODECS):
            yield name.removeprefix(_OF_NUMCODECS), configuration
        yield from _codecs(configuration)
