"""The options of h5repack, and patterns of paths."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import ArgumentError
from dask_chunkio.repacking.patterns import Selection, matches
from dask_chunkio.repacking.rules import FilterChoice, LayoutChoice, parse_rules

NAMES = st.lists(st.text("ab[]*?.", min_size=1, max_size=4), min_size=1, max_size=4)


@settings(deadline=None)
@example(["?", "[[]"])
@given(NAMES)
def test_a_path_fits_itself_whatever_characters_it_has(names: list[str]) -> None:
    path = "/" + "/".join(names)
    assert matches(path, path)
    assert matches(path[1:], path)
    assert Selection(include=(path,)).takes(path)
    assert Selection(include=(path,)).takes(f"{path}/below")
    assert not Selection(exclude=(path,)).takes(f"{path}/below")


@settings(deadline=None)
@given(NAMES)
def test_what_leads_to_a_path_is_visited(names: list[str]) -> None:
    path = "/" + "/".join(names)
    selection = Selection(include=(path,))
    for count in range(1, len(names)):
        assert selection.may_lead("/" + "/".join(names[:count]))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("GZIP=4", FilterChoice(1, options=(4,))),
        ("SZIP=8,NN", FilterChoice(4, options=(32, 8))),
        ("SOFF=3,DS", FilterChoice(6, options=(0, 3))),
        ("FLET", FilterChoice(3, 0)),
        ("NBIT", FilterChoice(5)),
        ("UD=307,0,1,9", FilterChoice(307, 0, (9,))),
        ("UD=307,1,0", FilterChoice(307, 1)),
    ],
)
def test_filters(text: str, choice: FilterChoice) -> None:
    assert parse_rules([text]).wanted("/x").filters == (choice,)
    assert parse_rules([f"/a,x:{text}"]).wanted("/x").filters == (choice,)
    assert parse_rules([f"/a,x:{text}"]).wanted("/y").filters is None


@pytest.mark.parametrize(
    "text",
    ["", "GZIP=", "GZIP=-1", "GZIP=1,2", "SHUF=1", "SZIP=7,NN", "SZIP=8", "SOFF=3,XX", "NONE=1", ":GZIP=4", "gzip=4"],
)
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(ArgumentError, match="filters"):
        parse_rules([text])


@pytest.mark.parametrize("text", ["CHUNK", "CHUNK=0", "CHUNK=1x", "CHUNK=-1", "CHUNK=5000000000", "CONTI=1", "BTREE"])
def test_what_is_no_layout(text: str) -> None:
    with pytest.raises(ArgumentError, match="layouts"):
        parse_rules([], [text])


def test_what_names_a_dataset_goes_before_what_is_for_all() -> None:
    rules = parse_rules(["SHUF", "GZIP=4", "/a/*:NONE"], ["CONTI", "/a/x:CHUNK=2x3"])
    named, other = rules.wanted("/a/x"), rules.wanted("/b")
    assert named.filters == ()
    assert named.layout == LayoutChoice("chunked", (2, 3))
    assert named.is_named
    assert other.layout == LayoutChoice("contiguous")
    assert not other.is_named
    assert rules.wanted("/b", "/a/x").layout == LayoutChoice("chunked", (2, 3))
