"""Every pair of dtypes with values at every edge: what h5py stores, or a CastError."""

import itertools
import os
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from dask_chunkio.errors import CastError
from dask_chunkio.filters.compatibility import check_conversion, is_partial, refusal
from dask_chunkio.filters.conversion import assign, convert
from dask_chunkio.filters.padding import without_padding
from tests.support.h5py_values import bits, edges, native, stored_by_h5py

INTEGERS = [order + kind for order in "<>" for kind in ("i2", "i4", "i8", "u2", "u4", "u8")] + ["i1", "u1"]
FLOATS = [order + kind for order in "<>" for kind in ("f2", "f4", "f8")] + ["g", ">g"]
COMPLEX = ["<c8", ">c8", "<c16", ">c16", "G"]
NUMBERS = [*INTEGERS, *FLOATS, *COMPLEX, "?"]
# numpy's 'same_kind' refuses what loses signs, fractions, or everything but truth.
REFUSED = {"iu", "ib", "ub", "fi", "fu", "fb", "cb", "ci", "cu", "cf"}
# HDF5 refuses these too.
REFUSED |= {"ic", "uc", "fc", "bc"}


@pytest.mark.parametrize("source", NUMBERS)
def test_numbers_become_what_hdf5_makes_of_them(source: str) -> None:
    """Of numbers of the machine's byte order: between orders HDF5 2.0 errs."""
    data = edges(source)
    for target in map(np.dtype, NUMBERS):
        if data.dtype.kind + target.kind in REFUSED:
            with pytest.raises(CastError, match=r"^/x: values of dtype \S+ cannot be stored as \S+: .*; convert them"):
                check_conversion(data.dtype, target, "/x")
            continue
        check_conversion(data.dtype, target, "/x")
        found = convert(data, target)
        assert found.dtype == target
        expected = stored_by_h5py(data.astype(native(source)), native(target))
        np.testing.assert_array_equal(bits(found), bits(expected), err_msg=f"{source} to {target}")


@pytest.mark.heavy
def test_numbers_of_other_bits_every_time() -> None:
    """DASK_CHUNKIO_RUNS=1000 for more."""
    first = int.from_bytes(os.urandom(4), "little")
    for seed in range(first, first + int(os.environ.get("DASK_CHUNKIO_RUNS", "3"))):
        for source, target in itertools.product(NUMBERS, NUMBERS):
            if refusal(np.dtype(source), np.dtype(target)) is None:
                data = edges(source, seed)
                expected = stored_by_h5py(data.astype(native(source)), native(target))
                found = bits(convert(data, np.dtype(target)))
                assert (found == bits(expected)).all(), f"{source} to {target}, seed {seed}"
        edges.cache_clear()


@pytest.mark.parametrize("source", [*INTEGERS, *FLOATS])
def test_hdf5_itself_errs_between_byte_orders_only(source: str) -> None:
    """What the documents say of it: where it does not err any more, take it out of them."""
    data = edges(source)
    for target in (*INTEGERS, *FLOATS):
        pair = np.dtype(source), np.dtype(target)
        if refusal(*pair) is not None:
            continue
        if np.array_equal(bits(convert(data, pair[1])), bits(stored_by_h5py(data, target))):
            continue
        assert any(dtype != dtype.newbyteorder("=") for dtype in pair), target
        is_sign = pair[0].kind + pair[1].kind == "ui" and pair[0].itemsize == pair[1].itemsize
        assert is_sign or "f" in pair[1].kind, target


ENUM = h5py.enum_dtype({"OFF": 0, "ON": 1}, "i2")


@pytest.mark.parametrize("target", ["i1", "i2", ">i8", "f4", "f2", ENUM, h5py.enum_dtype({"ON": 0, "OFF": 1}, "i1")])
@pytest.mark.parametrize("source", [ENUM, "i2", "i4"])
def test_enumerations_are_their_numbers(source: DTypeLike, target: DTypeLike) -> None:
    data = edges("i4").astype(source)
    assert refusal(data.dtype, np.dtype(target)) is None
    np.testing.assert_array_equal(convert(data, np.dtype(target)), stored_by_h5py(data, target))


TEXTS = [b"", b"a", b"abc", b"abcd", b"a\0b", b"\0", b"\0bc", b"a b ", "ä€".encode(), b"abcdefg"]
STRINGS = ["S1", "S3", "S4", "S9", *(h5py.string_dtype("utf-8", length) for length in (2, 4, 9))]


@pytest.mark.parametrize(("source", "target"), list(itertools.product(map(np.dtype, STRINGS), repeat=2)))
@pytest.mark.parametrize("step", [1, 2])
def test_strings_are_cut_and_padded_as_by_hdf5(source: np.dtype[Any], target: np.dtype[Any], step: int) -> None:
    data = np.array(TEXTS, "S9").astype(source)[::step]
    if h5py.check_string_dtype(source).encoding != h5py.check_string_dtype(target).encoding:
        with pytest.raises(OSError, match="no appropriate function"):
            stored_by_h5py(data, target)
        with pytest.raises(CastError, match=r"HDF5 does not convert .*; say that they are.*string_dtype\('"):
            check_conversion(source, target, "/x")
        return
    assert convert(data, target).tobytes() == stored_by_h5py(data, target).tobytes()


OTHERS = ["S4", "V4", "i4", "f4", "?", "c8", [("a", "i4")], [("r", "f4"), ("i", "f4")], h5py.opaque_dtype("M8[s]")]
OTHERS += [h5py.opaque_dtype("M8[us]"), "V8", ENUM, ("i4", (2,)), h5py.string_dtype(), h5py.vlen_dtype("i4")]


@pytest.mark.parametrize(
    "source", [dtype for dtype in map(np.dtype, OTHERS) if dtype.subdtype is None and not dtype.hasobject], ids=str
)
def test_what_hdf5_does_not_convert_is_refused(source: np.dtype[Any]) -> None:
    for target in map(np.dtype, OTHERS):
        data = np.zeros((2, 2) if target.subdtype else 2, source)
        try:
            stored_by_h5py(data, target)
        except (TypeError, OSError, ValueError, np.exceptions.ComplexWarning):
            assert is_refused(source, target), f"{source} to {target}"


def is_refused(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    try:
        check_conversion(source, target, "/x")
    except CastError:
        return True
    return False


LON_LAT = np.dtype([("lon", "f8"), ("lat", "f8")])
LAT_LON = np.dtype([("lat", "f8"), ("lon", "f8")])
NESTED = np.dtype([("at", LON_LAT), ("pixels", "<i4", (2, 3)), ("label", "S3"), ("on", "?")])
OTHERWISE = np.dtype(
    [("on", "?"), ("label", "S5"), ("pixels", ">i2", (2, 3)), ("at", [("lat", "f4"), ("lon", ">f8")])], align=True
)
RECORDS = {
    "reordered": (LON_LAT, LAT_LON),
    "fewer fields": (LON_LAT, np.dtype([("lat", "f4")])),
    "more fields": (np.dtype([("lat", "i2")]), LON_LAT),
    "nested": (NESTED, OTHERWISE),
    "nested, fewer": (NESTED, np.dtype([("at", [("lat", "f8")]), ("on", "u1")])),
    "nested, more": (np.dtype([("at", [("lat", "f8")]), ("on", "?")]), OTHERWISE),
    "titles": (np.dtype([("a", "i2")]), np.dtype([(("a title", "a"), "i4")])),
    "holes": (
        LON_LAT,
        np.dtype({"names": ["lon", "lat"], "formats": ["f4", "f8"], "offsets": [2, 11], "itemsize": 32}),
    ),
    "unaligned": (np.dtype([("x", "u1"), ("y", "<f8")]), np.dtype([("y", "<f4"), ("x", ">u8")])),
    "to complex": (np.dtype([("i", "f4"), ("r", "f4")]), np.dtype("c16")),
    "long double": (np.dtype([("a", "i1"), ("b", "g")], align=True), np.dtype([("b", "f4"), ("a", "i8")])),
}


def records(dtype: np.dtype[Any], count: int = 200) -> NDArray[Any]:
    if dtype.kind == "c":
        return np.resize(edges(dtype.str), count)
    assert dtype.names is not None
    found = np.zeros(count, dtype)
    for name in dtype.names:
        part = dtype[name].base
        number = found[name].size
        if part.names is not None:
            found[name] = records(part, count)
        elif part.kind == "S":
            found[name] = np.resize(np.array(TEXTS, part), number)
        else:
            found[name] = np.resize(edges(part.str)[7:], number).reshape(found[name].shape)
    return found


def same_values(found: NDArray[Any], expected: NDArray[Any]) -> None:
    if expected.dtype.names is None:
        np.testing.assert_array_equal(found.astype(native(found.dtype)), expected.astype(native(found.dtype)))
        return
    for name in expected.dtype.names:
        same_values(found[name], expected[name])


@pytest.mark.parametrize("name", RECORDS)
def test_fields_go_by_their_names(name: str) -> None:
    source, target = RECORDS[name]
    data = records(source)
    assert refusal(source, target) is None
    expected = stored_by_h5py(data, target)
    same_values(convert(data, target), expected)
    into = np.zeros(data.shape, target)
    assign(into, data)
    same_values(into, expected)
    assert is_partial(source, target) == name.endswith("more") or name == "more fields"


def test_fields_that_the_source_has_not_keep_their_fill_value() -> None:
    source, target = RECORDS["nested, more"]
    fill = records(target, 20)[19:]
    data = records(source)
    into = np.resize(fill, data.shape)
    assign(into, data)
    same_values(into, stored_by_h5py(data, target, fill[0]))


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (LON_LAT, [("x", "f8"), ("y", "f8")], r"the fields lat, lon are not in the dataset, and x, y are not in"),
        (LON_LAT, [("lon", "f8"), ("y", "f8")], r"the fields lat are not in the dataset, and y are not in"),
        (LON_LAT, [("lon", "i8"), ("lat", "f8")], r"field 'lon': fractions would be lost"),
        (LON_LAT, "f8", "only one of them has fields"),
        ("f8", LON_LAT, "only one of them has fields"),
        ([("a", "i4", (2,))], [("a", "i4", (3,))], r"field 'a': arrays of shape \(2,\) are not"),
        ("i4", ("i4", (3,)), "a dataset of arrays"),
        ("?", ENUM, "the names FALSE and TRUE"),
        ("c16", [("i", "f8"), ("r", "f8")], "only one of them has fields"),
        ("i8", "S4", "int64 cannot be stored as S4: HDF5 does not convert numbers to strings"),
        ("S4", "f4", "S4 cannot be stored as float32: HDF5 does not convert numbers to strings"),
        ("f8", "c16", r"real numbers to complex ones; convert them in the source, \.astype\(complex\)"),
        ("M8[us]", "M8[us]", r"no type for datetime64\[us\]; .*view\('i8'\).*'us'.*opaque_dtype\('<M8\[us\]'\)"),
        ("m8[s]", [("t", "m8[s]")], r"no type for timedelta64\[s\]"),
        ("U5", "U5", r"dtype=h5py\.string_dtype\(\).*array\.astype\('S'\)"),
        ("U5", "S5", r"those are strings; convert them with \.astype\('\|S5'\)"),
        ("O", "O", r"dtype=h5py\.string_dtype\(\)"),
        ("O", "f8", r"Python objects; convert them with \.astype\('<f8'\)"),
        ("S0", "S0", "0 bytes"),
        (h5py.string_dtype(), h5py.vlen_dtype("i4"), "strings are no arrays of numbers"),
        (h5py.vlen_dtype("f8"), h5py.vlen_dtype("i4"), "fractions would be lost"),
        (h5py.ref_dtype, h5py.regionref_dtype, "object references are no region references"),
        ("f8", h5py.string_dtype(), "only strings can be stored as strings"),
        ("f8", h5py.vlen_dtype("f8"), "need an array of Python objects"),
    ],
)
def test_messages(source: DTypeLike, target: DTypeLike, words: str) -> None:
    with pytest.raises(CastError, match=words):
        check_conversion(np.dtype(source), np.dtype(target), "/x")


@pytest.mark.parametrize("dtype", ["g", ">g", "G", NESTED, OTHERWISE, [("a", "i1"), ("b", "g", (2,)), ("c", "G")]])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_bytes_that_belong_to_no_value_are_zero(dtype: Any, shape: tuple[Any, ...]) -> None:
    dtype = np.dtype(dtype, align=isinstance(dtype, list))
    found = []
    for rest in (0, 255):
        data = np.full(int(np.prod(shape)) * dtype.itemsize, rest, "u1").view(dtype).reshape(shape)
        for part in [data] if dtype.names is None else [data[name] for name in dtype.names]:
            if part.dtype.names is None:
                part[...] = b"abc" if part.dtype.kind == "S" else 1
            else:
                part[...] = np.ones(part.shape, part.dtype)
        found.append(without_padding(data))
        assert found[-1].dtype == dtype
    if dtype.char != "g":
        assert found[0].tobytes() == found[1].tobytes()
    same_values(found[0], found[1])
