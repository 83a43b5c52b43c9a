"""Files of many kinds whose metadata are damaged on purpose: what HDF5 protects by a checksum gets a new one."""

from __future__ import annotations

import ctypes
import functools
import importlib
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.support.fuzz import finished_files
from tests.support.metadata import NotingFile
from tests.support.repack.files import FILES

# Blocks that end with a checksum.
_SIGNS = (
    b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTLF", b"BTIN", b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EADB",
    b"FSHD", b"FSSE", b"SMTB", b"SMLI", b"\x89HDF\r\n\x1a\n\2", b"\x89HDF\r\n\x1a\n\3",
)  # fmt: skip
_MOST_BLOCK, _MOST_BLOCKS = 2048, 60
_NUMBERS = [0, 1, 2, 3, 127, 255, 1 << 15, (1 << 16) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 60, 1 << 62, 1 << 63]
_NUMBERS += [(1 << 64) - 1, (1 << 63) - 1]


@dataclass(frozen=True, slots=True)
class Template:
    """A file that is not damaged.

    Parameters
    ----------
    name : str
        Its kind.
    data : bytes
        Its content.
    places : tuple of tuple of int
        Start and stop of what HDF5 reads to find all objects, attributes and chunks.
    blocks : tuple of tuple of int
        Start of each block that ends with a checksum, and place of that checksum.
    datasets : tuple of str
        Its datasets.
    """

    name: str
    data: bytes
    places: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[int, int], ...]
    datasets: tuple[str, ...]


def templates(folder: Path, kinds: int) -> list[Template]:
    """Make one file of each kind that the installed libraries can make, up to `kinds` of them."""
    finished_files.make_all(folder)
    for name, (modules, make) in list(FILES.items())[: max(0, kinds - 3)]:
        try:
            for module in modules:
                importlib.import_module(module)
            make(folder / f"{name.replace(' ', '_').replace(',', '')}.h5")
        except (ImportError, FileNotFoundError):  # a library, or h5repack
            continue
    return [_template(path) for path in sorted(folder.glob("*.h5"))]


def _template(path: Path) -> Template:
    data, names = path.read_bytes(), []
    with NotingFile(path) as noting, h5py.File(noting, "r") as file:

        def visit(name: str, found: Any) -> None:
            for key in found.attrs:
                _ = found.attrs[key]
            if isinstance(found, h5py.Dataset) and found.shape is not None:
                names.append(f"/{name}")
                if found.chunks:
                    found.id.chunk_iter(lambda _: None)

        file.visititems(visit)
        places = tuple(sorted({(start, stop) for start, stop in noting.ranges if start < stop <= len(data)}))
    return Template(path.stem, data, places, tuple(_blocks(data)), tuple(names))


def _blocks(data: bytes) -> Iterator[tuple[int, int]]:
    count = 0
    for sign in _SIGNS:
        at = data.find(sign)
        while at != -1 and count < _MOST_BLOCKS:
            if (end := _checksum_place(data, at)) is not None:
                count += 1
                yield at, end
            at = data.find(sign, at + 1)


def _checksum_place(data: bytes, start: int) -> int | None:
    for end in range(start + 12, min(start + _MOST_BLOCK, len(data) - 4)):
        if struct.unpack_from("<I", data, end)[0] == checksum(data[start:end]):
            return end
    return None


def checksum(data: bytes) -> int:
    """Return HDF5's checksum of metadata."""
    return int(_library().H5_checksum_metadata(data, len(data), 0))


@functools.cache
def _library() -> Any:
    library = ctypes.CDLL(h5py.defs.__file__)
    library.H5_checksum_metadata.restype = ctypes.c_uint32
    library.H5_checksum_metadata.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32)
    return library


def damage(draw: random.Random, template: Template) -> bytes:
    """Return a damaged file."""
    data = bytearray(template.data)
    for _ in range(draw.choice([1, 1, 1, 1, 2, 3, 8])):
        _damage_once(draw, template, data)
    for start, end in template.blocks:
        is_changed = data[start:end] != template.data[start:end]
        if end + 4 <= len(data) and is_changed and draw.random() < 0.9:
            struct.pack_into("<I", data, end, checksum(bytes(data[start:end])))
    return bytes(data)


def _damage_once(draw: random.Random, template: Template, data: bytearray) -> None:
    start, stop = draw.choice(template.blocks if template.blocks and draw.random() < 0.4 else template.places)
    at = min(draw.randrange(start, min(stop, start + 4096)), len(data) - 9)
    kind = draw.choice(["flip", "flip", "byte", "number", "number", "address", "address", "copy", "zero", "cut"])
    if kind == "flip":
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "byte":
        data[at] = draw.choice([0, 1, 127, 128, 254, 255, draw.randrange(256)])
    elif kind == "number":
        width = draw.choice([2, 4, 8])
        data[at : at + width] = struct.pack("<Q", draw.choice(_NUMBERS))[:width]
    elif kind == "address":  # of another block, or of the block itself: cycles
        _point_elsewhere(draw, template, data, start, at)
    elif kind == "copy":
        source, nbytes = draw.choice(template.places)[0], draw.choice([8, 32, 128])
        data[at : at + nbytes] = data[source : source + len(data[at : at + nbytes])]
    elif kind == "zero":
        nbytes = min(draw.choice([1, 8, 64]), len(data) - at)
        data[at : at + nbytes] = bytes(nbytes)
    elif draw.random() < 0.4:
        del data[max(at, 200) :]
        data += bytes(16)


def _point_elsewhere(draw: random.Random, template: Template, data: bytearray, start: int, at: int) -> None:
    known = {one for one, _ in template.places}
    block = range(max(0, at - 64), min(at + 64, len(data) - 8))
    found = [place for place in block if struct.unpack_from("<Q", data, place)[0] in known - {0}]
    target = draw.choice([start, draw.choice(sorted(known)), len(data) - 4, len(data) + 4096])
    struct.pack_into("<Q", data, draw.choice(found) if found else min(at, len(data) - 8), target)


def hostile_files(folder: Path, outside: Path) -> list[Path]:
    """Write files that are valid, and made to harm whoever reads them.

    Parameters
    ----------
    folder : Path
        Where they are made.
    outside : Path
        A file elsewhere, to which they point.
    """
    made = []
    for name, make in (("huge", _huge), ("loops", _loops), ("outside", _outside)):
        path = folder / f"{name}.h5"
        with h5py.File(path, "w") as file:
            make(file, outside)
        made.append(path)
    return made


def _huge(file: h5py.File, outside: Path) -> None:  # noqa: ARG001
    file.create_dataset("chunked", (1 << 60,), "u1", chunks=(1 << 10,), maxshape=(None,))
    file.create_dataset("wide", (1 << 40, 1 << 20), "<f8", chunks=(1 << 10, 1 << 4), compression="gzip")
    file.create_dataset("late", (1 << 60,), "u1")


def _loops(file: h5py.File, outside: Path) -> None:  # noqa: ARG001
    group = file.create_group("a/b/c")
    group["up"], group["self"], group["root"] = file["a"], group, file["/"]
    group["soft"], group["again"] = h5py.SoftLink("/a/b/c/again"), h5py.SoftLink("/a/b/c/soft")
    file["x"] = np.arange(10)


def _outside(file: h5py.File, outside: Path) -> None:
    file["link"] = h5py.ExternalLink(str(outside), "/x")
    file["device"] = h5py.ExternalLink("/dev/zero", "/x")
    file.create_dataset("external", (10,), "u1", external=[(str(outside), 0, 10)])
    layout = h5py.VirtualLayout((10,), "u1")
    layout[:] = h5py.VirtualSource(str(outside), "x", (10,))
    file.create_virtual_dataset("virtual", layout)
