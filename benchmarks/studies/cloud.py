"""Requests that open a file over HTTP, with and without ``layout="cloud"``: python -m benchmarks.studies.cloud.

A server of this process answers ranges of two files that hold the same chunks, and notes each request.  Every reader
opens the file and lists the whole chunk index; then, from the beginning, it opens the file and reads one chunk.  A
request counts as one for metadata if its range has a byte of metadata; which bytes those are, HDF5 shows when it reads
the local file.  The request for the size of the file counts, too.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import fsspec
import h5netcdf
import h5py
import numpy as np
import pyfive

import dask_chunkio
from benchmarks.studies.measure import add_usual_options, machine, markdown_table, save, working_folder

ELEMENTS = 2048
_MOST_REQUESTS = 3
Range = tuple[int, int]


class Numbers(dask_chunkio.GenericDataChunkIterator):
    """Numbers that differ from chunk to chunk."""

    def __init__(self, chunks: int) -> None:
        self._length = chunks * ELEMENTS
        super().__init__(chunk_shape=(ELEMENTS,))

    def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        (part,) = selection
        return np.arange(part.start, part.stop).astype("<u2")

    def _get_maxshape(self) -> tuple[int]:
        return (self._length,)

    def _get_dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2")


class Noting(FileIO):
    """A local file that notes what is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ranges: list[Range] = []

    def readinto(self, buffer: Any) -> int:
        """Read and note the range."""
        at = self.tell()
        count = super().readinto(buffer)
        self.ranges.append((at, at + count))
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise small answers wait for the acknowledgement of their headers.
    wbufsize = -1

    def __init__(self, folder: Path, noted: list[Range], *args: Any) -> None:
        self._folder, self._noted = folder, noted
        super().__init__(*args)

    def do_HEAD(self) -> None:
        """Answer with the size."""
        size = os.path.getsize(self._file)
        self._noted.append((0, 0))
        self._head(200, size)

    def do_GET(self) -> None:
        """Answer with a range."""
        size = os.path.getsize(self._file)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        stop = min(size, int(found[2]) + 1) if found and found[2] else size
        self._noted.append((start, stop))
        self._head(206 if found else 200, stop - start, f"bytes {start}-{stop - 1}/{size}" if found else "")
        with open(self._file, "rb") as file:
            file.seek(start)
            self.wfile.write(file.read(stop - start))

    @property
    def _file(self) -> Path:
        return self._folder / Path(self.path).name

    def _head(self, code: int, length: int, content_range: str = "") -> None:
        self.send_response(code)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[Range]]]:
    """Serve a folder on the loopback; yield its address and the list of the ranges that are asked for."""
    noted: list[Range] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder, noted)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", noted
        finally:
            server.shutdown()
            thread.join()


# Readers: each lists all chunks, or reads the last one.


def by_h5py(file: Any, what: str, **keywords: Any) -> Any:
    """Read with h5py."""
    with h5py.File(file, "r", **keywords) as opened:
        return _of_h5py(opened["x"], what)


def by_h5netcdf(file: Any, what: str) -> Any:
    """Read with h5netcdf."""
    with h5netcdf.File(file, "r", phony_dims="sort") as opened:
        variable = opened["x"]
        return variable[-ELEMENTS:] if what == "read" else _of_h5py(variable._h5ds, what)


def by_pyfive(file: Any, what: str) -> Any:
    """Read with pyfive."""
    with pyfive.File(file) as opened:
        dataset = opened["x"]
        return dataset[-ELEMENTS:] if what == "read" else dataset.id.get_num_chunks()


def _of_h5py(dataset: Any, what: str) -> Any:
    if what == "read":
        return dataset[-ELEMENTS:]
    found: list[int] = []
    dataset.id.chunk_iter(lambda info: found.append(info.byte_offset))
    return len(found)


@dataclass(frozen=True, slots=True)
class Row:
    """The requests of one reader for one file."""

    layout: str
    reader: str
    cache: str
    listed: int
    fetched_nbytes: int
    read: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print a table, and say whether the target is met."""
    options = _parse(argv)
    chunks = 2000 if options.tiny else options.chunks
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder(options.folder, 3 * chunks * ELEMENTS * 2))
        pages = {name: _write(folder, name, chunks) for name in ("default", "cloud")}
        url, noted = stack.enter_context(served(folder))
        rows = [
            row for name in pages for row in _rows(folder / f"{name}.h5", f"{url}/{name}.h5", noted, pages["cloud"])
        ]
    table = markdown_table(_HEAD, [_cells(row) for row in rows])
    words = _verdicts(rows)
    text = "\n".join((f"{machine()}; {chunks} chunks, pages of {pages['cloud']} bytes.", "", table, "", *words))
    print(text)
    save(text, [{name: getattr(row, name) for name in Row.__slots__} for row in rows], options.markdown, options.json)
    return 0 if all(word.startswith("PASS") for word in words) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.cloud", description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000, help="number of chunks of 4 kB (default: 100000)")
    add_usual_options(parser)
    return parser.parse_args(argv)


def _write(folder: Path, name: str, chunks: int) -> int:
    """Write one file, and return the size of its pages."""
    layout: Literal["cloud"] | None = "cloud" if name == "cloud" else None
    path = folder / f"{name}.h5"
    dask_chunkio.to_hdf5(str(path), "/x", Numbers(chunks), layout=layout, progress=False, scheduler="threads")
    with h5py.File(path, "r") as file:
        return int(file.id.get_create_plist().get_file_space_page_size())


def metadata_of(path: Path) -> list[Range]:
    """Return the ranges of all metadata of a file, in order."""
    noting = Noting(path)
    by_h5py(noting, "list")
    return sorted(noting.ranges)


def _rows(path: Path, url: str, noted: list[Range], page: int) -> Iterator[Row]:
    metadata = metadata_of(path)
    layout = path.stem
    readers: dict[str, Callable[..., Any]] = {"h5py": by_h5py, "h5netcdf": by_h5netcdf, "pyfive": by_pyfive}
    caches: dict[str, dict[str, Any]] = {
        "none": {"cache_type": "none"},
        "fsspec's default": {},
        f"blocks of {page >> 10} KiB": {"cache_type": "blockcache", "block_size": page},
    }
    for reader, read in readers.items():
        for cache, keywords in caches.items():
            yield _row((layout, reader, cache), partial(_opened, url, keywords), read, noted, metadata)
    if layout == "cloud":
        buffered = partial(by_h5py, page_buf_size=page)
        names = layout, f"h5py, page_buf_size={page}", "none"
        yield _row(names, partial(_opened, url, {"cache_type": "none"}), buffered, noted, metadata)


def _opened(url: str, keywords: dict[str, Any]) -> Any:
    # A new instance asks for the size of the file again.
    files = fsspec.filesystem("http", skip_instance_cache=True)
    return files.open(url, **keywords)


def _row(
    names: tuple[str, str, str],
    opened: Callable[[], Any],
    read: Callable[..., Any],
    noted: list[Range],
    metadata: list[Range],
) -> Row:
    counts, nbytes = {}, 0
    for what in ("list", "read"):
        noted.clear()
        with opened() as file:
            read(file, what)
        of_metadata = [one for one in noted if _has_metadata(one, metadata)]
        counts[what] = len(noted) if what == "read" else len(of_metadata)
        if what == "list":
            nbytes = sum(stop - start for start, stop in of_metadata)
    return Row(*names, counts["list"], nbytes, counts["read"])


def _has_metadata(asked: Range, metadata: list[Range]) -> bool:
    """Return whether a request was for metadata; that for the size of the file counts as one."""
    start, stop = asked
    if stop == 0:
        return True
    at = bisect_left(metadata, (start, start))
    before = at > 0 and metadata[at - 1][1] > start
    return before or (at < len(metadata) and metadata[at][0] < stop)


_HEAD = (
    "layout", "reader", "cache of the file", "requests for metadata: all chunks", "MB of them",
    "requests in all: one chunk is read",
)  # fmt: skip


def _cells(row: Row) -> tuple[str, ...]:
    counts = str(row.listed), f"{row.fetched_nbytes / 1e6:.1f}", str(row.read)
    return (row.layout, row.reader, row.cache, *counts)


def _verdicts(rows: Sequence[Row]) -> list[str]:
    found = []
    for row in rows:
        if row.layout == "cloud" and row.cache.startswith("blocks"):
            word = "PASS" if row.listed <= _MOST_REQUESTS else "MISS"
            found.append(f"{word}  {row.reader}: {row.listed} requests for metadata (at most {_MOST_REQUESTS})")
    return found


if __name__ == "__main__":
    sys.exit(main())
