"""The copy of everything in a file but the elements of datasets that are filled in parallel."""

from __future__ import annotations

import errno
import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import h5py

from dask_chunkio.errors import ChunkIOError, IntegrityError, TargetError
from dask_chunkio.repacking.attributes import Attributes
from dask_chunkio.repacking.decisions import Decisions
from dask_chunkio.repacking.elements import copy_elements, elements_of
from dask_chunkio.repacking.layouts import Described, Plan, describe
from dask_chunkio.repacking.patterns import Selection
from dask_chunkio.repacking.references import MissingObjectError, References, holds_references
from dask_chunkio.repacking.walk import Found, links_of
from dask_chunkio.storage.chunk_index import count_stored
from dask_chunkio.storage.hdf5.raw_access import (
    PLAIN,
    are_attributes_plain,
    commit_anonymously,
    copy_link,
    get_comment,
    link_phases,
    set_link_phases,
)

__all__ = ["Begin", "Structure", "set_comment_like", "work_of"]

# Told of each object that is copied, and how many bytes that takes.
Begin = Callable[[str, int], None]

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
_FAILED = (OSError, RuntimeError, ValueError, TypeError, KeyError, ArithmeticError, MemoryError, SystemError)
# Those of variable length need a conversion when a dataset is copied.
PLAIN_NUMBERS = PLAIN - {h5py.h5t.STRING}
# Lists of links and attributes are shorter than that part of a file.
_LISTS = 64
_VALUE_OF_USER = h5py.h5d.FILL_VALUE_USER_DEFINED


class Structure:
    """Copies a file into a new one.

    Parameters
    ----------
    source : h5py.File
        The file, open for reading.
    target : h5py.h5f.FileID
        The new file, with the properties that its root group has to have.
    selection : Selection
        Which objects are copied.
    decisions : Decisions
        What becomes of each dataset.
    begin : callable
        Told of each object before it is copied, and how many bytes that takes.

    Attributes
    ----------
    counts : Counter
        How many objects of each kind were copied.
    references : References
        Which object of the file became which in the copy.
    """

    def __init__(
        self,
        source: h5py.File,
        target: Any,
        selection: Selection,
        decisions: Decisions,
        begin: Begin = lambda *_: None,
    ) -> None:
        self.source, self.target, self._begin = source, target, begin
        self.selection, self.decisions = selection, decisions
        self.counts: Counter[str] = Counter()
        self._types: dict[int, Any] = {}
        self._later: list[bytes] = []
        self._root = h5py.h5g.open(target, b"/")
        self.references = References(target, {})
        self._most = source.id.get_filesize()
        self._attributes = Attributes(self.references, self._type_of, self._most)
        self._without_attributes = h5py.h5p.create(h5py.h5p.OBJECT_COPY)
        self._without_attributes.set_copy_object(h5py.h5o.COPY_WITHOUT_ATTR_FLAG)
        self._links = {is_utf8: _link_properties(is_utf8) for is_utf8 in (False, True)}

    def copy(self) -> None:
        """Copy everything.

        Raises
        ------
        IntegrityError
            If the file is damaged, or holds what cannot be copied.
        TargetError
            If the copy cannot be written.
        """
        found: Found | None = None
        try:
            root = h5py.h5g.open(self.source.id, b"/")
            self.references.paths[h5py.h5o.get_info(root).addr] = b"/"
            set_comment_like(root, self._root)
            self._attributes.copy(root, self._root, b"/")
            for found in links_of(self.source, self.selection):
                self._copy_link(found)
            found = None
            self._copy_later()
        except (ChunkIOError, *_FAILED) as error:
            raise self._words(error, "/" if found is None else found.text) from error

    def _words(self, error: BaseException, path: str) -> ChunkIOError:
        if isinstance(error, ChunkIOError) and not isinstance(error, TargetError):
            return error
        words = f"{path} of {self.source.filename} cannot be copied: {error}"
        if isinstance(error, TargetError) or getattr(error, "errno", None) in _DISK:
            return TargetError(f"{words}; is there space on the disk?")
        return IntegrityError(f"{words}; the file is damaged, or holds what this version of HDF5 does not know")

    def _copy_link(self, found: Found) -> None:
        self._begin(found.text, self._most // _LISTS)
        parent, links = self._group(found.parent), self._links[found.is_utf8]
        if not found.is_hard:
            self._copy_link_by_name(found, parent, links)
            self.counts["links"] += 1
            return
        known = self.references.paths.get(found.address)
        if known is not None:
            parent.links.create_hard(found.name, self._root, known, links)
            self.counts["links"] += 1
            return
        item = h5py.h5o.open(found.group, found.name)
        self.references.paths[found.address] = found.path
        if isinstance(item, h5py.h5d.DatasetID):
            found.made = False
            self._copy_dataset(found, item, parent, links)
        elif isinstance(item, h5py.h5g.GroupID):
            found.made = self._copy_group(found, item, parent, links)
        else:
            found.made = False
            self._copy_type(found, item, parent, links)

    def _copy_link_by_name(self, found: Found, parent: Any, links: Any) -> None:
        """Copy a link that is not a hard one, as it is: nobody looks where it leads."""
        if found.kind == h5py.h5l.TYPE_SOFT:
            parent.links.create_soft(found.name, found.group.links.get_val(found.name), links)
        elif found.kind == h5py.h5l.TYPE_EXTERNAL:
            file, path = found.group.links.get_val(found.name)
            parent.links.create_external(found.name, file, path, links)
        else:
            copy_link(found.group, parent, found.name, links)

    def _group(self, found: Found | None) -> Any:
        """Return the group of the copy for a link that has led to a group."""
        if found is None:
            return self._root
        if found.made is True:
            found.made = h5py.h5g.open(self._group(found.parent), found.name)
        return found.made

    def _copy_group(self, found: Found, item: Any, parent: Any, links: Any) -> bool:
        made = h5py.h5g.create(parent, found.name, links, _properties_of_group(item))
        self.counts["groups"] += 1
        self._copy_notes(item, made, found.path)
        return True

    def _copy_notes(self, item: Any, made: Any, path: bytes) -> None:
        set_comment_like(item, made)
        self._attributes.copy(item, made, path)

    def _copy_type(self, found: Found, item: Any, parent: Any, links: Any) -> None:
        made = self._type_of(item)
        h5py.h5o.link(made, parent, found.name, links)
        self.counts["types"] += 1
        self._copy_notes(item, made, found.path)

    def _type_of(self, kind: Any) -> Any:
        """Return the type in the copy for a type of the file: a named one stays one, with or without a name."""
        if not kind.committed():
            return kind
        address = h5py.h5o.get_info(kind).addr
        if (made := self._types.get(address)) is None:
            made = kind.copy()
            commit_anonymously(self.target, made, kind.get_create_plist())
            self._types[address] = made
        return made

    def _copy_dataset(self, found: Found, item: Any, parent: Any, links: Any) -> None:
        self.counts["datasets"] += 1
        self._begin(found.text, self._most // _LISTS + work_of(item, self._most))
        kind = item.get_type()
        if kind.get_class() in PLAIN_NUMBERS and not kind.committed() and self.decisions.leaves(item):
            self._copy_whole(found, item, parent, links)
            return
        elements = elements_of(kind, found.text)
        described = describe(found.text, item, kind, elements)
        plan = self.decisions(described)
        if plan.way == "whole":
            self._copy_whole(found, item, parent, links)
            return
        made = self._made(described, plan, parent, found.name, links)
        self._copy_notes(item, made, found.path)
        if plan.way == "elements":
            try:
                copy_elements(item, made, self.references, described.chunks, found.text)
            except MissingObjectError:
                self._later.append(found.path)

    def _copy_whole(self, found: Found, item: Any, parent: Any, links: Any) -> None:
        """Have HDF5 copy a dataset with its payloads as they are; with its attributes, if it can."""
        is_whole = are_attributes_plain(item)
        how = None if is_whole else self._without_attributes
        h5py.h5o.copy(found.group, found.name, parent, found.name, how, links)
        if not is_whole:
            self._attributes.copy(item, h5py.h5d.open(parent, found.name), found.path)

    def _made(self, found: Described, plan: Plan, parent: Any, name: bytes, links: Any) -> Any:
        """Make the dataset of the copy, without elements."""
        properties = plan.properties
        if holds_references(found.elements.part) and properties.fill_value_defined() == _VALUE_OF_USER:
            raise IntegrityError(f"{found.name} has references as its fill value, which are not copied; leave it out")
        space = found.dataset.get_space()
        if plan.is_fixed:
            space.set_extent_simple(found.shape, found.shape)
        return h5py.h5d.create(parent, name, self._type_of(found.kind), space, properties, links)

    def _copy_later(self) -> None:
        """Copy what refers to objects that were not there before."""
        self.references.is_final = True
        for path in self._later:
            item, made = h5py.h5d.open(self.source.id, path), h5py.h5d.open(self.target, path)
            kind, text = item.get_type(), path.decode("utf-8", "surrogateescape")
            self._begin(text, self._most // _LISTS + work_of(item, self._most))
            described = describe(text, item, kind, elements_of(kind, text))
            copy_elements(item, made, self.references, described.chunks, text)
        self._begin("/", self._most)
        self._attributes.write_later(self.source.id, self.target)


def work_of(item: Any, file_nbytes: int) -> int:
    """Return how many bytes are read and written to copy an object, at most.

    Parameters
    ----------
    item : h5py.h5g.GroupID, h5py.h5d.DatasetID or h5py.h5t.TypeID
        The object.
    file_nbytes : int
        Size of its file.
    """
    if not isinstance(item, h5py.h5d.DatasetID):
        return 0
    kind, plist = item.get_type(), item.get_create_plist()
    # Elements of variable length are in heaps, anywhere in the file.
    elsewhere = 0 if kind.get_class() in PLAIN_NUMBERS else file_nbytes
    if plist.get_layout() != h5py.h5d.CHUNKED:
        return elsewhere + min(int(item.get_storage_size()), file_nbytes)
    chunk = math.prod(map(int, plist.get_chunk())) * int(kind.get_size())
    return elsewhere + min(count_stored(h5py.Dataset(item)), file_nbytes) * chunk


def set_comment_like(item: Any, made: Any) -> None:
    """Give an object the comment of another one."""
    if comment := get_comment(item):
        h5py.h5o.set_comment(made, comment)


def _properties_of_group(item: Any) -> Any:
    """Return the creation properties of a group, for another one.

    HDF5's own list of a group with many links also has the address of its heap; a group that is made with it would
    use what stands there in the other file.
    """
    old = item.get_create_plist()
    return _group_properties(
        old.get_link_creation_order(),
        old.get_attr_creation_order(),
        old.get_attr_phase_change(),
        link_phases(old),
        old.get_obj_track_times(),
    )


@functools.lru_cache(64)
def _group_properties(
    links: int, attributes: int, attribute_phases: tuple[int, int], phases: tuple[int, int], has_times: bool
) -> Any:
    found = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    found.set_link_creation_order(links)
    found.set_attr_creation_order(attributes)
    found.set_attr_phase_change(*attribute_phases)
    found.set_obj_track_times(has_times)
    if phases != link_phases(found):
        set_link_phases(found, *phases)
    return found


def _link_properties(is_utf8: bool) -> Any:
    found = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    found.set_char_encoding(h5py.h5t.CSET_UTF8 if is_utf8 else h5py.h5t.CSET_ASCII)
    return found
