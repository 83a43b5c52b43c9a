"""The groups and datasets of an HDF5 file that zarr can have, and why it cannot have the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py

from dask_chunkio.integrations.zarr.records import Refusal

__all__ = ["Objects", "list_objects"]

# Files of zarr's own in the folder of a node.
_METADATA = frozenset({"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})


@dataclass(slots=True)
class Objects:
    """What is in a file.

    Parameters
    ----------
    groups, datasets : dict
        By their absolute paths, each group before what is in it.
    refused : list of Refusal
        What zarr cannot have.
    """

    groups: dict[str, h5py.Group] = field(default_factory=dict)
    datasets: dict[str, h5py.Dataset] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)


def list_objects(file: h5py.File, zarr_format: int) -> Objects:
    """List the groups and datasets of a file.

    Parameters
    ----------
    file : h5py.File
        An open file.
    zarr_format : int
        2 or 3; format 3 keeps names with two underscores for itself.
    """
    found = Objects()
    names: dict[tuple[int, int], str] = {}
    left: list[tuple[str, Any]] = [("/", file["/"])]
    while left:
        path, one = left.pop()
        key = _address(one)
        if key in names:
            found.refused.append(Refusal(path, f"it is another name of {names[key]}, and zarr has no links"))
            continue
        names[key] = path
        if isinstance(one, h5py.Dataset):
            found.datasets[path] = one
        elif isinstance(one, h5py.Group):
            found.groups[path] = one
            left.extend(reversed(list(_members(path, one, (found.refused, zarr_format)))))
        else:
            found.refused.append(Refusal(path, "it is a named type, and zarr has none"))
    return found


def _address(one: Any) -> tuple[int, int]:
    info = h5py.h5o.get_info(one.id)
    return int(info.fileno), int(info.addr)


def _members(path: str, group: h5py.Group, how: tuple[list[Refusal], int]) -> Iterator[tuple[str, Any]]:
    refused, zarr_format = how
    for name in sorted(group):
        own = f"{path.rstrip('/')}/{name}"
        try:
            link = group.get(name, getlink=True)
            reason = _why_not(name, link, zarr_format)
            found = None if reason is not None else group[name]
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            reason, found = f"it cannot be opened: {error}", None
        if reason is not None:
            refused.append(Refusal(own, reason))
        else:
            yield own, found


def _why_not(name: str, link: Any, zarr_format: int) -> str | None:
    if isinstance(link, h5py.ExternalLink):
        return f"it is a link to {link.path} of the file {link.filename}, and zarr has no links"
    if isinstance(link, h5py.SoftLink):
        return f"it is a link to {link.path}, and zarr has no links"
    is_reserved = name in _METADATA or (zarr_format == 3 and name.startswith("__"))
    if name in ("", ".", "..") or is_reserved or "\\" in name:
        return "zarr does not allow this name"
    try:
        is_long = len(name.encode()) > 255
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return "its name is too long for a folder" if is_long else None
