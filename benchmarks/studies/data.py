"""Arrays to write: made-up and real recordings, noise, and what cannot be compressed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dask_chunkio.cli.demo_recording import TILE, Recording

__all__ = ["KINDS", "chunk_shape", "make", "whole_chunks"]

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]

_REAL = Path(__file__).parents[2] / "tests" / "data"
_SEED = 20
_PIECE = 1 << 20

_CHANNELS = 384
KINDS = ("recording", "noise", "ecg", "mri", "float", "random")


def make(kind: str, nbytes: int) -> Array:
    """Return an array of the given kind, of at least `nbytes` and little more.

    Parameters
    ----------
    kind : str
        ``"recording"``: int16, the probe of ``dask-chunkio demo``, 384 channels.
        ``"noise"``: int16, Gaussian, sigma 20, 384 channels, as electrodes in saline have it.
        ``"ecg"``: int16, twelve leads of a real electrocardiogram, repeated.
        ``"mri"``: uint8, a real brain volume, repeated.
        ``"float"``: float32, a smooth field with noise and 5 % NaN.
        ``"random"``: uint8, every value as likely as every other.
    nbytes : int
        The least size.
    """
    return _MAKERS[kind](nbytes)


def chunk_shape(kind: str, array: Array, nbytes: int = 1 << 20) -> Shape:
    """Return a chunk of at most `nbytes`: the demo's for its recording, else by halving the longest axis."""
    chunk = list(map(min, array.shape, TILE)) if kind == "recording" else list(array.shape)
    while math.prod(chunk) * array.itemsize > nbytes:
        axis = chunk.index(max(chunk))
        chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)


def whole_chunks(array: Array, chunks: Shape) -> Iterator[Array]:
    """Give the chunks that are whole, each in memory of its own."""
    grids = (range(0, length - chunk + 1, chunk) for length, chunk in zip(array.shape, chunks, strict=True))
    for corner in itertools.product(*grids):
        selection = tuple(slice(start, start + chunk) for start, chunk in zip(corner, chunks, strict=True))
        yield np.ascontiguousarray(array[selection])


def _recording(nbytes: int) -> Array:
    frames = math.ceil(nbytes / 2 / _CHANNELS)
    if frames > TILE[0]:
        frames = math.ceil(frames / TILE[0]) * TILE[0]
    return Recording(frames, _CHANNELS)._get_data((slice(0, frames), slice(0, _CHANNELS)))


def _noise(nbytes: int) -> Array:
    array = np.empty((math.ceil(nbytes / 2 / _CHANNELS), _CHANNELS), np.int16)
    # In pieces: made at once, its doubles would take four times the memory of the array.
    _fill(array, lambda rng, count: rng.normal(0, 20, count))
    return array


def _random(nbytes: int) -> Array:
    array = np.empty((math.ceil(nbytes / 1024), 1024), np.uint8)
    _fill(array, lambda rng, count: rng.integers(0, 256, count, np.uint8))
    return array


def _float(nbytes: int) -> Array:
    array = np.empty((math.ceil(nbytes / 4 / 1024), 1024), np.float32)
    row = np.sin(np.linspace(0, 20, 1024))
    rng = np.random.default_rng(_SEED)
    for start in range(0, len(array), 1024):
        part = array[start : start + 1024]
        time = np.arange(start, start + len(part))[:, np.newaxis] / 300
        part[...] = 273 + 10 * np.cos(time) * row + rng.normal(0, 0.01, part.shape)
        part[rng.random(part.shape) < 0.05] = np.nan
    return array


def _ecg(nbytes: int) -> Array:
    return _repeated("ecg", nbytes)


def _mri(nbytes: int) -> Array:
    return _repeated("mri", nbytes)


def _repeated(name: str, nbytes: int) -> Array:
    with np.load(_REAL / f"{name}.npz") as file:
        real = file[name]
    array = np.empty((math.ceil(nbytes / real.nbytes) * len(real), *real.shape[1:]), real.dtype)
    for start in range(0, len(array), len(real)):
        array[start : start + len(real)] = real
    return array


def _fill(array: Array, draw: Callable[[np.random.Generator, int], Array]) -> None:
    rng = np.random.default_rng(_SEED)
    flat = array.reshape(-1)
    for start, stop in itertools.pairwise([*range(0, len(flat), _PIECE), len(flat)]):
        flat[start:stop] = draw(rng, stop - start)


_MAKERS: dict[str, Callable[[int], Array]] = {
    "recording": _recording,
    "noise": _noise,
    "ecg": _ecg,
    "mri": _mri,
    "float": _float,
    "random": _random,
}
