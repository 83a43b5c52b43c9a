"""The codecs that are compared, as each system spells them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CODECS", "Codec"]

_LEVEL = 3  # of zstd, blosc and bitshuffle: zstd's own default


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to compress.

    Parameters
    ----------
    name : str
        What the tables call it.
    h5py : mapping
        Keywords of `h5py.Group.create_dataset`, which dask, hdmf and we take, too.
    zarr : mapping or None
        The codec in zarr 3's metadata, which zarr and tensorstore share; empty for none, None if it has no such codec.
    h5repack : tuple of str or None
        Arguments of the program; None if it needs a plugin.
    part : float
        How much of the array is written with it: little with a slow one, so that a run ends soon.
    is_plugin : bool
        Whether it is none of HDF5's own filters.
    """

    name: str
    h5py: Mapping[str, Any]
    zarr: Mapping[str, Any] | None = None
    h5repack: tuple[str, ...] | None = None
    part: float = 1
    is_plugin: bool = field(default=False, kw_only=True)

    def zarr_codecs(self, itemsize: int) -> list[dict[str, Any]] | None:
        """Return what follows zarr's bytes, for elements of this size."""
        if self.zarr is None:
            return None
        if not self.zarr:
            return []
        configuration = dict(self.zarr["configuration"])
        if self.zarr["name"] == "blosc":
            configuration["typesize"] = itemsize
        return [{"name": self.zarr["name"], "configuration": configuration}]


def _gzip(level: int, part: float) -> Codec:
    return Codec(
        f"gzip {level}",
        {"compression": "gzip", "compression_opts": level},
        {"name": "gzip", "configuration": {"level": level}},
        ("-f", f"GZIP={level}"),
        part,
    )


def _gzip_shuffle(level: int) -> Codec:
    keywords = {"compression": "gzip", "compression_opts": level, "shuffle": True}
    return Codec(f"gzip {level} + shuffle", keywords, None, ("-f", "SHUF", "-f", f"GZIP={level}"), 1 / 2)


def _plugins() -> list[Codec]:
    if not importlib.util.find_spec("hdf5plugin"):
        return []
    import hdf5plugin

    zstd = {"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}}
    shuffled = {"cname": "zstd", "clevel": _LEVEL, "shuffle": "shuffle", "blocksize": 0}
    blosc = {"name": "blosc", "configuration": shuffled}
    return [
        Codec(name, dict(keywords), in_zarr, None, part, is_plugin=True)
        for name, keywords, in_zarr, part in (
            ("zstd", hdf5plugin.Zstd(_LEVEL), zstd, 1 / 2),
            ("blosc-zstd", hdf5plugin.Blosc("zstd", _LEVEL, hdf5plugin.Blosc.SHUFFLE), blosc, 1 / 2),
            ("blosc2-zstd", hdf5plugin.Blosc2("zstd", _LEVEL, hdf5plugin.Blosc2.SHUFFLE), None, 1 / 2),
            ("bitshuffle-lz4", hdf5plugin.Bitshuffle(cname="lz4"), None, 1),
            ("bitshuffle-zstd", hdf5plugin.Bitshuffle(cname="zstd", clevel=_LEVEL), None, 1 / 2),
        )
    ]


CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("none", {}, {}, ("-f", "NONE")),
        _gzip(1, 1 / 8),
        _gzip(4, 1 / 8),
        _gzip(9, 1 / 32),
        _gzip_shuffle(1),
        _gzip_shuffle(4),
        Codec("lzf", {"compression": "lzf"}, part=1 / 2, is_plugin=True),
        *_plugins(),
    )
}
