"""Choice of shapes of chunks and buffers from their sizes in bytes.

The automatic shapes are exactly those of hdmf: an iterator gets the same chunks here as with hdmf.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence

from dask_chunkio.errors import ArgumentError, IteratorArgumentError
from dask_chunkio.geometry.grid import Shape

__all__ = [
    "READABLE_NBYTES",
    "buffer_budget",
    "buffer_within",
    "default_buffer_shape",
    "default_chunk_shape",
    "projected_nbytes",
    "readable_chunk_shape",
    "split_buffer",
]

READABLE_NBYTES = 1 << 20
# A buffer is not made smaller than this to balance the load of threads.
_LEAST_NBYTES = 1 << 20
# The overhead of one buffer, as the number of bytes that could be written in the same time.
_COST_NBYTES = 256 << 10
_MOST_SPLITS = 64


def default_chunk_shape(maxshape: Shape, itemsize: int, chunk_mb: float) -> Shape:
    """Return the shape of a chunk of at most `chunk_mb`, with sides in proportion to those of the array.

    Parameters
    ----------
    maxshape : tuple of int
        Shape of the array, in elements.  An axis of length 0 counts as 1.
    itemsize : int
        Bytes in one element.
    chunk_mb : float
        Size of a chunk before filters, in megabytes of 1e6 bytes.

    Returns
    -------
    tuple of int
        Elements along each axis, at least 1; the shape that hdmf 6.2 chooses, if hdmf can choose one.

    Raises
    ------
    IteratorArgumentError
        If `chunk_mb` is not above 0, or is smaller than one element.
    ArgumentError
        If an element has no bytes.

    Examples
    --------
    >>> default_chunk_shape((20000, 5000), itemsize=4, chunk_mb=1.0)
    (1000, 250)
    >>> default_chunk_shape((0, 384), itemsize=2, chunk_mb=10.0)
    (1, 384)
    """
    nbytes = _budget("chunk_mb", chunk_mb, 1e6)
    _check_itemsize(itemsize)
    if nbytes < itemsize:
        raise IteratorArgumentError(
            f"chunk_mb is {chunk_mb}, which is {nbytes:g} bytes, but one element has {itemsize}; "
            f"use chunk_mb >= {itemsize / 1e6:g} or give chunk_shape"
        )
    lengths = _lengths(maxshape)
    ratios = _ratios_within(lengths, itemsize, nbytes)
    scale = _scale(nbytes, math.prod(ratios) * itemsize, len(lengths))
    return tuple(min(scale * ratio, length) for ratio, length in zip(ratios, lengths, strict=True))


def default_buffer_shape(maxshape: Shape, chunk_shape: Shape, itemsize: int, buffer_gb: float) -> Shape:
    """Return the shape of a buffer of about `buffer_gb`, with the same number of chunks along each axis.

    Parameters
    ----------
    maxshape : tuple of int
        Shape of the array, in elements.  An axis of length 0 counts as 1.
    chunk_shape : tuple of int
        Shape of a chunk, in elements.
    itemsize : int
        Bytes in one element.
    buffer_gb : float
        Size of a buffer, in gigabytes of 1e9 bytes.

    Returns
    -------
    tuple of int
        Along each axis a multiple of the chunk, or the whole axis; never less than one
        chunk.  If a chunk is larger than `buffer_gb`, so is the buffer.

    Raises
    ------
    IteratorArgumentError
        If `buffer_gb` is not above 0.
    ArgumentError
        If an element has no bytes.

    Examples
    --------
    >>> default_buffer_shape((20000, 5000), (1000, 250), itemsize=4, buffer_gb=0.2)
    (14000, 3500)
    """
    nbytes = _budget("buffer_gb", buffer_gb, 1e9)
    _check_itemsize(itemsize)
    scale = _scale(nbytes, math.prod(chunk_shape) * itemsize, len(chunk_shape))
    return tuple(
        min(max(scale * chunk, chunk), length) for chunk, length in zip(chunk_shape, _lengths(maxshape), strict=True)
    )


def _budget(name: str, value: float, unit: float) -> float:
    """Return the budget in bytes, as a finite number."""
    if not value > 0:  # NaN too
        raise IteratorArgumentError(f"{name} is {value}; it must be greater than zero")
    return min(float(value) * unit, sys.float_info.max)


def _check_itemsize(itemsize: int) -> None:
    if itemsize < 1:
        raise ArgumentError(
            f"itemsize is {itemsize}; elements without bytes cannot be sized. "
            f"Give the dtype a length, such as 'S16', or give the shapes"
        )


def _lengths(maxshape: Shape) -> Shape:
    return tuple(max(length, 1) for length in maxshape)


def _ratios_within(lengths: Shape, itemsize: int, nbytes: float) -> Shape:
    """Return the proportions of the array as whole numbers, so that a box of this shape fits into `nbytes`.

    The function rounds in each step, as hdmf does; a closed form would give other shapes.
    """
    shortest = min(lengths, default=1)
    ratios = tuple(math.floor(length / shortest) for length in lengths)
    while (product := math.prod(ratios)) * itemsize > nbytes and product != 1:
        least = min(ratio for ratio in ratios if ratio != 1)
        ratios = tuple(math.floor(ratio / least) if ratio != 1 else 1 for ratio in ratios)
    return ratios


def _scale(budget: float, nbytes: int, ndim: int) -> int:
    """Return the number of boxes of `nbytes` along each of `ndim` axes that fit into the budget."""
    return math.floor((budget / nbytes) ** (1 / ndim)) if ndim else 1


def readable_chunk_shape(
    shape: Shape, itemsize: int, block: Shape | None = None, nbytes: int = READABLE_NBYTES
) -> Shape:
    """Return the shape of a chunk of at most `nbytes` that divides the blocks of an array.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array, in elements.
    itemsize : int
        Bytes in one element.
    block : tuple of int, optional
        Shape of the blocks in which the array is stored or computed.
    nbytes : int
        Maximum size of a chunk in bytes; 1 MiB by default.

    Returns
    -------
    tuple of int
        Elements along each axis, at least 1.  The function starts with the shape of the block and
        always shortens the longest side, as h5py does when it guesses a chunk shape.

    Notes
    -----
    1 MiB is the size of the chunk cache in every HDF5 library before 2.0.  A larger chunk is read and
    decoded again at each access to it (HDF5 documentation, `H5Pset_cache`).

    Examples
    --------
    >>> readable_chunk_shape((20000, 5000), 4, block=(2000, 1000))
    (500, 500)
    """
    start = tuple(min(b, max(n, 1)) for b, n in zip(block or shape, shape, strict=True)) if block else _lengths(shape)
    chunk = start
    while math.prod(chunk) * itemsize > nbytes and max(chunk, default=1) > 1:
        axis = chunk.index(max(chunk))
        chunk = _replaced(chunk, axis, _smaller_divisor(start[axis], chunk[axis], exact=block is not None))
    return chunk


def _replaced(shape: Shape, axis: int, length: int) -> Shape:
    return (*shape[:axis], length, *shape[axis + 1 :])


def _smaller_divisor(whole: int, length: int, exact: bool) -> int:
    """Return about half of `length`; if possible, a divisor of `whole` that is not larger and not much smaller."""
    half = -(-length // 2)
    if not exact:
        return half
    least = max(half // 8, 1)
    quotients = range(-(-whole // half), whole // least + 1)
    # Try the fewer candidates of the two: for a length of 1e12 these are never more than some millions.
    if len(quotients) < half - least:
        found = (whole // quotient for quotient in quotients if whole % quotient == 0)
    else:
        found = (divisor for divisor in range(half, least - 1, -1) if whole % divisor == 0)
    return next(found, half)


def buffer_within(shape: Shape, chunk: Shape, itemsize: int, nbytes: int) -> Shape:
    """Return the shape of a buffer of whole chunks, of at most `nbytes`, with the longest contiguous pieces.

    The buffer grows from one chunk, along the last axis first: this axis is contiguous in C order.

    Examples
    --------
    >>> buffer_within((1000, 64), (100, 16), itemsize=2, nbytes=40_000)
    (300, 64)
    """
    buffer = tuple(chunk)
    for axis in reversed(range(len(shape))):
        room = int(nbytes // max(1, math.prod(buffer) * itemsize))
        needed = -(-shape[axis] // chunk[axis])
        buffer = _replaced(buffer, axis, chunk[axis] * max(1, min(room, needed)))
        if room < needed:
            break
    return buffer


def split_buffer(
    shape: Shape, chunk: Shape, buffer: Shape, itemsize: int, *, nbytes: int, count: int, threads: int = 1
) -> Shape:
    """Split `buffer` into buffers of whole chunks, of at most `nbytes` each, and return their shape.

    The shape is chosen such that the array has at least `count` buffers, but a buffer has at least one chunk.  The
    first axes are split first, so that the pieces stay contiguous.  Along each axis the buffers are as equal as whole
    chunks allow, and their number is such that all `threads` end at about the same time.

    Examples
    --------
    >>> split_buffer((1000, 64), (100, 64), (1000, 64), itemsize=2, nbytes=10**6, count=4)
    (300, 64)
    >>> split_buffer((1000, 64), (100, 64), (700, 64), itemsize=2, nbytes=10**6, count=2)
    (500, 64)
    >>> split_buffer((1700, 60), (100, 10), (1700, 60), itemsize=200, nbytes=10**8, count=4, threads=2)
    (400, 60)
    """
    found = _split(shape, chunk, buffer, itemsize, (nbytes, count))
    least = min(_LEAST_NBYTES, math.prod(found) * itemsize)
    finer = (one for one in _finer(shape, chunk, found) if math.prod(one) * itemsize >= least)
    return min(finer, key=lambda one: _duration(shape, one, itemsize, threads), default=found)


def _finer(shape: Shape, chunk: Shape, buffer: Shape) -> Iterator[Shape]:
    """Yield the shape of a buffer, and the smaller shapes into which it can be split, along the first axes first."""
    cells = [-(-min(b, max(n, 1)) // c) for b, c, n in zip(buffer, chunk, shape, strict=True)]
    yield buffer
    for axis, most in enumerate(cells):
        for count in range(most - 1, max(0, most - _MOST_SPLITS), -1):
            cells[axis] = count
            yield _equal_parts(shape, chunk, cells)
        if cells[axis] > 1:
            return


def _duration(shape: Shape, buffer: Shape, itemsize: int, threads: int) -> int:
    """Return the work of the busiest thread in bytes, including an overhead for each buffer."""
    counts = [-(-max(n, 1) // b) for n, b in zip(shape, buffer, strict=True)]
    rounds, rest = divmod(math.prod(counts), threads)
    whole = math.prod(buffer) * itemsize + _COST_NBYTES
    last = math.prod(n - (k - 1) * b for n, b, k in zip(shape, buffer, counts, strict=True)) * itemsize + _COST_NBYTES
    return rounds * whole + (0 if rest == 0 else last if rest == 1 else whole)


def _split(shape: Shape, chunk: Shape, buffer: Shape, itemsize: int, wanted: tuple[int, int]) -> Shape:
    nbytes, count = wanted
    cells = [-(-min(b, max(n, 1)) // c) for b, c, n in zip(buffer, chunk, shape, strict=True)]
    for axis in range(len(shape)):
        while cells[axis] > 1:
            current = _equal_parts(shape, chunk, cells)
            buffers = math.prod(-(-n // b) for n, b in zip(shape, current, strict=True))
            if math.prod(current) * itemsize <= nbytes and buffers >= count:
                return current
            cells[axis] = -(-cells[axis] // 2)
    return _equal_parts(shape, chunk, cells)


def _equal_parts(shape: Shape, chunk: Shape, cells: Sequence[int]) -> Shape:
    """Return the shape of a buffer with at most `cells` chunks along each axis, such that the buffers are most equal.

    The number of buffers along each axis is the same as with exactly `cells` chunks.
    """
    whole = [-(-max(n, 1) // c) for n, c in zip(shape, chunk, strict=True)]
    equal = [-(-all_ // -(-all_ // n)) for all_, n in zip(whole, cells, strict=True)]
    return tuple(n * c for n, c in zip(equal, chunk, strict=True))


def buffer_budget(memory_nbytes: int, threads: int) -> int:
    """Return the maximum size of a buffer in bytes, such that the data of all threads fit into half of the memory.

    A thread holds its buffer, the payloads (at worst of the same size), and a chunk.
    """
    return max(1, memory_nbytes // (2 * 2 * threads))


def projected_nbytes(buffer_nbytes: int, chunk_nbytes: int, threads: int) -> int:
    """Return the maximum memory of the running threads in bytes: each holds a buffer, its payloads and a chunk.

    A payload may be slightly larger than its chunk: deflate adds 5 bytes for each 16 kB that
    it cannot compress and a few at both ends (RFC 1950, RFC 1951), and a checksum has 4 bytes.
    """
    payloads = buffer_nbytes + buffer_nbytes // 1024 + 64 * -(-buffer_nbytes // max(1, chunk_nbytes))
    # There are two copies of a chunk while it is extracted, cast and shuffled.
    return threads * (buffer_nbytes + payloads + 2 * chunk_nbytes)
