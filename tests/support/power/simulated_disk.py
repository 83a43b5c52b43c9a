"""A disk whose machine may lose its power: records what it is told, and says what may be left of that.

What may have become of calls since the last ``fsync`` that concerns them:

* Data: each 512-byte sector of each write is there or not, whatever happened to the others.
* Sizes: each change is there or not, whatever happened to the data; bytes that nobody wrote are zeros.
* Names: ``fsync`` of a file says nothing about its name.  Of the names since the last ``fsync`` of
  their folder, those up to some call are there and later ones are not (``any_names=False``: what
  ext4, XFS and Btrfs do), or any subset is (``any_names=True``).  A rename is one step in both.

A sector is written whole or not at all.  An ``fsync`` that fails drops the bytes that it had to write.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import random
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

SECTOR = 512
ROOT = 0

# A kind, and what belongs to it.
Event = tuple[Any, ...]
# A name in a folder, by the number of that.
Name = tuple[int, str]
# What may be there or not: ("name", its number), or (file, number of its change).
Unit = tuple[Any, int]


@dataclass(frozen=True, eq=False)
class Disk:
    """What is there: paths of folders; paths of files with the number of the file; content by that number."""

    folders: tuple[str, ...]
    files: tuple[tuple[str, int], ...]
    content: dict[int, bytes]

    @classmethod
    def at(cls, root: str | os.PathLike[str]) -> Disk:
        """Return what a folder holds."""
        folders: list[str] = []
        files: list[tuple[str, int]] = []
        content: dict[int, bytes] = {}
        for folder, _, names in os.walk(root):
            if folder != root:
                folders.append(os.path.relpath(folder, root))
            for name in names:
                path = os.path.join(folder, name)
                inode = os.stat(path).st_ino
                with open(path, "rb") as file:
                    content[inode] = file.read()
                files.append((os.path.relpath(path, root), inode))
        return cls(tuple(sorted(folders)), tuple(sorted(files)), content)

    def make(self, root: str | os.PathLike[str]) -> None:
        """Have `root`, an empty folder, hold it; but for leases, which would name this process as alive."""
        for path in self.folders:
            os.mkdir(os.path.join(root, path))
        first: dict[int, str] = {}
        for path, file in self.files:
            if os.path.basename(path).startswith("lease-"):
                continue
            here = os.path.join(root, path)
            if file in first:
                os.link(first[file], here)
            else:
                with open(here, "wb") as opened:
                    opened.write(self.content[file])
                first[file] = here

    @property
    def key(self) -> bytes:
        """The same for disks that hold the same under the same names; but for leases, which `make` leaves out."""
        first: dict[int, str] = {}
        parts = [repr(self.folders)]
        for path, file in self.files:
            if os.path.basename(path).startswith("lease-"):
                continue
            parts.append(f"{path} {first.setdefault(file, path)} {hashlib.sha1(self.content[file]).hexdigest()}")
        return hashlib.sha1("\n".join(parts).encode()).digest()

    def __str__(self) -> str:
        return ", ".join(f"{path} ({len(self.content[file])})" for path, file in self.files) or "nothing"


# Disks by their keys, each with the number of events, and what was lost.
Found = dict[bytes, tuple[Disk, int, str]]


def tree(names: Mapping[Name, int]) -> dict[str, int]:
    """Return the number of each path that can be reached, from the numbers of names in folders."""
    held: dict[int, list[tuple[str, int]]] = {}
    for (folder, name), number in names.items():
        held.setdefault(folder, []).append((name, number))
    found: dict[str, int] = {}
    folders = [("", ROOT)]
    while folders:
        path, folder = folders.pop()
        for name, number in held.get(folder, ()):
            found[path + name] = number
            folders.append((f"{path}{name}/", number))
    return found


class Recorder:
    """Writes down, in order, what `os` is told to do under `root`.

    Parameters
    ----------
    root : str
        A folder; what it holds has reached the disk, without `after`.
    after : list, optional
        Events that another process has caused on the same disk: then the folder holds what they
        made, and the disk whatever they had synced.
    start : Disk, optional
        What the disk held before these.
    """

    def __init__(self, root: str | os.PathLike[str], after: Sequence[Event] = (), start: Disk | None = None) -> None:
        self.root = os.path.realpath(root)
        self.start = start or Disk.at(self.root)
        self.events: list[Event] = list(after)
        self._lock = threading.RLock()
        self._descriptors: dict[int, int] = {}
        state = State(self.start)
        for event in self.events:
            state.add(event)
        self._paths: dict[Any, int] = {"": ROOT, **state.paths}
        self._numbers = itertools.count(1 + max(state.numbers))

    def note(self, *event: Any) -> None:
        with self._lock:
            self.events.append(event)

    @contextlib.contextmanager
    def recording(self) -> Iterator[Recorder]:
        names = "open close dup pwrite pwritev write ftruncate truncate fsync fdatasync mkdir rmdir unlink remove"
        with contextlib.ExitStack() as stack:
            for name in (*names.split(), "rename", "replace", "link", "symlink"):
                recorded = self._recorded(getattr(self, f"do_{name}"), getattr(os, name))
                stack.enter_context(mock.patch.object(os, name, recorded))
            yield self

    def _recorded(self, method: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **keywords: Any) -> Any:
            with self._lock:
                return method(real, *args, **keywords)

        return recorded

    # Where

    def _inside(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Return the path below the root, or None."""
        path = os.fspath(path)
        if dir_fd is not None:
            if dir_fd not in self._descriptors:
                return None
            folder = next(path for path, number in self._paths.items() if number == self._descriptors[dir_fd])
            path = os.path.join(self.root, folder, path)
        path = os.path.abspath(path)
        if path == self.root:
            return ""
        return os.path.relpath(path, self.root) if path.startswith(self.root + os.sep) else None

    def _entry(self, path: str) -> Name:
        folder, name = os.path.split(path)
        return self._paths[folder], name

    # What `os` does

    def do_open(self, real: Any, path: Any, flags: Any, *args: Any, **keywords: Any) -> Any:
        inside = self._inside(path, keywords.get("dir_fd"))
        descriptor = real(path, flags, *args, **keywords)
        self._descriptors.pop(descriptor, None)
        if inside is not None:
            if inside not in self._paths:
                self._paths[inside] = next(self._numbers)
                self.note("create", *self._entry(inside), self._paths[inside])
            elif flags & os.O_TRUNC:
                self.note("size", self._paths[inside], 0)
            self._descriptors[descriptor] = self._paths[inside]
        return descriptor

    def do_dup(self, real: Any, descriptor: Any) -> Any:
        duplicate = real(descriptor)
        self._descriptors.pop(duplicate, None)
        if descriptor in self._descriptors:
            self._descriptors[duplicate] = self._descriptors[descriptor]
        return duplicate

    def do_close(self, real: Any, descriptor: Any) -> None:
        self._descriptors.pop(descriptor, None)
        real(descriptor)

    def do_pwrite(self, real: Any, descriptor: Any, data: Any, offset: Any) -> Any:
        count = real(descriptor, data, offset)
        if descriptor in self._descriptors:
            self.note("write", self._descriptors[descriptor], offset, bytes(data)[:count])
        return count

    def do_pwritev(self, real: Any, descriptor: Any, views: Any, offset: Any, *flags: Any) -> Any:
        count = real(descriptor, views, offset, *flags)
        if descriptor in self._descriptors:
            self.note("write", self._descriptors[descriptor], offset, b"".join(views)[:count])
        return count

    def do_write(self, real: Any, descriptor: Any, data: Any) -> Any:
        assert descriptor not in self._descriptors, "a write at a position that is not recorded"
        return real(descriptor, data)

    def do_truncate(self, real: Any, path: Any, size: Any) -> None:
        assert self._inside(path) is None, "a truncate that is not recorded"
        real(path, size)

    def do_symlink(self, real: Any, source: Any, path: Any, **keywords: Any) -> None:
        assert self._inside(path) is None, "a symlink that is not recorded"
        real(source, path, **keywords)

    def do_ftruncate(self, real: Any, descriptor: Any, size: Any) -> None:
        real(descriptor, size)
        if descriptor in self._descriptors:
            self.note("size", self._descriptors[descriptor], size)

    def do_fsync(self, real: Any, descriptor: Any) -> None:
        real(descriptor)
        if descriptor in self._descriptors:
            self.note("fsync", self._descriptors[descriptor])

    do_fdatasync = do_fsync

    def do_mkdir(self, real: Any, path: Any, *args: Any, **keywords: Any) -> None:
        real(path, *args, **keywords)
        inside = self._inside(path, keywords.get("dir_fd"))
        if inside is not None:
            self._paths[inside] = next(self._numbers)
            self.note("mkdir", *self._entry(inside), self._paths[inside])

    def do_unlink(self, real: Any, path: Any, **keywords: Any) -> None:
        inside = self._inside(path, keywords.get("dir_fd"))
        real(path, **keywords)
        if inside is not None:
            self.note("remove", *self._entry(inside))
            del self._paths[inside]

    do_remove = do_rmdir = do_unlink

    def do_rename(self, real: Any, source: Any, path: Any, **keywords: Any) -> None:
        old = self._inside(source, keywords.get("src_dir_fd"))
        new = self._inside(path, keywords.get("dst_dir_fd"))
        assert (old is None) == (new is None), "a rename into or out of the folder"
        real(source, path, **keywords)
        if old is not None and new is not None:
            self.note("rename", *self._entry(old), *self._entry(new), self._paths[old])
            self._paths[new] = self._paths.pop(old)

    do_replace = do_rename

    def do_link(self, real: Any, source: Any, path: Any, **keywords: Any) -> None:
        real(source, path, **keywords)
        old, new = self._inside(source, keywords.get("src_dir_fd")), self._inside(path)
        assert (old is None) == (new is None), "a link into or out of the folder"
        if old is not None and new is not None:
            self._paths[new] = self._paths[old]
            self.note("create", *self._entry(new), self._paths[old])


class State:
    """What has surely reached the disk after some events, and what may have."""

    def __init__(self, start: Disk) -> None:
        self._names: dict[Name, int] = {}
        self._content = dict(start.content)
        self._folders = {ROOT}
        # Kind, name or names, number, and folders that no fsync has covered.
        self._pending_names: list[tuple[str, Any, Any, set[int]]] = []
        self._pending: dict[int, list[tuple[str, int, Any]]] = {number: [] for number in start.content}
        self._sizes = {number: len(data) for number, data in start.content.items()}
        # Folders get numbers that no file has.
        numbers = itertools.count(1 + max(start.content, default=0))
        paths = {"": ROOT, **{path: next(numbers) for path in start.folders}, **dict(start.files)}
        self._folders.update(paths[path] for path in start.folders)
        for path, number in paths.items():
            if path:
                folder, name = os.path.split(path)
                self._names[paths[folder], name] = number

    @property
    def numbers(self) -> set[int]:
        """Of all folders and files that ever were."""
        return {*self._content, *self._folders}

    @functools.cached_property
    def paths(self) -> dict[str, int]:
        """The number of each path, as programs see it."""
        return tree(self._named([True] * len(self._pending_names)))

    # Events

    def add(self, event: Event) -> None:
        """Take note of one event."""
        kind, *rest = event
        self.__dict__.pop("paths", None)
        getattr(self, f"_add_{kind}")(*rest)

    def _add_ack(self, *_: object) -> None:
        pass

    def _add_create(self, folder: int, name: str, number: int) -> None:
        if number not in self._content:
            self._content[number], self._pending[number], self._sizes[number] = b"", [], 0
        self._pending_names.append(("add", (folder, name), number, {folder}))

    def _add_mkdir(self, folder: int, name: str, number: int) -> None:
        self._folders.add(number)
        self._pending_names.append(("add", (folder, name), number, {folder}))

    def _add_remove(self, folder: int, name: str) -> None:
        self._pending_names.append(("remove", (folder, name), None, {folder}))

    def _add_rename(self, old_folder: int, old: str, folder: int, name: str, number: int) -> None:
        self._pending_names.append(("rename", ((old_folder, old), (folder, name)), number, {old_folder, folder}))

    def _add_write(self, number: int, offset: int, data: bytes) -> None:
        if offset + len(data) > self._sizes[number]:
            self._add_size(number, offset + len(data))
        self._pending[number].append(("data", offset, data))

    def _add_size(self, number: int, size: int) -> None:
        if size != self._sizes[number]:
            self._pending[number].append(("size", size, None))
        self._sizes[number] = size

    def _add_fsync(self, number: int) -> None:
        if number in self._folders:
            self._sync_folder(number)
        else:
            self._content[number] = self._filled(number, [True] * len(self._pending[number]))
            self._pending[number] = []

    def _add_drop(self, number: int) -> None:
        """An fsync of a file failed: no later one writes its bytes.  (Sizes and names are kept elsewhere.)"""
        if number not in self._folders:
            self._pending[number] = [change for change in self._pending[number] if change[0] == "size"]

    def _sync_folder(self, folder: int) -> None:
        """Names in it are durable; and so are, on the disks that keep the order, those before."""
        self._pending_names = [(*op[:3], set() if folder in op[3] else op[3]) for op in self._pending_names]
        # Only what nothing pending stands before can be forgotten.
        while self._pending_names and not self._pending_names[0][3]:
            self._names = self._named([True])
            del self._pending_names[0]

    # Disks

    def units(self) -> list[Unit]:
        """Return what may be there or not: ("name", its number), or (file, number of its change)."""
        files = set(self._all_files())
        names: list[Unit] = [("name", row) for row, op in enumerate(self._pending_names) if op[3]]
        return names + [(n, row) for n in sorted(files) for row in range(len(self._pending[n]))]

    def first_free_name(self) -> int:
        """Return up to where names are there in any case, on a disk that keeps their order."""
        return max((row + 1 for row, op in enumerate(self._pending_names) if not op[3]), default=0)

    def _all_files(self) -> set[int]:
        named = {*self._names.values(), *(op[2] for op in self._pending_names)}
        return named & set(self._content)

    def disk(self, kept: Collection[Unit], torn: random.Random | None = None) -> Disk:
        """Return the disk on which of all units only those in `kept` are there, some of them torn by `torn`."""
        names = self._named([not op[3] or ("name", row) in kept for row, op in enumerate(self._pending_names)])
        folders: list[str] = []
        files: list[tuple[str, int]] = []
        content: dict[int, bytes] = {}
        for path, number in sorted(tree(names).items()):
            if number in self._folders:
                folders.append(path)
            else:
                files.append((path, number))
                if number not in content:
                    chosen = [(number, row) in kept for row in range(len(self._pending[number]))]
                    content[number] = self._filled(number, chosen, torn)
        return Disk(tuple(folders), tuple(files), content)

    def describe(self, kept: Collection[Unit]) -> str:
        """Return in words what is lost."""
        names = {number: path for path, number in self.paths.items()}
        words = []
        for unit in self.units():
            if unit in kept:
                continue
            number, row = unit
            if number == "name":
                kind, where, _, _ = self._pending_names[row]
                words.append(f"{kind} {where[-1][1] if kind == 'rename' else where[1]}")
            else:
                kind, at, data = self._pending[number][row]
                what = f"{at}+{len(data)}" if kind == "data" else f"size {at}"
                words.append(f"{names.get(number, number)} {what}")
        return f"lost: {'; '.join(words) or 'nothing'}"

    def _named(self, chosen: Iterable[bool]) -> dict[Name, int]:
        names = dict(self._names)
        for (kind, where, number, _), is_kept in zip(self._pending_names, chosen, strict=False):
            if not is_kept:
                continue
            if kind == "rename":
                if names.get(where[0]) == number:
                    del names[where[0]]
                names[where[1]] = number
            elif kind == "add":
                names[where] = number
            else:
                names.pop(where, None)
        return names

    def _filled(self, number: int, chosen: Iterable[bool], torn: random.Random | None = None) -> bytes:
        content = bytearray(self._content[number])
        size = len(content)
        for (kind, at, data), is_kept in zip(self._pending[number], chosen, strict=True):
            if not is_kept:
                continue
            if kind == "size":
                del content[at:]
                size = at
                continue
            content.extend(bytes(max(0, at + len(data) - len(content))))
            for low, high in _sectors(at, len(data)) if torn is not None else [(0, len(data))]:
                if torn is None or torn.random() < 0.5:
                    content[at + low : at + high] = data[low:high]
        return bytes(content[:size].ljust(size, b"\0"))


def _sectors(offset: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """Cut a write where sectors meet: ranges in its data."""
    at = 0
    while at < nbytes:
        end = min(nbytes, at + SECTOR - (offset + at) % SECTOR)
        yield at, end
        at = end


def choices(state: State, random: random.Random, most: int, any_names: bool) -> Iterator[tuple[set[Unit], bool]]:
    """Return sets of units that are there, and whether to tear them: all if they are few, or else a sample.

    A sample has: nothing, everything, each lost or there alone, everything up to each, and random ones.
    """
    units = state.units()
    first = 0 if any_names else state.first_free_name()
    names = [unit for unit in units if unit[0] == "name"]
    forced = {unit for unit in names if unit[1] < first}
    names = [unit for unit in names if unit not in forced]
    data = [unit for unit in units if unit[0] != "name"]
    named: Sequence[Collection[Unit]] = [names[:count] for count in range(len(names) + 1)]
    if any_names and len(names) < 8:
        named = _subsets(names)
    if len(named) * 2 ** len(data) <= most:
        for few, others in itertools.product(named, _subsets(data)):
            yield {*forced, *few, *others}, False
    else:
        yield from ((kept | forced, False) for kept in _corners(names, data, any_names))
        for number in range(most):
            share = random.choice((0.15, 0.5, 0.85))
            if any_names:
                some: Collection[Unit] = [unit for unit in names if random.random() < share]
            else:
                some = random.choice(named)
            yield {*forced, *some, *(unit for unit in data if random.random() < share)}, bool(number % 2)
    yield {*forced, *names, *data}, True


def _corners(names: list[Unit], data: list[Unit], any_names: bool) -> Iterator[set[Unit]]:
    everything = {*names, *data}
    yield set()
    yield everything
    yield set(names)
    yield set(data)
    for unit in data + (names if any_names else []):
        yield everything - {unit}
        yield {unit}
        yield {unit, *names}
    for count in range(len(names)):
        yield {*names[:count], *data}
        yield set(names[:count])
    for count in range(len(data)):
        yield {*names, *data[:count]}


def _subsets(units: Sequence[Unit]) -> list[set[Unit]]:
    return [set(some) for count in range(len(units) + 1) for some in itertools.combinations(units, count)]


def disks_after(
    recorder: Recorder,
    random: random.Random,
    most: int,
    *,
    any_names: bool = False,
    prefixes: Collection[int] | None = None,
) -> Found:
    """Return every disk that may be left when the power fails, by its key.

    Each comes with the events that had happened, and what was lost; of those that are equal, the last.

    Parameters
    ----------
    recorder : Recorder
        What was done.
    random : random.Random
        Chooses among subsets where they are more than `most`.
    most : int
        How many to make at each instant, about.
    any_names : bool
        Whether names reach the disk in any order.
    prefixes : collection of int, optional
        After which numbers of events; after each by default.

    Returns
    -------
    dict
        (disk, number of events, function that describes it) by key.
    """
    state = State(recorder.start)
    found: Found = {}
    for count in range(len(recorder.events) + 1):
        if prefixes is None or count in prefixes:
            for kept, is_torn in choices(state, random, most, any_names):
                disk = state.disk(kept, random if is_torn else None)
                found[disk.key] = (disk, count, f"{state.describe(kept)}{', torn' if is_torn else ''}")
        if count < len(recorder.events):
            state.add(recorder.events[count])
    return found
