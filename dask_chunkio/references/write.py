"""The public function `write_references`, and the references that a write makes of its own file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dask_chunkio import errors
from dask_chunkio.child_process import child_command
from dask_chunkio.errors import ArgumentError, IntegrityError, TargetError, WorkerError
from dask_chunkio.paths import local_path
from dask_chunkio.printable import printable
from dask_chunkio.references.model import FileReferences
from dask_chunkio.references.output import parse_output, parse_url, require_replaceable, url_of, write_output
from dask_chunkio.references.scan import scan_file
from dask_chunkio.storage.journal.journal import Entries
from dask_chunkio.storage.target import Target
from dask_chunkio.validation import as_integer, check_flag

__all__ = ["INLINE_NBYTES", "ReferencesResult", "make_references", "references_of_write", "write_references"]

logger = logging.getLogger("dask_chunkio")
# As kerchunk has it.
INLINE_NBYTES = 500
# Lines of an error that names datasets.
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class ReferencesResult:
    """What `write_references` wrote.

    Parameters
    ----------
    path : str
        Absolute path of the JSON file, or of the folder of parquet files.
    url : str
        Where they say that the HDF5 file is.
    arrays : int
        Number of datasets.
    chunks : int
        Number of chunks of all datasets.
    left_out : tuple of str
        One line for each dataset or attribute that they do not contain, with the reason.
    """

    path: str
    url: str
    arrays: int
    chunks: int
    left_out: tuple[str, ...] = ()


def write_references(
    file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    url: str | None = None,
    inline_nbytes: int = INLINE_NBYTES,
    skip_unsupported: bool = False,
) -> ReferencesResult:
    """Write references to all chunks of an HDF5 file, with which zarr and xarray read it without HDF5.

    Parameters
    ----------
    file : str or path-like
        An HDF5 file.
    output : str or path-like
        Name of the references.  Ending with ``.json``: a file as kerchunk writes it, version 1.  Ending with
        ``.parquet`` or ``.parq``: a folder of parquet files, which fsspec loads one at a time.  Earlier references of
        that name are replaced.
    url : str, optional
        Where readers find the file, such as ``"s3://bucket/x.h5"``; if it ends with a slash, the name of the file is
        added.  By default its absolute path, as a ``file://`` URL.
    inline_nbytes : int
        Chunks that are stored in fewer bytes than this become part of the references; 0 for none.
    skip_unsupported : bool
        Leave out the datasets that readers of references could not read, or would read wrongly, and say so in the
        result.  By default they are an error, and nothing is written.

    Returns
    -------
    ReferencesResult
        What was written.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.
    TargetError
        If the file cannot be opened or a write of it is unfinished, or the references cannot be written.
    IntegrityError
        If the file is damaged; or if it has datasets that references cannot describe.

    Notes
    -----
    The file is read in a separate process, with limits on its time and memory: HDF5 crashes on some damaged files.

    Examples
    --------
    >>> import h5py, numpy as np
    >>> with h5py.File("x.h5", "w") as file:
    ...     _ = file.create_dataset("x", data=np.arange(10000), chunks=(1000,), compression="gzip")
    >>> result = write_references("x.h5", "x.json", url="s3://bucket/x.h5")
    >>> result.arrays, result.chunks
    (1, 10)
    """
    path, found = os.path.abspath(local_path("file", file)), parse_output("output", output)
    nbytes = as_integer("inline_nbytes", inline_nbytes)
    if nbytes < 0:
        raise ArgumentError(f"inline_nbytes={nbytes} is below 0; 0 keeps all chunks in the file")
    check_flag("skip_unsupported", skip_unsupported)
    whole = url_of(path, parse_url(url))
    _require_finished(path)
    require_replaceable(found, path)
    return _by_child([path, found, whole, nbytes, bool(skip_unsupported)])


def _require_finished(path: str) -> None:
    target = Target(os.path.realpath(path), "")
    if target.is_begun:
        raise TargetError(
            f"{path} has an unfinished write in {target.folder}; finish it (dask-chunkio resume), or discard it"
        )


def make_references(path: str, output: str, url: str, inline_nbytes: int, skip_unsupported: bool) -> ReferencesResult:
    """Write the references of a file from this process; the arguments are those of `write_references`, checked."""
    references = scan_file(path, url, inline_nbytes)
    if references.left_out and not skip_unsupported:
        raise IntegrityError(_of_left_out(path, references))
    write_output(references, output, path)
    return _result(output, references)


def _of_left_out(path: str, references: FileReferences) -> str:
    lines = references.left_out[:_MOST_NAMED]
    more = len(references.left_out) - len(lines)
    rest = f"; and {more} more" if more else ""
    return (
        f"{path} has content that readers of references would not find or would read wrongly: "
        f"{'; '.join(lines)}{rest}. skip_unsupported=True leaves it out"
    )


def _result(output: str, references: FileReferences) -> ReferencesResult:
    return ReferencesResult(output, references.url, len(references.arrays), references.chunk_count, references.left_out)


def references_of_write(target: Target, known: Mapping[str, Entries] | None = None) -> tuple[str, ...]:
    """Write the references that a call of `to_hdf5` asks for, after its file has its name.

    Parameters
    ----------
    target : Target
        The target of the write.
    known : mapping of str to numpy.ndarray, optional
        The places of all chunks of the datasets that the call has written.

    Returns
    -------
    tuple of str
        One line for each dataset or attribute of the file that they do not contain.

    Raises
    ------
    TargetError
        If they cannot be written; the file is whole.
    """
    path, output = target.path, target.references
    try:
        # No other process of this write changes the file any more, but one may have it open.
        references = scan_file(path, url_of(path, target.references_url or None), INLINE_NBYTES, known, locking=False)
        write_output(references, output, path)
    except Exception as error:
        # Whatever it is, it must not look as if the write had failed.
        raise TargetError(
            f"{path} is written and whole, but not its references: {error}. Make them with: dask-chunkio references "
            f"{path} -o {output}"
        ) from error
    for line in references.left_out:
        logger.warning("%s", printable(f"{output} does not contain {line}"))
    return tuple(f"the references do not contain {line}" for line in references.left_out)


def _by_child(arguments: list[Any]) -> ReferencesResult:
    """Call `make_references` in a separate process."""
    path, output = arguments[:2]
    # Isolated: a json.py in the working folder, which may be the folder of the file, must not be imported.
    words = child_command("dask_chunkio.references.references_process", arguments)
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except (OSError, ValueError) as error:
        raise WorkerError(f"cannot start {sys.executable}, which is to read {path}: {error}") from error
    with contextlib.suppress(ValueError, TypeError, RecursionError, KeyError):
        return _said(done.stdout.decode("utf-8", "replace"))
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    raise IntegrityError(
        f"{path}: HDF5 crashed, or exceeded its limits of time and memory, with {how}; the file is damaged, and there "
        f"are no references {output}"
    )


def _said(line: str) -> ReferencesResult:
    answer = json.loads(line)
    if "error" in answer:
        kind = getattr(errors, str(answer["error"]))
        raise kind(str(answer["message"]))
    return ReferencesResult(**{**answer["result"], "left_out": tuple(answer["result"]["left_out"])})
