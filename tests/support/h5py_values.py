"""The values that tell conversions apart, and what plain h5py stores of them."""

import functools
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

_COUNT = 3000
_MOST = ("f2", "f4", "f8")


def stored_by_h5py(data: NDArray[Any], dtype: Any, fillvalue: Any = None) -> Any:
    """Return what `dataset[...] = data` stores."""
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        # (Without chunks, fields that are not given become zero instead of the fill value.)
        chunks = True if data.shape and data.size else None
        dataset = file.create_dataset("x", data.shape, dtype, chunks=chunks, fillvalue=fillvalue)
        dataset[...] = data
        return dataset[...]


def native(dtype: Any) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    return found


def bits(data: Any) -> Any:
    """Return the bytes of each element, without those behind long doubles."""
    data = np.ascontiguousarray(data.astype(native(data.dtype)))
    if data.dtype.char == "G":
        return np.concatenate([bits(data.real), bits(data.imag)], axis=1)
    raw = data.reshape(-1).view("u1").reshape(data.size, -1)
    return raw[:, :10] if data.dtype.char == "g" and np.finfo("g").nmant == 63 else raw


@functools.cache
def edges(dtype: Any, seed: int = 0) -> Any:
    """Return elements of a dtype of numbers: any bits, and those near every limit of every other dtype."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind == "c":
        real = edges(np.empty(0, dtype).real.dtype.str, seed)
        return np.stack([real, rng.permutation(real)], axis=-1).reshape(-1).view(dtype)
    found = _integers(dtype, rng) if dtype.kind in "iu" else _floats(dtype, rng)
    found.flags.writeable = False
    return found


def _integers(dtype: np.dtype[Any], rng: np.random.Generator) -> NDArray[Any]:
    limits = np.iinfo(dtype)
    near = [sign * 2**power + step for power in range(65) for sign in (-1, 1) for step in range(-2, 3)]
    near += [sign * value for value in range(65500, 65540) for sign in (-1, 1)]
    wide = rng.integers(limits.min, limits.max, _COUNT, dtype.newbyteorder("="), endpoint=True)
    shifts = rng.integers(0, dtype.itemsize * 8, _COUNT).astype(wide.dtype)
    legal = np.array([value for value in near if limits.min <= value <= limits.max], wide.dtype)
    return np.concatenate([wide, wide >> shifts, legal]).astype(dtype)


def _floats(dtype: np.dtype[Any], rng: np.random.Generator) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        largest = [limit for kind in _MOST for limit in (np.finfo(kind).max, np.finfo(kind).tiny)]
        largest += [np.finfo(kind).smallest_subnormal for kind in _MOST]
        limits = np.array([*largest, 65505, 65519, 65519.99, 65520, 65521, 65536, 1e300, 0, np.inf], "g").astype(dtype)
        parts, up, down = [limits], limits, limits
        for _ in range(4):
            up, down = np.nextafter(up, dtype.type(np.inf)), np.nextafter(down, dtype.type(0))
            parts += [up, down]
        parts.append(rng.integers(0, 256, _COUNT * dtype.itemsize, "u1").view(dtype) if dtype.itemsize <= 8 else limits)
        for kind, bits_of in (("f2", "u2"), ("f4", "u4"), ("f8", "u8")):
            size = np.dtype(kind).itemsize * 8 - 1
            some = rng.integers(0, 2**size, _COUNT, bits_of).view(kind)
            halfway = (some.astype("g") + np.nextafter(some, np.array(np.inf, kind)).astype("g")) / 2
            smallest = np.finfo(kind).minexp - np.finfo(kind).nmant
            small = np.ldexp(rng.integers(0, 2**53, _COUNT).astype("g"), rng.integers(smallest - 56, smallest, _COUNT))
            parts += [some.astype(dtype), halfway.astype(dtype), small.astype(dtype)]
        found = np.concatenate(parts)
        return np.concatenate([found, -found]).astype(dtype)
