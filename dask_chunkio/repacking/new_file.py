"""The new file: made with the creation properties of the old one, and h5repack's options for files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py

from dask_chunkio.errors import ArgumentError, ArgumentTypeError, TargetError
from dask_chunkio.paths import local_path
from dask_chunkio.storage.hdf5.raw_access import link_phases, set_link_phases

__all__ = ["FileOptions", "copy_user_block", "created_file", "parse_file_options"]

_STRATEGIES = {
    "FSM_AGGR": h5py.h5f.FSPACE_STRATEGY_FSM_AGGR,
    "PAGE": h5py.h5f.FSPACE_STRATEGY_PAGE,
    "AGGR": h5py.h5f.FSPACE_STRATEGY_AGGR,
    "NONE": h5py.h5f.FSPACE_STRATEGY_NONE,
}
_BOUNDS = {
    name: getattr(h5py.h5f, f"LIBVER_{constant}")
    for name, constant in (
        ("earliest", "EARLIEST"),
        ("v108", "V18"),
        ("v110", "V110"),
        ("v112", "V112"),
        ("v114", "V114"),
        ("v200", "V200"),
        ("latest", "LATEST"),
    )
    if hasattr(h5py.h5f, f"LIBVER_{constant}")
}
# The version of the superblock gives the version bound of the file.  That bound allows all objects in the file.
_OF_SUPERBLOCK = {0: "earliest", 1: "earliest", 2: "v108"}
_LATER = "v110"
_LEAST_PAGE, _MOST_PAGE = 512, 1 << 30
_LEAST_BLOCK, _MOST_BLOCK = 512, 1 << 30
_MOST_META_BLOCK = 1 << 30
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class FileOptions:
    """h5repack's options for the file; None to keep what the old file has.

    Parameters
    ----------
    libver : tuple of str or None
        The bounds of the format.
    strategy : str or None
        The strategy for space in the file.
    persist : bool or None
        Whether free space is remembered in the file.
    threshold, page_size : int or None
        The smallest free space that is remembered, and the size of a page.
    user_block : int or None
        Size of the user block.
    user_block_file : str or None
        Absolute path of the file whose bytes become the user block.
    meta_block_size : int or None
        Size of the blocks in which space for metadata is allocated.
    """

    libver: tuple[str, str] | None = None
    strategy: str | None = None
    persist: bool | None = None
    threshold: int | None = None
    page_size: int | None = None
    user_block: int | None = None
    user_block_file: str | None = None
    meta_block_size: int | None = None


def parse_file_options(
    *,
    libver: Any = None,
    fs_strategy: Any = None,
    fs_persist: Any = None,
    fs_threshold: Any = None,
    fs_page_size: Any = None,
    user_block: Any = None,
    user_block_file: Any = None,
    meta_block_size: Any = None,
) -> FileOptions:
    """Check the options for the file.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If one cannot be used.
    """
    if fs_strategy is not None and fs_strategy not in _STRATEGIES:
        raise ArgumentError(f"fs_strategy={fs_strategy!r} is not one of {', '.join(_STRATEGIES)}")
    numbers = {"fs_threshold": fs_threshold, "fs_page_size": fs_page_size, "user_block": user_block}
    for name, value in {**numbers, "meta_block_size": meta_block_size}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ArgumentTypeError(f"{name}={value!r} is not a whole number of bytes")
    if fs_page_size is not None and not _LEAST_PAGE <= fs_page_size <= _MOST_PAGE:
        raise ArgumentError(f"fs_page_size={fs_page_size} is not from {_LEAST_PAGE} to {_MOST_PAGE}")
    if user_block and (user_block & (user_block - 1) or not _LEAST_BLOCK <= user_block <= _MOST_BLOCK):
        raise ArgumentError(f"user_block={user_block} is neither 0 nor a power of 2 from {_LEAST_BLOCK} on")
    if meta_block_size is not None and not 0 < meta_block_size <= _MOST_META_BLOCK:
        raise ArgumentError(f"meta_block_size={meta_block_size} is not from 1 to {_MOST_META_BLOCK}")
    persist = None if fs_persist is None else bool(fs_persist)
    file = None if user_block_file is None else os.path.abspath(local_path("user_block_file", user_block_file))
    size = user_block if file is None else _room_for(file, user_block)
    return FileOptions(_bounds(libver), fs_strategy, persist, fs_threshold, fs_page_size, size, file, meta_block_size)


def _room_for(file: str, size: int | None) -> int:
    """Return the size of a user block that takes the bytes of a file: the one that is given, or the smallest."""
    try:
        nbytes = os.stat(file).st_size
    except OSError as error:
        raise ArgumentError(f"user_block_file={file!r} cannot be read: {error.strerror}") from error
    least = max(_LEAST_BLOCK, 1 << max(0, nbytes - 1).bit_length())
    if not os.path.isfile(file) or least > _MOST_BLOCK or (size is not None and size < nbytes):
        raise ArgumentError(
            f"user_block_file={file!r} has {nbytes} bytes, and a user block at most "
            f"{_MOST_BLOCK if size is None else size}; give a file that fits, or a larger user_block="
        )
    return least if size is None else size


def _bounds(libver: Any) -> tuple[str, str] | None:
    if libver is None:
        return None
    low, high = (libver, "latest") if isinstance(libver, str) else libver
    if strange := [name for name in (low, high) if name not in _BOUNDS]:
        raise ArgumentError(f"libver={libver!r}: {strange[0]!r} is not one of {', '.join(_BOUNDS)}")
    names = list(_BOUNDS)
    if names.index(low) > names.index(high):
        raise ArgumentError(f"libver={libver!r}: the older version goes first")
    return low, high


@contextmanager
def created_file(path: str, source: h5py.File, options: FileOptions) -> Iterator[Any]:
    """Create the new file, and close it and everything in it at the end.

    Raises
    ------
    ArgumentError
        If an option cannot be used with this file.
    TargetError
        If it cannot be created or written.
    """
    try:
        access, create = _access(source, options), _properties(source, options)
        target = h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_EXCL, create, access)
    except ArgumentError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise TargetError(f"cannot create {path}: {error}") from error
    try:
        yield target
    except BaseException:
        _close_after_error(target)
        raise
    try:
        target.close()
    except (OSError, RuntimeError) as error:
        raise TargetError(f"cannot write {path}: {error}; is there space on the disk?") from error
    if options.user_block_file is not None:
        _copy_start(options.user_block_file, path, os.stat(options.user_block_file).st_size)


def _close_after_error(target: Any) -> None:
    try:
        target.close()
    except (OSError, RuntimeError):
        # The error that has led here says more.
        return


def _access(source: h5py.File, options: FileOptions) -> Any:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    # Closes what is still open in the file, too.
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    version = source.id.get_create_plist().get_version()[0]
    low, high = options.libver or (_OF_SUPERBLOCK.get(version, _LATER), "latest")
    access.set_libver_bounds(_BOUNDS[low], _BOUNDS[high])
    if options.meta_block_size is not None:
        access.set_meta_block_size(options.meta_block_size)
    return access


def _properties(source: h5py.File, options: FileOptions) -> Any:
    """Return the creation properties of the file, with those of its root group."""
    create = source.id.get_create_plist()
    root = h5py.h5g.open(source.id, b"/").get_create_plist()
    create.set_link_creation_order(root.get_link_creation_order())
    create.set_attr_creation_order(root.get_attr_creation_order())
    create.set_attr_phase_change(*root.get_attr_phase_change())
    if link_phases(root) != link_phases(create):
        set_link_phases(create, *link_phases(root))
    strategy, persist, threshold = create.get_file_space_strategy()
    given = (options.strategy, options.persist, options.threshold)
    if any(value is not None for value in given):
        create.set_file_space_strategy(
            strategy if options.strategy is None else _STRATEGIES[options.strategy],
            persist if options.persist is None else options.persist,
            threshold if options.threshold is None else options.threshold,
        )
    if options.page_size is not None:
        create.set_file_space_page_size(options.page_size)
    if options.user_block_file is not None and create.get_userblock():
        raise ArgumentError(
            f"user_block_file={options.user_block_file!r} would replace the user block of {source.filename}, which has "
            f"{create.get_userblock()} bytes; leave it out"
        )
    if options.user_block is not None:
        if options.user_block < create.get_userblock():
            raise ArgumentError(
                f"user_block={options.user_block} would cut off the user block of {source.filename}, which has "
                f"{create.get_userblock()} bytes; leave it out"
            )
        create.set_userblock(options.user_block)
    return create


def copy_user_block(source: h5py.File, path: str) -> None:
    """Copy what stands before the HDF5 part of a file.

    Parameters
    ----------
    source : h5py.File
        The file.
    path : str
        The closed copy, whose user block is large enough (`created_file`).

    Raises
    ------
    TargetError
        If it cannot be written.
    """
    if source.userblock_size:
        _copy_start(source.filename, path, source.userblock_size)


def _copy_start(source: str, path: str, left: int) -> None:
    """Copy so many bytes from the start of a file to the start of another one."""
    try:
        with open(source, "rb") as old, open(path, "r+b") as new:
            while left and (piece := old.read(min(left, _PIECE))):
                new.write(piece)
                left -= len(piece)
    except OSError as error:
        raise TargetError(f"cannot write the user block of {path}: {error}; is there space on the disk?") from error
