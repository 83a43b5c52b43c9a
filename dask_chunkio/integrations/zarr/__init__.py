"""Conversion of zarr stores to HDF5 files and back, without decoding chunks whose bytes are the same in both.

Examples
--------
>>> import zarr
>>> import dask_chunkio
>>> array = zarr.create_array("numbers.zarr", name="x", shape=(6,), chunks=(3,), dtype="f8")
>>> array[:] = 1.5
>>> print(dask_chunkio.convert("numbers.zarr", "numbers.h5").arrays[0].is_copied)
True
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, Literal

import h5py

from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.events import Listener
from dask_chunkio.execution.tracebacks import shortens_tracebacks
from dask_chunkio.integrations.zarr.records import Conversion, Options
from dask_chunkio.storage.target import Durability
from dask_chunkio.validation import check_choice, check_flag, check_type

__all__ = ["convert", "is_zarr_name"]

_OF_HDF5 = (".h5", ".hdf5", ".hdf", ".he5", ".nc", ".nc4", ".nwb")


@shortens_tracebacks
def convert(
    source: Any,
    target: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
    skip_unsupported: bool = False,
    zarr_format: Literal[2, 3] | None = None,
    threads: int | None = None,
    compression: str | int | None = None,
    compression_opts: Any = None,
    shuffle: bool | None = None,
    fletcher32: bool | None = None,
    scheduler: Any = None,
    memory_limit: int | str | None = None,
    progress: bool | None = None,
    callback: Listener | None = None,
    durability: Durability | None = None,
    wait: bool | None = None,
    isolated: bool | None = None,
) -> Conversion:
    """Convert a zarr store to an HDF5 file, or an HDF5 file to a zarr store.

    Groups, attributes, names of dimensions and arrays are converted.  Chunks are copied as they are stored where both
    formats have the same codecs: zlib, zstd, blosc, shuffle and fletcher32.  Other chunks are decoded, and encoded
    with the nearest codecs.  The target appears under its name when it is whole.

    Parameters
    ----------
    source : str, path-like or zarr.Group
        An HDF5 file, or a zarr store: a folder, a zip file, a URL, or an open group, of format 2 or 3.
    target : str or path-like
        The file or the folder to make.
    overwrite : bool
        Replace what has this name: an HDF5 file, or a zarr store.
    resume : bool
        Go on with an interrupted conversion to an HDF5 file.  One to a zarr store begins again.
    skip_unsupported : bool
        Leave out what the target cannot have; the result lists it.  By default it is an error.
    zarr_format : int, optional
        Format of the store that is made; by default zarr's own default, 3.
    threads : int, optional
        Number of threads that make a zarr store; by default as many as this process has processors.
    compression, compression_opts, shuffle, fletcher32
        Filters of all arrays, as in `h5py.Group.create_dataset`; names of plugins as in `to_hdf5`.  By default each
        array keeps its own.  zarr has an equal of ``"gzip"``, ``"zstd"`` and ``"blosc"``.
    scheduler, memory_limit, progress, callback
        Of a conversion to an HDF5 file: as in `to_hdf5`.
    durability, wait
        As in `to_hdf5`; ``wait`` only of a conversion to an HDF5 file.
    isolated : bool, optional
        As `open_array` takes it: whether a separate process checks everything in an HDF5 file first, because a
        damaged one may make HDF5 crash or hang.

    Returns
    -------
    Conversion
        What was done.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.
    SourceError
        If the source cannot be read, or has what the target cannot have.
    TargetError
        If the target exists, or cannot be written.
    IntegrityError
        If a chunk is damaged, or the metadata of the file crash HDF5.
    WorkerError
        If ``isolated=True``, and no process can be started.
    FilterError
        If a filter plugin or a codec is missing.

    See Also
    --------
    to_hdf5 : writes one zarr array, with any options.

    Examples
    --------
    >>> import zarr
    >>> root = zarr.open_group("experiment.zarr", mode="w", attributes={"day": "Monday"})
    >>> array = root.create_array("voltage", shape=(1000,), chunks=(100,), dtype="i2", dimension_names=["time"])
    >>> array[:] = 7
    >>> print(convert("experiment.zarr", "experiment.h5").arrays[0])
    ConvertedArray(name='/voltage', shape=(1000,), dtype=dtype('int16'), is_copied=True)
    >>> result = convert("experiment.h5", "again.zarr")
    >>> found = zarr.open_group("again.zarr", mode="r")
    >>> found.attrs["day"], found["voltage"].metadata.dimension_names, int(found["voltage"][999])
    ('Monday', ('time',), 7)
    """
    flags = {"overwrite": overwrite, "resume": resume, "skip_unsupported": skip_unsupported}
    for name, value in flags.items():
        check_flag(name, value)
    check_flag("isolated", isolated)
    check_choice("zarr_format", zarr_format, (None, 2, 3))
    check_choice("durability", durability, (None, "process", "power"))
    check_type("threads", threads, threads is None or type(threads) is int, "a number")
    filters = {
        "compression": compression, "compression_opts": compression_opts, "shuffle": shuffle, "fletcher32": fletcher32
    }  # fmt: skip
    run = {"scheduler": scheduler, "memory_limit": memory_limit, "progress": progress, "callback": callback}
    options = Options(
        zarr_format,
        threads=threads,
        filters={name: value for name, value in filters.items() if value is not None},
        run={name: value for name, value in run.items() if value is not None},
        drafting={"durability": durability, "wait": wait},
        isolated=isolated,
        **flags,
    )
    return _converted(source, _target(target), options)


def _converted(source: Any, target: str, options: Options) -> Conversion:
    if importlib.util.find_spec("zarr") is None:
        raise ArgumentError("a conversion from or to zarr needs the package zarr: pip install zarr")
    file = _hdf5_file(source)
    if file is None:
        _refuse_for_hdf5(target, options)
        from dask_chunkio.integrations.zarr.to_hdf5 import zarr_to_hdf5

        return zarr_to_hdf5(_source(source), target, options)
    _refuse_for_zarr(file, target, options)
    from dask_chunkio.integrations.zarr.from_hdf5 import hdf5_to_zarr

    return hdf5_to_zarr(file, target, options)


def _target(target: Any) -> str:
    check_type("target", target, isinstance(target, str | os.PathLike), "the path of a file or a folder")
    found = str(os.fspath(target))
    if "://" in found:
        raise ArgumentError(f"target={found!r} is no path of a file system; write there first, and copy it")
    if not found.strip(os.sep):
        raise ArgumentError(f"target={found!r} names no file and no folder")
    return os.path.abspath(os.path.expanduser(found.rstrip(os.sep)))


def _source(source: Any) -> Any:
    if not isinstance(source, str | os.PathLike):
        is_zarr = type(source).__module__.partition(".")[0] == "zarr"
        if not is_zarr:
            raise ArgumentTypeError(f"source is a {type(source).__name__}; give a path, a URL, or a group of zarr")
        return source
    found = str(os.fspath(source))
    return found if "://" in found else os.path.abspath(os.path.expanduser(found))


def _hdf5_file(source: Any) -> str | None:
    """Return the absolute path of the source if it is an HDF5 file."""
    if not isinstance(source, str | os.PathLike):
        return None
    path = os.path.abspath(os.path.expanduser(os.fspath(source)))
    return path if os.path.isfile(path) and h5py.is_hdf5(path) else None


def is_zarr_name(name: str) -> bool:
    """Return whether a name is that of a zarr store, by its suffix.

    Parameters
    ----------
    name : str
        The path of a file or a folder.

    Examples
    --------
    >>> is_zarr_name("out.zarr"), is_zarr_name("out.zarr/"), is_zarr_name("out.h5")
    (True, True, False)
    """
    return name.rstrip("/" + os.sep).lower().endswith(".zarr")


def _refuse_for_hdf5(target: str, options: Options) -> None:
    if is_zarr_name(target) or target.lower().endswith(".zarr.zip"):
        raise ArgumentError(f"target={target!r} is the name of a zarr store, and the source is no HDF5 file")
    if options.zarr_format is not None or options.threads is not None:
        raise ArgumentError("zarr_format= and threads= are for a conversion to zarr; leave them out, or use scheduler=")


def _refuse_for_zarr(source: str, target: str, options: Options) -> None:
    if target.lower().endswith(_OF_HDF5):
        raise ArgumentError(
            f"source={source!r} is an HDF5 file, and target={target!r} the name of one; give the name of a zarr store, "
            f"or copy one dataset with to_hdf5"
        )
    if target.lower().endswith(".zip"):
        raise ArgumentError(f"target={target!r}: a zarr store is made in a folder; zip it when it is whole")
    if options.run or options.drafting.get("wait"):
        names = [*options.run, *(["wait"] if options.drafting.get("wait") else [])]
        raise ArgumentError(f"{names[0]}= is for a conversion to HDF5; one to zarr runs in threads= of this process")
    if options.threads is not None and options.threads < 1:
        raise ArgumentError(f"threads={options.threads} is not at least 1")
