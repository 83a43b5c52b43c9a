"""Shapes from byte budgets.

The automatic shapes are hdmf's, to the element: an array that was written in some chunks
by hdmf is written in the same chunks here.
"""

from __future__ import annotations

import math
import sys

from dask_chunkio.errors import ArgumentError, IteratorArgumentError
from dask_chunkio.grid import Shape

__all__ = ["default_buffer_shape", "default_chunk_shape"]


def default_chunk_shape(maxshape: Shape, itemsize: int, chunk_mb: float) -> Shape:
    """Return the chunk of at most `chunk_mb` whose sides are in proportion to the array's.

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
        Elements along each axis, at least 1; the shape hdmf 6.2 chooses, where hdmf can.

    Raises
    ------
    IteratorArgumentError
        If `chunk_mb` is not above 0, or does not hold one element.
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
    """Return the buffer of about `buffer_gb` that scales `chunk_shape` alike along every axis.

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
        chunk, so a chunk that is larger than `buffer_gb` makes a buffer larger than it.

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
    """Return the budget in bytes, finite."""
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
    """Return the array's proportions as whole numbers, of a box within `nbytes`.

    Rounds where hdmf rounds, step by step; a closed form would give other shapes.
    """
    shortest = min(lengths, default=1)
    ratios = tuple(math.floor(length / shortest) for length in lengths)
    while (product := math.prod(ratios)) * itemsize > nbytes and product != 1:
        least = min(ratio for ratio in ratios if ratio != 1)
        ratios = tuple(math.floor(ratio / least) if ratio != 1 else 1 for ratio in ratios)
    return ratios


def _scale(budget: float, nbytes: int, ndim: int) -> int:
    """Return the number of times a box of `nbytes` goes into the budget, along each of `ndim` axes."""
    return math.floor((budget / nbytes) ** (1 / ndim)) if ndim else 1
