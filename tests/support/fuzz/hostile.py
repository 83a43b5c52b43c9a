"""What can be wrong with side files: by accident, and on purpose."""

import copy
import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dask_chunkio.storage.journal.checksum import checksum
from dask_chunkio.storage.journal.records import (
    CREATED,
    FILLED,
    FINISHED,
    OWNER,
    REDO,
    RESERVED,
    VERSION,
    pack_record,
    read_records,
)
from dask_chunkio.storage.journal.redo_record import RedoRecord

NUMBERS = [0, 1, 2, 3, 7, 100, 4096, 1 << 20, 1 << 29, 1 << 31, 1 << 32, 1 << 40, 1 << 48]
NUMBERS += [(1 << 61) - 1, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
PATHS = ["../elsewhere/new", "/../../elsewhere/new", "/old", "/a", "/", ".", "..", "", "//", "/x/../old", "/x", "/g"]
WORDS = [*PATHS, "\0", "/x\0y", "\ud800", "x" * 100_000, "/" * 5000, "__reduce__", "$(touch elsewhere/new)", "é\u202e"]
VALUES: list[Any] = [None, True, False, -1, 1.5, 10**30, -(10**30), [], {}, [[]], [None], "x"]
VALUES += [[1, 2], [0, 0], [-1, -1], [1 << 40] * 2]
JSONS = [
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"1" * 5000,
    b"NaN",
    b"-Infinity",
    b'{"version": NaN}',
    b'{"version": 1e999}',
    b"\xff\xfe\x00",
    b'"\\ud800"',
    b"null",
    b"[]",
    b"{}",
    b"0",
    b"",
    b" " * 100_000,
]


def damaged(draw: random.Random, whole: bytes) -> bytes:
    """Change bytes as a bad disk would."""
    data = bytearray(whole)
    kind = draw.choice(["flip", "flip", "flip", "cut", "cut", "zero", "append", "prepend", "random", "double", "holes"])
    at = draw.randrange(len(data) + 1)
    if kind == "flip" and data:
        for _ in range(draw.choice([1, 1, 1, 2, 8, 100])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "zero":
        end = min(len(data), at + draw.choice([1, 8, 64, 512]))
        data[at:end] = bytes(end - at)
    elif kind == "append":
        data += draw.randbytes(draw.choice([1, 23, 24, 100])) if draw.random() < 0.5 else bytes(512)
    elif kind == "prepend":
        data[:0] = draw.randbytes(draw.choice([1, 24]))
    elif kind == "random":
        data = bytearray(draw.randbytes(draw.choice([0, 1, 24, 500])))
    elif kind == "double":
        data *= 2
    elif kind == "holes":
        del data[at : at + draw.choice([1, 24, 100])]
    return bytes(data)


# Records with the right checksum, in the format that docs/side_files.md describes

Bodies = list[tuple[int, bytes]]
HEADER, SUM = struct.Struct("<4sHHQ"), struct.Struct("<Q")
# The head of a transaction, and that of a run in it.
HEAD, RUN = struct.Struct("<7Q"), struct.Struct("<2Q")


def of_version(version: int, kind: int, body: bytes) -> bytes:
    """A whole record of any version of the format."""
    header = HEADER.pack(b"DCIO", version, kind, len(body))
    return header + SUM.pack(checksum(header, body)) + body


# Damage in the wrong place would be found by every reader.
assert (
    of_version(VERSION, REDO, HEAD.pack(1, 2, 3, 3, 0, 0, 1) + b"ab" + RUN.pack(0, 3) + b"cdefgh")
    == RedoRecord(1, b"ab", 3, 3, [(0, b"cde")], [b"fgh"]).pack()
), "the format is another one"


def bodies(data: bytes) -> Bodies:
    return [(kind, body) for kind, _, body in read_records(data, "x")]


def joined(found: Bodies) -> bytes:
    return b"".join(pack_record(kind & 0xFFFF, body) for kind, body in found)


def shuffled(draw: random.Random, data: bytes) -> bytes:
    """Records that are whole, and not those that were written."""
    found = bodies(data)
    if not found:
        return data
    at, other = draw.randrange(len(found)), draw.randrange(len(found))
    kind = draw.choice(["delete", "repeat", "swap", "version", "kind", "shuffle", "again", "insert"])
    if kind == "delete":
        del found[at]
    elif kind == "repeat":
        found.insert(other, found[at])
    elif kind == "swap":
        found[at], found[other] = found[other], found[at]
    elif kind == "shuffle":
        draw.shuffle(found)
    elif kind == "again":
        found += found
    elif kind == "insert":
        kinds = [0, CREATED, RESERVED, REDO, OWNER, FILLED, FINISHED, 99]
        found.insert(at, (draw.choice(kinds), draw.choice([b"", b"{}", draw.randbytes(40), found[other][1]])))
    elif kind == "kind":
        found[at] = draw.choice([0, CREATED, RESERVED, REDO, OWNER, FILLED, FINISHED, 99]), found[at][1]
    elif kind == "version":
        versions = [of_version(VERSION, *one) for one in found]
        versions[at] = of_version(draw.choice([0, 1, 2, 4, 65535]), *found[at])
        return b"".join(versions)
    return joined(found)


def forged_journal(draw: random.Random, data: bytes) -> bytes:
    """Records that say what cannot be."""
    found = bodies(data)
    if not found:
        return data
    at = draw.randrange(len(found))
    kind, body = found[at]
    found[at] = kind, (forged_json if kind in (CREATED, OWNER) else forged_numbers)(draw, body)
    return joined(found)


def forged_numbers(draw: random.Random, whole: bytes) -> bytes:
    """Other numbers of eight bytes, or another length."""
    body = bytearray(whole)
    if len(body) < 8 or draw.random() < 0.15:
        return bytes(body[: draw.randrange(len(body) + 1)]) + draw.choice([b"", b"\0", bytes(8), bytes(40)])
    for _ in range(draw.choice([1, 1, 2, 5])):
        at = 8 * draw.randrange(len(body) // 8)
        (was,) = struct.unpack_from("<Q", body, at)
        value = draw.choice([*NUMBERS, was + 1, was - 1, was * 2, was + 2048, was - 512]) % (1 << 64)
        struct.pack_into("<Q", body, at, value)
    return bytes(body)


def forged_log(draw: random.Random, data: bytes) -> bytes:
    """A transaction that was never taken; in half of them only the numbers at its head are wrong."""
    if not (found := bodies(data)):
        return pack_record(draw.choice([REDO, REDO, RESERVED, 99]), draw.randbytes(draw.choice([0, 56, 500])))
    kind, body = found[0]
    if draw.random() < 0.1:
        return pack_record(draw.choice([0, RESERVED, OWNER, 99]), body)
    if draw.random() < 0.1:
        return of_version(draw.choice([1, 3, 65535]), kind, body)
    if draw.random() < 0.5:
        return pack_record(kind, forged_numbers(draw, body[: HEAD.size]) + body[HEAD.size :])
    try:
        _, length, *_, count = HEAD.unpack_from(body)
        at, heads = HEAD.size + length, []
        for _ in range(count):
            heads.append(at)
            at += RUN.size + RUN.unpack_from(body, at)[1]
        at = draw.choice(heads) + 8 * draw.randrange(2)
    except (struct.error, OverflowError, IndexError):  # forged before
        return data
    forged = bytearray(body)
    struct.pack_into("<Q", forged, at, draw.choice(NUMBERS))
    return pack_record(kind, bytes(forged))


def forged_json(draw: random.Random, data: bytes) -> bytes:
    """Other values, keys and depths; or something else."""
    if draw.random() < 0.15:
        return draw.choice(JSONS)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):  # damaged before
        return data
    for _ in range(draw.choice([1, 1, 2])):
        if not list(_nodes(found)):
            break
        holder, key = draw.choice(list(_nodes(found)))
        kind = draw.choice(["value", "value", "word", "delete", "add", "number", "word"])
        if kind == "delete":
            del holder[key]
        elif kind == "add" and isinstance(holder, dict):
            holder[draw.choice(["__class__", "other", "", "version"])] = copy.deepcopy(draw.choice(VALUES))
        elif kind == "number":
            holder[key] = draw.choice(NUMBERS) * draw.choice([1, -1])
        elif kind == "word":
            holder[key] = draw.choice(WORDS)
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    return json.dumps(found).encode()


def _nodes(found: Any) -> Iterator[tuple[Any, Any]]:
    keys: Iterable[Any] = found if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ()
    for key in keys:
        yield found, key
        yield from _nodes(found[key])


# What somebody would forge who knows the format


GROUPS = ["/a", "/old", "/a/deflated", "", "/", ".", "..", "/.dask_chunkio-", "a", "/g", "/.dask_chunkio-x/../a"]
NAMES = ["/old", "/a/deflated", "/a", "/", "", "/x/../old", "../../elsewhere/new", "/\0", "/\ud800"]
SHAPES = [[2**40, 8], [2**31, 2**31], [0, 8], [10**9, 8], [], [12], [-12, 8], [12, 8, 1], [2**63, 1]]
CHUNKS = [[0, 0], [1, 1], [2**40, 4], [], [-2, 4], [2.5, 4]]
SOMEBODY = (
    b'{"write_id": "x", "epoch": 9, "host": "h", "pid": 1, "user": "u", "started": "2026-11-23 08:13:02 +0000", '
    b'"exclusive": false}'
)


# A name, and what to do with the folder.
Forgery = tuple[str, Callable[[Path], object]]


def forgeries() -> list[Forgery]:
    """(name, what to do with the folder) of lies that no checksum shows."""
    return [*_forged_creations(), *_forged_places(), *_forged_endings(), *_forged_manifests()]


def _forged_creations() -> Iterator[Forgery]:
    yield from ((f"the group {group!r}", _in_created(_with(group=group))) for group in GROUPS)
    yield from ((f"the name {name!r}", _in_created(_renamed(name))) for name in NAMES)
    yield from ((f"the shape {shape}", _in_created(_changed(shape=shape))) for shape in SHAPES)
    yield from ((f"the chunks {chunks}", _in_created(_changed(chunks=chunks))) for chunks in CHUNKS)
    yield "in one piece", _in_created(_changed(is_chunked=False))
    yield "without datasets", _in_created(_with(datasets=[]))
    yield "a thousand datasets", _in_created(lambda found: {**found, "datasets": found["datasets"] * 500})


def _forged_places() -> Iterator[Forgery]:
    for place in (0, 8, 96, 512, 2048, 4096, 1 << 40, (1 << 62) - 1):
        yield f"payloads at {place}", _in_reserved(1, place)
    for nbytes in (0, 1, 7, 1 << 20, 1 << 30, 1 << 40, (1 << 62) - 1):
        yield f"payloads of {nbytes} bytes", _in_reserved(2, nbytes)
    yield "payloads of no bytes at 0", lambda folder: (_in_reserved(2, 0)(folder), _in_reserved(1, 0)(folder))
    yield "another mask", _in_reserved(4, 1)
    for chunk in (0, 1, 11, 12, (1 << 64) - 1):
        yield f"chunk {chunk} everywhere", _in_reserved(0, chunk)


def _forged_endings() -> Iterator[Forgery]:
    for kind in (RESERVED, FILLED):
        yield f"a place of {kind} for no chunk", _append(kind, bytes(32))
    yield "nothing left to do", _append(FINISHED, b"")
    yield "another owner", _append(OWNER, SOMEBODY)
    yield "an endless epoch", _append(OWNER, SOMEBODY.replace(b"9", b"9" * 4000))


def _forged_manifests() -> Iterator[Forgery]:
    yield from ((f"the mode {mode}", _in_manifest(mode=mode)) for mode in ("new", "existing"))
    yield "another target", _in_manifest(target="../elsewhere/other.h5")
    for out in ("../elsewhere/new.h5", "elsewhere/new.h5", "out.h5/../elsewhere/new.h5", "elsewhere/other.h5"):
        yield f"a command for {out}", _in_manifest(command=["source.npy", f"{out}:/x", "--overwrite"])
    yield "a command for itself", _in_manifest(command=["source.npy", "out.h5:/x", "--resume"])
    yield "a command from elsewhere", _in_manifest(command=["source.npy", "out.h5:/x"], folder="elsewhere")
    yield "no command", _in_manifest(command=["--help"])
    yield "code for a command", _in_manifest(command=["$(touch new)", "`touch new`", "; touch new", "\0"])


def _with(**values: Any) -> Callable[..., Any]:
    return lambda found: {**found, **values}


def _changed(**values: Any) -> Callable[..., Any]:
    return lambda found: {**found, "datasets": [{**one, **values} for one in found["datasets"]]}


def _renamed(name: str) -> Callable[..., Any]:
    return lambda found: {**found, "datasets": [{**found["datasets"][0], "name": name}, *found["datasets"][1:]]}


def _in_journal(change: Callable[[int, bytes], bytes]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        journal = folder / "journal"
        journal.write_bytes(joined([(kind, change(kind, body)) for kind, body in bodies(journal.read_bytes())]))

    return act


def _in_created(change: Callable[..., Any]) -> Callable[[Path], None]:
    def forged(kind: int, body: bytes) -> bytes:
        return json.dumps(change(json.loads(body))).encode() if kind == CREATED else body

    return _in_journal(forged)


def _in_reserved(field: int, value: int) -> Callable[[Path], None]:
    def forged(kind: int, body: bytes) -> bytes:
        if kind != RESERVED:
            return body
        changed = bytearray(body)
        for at in range(32 + 8 * field, len(changed), 40):
            struct.pack_into("<Q", changed, at, value)
        return bytes(changed)

    return _in_journal(forged)


def _append(kind: int, body: bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        with open(folder / "journal", "ab") as journal:
            journal.write(pack_record(kind, body))

    return act


def _in_manifest(**values: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        manifest = folder / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **values}))

    return act


# Something else in place of a file


def link_to_file(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "file")


def link_to_nothing(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "new")


def relative_link(path: Path, outside: Path) -> None:
    path.symlink_to(os.path.relpath(outside / "file", path.parent))


def link_to_hdf5(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "other.h5")


def link_to_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "folder")


def link_to_itself(path: Path, outside: Path) -> None:  # noqa: ARG001
    path.symlink_to(path)


def link_to_zeros(path: Path, outside: Path) -> None:  # noqa: ARG001
    path.symlink_to("/dev/zero")


def pipe(path: Path, outside: Path) -> None:  # noqa: ARG001
    os.mkfifo(path)


def empty_folder(path: Path, outside: Path) -> None:  # noqa: ARG001
    path.mkdir()


def full_folder(path: Path, outside: Path) -> None:  # noqa: ARG001
    path.mkdir()
    (path / "manifest.json").write_text("{}")


def socket_of_another(path: Path, outside: Path) -> None:  # noqa: ARG001
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.path.relpath(path))


def huge(path: Path, outside: Path) -> None:  # noqa: ARG001
    path.write_bytes(b"DCIO")
    os.truncate(path, 1 << 40)


def nothing(path: Path, outside: Path) -> None:
    pass


def empty(path: Path, outside: Path) -> None:  # noqa: ARG001
    path.touch()


STAND_INS: dict[str, Callable[[Path, Path], None]] = {
    made.__name__: made
    for made in (
        link_to_file, link_to_nothing, relative_link, link_to_hdf5, link_to_folder, link_to_itself, link_to_zeros, pipe,
        empty_folder, full_folder, socket_of_another, huge, nothing, empty,
    )
}  # fmt: skip


def replace(path: Path, kind: str, outside: Path) -> None:
    """Put something else in place of a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        # A link to a folder that looks like ours is the worst of them.
        path.rename(outside / "moved")
        if kind == "link_to_folder":
            path.symlink_to(outside / "moved")
            return
    elif os.path.lexists(path):
        path.unlink()
    STAND_INS[kind](path, outside)
