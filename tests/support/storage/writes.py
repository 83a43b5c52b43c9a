"""One write, step by step, as the tasks of a graph do it."""

import contextlib
import os
import uuid
import zlib
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.filters.chunking import cut_chunk
from dask_chunkio.filters.encoders import encoder_for
from dask_chunkio.geometry.grid import BufferGrid
from dask_chunkio.storage import session
from dask_chunkio.storage.begin import begin
from dask_chunkio.storage.finish import finish
from dask_chunkio.storage.hdf5.dataset import DatasetSpec
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.writer import Writer

no_lock = contextlib.nullcontext


def numbers(shape: tuple[int, ...] = (12, 8), dtype: str = "i2") -> NDArray[Any]:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


class Write:
    """Writes `data` under ``/x``.

    Made again with the same path and the same `write_id` it is the same write, as another process would see it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        data: Any = None,
        *,
        chunks: tuple[int, ...] = (2, 4),
        buffer: tuple[int, ...] = (4, 8),
        exclusive: bool = False,
        write_id: str | None = None,
        overwrite: bool = False,
        libver: str | tuple[str, str] | None = None,
        resume: bool = False,
        durability: Any = "process",
        name: str = "/x",
        attrs: Any = None,
        **options: Any,
    ) -> None:
        self.data = numbers() if data is None else data
        self.exclusive = exclusive
        target = Target(str(path), write_id or uuid.uuid4().hex, overwrite, libver, resume, durability=durability)
        self.spec = DatasetSpec(name, self.data.shape, self.data.dtype, chunks, options, attrs or {})
        begun = begin(target, [self.spec], exclusive, no_lock)
        self.target, (self.layout,) = begun.target, begun.made.layouts
        self.buffers = BufferGrid(self.layout.chunks, buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    @property
    def writer(self) -> Any:
        return session.writer_for(self.target, self.exclusive)

    def chunks(self, buffer: int) -> list[int]:
        return list(self.buffers.chunk_numbers(buffer))

    def payloads(self, buffer: int) -> list[Payload]:
        encoder, form = encoder_for(self.layout.form, self.spec.options), self.layout.form
        whole = tuple(slice(0, length) for length in self.data.shape)
        cut = (cut_chunk(self.data, whole, self.layout.chunks[chunk], form) for chunk in self.chunks(buffer))
        return [encoder.encode(chunk) for chunk in cut]

    def commit(self, buffer: int, payloads: list[Payload] | None = None, writer: Writer | None = None) -> Any:
        payloads = self.payloads(buffer) if payloads is None else payloads
        writer = writer or self.writer
        writer.commit((0, buffer), self.layout, self.chunks(buffer), payloads, no_lock)
        return writer.transactions.journal.rows(0, self.chunks(buffer))

    def is_stored(self, buffer: int, writer: Writer | None = None) -> Any:
        return (writer or self.writer).is_stored(0, self.chunks(buffer))

    def lose(self, buffer: int) -> None:
        """Have payloads of a buffer not be in their places: their process died before it had put them there."""
        for row in self.writer.transactions.journal.rows(0, self.chunks(buffer)):
            os.pwrite(self.writer.transactions.files.file, bytes(int(row["nbytes"])), int(row["offset"]))

    def commit_missing(self) -> None:
        """What a retry does."""
        for buffer in range(len(self.buffers)):
            if not self.is_stored(buffer):
                self.commit(buffer)

    def finish(self) -> Any:
        return finish(self.target, [self.layout], [self.spec], no_lock)

    def complete(self) -> None:
        """Commit what is missing, finish, and check the file."""
        self.commit_missing()
        self.finish()
        self.check()

    def release(self) -> None:
        session.release(self.target.write_id)

    def read(self) -> Any:
        with h5py.File(self.target.path) as file:
            return file[self.spec.name][...]

    def check(self) -> None:
        """The final file holds the data, and nothing else is left."""
        np.testing.assert_array_equal(self.read(), self.data, strict=True)


def longer(payloads: list[Payload], row: int = 0) -> list[Payload]:
    """The same chunks, one of them in a zlib stream of two blocks."""
    raw, packer = zlib.decompress(payloads[row].data), zlib.compressobj(0)
    stream = packer.compress(raw[:3]) + packer.flush(zlib.Z_FULL_FLUSH) + packer.compress(raw[3:]) + packer.flush()
    assert len(stream) > payloads[row].nbytes
    return [*payloads[:row], Payload(stream), *payloads[row + 1 :]]
