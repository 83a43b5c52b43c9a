"""A walk over all links of a file, each once, without following those that lead out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py

from dask_chunkio.errors import IntegrityError
from dask_chunkio.repacking.patterns import Selection

__all__ = ["Found", "links_of"]

_EVERYTHING = Selection()
# The sum of the lengths of the paths of groups that are still to be visited.  A chain of nested groups as deep as a
# file can hold would otherwise need memory of the square of its depth.
_MOST_PATH = 1 << 20


class Found:
    """One link that the walk has come to.

    Attributes
    ----------
    group : h5py.h5g.GroupID
        The group in which it is.
    parent : Found or None
        The link by which the walk came to that group; None for the root group.
    name, path : bytes
        Its name, and its absolute path.
    kind : int
        HDF5's number for the kind of link.
    is_utf8 : bool
        Whether HDF5 says that its name is UTF-8.
    address : int
        Of a hard link: the address of its object.
    first : bytes or None
        Of a hard link to an object that another link has led to: the path of that link.
    made : object
        For whoever walks: what was made of it.
    """

    __slots__ = ("address", "first", "group", "is_utf8", "kind", "made", "name", "parent", "path")

    def __init__(self, group: Any, parent: Found | None, path: bytes, link: tuple[bytes, int, int, int]) -> None:
        self.group, self.parent, self.path = group, parent, path
        self.name, self.kind, self.address, encoding = link
        self.is_utf8 = encoding == h5py.h5t.CSET_UTF8
        self.first: bytes | None = None
        self.made: Any = None

    @property
    def is_hard(self) -> bool:
        """Whether it is a hard link."""
        return bool(self.kind == h5py.h5l.TYPE_HARD)

    @property
    def text(self) -> str:
        """The path as text; bytes that are not UTF-8 are kept as surrogates."""
        return self.path.decode("utf-8", "surrogateescape")


def links_of(file: h5py.File, selection: Selection = _EVERYTHING) -> Iterator[Found]:
    """Yield the links of a file: those of a group in the order in which it keeps them, groups before their members.

    Parameters
    ----------
    file : h5py.File
        The file.
    selection : Selection
        Which objects are wanted; links to others are passed over.

    Raises
    ------
    IntegrityError
        If the groups are nested so deep that no path can name their members.
    """
    root = h5py.h5g.open(file.id, b"/")
    seen = {h5py.h5o.get_info(root).addr: b"/"}
    pending: list[Found | None] = [None]
    while pending:
        parent = pending.pop()
        group = root if parent is None else h5py.h5g.open(parent.group, parent.name)
        path = b"" if parent is None else parent.path
        if len(path) > _MOST_PATH:
            raise IntegrityError(f"{file.filename}: a path has more than {_MOST_PATH} bytes; the file is damaged")
        groups = []
        for found in _wanted(group, parent, path, selection):
            if found.is_hard:
                found.first = seen.setdefault(found.address, found.path)
                found.first = None if found.first is found.path else found.first
            yield found
            if found.is_hard and found.first is None and _is_group(found):
                groups.append(found)
        pending.extend(reversed(groups))


def _is_group(found: Found) -> bool:
    """Return whether a link leads to a group; whoever walks may have said so by ``made``."""
    if found.made is not None:
        return bool(found.made)
    return bool(h5py.h5o.get_info(found.group, found.name).type == h5py.h5o.TYPE_GROUP)


def _wanted(group: Any, parent: Found | None, path: bytes, selection: Selection) -> Iterator[Found]:
    for link in _links(group):
        found = Found(group, parent, path + b"/" + link[0], link)
        if not selection or selection.takes(found.text):
            yield found
        elif found.is_hard and selection.may_lead(found.text):
            kind = h5py.h5o.get_info(group, found.name).type
            if kind == h5py.h5o.TYPE_GROUP:
                yield found


def _links(group: Any) -> list[tuple[bytes, int, int, int]]:
    """Return name, kind, address and encoding of each link, in the order of creation if the group tracks it."""
    links: list[tuple[bytes, int, int, int]] = []

    def note(name: bytes, info: Any) -> None:
        links.append((name, info.type, info.u if info.type == h5py.h5l.TYPE_HARD else 0, info.cset))

    is_tracked = group.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED
    index = h5py.h5.INDEX_CRT_ORDER if is_tracked else h5py.h5.INDEX_NAME
    group.links.iterate(note, info=True, idx_type=index)
    return links
