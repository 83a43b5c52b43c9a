"""Every kind of index, asked by coordinates and listed, against where the payloads lie in the file."""

import itertools
import os
import random
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest

from dask_chunkio.storage import chunk_index
from dask_chunkio.storage.chunk_index import count_stored, index_differs, list_stored, misfiled
from dask_chunkio.storage.hdf5 import h5py_compat
from dask_chunkio.storage.hdf5.dataset import describe
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.journal.journal import ROW

LATER = ("v112", "v114", "v200", "latest")
LIBVERS = ("earliest", "v110", *LATER)
# H5D_CHUNK_IDX_… of H5Dpublic.h.
B_TREE_1, SINGLE, IMPLICIT, FIXED_ARRAY, EXTENSIBLE_ARRAY, B_TREE_2 = range(6)


def made(
    path: Path,
    *,
    libver: Any,
    maxshape: Any,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    filtered: bool,
    missing: bool,
    early: bool = False,
    seed: int = 0,
) -> tuple[Any, ...]:
    """A dataset whose payloads can be found in the file, and where each is."""
    draw = random.Random(seed)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(chunks)
    if filtered:
        plist.set_shuffle()
        plist.set_deflate(4)
    if early:
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    nbytes = int(np.prod(chunks)) * 8
    stored = {}
    with h5py.File(path, "w", libver=libver) as file:
        limits = tuple(h5py.h5s.UNLIMITED if end is None else end for end in maxshape)
        space = h5py.h5s.create_simple(shape, limits)
        dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT64, space, plist)
        cells = [range(0, end, length) for end, length in zip(shape, chunks, strict=True)]
        for number, origin in enumerate(itertools.product(*cells)):
            if missing and draw.random() < 0.4 and number:
                continue
            mask = draw.choice((0, 1, 2, 3)) if filtered else 0
            head = b"payload!" + number.to_bytes(8, "big")
            payload = head + draw.randbytes(draw.randrange(9, 90) if filtered else nbytes - len(head))
            dataset.write_direct_chunk(origin, payload, mask)
            stored[origin] = payload, mask
        kind = h5py_compat.chunk_index_type(dataset)
    content = path.read_bytes()
    return {origin: (content.find(payload), len(payload), mask) for origin, (payload, mask) in stored.items()}, kind


def listed(dataset: Any) -> dict[tuple[int, ...], tuple[int, ...]]:
    found = list_stored(dataset)
    places = [tuple(map(int, (row["offset"], row["nbytes"], row["mask"]))) for row in found.places]
    origins = [tuple(origin) for origin in found.origins.tolist()]
    return dict(zip(origins, places, strict=True))


def check(path: Path, expected: dict[tuple[int, ...], Any], early: bool = False) -> None:
    with open(path, "rb") as raw, h5py.File(staged := StagedFile(raw.fileno()), "r") as file:
        dataset = file["x"]
        chunks = [range(0, end, length) for end, length in zip(dataset.shape, dataset.chunks, strict=True)]
        found = {origin: staged.locate(dataset.id, origin, 100) for origin in itertools.product(*chunks)}
        if early:
            assert expected.items() <= found.items()
            assert count_stored(dataset) == len(found)
        else:
            assert {origin: place for origin, place in found.items() if place} == expected
            assert count_stored(dataset) == len(expected)
        assert listed(dataset) == {origin: place for origin, place in found.items() if place}
        assert misfiled(staged, dataset, list_stored(dataset)) == []
        compare(staged, dataset, found)
    # Also of a file that h5py opens by itself.
    with h5py.File(path) as file:
        assert listed(file["x"]).items() >= expected.items()


def journal(layout: Any, found: Any) -> Any:
    table = np.zeros(len(layout.chunks), ROW)
    for number, origin in enumerate(layout.origins(range(len(table)))):
        if place := found[origin]:
            table[number] = place[0], place[1], 0, place[2], 1
    return table


def compare(staged: Any, dataset: Any, found: Any) -> None:
    """What the journal says is compared by coordinates, whatever differs."""
    layout = describe(dataset)
    table = journal(layout, found)
    with mock.patch.object(StagedFile, "locate", side_effect=AssertionError("each by itself")):
        assert index_differs(staged, dataset, layout, table) is None
    with mock.patch.object(h5py_compat, "_hdf5", return_value=None):
        assert index_differs(staged, dataset, layout, table) is None
    held = np.flatnonzero(table["state"])
    if len(held):
        for name in ("offset", "nbytes", "mask"):
            other = table.copy()
            other[name][held[-1]] += 1
            assert str(layout.origin(int(held[-1]))) in (index_differs(staged, dataset, layout, other) or "")
        unknown = table.copy()
        unknown[held[0]] = 0
        assert "does not know" in (index_differs(staged, dataset, layout, unknown) or "")
    if len(held) < len(table):
        more = table.copy()
        more[np.flatnonzero(table["state"] == 0)[0]] = 4096, 16, 0, 0, 1
        assert "disagree" in (index_differs(staged, dataset, layout, more) or "")


SHAPES = [((7,), (2,)), ((4, 6), (2, 2)), ((5, 7), (2, 3)), ((3, 4, 5), (2, 2, 2)), ((2, 3, 2, 3), (1, 2, 2, 1))]
CASES = [
    (shape, chunks, maxshape)
    for shape, chunks in [
        ((7,), (2,)),
        ((4, 6), (2, 2)),
        ((5, 7), (2, 3)),
        ((3, 4, 5), (2, 2, 2)),
        ((2, 3, 2, 3), (1, 2, 2, 1)),
    ]
    for maxshape in itertools.product(*((end, end * 2 + 1, None) for end in shape))
]


@pytest.mark.parametrize("libver", ["earliest", "v110", *(pytest.param(one, marks=pytest.mark.heavy) for one in LATER)])
@pytest.mark.parametrize("is_part", [True, pytest.param(False, marks=pytest.mark.heavy)], ids=["part", "whole"])
def test_every_index_of_every_maxshape(tmp_path: Path, libver: Any, is_part: bool) -> None:
    left_out = {3: 0.7, 4: 0.92} if is_part else {}
    kinds = set()
    draw = random.Random(libver)
    for number, (shape, chunks, maxshape) in enumerate(CASES):
        for filtered in (False, True):
            if draw.random() < left_out.get(len(shape), 0):
                continue
            how = {"libver": libver, "maxshape": maxshape, "shape": shape, "chunks": chunks, "filtered": filtered}
            expected, kind = made(tmp_path / "x.h5", **how, missing=draw.random() < 0.5, seed=number)
            kinds.add(kind)
            check(tmp_path / "x.h5", expected)
    assert kinds == ({B_TREE_1} if libver == "earliest" else {FIXED_ARRAY, EXTENSIBLE_ARRAY, B_TREE_2})


@pytest.mark.parametrize("libver", LIBVERS[1:])
def test_one_chunk_and_places_from_the_beginning(tmp_path: Path, libver: Any) -> None:
    path = tmp_path / "x.h5"
    for filtered in (False, True):
        how = {"libver": libver, "maxshape": (4, 2), "shape": (4, 2), "chunks": (4, 2), "filtered": filtered}
        expected, kind = made(path, **how, missing=False)
        assert kind == SINGLE
        check(path, expected)
    for shape in ((8,), (4, 6), (5, 3, 4)):
        how = {"libver": libver, "maxshape": shape, "shape": shape, "chunks": (2,) * len(shape), "filtered": False}
        expected, kind = made(path, **how, missing=True, early=True)
        assert kind == IMPLICIT
        check(path, expected, early=True)


def test_an_extensible_array_that_was_resized(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="v110") as file:
        dataset = file.create_dataset("x", (4, 2), "i8", chunks=(2, 2), maxshape=(10, None), fillvalue=-1)
        dataset[...] = 1
        dataset.resize((10, 6))
        dataset[8:10, 4:6] = 2
        dataset.resize((10, 9))
    with h5py.File(path) as file:
        assert sorted(listed(file["x"])) == [(0, 0), (2, 0), (8, 4)]


@pytest.mark.parametrize("how", ["no library", "another HDF5"])
@pytest.mark.parametrize("missing", [False, True])
def test_where_nothing_is_known_of_the_order_chunks_are_found_one_by_one(
    tmp_path: Path, how: str, missing: bool
) -> None:
    options: dict[str, Any] = {"libver": "v110", "maxshape": (6, None, 5), "shape": (5, 4, 3), "chunks": (2, 2, 2)}
    expected, _ = made(tmp_path / "x.h5", **options, filtered=True, missing=missing)
    module, name, answer = {
        "no library": (h5py_compat, "_hdf5", None),
        "another HDF5": (chunk_index, "_lists_swizzled", None),
    }[how]
    with mock.patch.object(module, name, return_value=answer), h5py.File(tmp_path / "x.h5") as file:
        assert sorted(listed(file["x"])) == sorted(expected)
        assert set(listed(file["x"]).values()) == {(0, 0, 0)}


def test_without_any_chunk_there_is_nothing_to_find(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="v110") as file:
        file.create_dataset("x", (4, 4), "i8", chunks=(2, 2), maxshape=(4, None))
    check(tmp_path / "x.h5", {})
    with mock.patch.object(h5py_compat, "_hdf5", return_value=None), h5py.File(tmp_path / "x.h5") as file:
        assert listed(file["x"]) == {}


def test_a_library_that_lists_rightly_is_believed() -> None:
    """As HDF5 will, once the error is mended."""
    real = h5py.h5d.DatasetID.chunk_iter

    class Right:
        def __init__(self, dataset: Any) -> None:
            self.id, self.chunks = self, dataset.chunks
            self._dataset = dataset

        def __getattr__(self, name: str) -> Any:
            return getattr(self._dataset.id, name)

        def chunk_iter(self, take: Any) -> None:
            infos: list[Any] = []
            real(self._dataset.id, infos.append)
            cells = chunk_index._unswizzled(np.array([info.chunk_offset for info in infos]), [2, 0, 3], 1)
            for info, cell in zip(infos, cells.tolist(), strict=True):
                take(mock.Mock(chunk_offset=tuple(cell), byte_offset=info.byte_offset, size=info.size, filter_mask=0))

    assert chunk_index._lists_swizzled() in (True, False)
    if chunk_index._lists_swizzled():
        listed = chunk_index._listed
        with mock.patch.object(chunk_index, "_listed", lambda dataset: listed(Right(dataset))):
            assert chunk_index._lists_swizzled.__wrapped__() is False


@pytest.mark.parametrize("at_once", [1, 4, 9, 100])
def test_a_long_index_is_taken_in_parts_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(chunk_index, "_AT_ONCE", at_once)
    options: dict[str, Any] = {"libver": "v110", "maxshape": (5, None), "shape": (5, 6), "chunks": (2, 2)}
    expected, _ = made(tmp_path / "x.h5", **options, filtered=True, missing=False)
    check(tmp_path / "x.h5", expected)


def test_a_chunk_whose_key_is_wrong_is_listed_and_not_found(tmp_path: Path) -> None:
    """A B-tree of version 1 has no checksum."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("x", data=np.arange(12), chunks=(2,))
    content = bytearray(path.read_bytes())
    # The key of the chunk at 6: length, mask and coordinates.
    key = (16).to_bytes(4, "little") + bytes(4) + (6).to_bytes(8, "little") + bytes(8)
    at = content.find(key)
    assert at > 0
    assert content.count(key) == 1
    content[at + 8] = 4
    path.write_bytes(content)
    with open(path, "rb") as raw, h5py.File(staged := StagedFile(raw.fileno()), "r") as file:
        stored = list_stored(file["x"])
        assert len(stored) == count_stored(file["x"]) == 6
        assert misfiled(staged, file["x"], stored)


@pytest.fixture(scope="module")
def deep_tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """A B-tree of version 1 with nodes below its root: the file, where its nodes are, and the places of chunks."""
    path = tmp_path_factory.mktemp("tree") / "x.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("x", data=np.arange(400), chunks=(2,))
    content = path.read_bytes()
    nodes = [at for at in range(len(content)) if content.startswith(b"TREE\x01", at)]
    assert sorted(content[at + 5] for at in nodes) == [0] * (len(nodes) - 1) + [1]
    with open(path, "rb") as raw, h5py.File(staged := StagedFile(raw.fileno()), "r") as file:
        return content, nodes, {(at,): staged.locate(file["x"].id, (at,), 100) for at in range(0, 400, 2)}


def judged(path: Path, content: bytes | bytearray, expected: Any) -> tuple[Any, ...]:
    """What the comparison with the journal says, and whether all reads find their chunks."""
    path.write_bytes(content)
    with open(path, "rb") as raw, h5py.File(staged := StagedFile(raw.fileno()), "r") as file:
        dataset = file["x"]
        difference = index_differs(staged, dataset, (layout := describe(dataset)), journal(layout, expected))
        found = {origin: staged.locate(dataset.id, origin, 100) for origin in expected}
        return difference, found == expected and count_stored(dataset) == len(expected)


def test_a_key_inside_the_tree_that_is_wrong_does_not_show_in_the_list(tmp_path: Path, deep_tree: Any) -> None:
    content, nodes, expected = deep_tree
    (root,) = [at for at in nodes if content[at + 5] == 1]
    damaged = bytearray(content)
    # Behind its head of 24 bytes, a key and an address: the second key is of 4 + 4 + 8 + 8 bytes.
    key = root + 24 + 24 + 8 + 8
    first_of_second = int.from_bytes(content[key : key + 8], "little")
    damaged[key : key + 8] = (first_of_second + 4).to_bytes(8, "little")
    difference, is_whole = judged(tmp_path / "x.h5", damaged, expected)
    assert not is_whole
    assert f"disagree on the chunk at ({first_of_second},)" in difference
    with h5py.File(tmp_path / "x.h5") as file:
        assert listed(file["x"]) == expected


def test_whatever_bit_of_a_tree_is_wrong_no_chunk_is_taken_for_found(tmp_path: Path, deep_tree: Any) -> None:
    content, nodes, expected = deep_tree
    draw, outcomes = random.Random(), set()
    for _ in range(int(os.environ.get("CHUNKIO_BIT_FLIPS", "60"))):
        damaged = bytearray(content)
        at, bit = draw.choice(nodes) + draw.randrange(600), draw.randrange(8)
        damaged[at] ^= 1 << bit
        difference, is_whole = judged(tmp_path / "x.h5", damaged, expected)
        assert (difference is None) == is_whole, (at, bit)
        outcomes.add(is_whole)
    assert outcomes == {False, True}


@pytest.mark.parametrize("libver", ["earliest", "v110"])
def test_places_are_those_in_the_file_also_behind_a_user_block(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", userblock_size=1024, libver=libver) as file:
        file.create_dataset("x", data=np.arange(100), chunks=(10,), compression="gzip")
    with open(path, "rb") as raw, h5py.File(staged := StagedFile(raw.fileno()), "r") as file:
        found = {(at,): staged.locate(file["x"].id, (at,), 1000) for at in range(0, 100, 10)}
        assert listed(file["x"]) == found
        compare(staged, file["x"], found)


def test_a_search_that_fails_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also in a thread in which h5py has not told HDF5 to be silent."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=np.arange(12), chunks=(2,))
        origins = np.array([(0,), (1,), (2,), (1 << 60,), (10,)])
        found = []
        thread = threading.Thread(target=lambda: found.append(h5py_compat.search_chunks(dataset.id, origins)))
        thread.start()
        thread.join()
    assert [int(nbytes) for nbytes in found[0]][::4] == [16, 16]
    assert found[0][3] == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("at_once", [2, 100])
def test_a_list_that_is_longer_than_its_count_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(chunk_index, "_AT_ONCE", at_once)
    monkeypatch.setattr(chunk_index, "count_stored", lambda _: 3)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=np.arange(20), chunks=(2,))
        with pytest.raises(RuntimeError, match="lists more than the 3 chunks"):
            list_stored(dataset)


def test_a_payload_is_not_read_to_find_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(1000), chunks=(500,))
    reads = []
    real = os.preadv

    def noted(descriptor: Any, buffers: Any, offset: int, *flags: int) -> int:
        reads.append((offset, sum(map(len, buffers))))
        return real(descriptor, buffers, offset, *flags)

    with open(path, "rb") as raw, h5py.File(staged := StagedFile(raw.fileno()), "r") as file:
        identifier = file["x"].id
        first = staged.locate(identifier, (0,), 4000)
        with mock.patch.object(os, "preadv", noted):
            second = staged.locate(identifier, (500,), 4000)
            assert staged.locate(identifier, (500,), 1) == second
    assert first is not None
    assert second is not None
    assert first[1:] == second[1:] == (4000, 0)
    assert all(offset not in (first[0], second[0]) for offset, _ in reads)
