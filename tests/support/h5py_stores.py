"""What h5py stores for the same array, chunk by chunk."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from dask_chunkio.filters.chunk_format import Decoder, Payload
from dask_chunkio.filters.chunking import cut_chunk
from dask_chunkio.filters.decoders import decoder_for
from dask_chunkio.filters.encoders import encoder_for
from dask_chunkio.storage.hdf5.dataset import describe


@contextlib.contextmanager
def dataset(shape: Any, dtype: DTypeLike, chunks: Any, **keywords: Any) -> Iterator[h5py.Dataset]:
    """A dataset of a file in memory."""
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        yield file.create_dataset("x", shape=shape, dtype=dtype, chunks=chunks, **keywords)


def pipeline_dataset(
    file: h5py.File, data: NDArray[Any], *filters: Callable[[Any], object], name: str = "x"
) -> h5py.Dataset:
    """A dataset of one chunk with filters in the order given, each set on the property list."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(data.shape)
    for install in filters:
        install(plist)
    space = h5py.h5s.create_simple(data.shape)
    kind = h5py.h5t.py_create(data.dtype, logical=True)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, plist))


def stored(dataset: h5py.Dataset, data: Any) -> dict[tuple[int, ...], tuple[int, bytes]]:
    """Write `data` through HDF5, and return {origin: (mask, payload)}."""
    dataset[...] = data
    origins = [dataset.id.get_chunk_info(k).chunk_offset for k in range(dataset.id.get_num_chunks())]
    return {origin: dataset.id.read_direct_chunk(origin) for origin in origins}


def encoded(dataset: h5py.Dataset, data: NDArray[Any], **keywords: Any) -> dict[tuple[int, ...], tuple[int, bytes]]:
    """The same by our encoder, from one buffer; `keywords` are those that the dataset was made with."""
    layout = describe(dataset)
    encoder, grid = encoder_for(layout.form, keywords), layout.chunks
    buffer = tuple(slice(0, length) for length in data.shape)
    found: dict[tuple[int, ...], tuple[int, bytes]] = {}
    for number, chunk in enumerate(grid):
        payload = encoder.encode(cut_chunk(data, buffer, chunk, layout.form))
        found[grid.origin(number)] = payload.mask, bytes(payload.data)
    return found


def walk(shape: int | tuple[int, ...], dtype: DTypeLike = "i2", seed: int = 0) -> Any:
    """Numbers like a recording's: small steps."""
    steps = np.random.default_rng(seed).normal(0, 20, int(np.prod(shape)))
    return np.cumsum(steps).reshape(shape).astype(dtype)


def noise(shape: int | tuple[int, ...], dtype: DTypeLike = "u1", seed: int = 0) -> Any:
    """Bytes that nothing compresses."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape))
    return np.frombuffer(np.random.default_rng(seed).bytes(count * kind.itemsize), kind).reshape(shape)


def assert_decoded(dataset: h5py.Dataset, data: NDArray[Any], keywords: Any, decoder: Decoder | None = None) -> None:
    """Check that payloads by h5py and by our encoder are decoded to what h5py reads, bit for bit.

    Parameters
    ----------
    dataset : h5py.Dataset
        Empty, with the shape of `data`.
    data : array
        What is encoded.
    keywords : mapping
        With which the dataset was made.
    decoder : Decoder, optional
        By default the one for the dataset.
    """
    form = describe(dataset).form
    decoder = decoder_for(form) if decoder is None else decoder
    for payloads in (stored(dataset, data), encoded(dataset, data, **keywords)):
        for origin, (mask, payload) in payloads.items():
            dataset.id.write_direct_chunk(origin, payload, mask)
        read = _reopened(dataset)
        for origin, (mask, payload) in payloads.items():
            found = decoder.decode(Payload(payload, mask))
            assert (found.shape, found.dtype) == (form.chunk_shape, form.dtype)
            part = read[tuple(slice(at, at + n) for at, n in zip(origin, form.chunk_shape, strict=True))]
            assert found[tuple(map(slice, part.shape))].tobytes() == part.tobytes()


def _reopened(dataset: h5py.Dataset) -> Any:
    """Read from another opening: HDF5 may remember what was not encoded yet, and no mask."""
    dataset.file.flush()
    with h5py.File(io.BytesIO(dataset.file.id.get_file_image())) as file:
        return file[dataset.name][...]
