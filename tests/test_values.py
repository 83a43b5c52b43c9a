"""Values end to end: those that h5py stores for the same input, or refused before anything is touched."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentTypeError, CastError

LON_LAT = np.dtype([("lon", "f8"), ("lat", "f8")])
LAT_LON = np.dtype([("lat", "f4"), ("lon", "f8")])


def places(count: int = 20) -> Any:
    found = np.zeros(count, LON_LAT)
    found["lon"], found["lat"] = np.arange(count), -np.arange(count)
    return found


def sources(data: Any) -> Iterator[Any]:
    yield data
    yield da.from_array(data, chunks=8)
    yield (dcio.DataChunk(data[at : at + 7], np.s_[at : at + 7]) for at in range(0, len(data), 7))


@pytest.mark.parametrize("number", range(3))
def test_fields_go_by_their_names_into_a_new_dataset(target: Path, number: int) -> None:
    source = list(sources(places()))[number]
    dcio.to_hdf5(target, "/x", source, dtype=LAT_LON, chunks=(8,), scheduler="synchronous")
    with h5py.File(target) as file:
        assert file["x"].dtype == LAT_LON
        np.testing.assert_array_equal(file["x"]["lon"], np.arange(20))
        np.testing.assert_array_equal(file["x"]["lat"], -np.arange(20))


def test_fields_go_by_their_names_where_a_source_returns_another_order_than_it_announced(target: Path) -> None:
    class Swapped:
        shape, dtype = (20,), LON_LAT

        def __getitem__(self, selection: Any) -> Any:
            return places()[selection].astype([("lon", "f8"), ("lat", "f8")])[["lat", "lon"]]

    dcio.to_hdf5(target, "/x", Swapped(), chunks=(8,), scheduler="synchronous")
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], places())


@pytest.mark.parametrize("chunks", [(8,), None])
@pytest.mark.parametrize("given", ["reordered", "some"])
def test_fields_go_by_their_names_into_a_dataset_that_is_there(
    target: Path, chunks: tuple[int, ...] | None, given: str
) -> None:
    dtype = np.dtype([("lat", "f4"), ("note", "i4"), ("lon", "f8")])
    old = np.array([(1, number, 2) for number in range(30)], dtype)
    source = places() if given == "reordered" else places()[["lat"]]
    with h5py.File(target, "w") as file:
        file.create_dataset("x", data=old, chunks=chunks, maxshape=(None,) if chunks else None)
    expected = old.copy()
    for name in source.dtype.names:
        expected[name][4:24] = source[name]
    dcio.to_hdf5(target, "/x", source, region=np.s_[4:24], scheduler="synchronous")
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], expected)


def test_hdf5_itself_loses_fields_that_are_not_given(target: Path) -> None:
    """Where it writes whole chunks: what the documents say of it.  Mended there, take it out of them."""
    old = np.array([(1, number) for number in range(8)], [("lat", "f4"), ("note", "i4")])
    with h5py.File(target, "w") as file:
        file.create_dataset("x", data=old, chunks=(4,))
    with h5py.File(target, "r+") as file:
        file["x"][...] = old[["lat"]]
        assert (file["x"]["note"] == 0).all()


def test_fields_that_are_appended_to_without_a_value_have_the_fill_value(target: Path) -> None:
    dtype = np.dtype([("lat", "f4"), ("note", "i4")])
    with h5py.File(target, "w") as file:
        fill = np.array((7, 8), dtype)
        file.create_dataset("x", (5,), dtype, chunks=(4,), maxshape=(None,), fillvalue=fill)
    dcio.to_hdf5(target, "/x", places(10)[["lat"]], append=True, scheduler="synchronous")
    with h5py.File(target) as file:
        assert set(file["x"]["note"]) == {8}
        np.testing.assert_array_equal(file["x"]["lat"][5:], -np.arange(10))


@pytest.mark.parametrize(
    ("source", "keywords", "words"),
    [
        (np.array([12345]), {"dtype": "S4"}, "^/x: values of dtype int64 cannot be stored as S4"),
        (places(), {"dtype": [("x", "f8"), ("y", "f8")]}, "fields are matched by their names"),
        (np.zeros(3), {"dtype": "c16"}, "real numbers to complex"),
        (np.zeros(3, "M8[us]"), {}, r"^/x: HDF5 has no type for datetime64\[us\].*opaque_dtype"),
        (da.zeros(3, dtype="U4", chunks=1), {}, r"^/x: HDF5 has no type for numpy's <U4 strings; .*string_dtype"),
        (np.zeros((4, 3), "f4"), {"dtype": ("f4", (3,))}, "^/x: a dataset of arrays"),
        (np.array([1, None], object), {}, "^/x: HDF5 has no type for Python objects"),
    ],
)
def test_what_has_no_place_is_refused_before_anything_is_touched(
    target: Path, source: Any, keywords: dict[str, Any], words: str
) -> None:
    with pytest.raises(CastError, match=words):
        dcio.to_hdf5(target, "/x", source, **keywords)
    assert not os.listdir(target.parent)


def test_times_are_stored_as_h5py_stores_them(target: Path) -> None:
    times = np.arange(20).astype("M8[us]")
    dcio.to_hdf5(target, "/x", da.from_array(times, chunks=6), dtype=h5py.opaque_dtype("M8[us]"), chunks=(6,))
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], times)


def pollute() -> None:
    """Leave other bytes in the memory that numpy hands out next."""
    kept = [np.full(size, 170 + size % 7, "u1") for size in range(8, 200) for _ in range(20)]
    del kept


PADDED = np.dtype([("a", "i1"), ("b", "f8"), ("c", "g")], align=True)


FILLS = [
    ("g", np.longdouble(3)),
    ("g", 2.5),
    ("G", np.clongdouble(1 + 2j)),
    (PADDED, np.array((1, 2, 3), PADDED)),
    (PADDED, np.array((1, 2, 3), PADDED)[()]),
    (PADDED, np.array((3, 1, 2), [("c", "f8"), ("a", "i2"), ("b", "f4")])),
    ("f8", np.nan),
    ("f4", np.nan),
]


@pytest.mark.parametrize(
    ("is_new", "dtype", "fill"),
    [
        pytest.param(
            is_new,
            *one,
            id=f"{is_new}-{one[0]}-{one[1]}",
            # Of a file that is there, one of each kind by default.
            marks=[] if is_new or row in (0, 3, 6) else pytest.mark.heavy,
        )
        for is_new in (True, False)
        for row, one in enumerate(FILLS)
    ],
)
def test_fill_values_are_compared_by_value(target: Path, dtype: Any, fill: Any, is_new: bool) -> None:
    """Bytes between their values are what was in memory, on the client and on the worker."""
    data = np.zeros(6, dtype)
    if not is_new:
        with h5py.File(target, "w") as file:
            file.create_dataset("x", (10,), dtype, chunks=(4,), maxshape=(None,))
    raws = set()
    for number in range(6):
        pollute()
        name = f"/{number}"
        dcio.to_hdf5(target, name, data, chunks=(4,), fillvalue=fill, scheduler="synchronous")
        with h5py.File(target) as file:
            stored = file[name]
            expected = np.zeros((), dtype)
            raw = np.full(stored.dtype.itemsize, number, "u1")
            stored.id.get_create_plist().get_fill_value(raw.view(stored.dtype))
            raws.add(raw.tobytes())
            if np.dtype(dtype).names is None:
                expected[...] = fill
                np.testing.assert_array_equal(stored.fillvalue, expected[()])
            else:
                assert all(stored.fillvalue[part] == np.asarray(fill)[part] for part in expected.dtype.names)
            raws.add(stored.id.read_direct_chunk((4,))[1][2 * stored.dtype.itemsize :][: stored.dtype.itemsize])
    assert len(raws) == 1


def test_an_attribute_that_cannot_be_stored_is_named(target: Path) -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"^/x: attribute 'when', a datetime64 of datetime64\[D\], cannot.*strings"
    ):
        dcio.to_hdf5(target, "/x", np.zeros(3), attrs={"unit": "V", "when": np.datetime64("2026-01-01")})
    with pytest.raises(ArgumentTypeError, match=r"^/x: attribute 'who', a dict, cannot"):
        dcio.to_hdf5(target, "/x", np.zeros(3), attrs={"who": {"a": 1}})
    assert not os.listdir(target.parent)


STRING, ASCII, LISTS = h5py.string_dtype(), h5py.string_dtype("ascii"), h5py.vlen_dtype("i4")
RECORD = np.dtype([("name", STRING), ("hits", h5py.vlen_dtype("f4")), ("at", LON_LAT), ("x", "i2")])


def objects(shape: int | tuple[int, ...], dtype: Any, element: Callable[[int], Any]) -> Any:
    found = np.empty(int(np.prod(shape)), dtype)
    for number in range(found.size):
        found[number] = element(number)
    return found.reshape(shape)


def points(number: int) -> Any:
    found = np.zeros(number % 4, LON_LAT)
    found["lon"] = number
    return found


ELEMENTS: dict[str, tuple[Any, Callable[[int], Any]]] = {
    "strings": (STRING, lambda number: "ä" * (number % 3) + str(number)),
    "ASCII": (ASCII, lambda number: b"b" * (number % 3)),
    "lists": (LISTS, lambda number: np.arange(number % 4, dtype="i4")),
    "same lengths": (LISTS, lambda number: np.arange(2, dtype="i4") + number),
    "of one": (LISTS, lambda number: np.array([number], "i4")),
    "big-endian": (h5py.vlen_dtype(">f8"), lambda number: np.arange(number % 4, dtype=">f8")),
    "truth values": (h5py.vlen_dtype("?"), lambda number: np.arange(number % 4) > 1),
    "compounds": (h5py.vlen_dtype(LON_LAT), points),
    "fixed strings": (h5py.vlen_dtype("S3"), lambda number: np.array([b"abc"] * (number % 3), "S3")),
    "lists of lists": (h5py.vlen_dtype(LISTS), lambda _: objects(2, LISTS, lambda _: np.arange(3, dtype="i4"))),
    "lists of strings": (h5py.vlen_dtype(STRING), lambda number: objects(number % 3, object, str)),
    "records": (RECORD, lambda number: (str(number), np.arange(number % 3, dtype="f4"), (number, 1), number)),
}


def assert_same_elements(found: Any, expected: Any) -> None:
    assert found.shape == expected.shape
    if found.dtype.names:
        for name in found.dtype.names:
            assert_same_elements(found[name], expected[name])
        return
    for one, other in zip(found.reshape(-1), expected.reshape(-1), strict=True):
        if isinstance(one, np.ndarray) and one.dtype.hasobject:
            assert_same_elements(one, other)
        elif isinstance(one, bytes) and isinstance(other, str):
            assert one == other.encode()
        elif getattr(other, "dtype", None) == ">f8":
            # (h5py reads these in the order of the machine.)
            np.testing.assert_array_equal(one.view(">f8"), other)
        else:
            np.testing.assert_array_equal(one, other)


# Shape, chunks and buffers.
PLACES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None, tuple[int, ...] | None]] = {
    "no axes": ((), None, None),
    "one axis": ((7,), (2,), (4,)),
    "columns cut": ((6, 5), (3, 2), (3, 2)),
    "one chunk": ((6, 5), (6, 5), (6, 5)),
    "nothing": ((0, 5), None, None),
}


CASES = [("array", name) for name in ELEMENTS]
CASES += [(kind, name) for kind in ("dask", "serial") for name in ("strings", "same lengths", "records")]
# In every place; the others where columns are cut.
EVERYWHERE = [("array", "lists"), ("array", "records"), ("dask", "strings"), ("serial", "strings")]


@pytest.mark.parametrize(
    ("kind", "name", "place"),
    [
        pytest.param(*case, place, marks=[] if place == "columns cut" or case in EVERYWHERE else pytest.mark.heavy)
        for case in CASES
        for place in PLACES
    ],
)
def test_elements_of_variable_length(target: Path, place: str, kind: str, name: str) -> None:
    dtype, element = ELEMENTS[name]
    shape, chunks, buffer_shape = PLACES[place]
    data = objects(shape, dtype, element)

    class Serial:
        def __init__(self) -> None:
            self.shape, self.dtype = data.shape, data.dtype

        def __getitem__(self, selection: Any) -> Any:
            return data[selection]

    source = {"array": data, "dask": da.from_array(data, chunks=buffer_shape or -1), "serial": Serial()}[kind]
    layout: dict[str, Any] = {"chunks": chunks, "buffer_shape": buffer_shape} if chunks else {}
    dcio.to_hdf5(target, "/x", source, dtype=dtype, scheduler="threads", **layout)
    with h5py.File(target) as file:
        made = file["x"]
        assert h5py.h5t.py_create(dtype, logical=True).equal(made.id.get_type())
        found = np.empty((), dtype) if not shape else made[...]
        found[()] = made[()]
        assert_same_elements(found, data)
    if shape and shape[0]:
        region = (slice(1, 5), *([slice(1, 4)] if len(shape) > 1 else []))
        new = objects(data[region].shape, dtype, lambda number: element(number + 1))
        dcio.to_hdf5(target, "/x", new, region=region, scheduler="synchronous")
        data[region] = new
        with h5py.File(target) as file:
            assert_same_elements(file["x"][...], data)


@pytest.mark.parametrize(
    ("dtype", "element", "words"),
    [
        (STRING, None, "it is None, not a str"),
        (STRING, 3, "it is a int, not a str"),
        (STRING, "a\0b", "NUL"),
        (STRING, "\udc80", "surrogates"),
        (ASCII, "ä", "ascii"),
        (LISTS, None, "it is None, not an array or a list"),
        (LISTS, 3, "it is a int, not an array or a list"),
        (LISTS, "text", "it is a str"),
        (LISTS, np.zeros((2, 2), "i4"), "it has 2 axes"),
        (LISTS, np.array(3), "it has 0 axes"),
        (LISTS, [1.5, 2.5], "fractions would be lost"),
        (h5py.vlen_dtype(LON_LAT), np.zeros(3), "only one of them has fields"),
        (h5py.ref_dtype, "/x", "not a Reference"),
    ],
)
def test_elements_that_cannot_be_stored_are_named(target: Path, dtype: Any, element: Any, words: str) -> None:
    right: dict[str, Any] = {"vlen": [], "ref": None}
    good = "a" if dtype in (STRING,) and h5py.check_string_dtype(dtype) else right[next(iter(dtype.metadata))]
    data = objects(4, object, lambda number: element if number == 3 else good)
    with pytest.raises(dcio.errors.SourceError, match=rf"^/x, buffer 1, .*: element \(1,\) .*{words}"):
        dcio.to_hdf5(target, "/x", data, dtype=dtype, chunks=(2,), buffer_shape=(2,), scheduler="synchronous")
    assert not target.exists()


def test_lists_of_numbers_become_what_the_dataset_has(target: Path) -> None:
    data = objects(4, object, lambda number: [[], [1, 2], (3,), np.array([7, 2**40])][number])
    dcio.to_hdf5(target, "/x", data, dtype=LISTS, scheduler="synchronous")
    with h5py.File(target) as file:
        assert [list(one) for one in file["x"]] == [[], [1, 2], [3], [7, 2**31 - 1]]


@pytest.mark.parametrize(
    "source",
    [
        ["a", "bcä"],
        [["a", "b"], ["c", "d"]],
        np.array(["a", "bc"], object),
        np.array([b"a", b"bc"], object),
        np.array(["a", "bc"], np.dtypes.StringDType()),
    ],
)
def test_strings_that_h5py_takes(target: Path, source: Any) -> None:
    with h5py.File("oracle", "w", driver="core", backing_store=False) as oracle:
        expected = oracle.create_dataset("x", data=source)
        dcio.to_hdf5(target, "/x", source, scheduler="synchronous")
        with h5py.File(target) as file:
            assert file["x"].id.get_type().equal(expected.id.get_type())
            np.testing.assert_array_equal(file["x"][...], expected[...])


@pytest.mark.parametrize("kind", ["U", "S", "T"])
@pytest.mark.parametrize("dtype", [STRING, ASCII])
def test_arrays_of_strings_become_strings_of_variable_length(target: Path, kind: str, dtype: Any) -> None:
    texts = ["a", "bc" if dtype is ASCII or kind == "S" else "bcä"]
    source = np.array(texts, kind)
    for array in (source, da.from_array(source, chunks=1)) if kind != "T" else (source,):
        dcio.to_hdf5(target, "/x", array, dtype=dtype, overwrite=True, chunks=(1,), scheduler="threads")
        with h5py.File(target) as file:
            assert list(file["x"].asstr()[...]) == texts


def test_references(target: Path) -> None:
    with h5py.File(target, "w") as file:
        data = file.create_dataset("data", data=np.arange(10))
        references = np.array([data.ref, file.ref, None, data.ref], h5py.ref_dtype)
        regions = np.array([data.regionref[2:4], data.regionref[:]], h5py.regionref_dtype)
    with pytest.raises(dcio.errors.PicklingError, match=r"^/r: the source cannot be sent to worker processes"):
        dcio.to_hdf5(target, {"/r": references}, scheduler="processes")
    dcio.to_hdf5(target, {"/r": references, "/s": regions}, chunks=(2,), scheduler="threads")
    with h5py.File(target) as file:
        assert [file[ref].name if ref else None for ref in file["r"]] == ["/data", "/", None, "/data"]
        np.testing.assert_array_equal(file["data"][file["s"][0]], [2, 3])


HAZARDS = [({"dtype": dtype, "compression": name}, name) for dtype in (STRING, LISTS) for name in ("blosc", "blosc2")]
HAZARDS += [({"dtype": "i4", "compression": name, "scaleoffset": 2}, name) for name in ("szip", "sz3")]
HAZARDS += [({"dtype": "f4", "compression": "zfp", "compression_opts": {"rate": 8}, "scaleoffset": 2}, "zfp")]
HAZARDS += [({"dtype": dtype, "compression": name}, name) for dtype in (">f4", "f2", "g") for name in ("sz", "sz3")]
HAZARDS += [({"dtype": "i2", "compression": "sz3", "chunks": (chunk,)}, "sz3") for chunk in (20, 21, 63)]
HAZARDS += [({"dtype": ">f4", "compression": "zfp", "compression_opts": {"rate": 8}}, "zfp")]


@pytest.mark.parametrize(("keywords", "name"), HAZARDS)
def test_what_ends_the_process_of_h5py_is_refused(target: Path, keywords: dict[str, Any], name: str) -> None:
    source = np.arange(64, dtype="i2" if np.dtype(keywords["dtype"]).kind == "i" else "f4")
    if keywords["dtype"] in (STRING, LISTS):
        source = np.array([None], object)
    with pytest.raises(
        dcio.errors.ArgumentError, match=rf"^/x: {name} (divides by|after scaleoffset|takes |writes beyond)"
    ):
        dcio.to_hdf5(target, "/x", source, **keywords)
    assert not os.listdir(target.parent)


def test_sz3_is_not_refused_where_it_stays_within_its_memory(target: Path) -> None:
    dcio.to_hdf5(target, "/x", np.arange(64, dtype="i2"), chunks=(64,), compression="sz3")
    with h5py.File(target) as file:
        np.testing.assert_allclose(file["x"][...], np.arange(64), atol=1)
