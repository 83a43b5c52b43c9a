"""Where the metadata of a file are: what HDF5 reads of it, to find all objects and all chunks."""

import io
import os
from typing import Any

import h5py


class NotingFile(io.FileIO):
    """A file that notes what is read, as start and stop."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(os.fspath(path))
        self.ranges: list[tuple[int, int]] = []

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = super().readinto(buffer)
        self.ranges.append((start, start + count))
        return count


def page_nbytes(path: str | os.PathLike[str]) -> int:
    with h5py.File(path) as file:
        return int(file.id.get_create_plist().get_file_space_page_size())


def metadata_end(path: str | os.PathLike[str]) -> int:
    """Return the end of the last byte that is read to list all objects, their attributes and their chunks."""
    with NotingFile(path) as noting, h5py.File(noting, "r") as file:

        def visit(_name: str, found: Any) -> None:
            list(found.attrs)
            if isinstance(found, h5py.Dataset) and found.chunks:
                found.id.chunk_iter(lambda _: None)

        file.visititems(visit)
        return max(stop for _, stop in noting.ranges)


def chunk_offsets(path: str | os.PathLike[str], name: str) -> list[int]:
    with h5py.File(path) as file:
        dataset = file[name].id
        return [dataset.get_chunk_info(number).byte_offset for number in range(dataset.get_num_chunks())]
