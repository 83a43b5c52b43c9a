"""The demo's data: an extracellular recording, made where it is read or repeated from a file."""

from __future__ import annotations

import functools
import itertools
import math
import os
from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import Array, Selection, selection_shape
from dask_chunkio.iterator import GenericDataChunkIterator

__all__ = ["RATE_HZ", "TILE", "Recording", "RepeatedRecording", "save_excerpt"]

RATE_HZ = 30_000
# Frames and channels that are made at once, each from its own seed.
TILE = (8192, 64)

# Slow voltages keep one value over a slot; in each slot of a tile one neuron fires.
_SLOT = 128
_SPIKE_FRAMES, _SPIKE_CHANNELS = 40, 12
# Keep the three uses of random numbers apart.
_NOISE, _COMMON, _SPIKES = 1, 2, 3


class Recording(GenericDataChunkIterator):
    """A probe's int16 voltages in frames by channels: noise, slow drift, mains hum and spikes.

    Every sample follows from its place and the seed alone, whatever selection it is read in.

    Parameters
    ----------
    frames : int
        How many frames it has, at 30 kHz.
    channels : int
        How many channels it has.
    seed : int
        Makes another recording of the same kind.
    **keywords
        As `GenericDataChunkIterator` takes them; the chunks are 8192 by 64 by default.

    Examples
    --------
    >>> recording = Recording(100_000, 128)
    >>> whole = recording._get_data((slice(0, 20_000), slice(0, 128)))
    >>> part = recording._get_data((slice(8_000, 8_500), slice(60, 70)))
    >>> bool((whole[8_000:8_500, 60:70] == part).all())
    True
    """

    def __init__(self, frames: int, channels: int = 384, seed: int = 0, **keywords: Any) -> None:
        self._shape = (frames, channels)
        self._seed = seed
        if keywords.keys().isdisjoint({"chunk_mb", "chunk_shape"}):
            keywords["chunk_shape"] = (min(TILE[0], frames), min(TILE[1], channels))
        super().__init__(**keywords)

    def _get_data(self, selection: Selection) -> Array:
        rows, columns = selection
        data = np.empty(selection_shape(selection), np.int16)
        for block, group in itertools.product(_tiles(rows, TILE[0]), _tiles(columns, TILE[1])):
            row, column = block * TILE[0], group * TILE[1]
            top, left = max(rows.start, row), max(columns.start, column)
            bottom, right = min(rows.stop, row + TILE[0]), min(columns.stop, column + TILE[1])
            tile = _make_tile(self._seed, block, group)
            data[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = tile[
                top - row : bottom - row, left - column : right - column
            ]
        return data

    def _get_maxshape(self) -> tuple[int, int]:
        return self._shape

    def _get_dtype(self) -> np.dtype[np.int16]:
        return np.dtype(np.int16)


# Frames that are made before they repeat: a default buffer's worth.  The number is odd, so that no two of the first
# 81921 chunks of a repeated recording hold the same bytes.
_PERIOD = 10 * TILE[0] + 1


def save_excerpt(path: str, frames: int, channels: int) -> None:
    """Make the first frames of a recording, and save them for `RepeatedRecording`.

    The file reaches the disk before this returns, so that no later write competes with it.

    Parameters
    ----------
    path : str
        A ``.npy`` file.
    frames, channels : int
        Size of the recording that is to be read from it.

    Examples
    --------
    >>> save_excerpt("excerpt.npy", 1000, 8)
    >>> RepeatedRecording("excerpt.npy", 1000)._get_data((slice(0, 1000), slice(0, 8))).std() > 1
    np.True_
    """
    period = min(frames, _PERIOD)
    made = Recording(period, channels)._get_data((slice(0, period), slice(0, channels)))
    with open(path, "wb") as file:
        # Twice, so that as many frames from any place are one piece of memory.
        np.save(file, made if period == frames else np.concatenate([made, made]))
        file.flush()
        os.fsync(file.fileno())


class RepeatedRecording(GenericDataChunkIterator):
    """A recording whose frames are in memory and repeat: reading it costs next to nothing.

    `_get_data` returns views of a memory map.  Each process maps the file on its own; the pages are shared.

    Parameters
    ----------
    path : str
        What `save_excerpt` has saved.
    frames : int
        How many frames it has, at 30 kHz.
    **keywords
        As `GenericDataChunkIterator` takes them; the chunks are 8192 by 64 by default.

    Examples
    --------
    >>> save_excerpt("excerpt.npy", 200_000, 8)
    >>> recording = RepeatedRecording("excerpt.npy", 200_000)
    >>> part = recording._get_data((slice(100_000, 100_005), slice(0, 8)))
    >>> bool((part == Recording(200_000, 8)._get_data((slice(18_079, 18_084), slice(0, 8)))).all())
    True
    """

    def __init__(self, path: str, frames: int, **keywords: Any) -> None:
        self._path = path
        self._frames = _mapped(path)
        self._shape = (frames, self._frames.shape[1])
        if keywords.keys().isdisjoint({"chunk_mb", "chunk_shape"}):
            keywords["chunk_shape"] = tuple(map(min, TILE, self._shape))
        super().__init__(**keywords)

    def __getstate__(self) -> Any:
        # numpy pickles all elements of a memory map.
        return {**super().__getstate__(), "_frames": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._frames = _mapped(self._path)

    def _get_data(self, selection: Selection) -> Array:
        rows, columns = selection
        start = rows.start % _PERIOD
        if start + rows.stop - rows.start <= len(self._frames):
            return self._frames[start : start + rows.stop - rows.start, columns]
        return np.take(self._frames, np.arange(rows.start, rows.stop) % _PERIOD, axis=0)[:, columns]

    def _get_maxshape(self) -> tuple[int, int]:
        return self._shape

    def _get_dtype(self) -> np.dtype[np.int16]:
        return np.dtype(np.int16)


def _mapped(path: str) -> Array:
    return np.asarray(np.load(path, mmap_mode="r"))


def _tiles(axis: slice, length: int) -> range:
    return range(axis.start // length, -(-axis.stop // length))


def _make_tile(seed: int, block: int, group: int) -> Array:
    slots = (TILE[0] // _SLOT, _SLOT, TILE[1])
    noise = _binomial((seed, _NOISE, block, group), math.prod(TILE)).reshape(slots)
    tile = np.add(noise, _drift(block, group)[:, None, :], dtype=np.int16)
    tile += _common(seed, block).reshape(*slots[:2], 1)
    tile = tile.reshape(TILE)
    _add_spikes(tile, np.random.SFC64((seed, _SPIKES, block, group)).random_raw(TILE[0] // _SLOT))
    return tile


def _binomial(seed: tuple[int, ...], count: int) -> Array:
    """Return bell-shaped noise around 8 with a deviation of 2: the bits that are set in 16 random ones."""
    generator = np.random.Generator(np.random.SFC64(seed))
    words = generator.integers(0, 2**64 - 1, count // 4, np.uint64, endpoint=True)
    # Explicitly little-endian, so that every machine makes the same recording.
    bits: Array = np.bitwise_count(words.astype("<u8", copy=False).view("<u2"))
    return bits


@functools.lru_cache(16)
def _common(seed: int, block: int) -> Array:
    """Return what all channels see: hum of the mains, and noise of the reference."""
    time = (block * TILE[0] + np.arange(TILE[0])) / RATE_HZ
    noise = _binomial((seed, _COMMON, block), TILE[0]).astype(np.float64) - 8
    common: Array = np.rint(0.5 * noise + 3 * np.sin(2 * np.pi * 50 * time)).astype(np.int16)
    return common


def _drift(block: int, group: int) -> Array:
    """Return offset and slow voltages of each channel in each slot."""
    time = ((block * TILE[0] + np.arange(0, TILE[0], _SLOT)) / RATE_HZ)[:, None]
    channel = (group * TILE[1] + np.arange(TILE[1]))[None, :]
    offset = 25 * np.sin(12.9898 * channel) - 8
    slow = 20 * np.sin(2 * np.pi * 0.4 * time + channel / 40) + 8 * np.sin(2 * np.pi * 3 * time - channel / 15)
    drift: Array = np.rint(offset + slow).astype(np.int16)
    return drift


def _add_spikes(tile: Array, draws: Array) -> None:
    shapes = _spike_shapes()
    for slot, draw in enumerate(draws.tolist()):
        # Inside the slot, so that neither spikes nor tiles overlap.
        frame = slot * _SLOT + draw % (_SLOT - _SPIKE_FRAMES)
        channel = (draw >> 16) % (TILE[1] - _SPIKE_CHANNELS)
        tile[frame : frame + _SPIKE_FRAMES, channel : channel + _SPIKE_CHANNELS] += shapes[(draw >> 32) % len(shapes)]


@functools.cache
def _spike_shapes() -> Array:
    """Return spikes of eight sizes: a sharp trough and a slow return, fading from the middle channel."""
    time = np.arange(_SPIKE_FRAMES)[:, None]
    wave = -np.exp(-(((time - 12) / 3) ** 2)) + 0.35 * np.exp(-(((time - 22) / 7) ** 2))
    reach = np.exp(-(((np.arange(_SPIKE_CHANNELS) - (_SPIKE_CHANNELS - 1) / 2) / 2.2) ** 2))[None, :]
    return np.stack([np.rint(size * wave * reach).astype(np.int16) for size in range(20, 180, 20)])
