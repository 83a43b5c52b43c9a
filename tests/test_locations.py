"""Where an array stands, as it is typed."""

from __future__ import annotations

import pytest

from dask_chunkio.cli.locations import Location, parse_location
from dask_chunkio.errors import ArgumentError


@pytest.mark.parametrize(
    ("text", "file", "path"),
    [
        ("x.h5", "x.h5", None),
        ("x.h5:/a/b", "x.h5", "/a/b"),
        ("/data/x.h5:/a", "/data/x.h5", "/a"),
        ("/data:/x.h5:/a", "/data:/x.h5", "/a"),
        (r"C:\data\x.h5", r"C:\data\x.h5", None),
        (r"C:\data\x.h5:/a", r"C:\data\x.h5", "/a"),
        ("C:/data/x.h5", "C:/data/x.h5", None),
        ("C:/data/x.h5:/a", "C:/data/x.h5", "/a"),
        ("c:x.h5", "c:x.h5", None),
        ("s3://bucket/x.zarr", "s3://bucket/x.zarr", None),
        ("s3://bucket/x.zarr:/a", "s3://bucket/x.zarr", "/a"),
        ("12:30.npy", "12:30.npy", None),
    ],
)
def test_locations(text: str, file: str, path: str | None) -> None:
    assert parse_location(text) == Location(file, path)
    assert str(parse_location(text)) == text


@pytest.mark.parametrize("text", ["", ":/x", "x.h5:a", r"C:\x.h5:a/b"])
def test_locations_that_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_location(text)
