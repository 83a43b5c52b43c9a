"""The file or the folder that holds references: what may stand there, and how it appears, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator

from dask_chunkio.errors import ArgumentError, ArgumentTypeError, TargetError, TargetExistsError
from dask_chunkio.paths import local_path
from dask_chunkio.references.json_format import json_pieces
from dask_chunkio.references.model import FileReferences
from dask_chunkio.references.parquet_format import require_parquet, write_parquet
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import flush, open_side_file, pwrite_all, read_small_file, sync_folder

__all__ = ["parse_output", "parse_url", "require_replaceable", "url_of", "write_output"]

_PARQUET = (".parquet", ".parq")
_BEGINNING = re.compile(rb'\s*\{\s*"version"\s*:\s*1\s*,')
_HEAD_NBYTES = 256


def parse_output(name: str, output: object) -> str:
    """Return the absolute path of the references.

    Parameters
    ----------
    name : str
        Name of the argument, for messages.
    output : str or path-like
        The path that the user gave.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If it is not a path, or its ending says no format.
    """
    # A folder of parquet files is often given with a slash behind it.
    given = output[:-1] if isinstance(output, str) and output[:-1].endswith(_PARQUET) else output
    path = os.path.abspath(local_path(name, given))
    if not path.endswith((".json", *_PARQUET)):
        raise ArgumentError(
            f"{name}={output!r} has no ending that says its format; end it with .json for kerchunk's JSON, or with "
            f".parquet for a folder of parquet files"
        )
    if path.endswith(_PARQUET):
        require_parquet()
    return path


def parse_url(url: object) -> str | None:
    """Return the URL that the references are to give to readers.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If it is not text, or is empty.
    """
    if url is None or (isinstance(url, str) and url.strip() and "\0" not in url):
        return url
    if not isinstance(url, str):
        raise ArgumentTypeError(f"url={url!r} is not a str such as 's3://bucket/out.h5'")
    raise ArgumentError(f"url={url!r} is empty; give one such as 's3://bucket/out.h5'")


def url_of(path: str, url: str | None) -> str:
    """Return the URL of a file; a given URL that ends with a slash is that of its folder.

    Examples
    --------
    >>> url_of("/data/x.h5", None), url_of("/data/x.h5", "s3://bucket/"), url_of("/data/x.h5", "s3://bucket/y.h5")
    ('file:///data/x.h5', 's3://bucket/x.h5', 's3://bucket/y.h5')
    """
    if url is None:
        whole = os.path.abspath(path).replace(os.sep, "/")
        return f"file://{whole}" if whole.startswith("/") else f"file:///{whole}"
    return f"{url}{os.path.basename(path)}" if url.endswith("/") else url


def require_replaceable(output: str, path: str) -> None:
    """Refuse an output whose name something else has than earlier references, or whose folder is missing.

    Parameters
    ----------
    output : str
        The references.
    path : str
        The HDF5 file.

    Raises
    ------
    TargetError
        If references cannot be written there.
    """
    folder = os.path.dirname(output)
    if not os.path.isdir(folder):
        raise TargetError(f"there is no folder {folder} for the references {output}; create it first")
    if os.path.realpath(output) == os.path.realpath(path):
        raise TargetError(f"{output} is the HDF5 file itself; give the references another name")
    if os.path.lexists(output) and not _is_earlier(output):
        raise TargetExistsError(f"{output} exists and holds no references; remove it, or give another name")


def _is_earlier(output: str) -> bool:
    if output.endswith(_PARQUET):
        is_folder = os.path.isdir(output) and not os.path.islink(output)
        return is_folder and (not os.listdir(output) or os.path.isfile(os.path.join(output, ".zmetadata")))
    try:
        head = read_small_file(output, _HEAD_NBYTES)
    except OSError:
        return False
    return head is not None and (not head or _BEGINNING.match(head) is not None)


def write_output(references: FileReferences, output: str, path: str) -> None:
    """Write references beside their name, and give it to them when they are complete.

    Parameters
    ----------
    references : FileReferences
        What they say.
    output : str
        The path of a JSON file, or of a folder of parquet files.
    path : str
        The HDF5 file.

    Raises
    ------
    TargetError
        If they cannot be written there.
    """
    require_replaceable(output, path)
    with _temporary(output) as made:
        if output.endswith(_PARQUET):
            os.mkdir(made)
            write_parquet(references, made)
            _replace_folder(made, output)
        else:
            _write_json(references, made)
            os.replace(made, output)
        sync_folder(os.path.dirname(output))


@contextlib.contextmanager
def _temporary(output: str) -> Iterator[str]:
    made = f"{output}.{uuid.uuid4().hex[:12]}.writing"
    try:
        yield made
    except OSError as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(f"cannot write the references {output}: {error.strerror or error}") from error
    finally:
        _remove(made)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _write_json(references: FileReferences, path: str) -> None:
    descriptor, end = open_side_file(path), 0
    try:
        for piece in json_pieces(references):
            pwrite_all(descriptor, piece, end)
            end += len(piece)
        # If the name reached the disk before the bytes, it would name a file without its content.
        flush(descriptor)
    finally:
        close_descriptor(descriptor)


def _replace_folder(made: str, output: str) -> None:
    """Give a folder its name; an earlier one goes out of the way first, as no call replaces a folder."""
    earlier = f"{made}.earlier"
    if os.path.lexists(output):
        os.rename(output, earlier)
    os.rename(made, output)
    _remove(earlier)
