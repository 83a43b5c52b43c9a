from typing import Any

import hdf5plugin
import numpy as np
import pytest

from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.filters.names import resolve_compression
from dask_chunkio.filters.plugin import PLUGIN_NAMES
from tests.support.h5py_stores import dataset

NAMES = sorted(set(PLUGIN_NAMES.values()) - {"lzf", "sperr"})
if not hasattr(hdf5plugin, "Htj2k"):  # Before hdf5plugin 7.1.
    NAMES.remove("htj2k")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_hdf5plugins_default(name: str) -> None:
    found = resolve_compression({"compression": name, "shuffle": True})
    (kind,) = hdf5plugin.get_filters("bshuf" if name == "bitshuffle" else name)
    assert found == {**kind(), "shuffle": True}


@pytest.mark.parametrize("name", ["zstd", "blosc", "blosc2", "lz4", "bitshuffle", "bzip2"])
def test_h5py_makes_a_dataset_of_it(name: str) -> None:
    with dataset((8,), "i2", (4,), **resolve_compression({"compression": name})) as made:
        made[...] = np.arange(8)


def test_options_are_the_keywords_of_hdf5plugins_class_or_the_filters_own() -> None:
    by_keywords = {"compression": "zstd", "compression_opts": {"clevel": 7}}
    assert resolve_compression(by_keywords) == dict(hdf5plugin.Zstd(clevel=7))
    assert resolve_compression({"compression": "zstd", "compression_opts": (7,)}) == dict(hdf5plugin.Zstd(clevel=7))


@pytest.mark.parametrize("compression", [None, "gzip", "lzf", "szip", 32015, 4, hdf5plugin.Zstd()])
def test_everything_else_is_left_to_h5py(compression: Any) -> None:
    options = {"compression": compression, "compression_opts": 3}
    assert resolve_compression(options) == options


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"level": 3}, ArgumentTypeError), ("3", ArgumentTypeError), ({"clevel": 99}, ArgumentError), (99, ArgumentError)],
)
def test_options_that_it_does_not_have_are_named(options: dict[str, Any] | str | int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"is not one of zstd's"):
        resolve_compression({"compression": "zstd", "compression_opts": options})


@pytest.mark.parametrize("level", [7, {"clevel": 7}, (7,)])
def test_a_level_may_be_given_in_three_ways(level: int | dict[str, Any] | tuple[int, ...]) -> None:
    assert resolve_compression({"compression": "zstd", "compression_opts": level}) == dict(hdf5plugin.Zstd(clevel=7))


def test_a_plugin_without_levels_says_so() -> None:
    with pytest.raises(ArgumentTypeError, match="is not one of zfp's"):
        resolve_compression({"compression": "zfp", "compression_opts": 3})


def test_a_name_that_nobody_knows_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"'zst' is not known; known are .*gzip.*zstd"):
        resolve_compression({"compression": "zst"})


def test_a_name_that_hdf5plugin_does_not_have_is_refused_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    find = hdf5plugin.get_filters
    # As where it is older than the filter: no filter has that number.
    monkeypatch.setattr(hdf5plugin, "get_filters", lambda _: find(32999))
    with pytest.raises(ArgumentError, match=r"'zstd': hdf5plugin .* does not have it; give compression=32015 with"):
        resolve_compression({"compression": "zstd"})
    assert resolve_compression({"compression": "zstd", "compression_opts": (1,)})["compression"] == 32015
