import io
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dask_chunkio
from dask_chunkio.errors import FilterError
from dask_chunkio.filters import plugin
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter
from dask_chunkio.filters.encoder import DirectEncoder, direct_steps
from dask_chunkio.filters.encoders import encoder_for
from dask_chunkio.filters.hdf5_encoder import Hdf5Encoder
from dask_chunkio.filters.plugin import find_plugin
from dask_chunkio.storage.hdf5.dataset import describe
from tests.support.h5py_stores import dataset, encoded, noise, pipeline_dataset, stored, walk

ANY = ["u1", "<i2", ">i4", "f8", "c16", "S7", "V3"]
FLOATS = ["<f4", "<f8", ">f4"]
PIXELS = ["u1", "u2"]
# hdf5plugin's object and the types of elements that it takes
CODECS: dict[str, tuple[Any, list[str]]] = {
    "zstd": (hdf5plugin.Zstd(3), ANY),
    # hdf5plugin takes levels below 1 since 7.0, its filter always.
    "zstd-fast": ({"compression": 32015, "compression_opts": (2**32 - 5,)}, ANY),
    "lz4": (hdf5plugin.LZ4(), ANY),
    "lz4-blocks": (hdf5plugin.LZ4(512), ANY),
    "bitshuffle": (hdf5plugin.Bitshuffle(), ANY),
    "bitshuffle-none": (hdf5plugin.Bitshuffle(cname="none"), ANY),
    "bitshuffle-zstd": (hdf5plugin.Bitshuffle(cname="zstd"), ANY),
    "bzip2": (hdf5plugin.BZip2(3), ANY),
    "blosc2": (hdf5plugin.Blosc2(cname="zstd", clevel=3), ANY),
    "blosc2-bits": (hdf5plugin.Blosc2(cname="lz4", filters=hdf5plugin.Blosc2.BITSHUFFLE), ANY),
    **{f"blosc-{name}": (hdf5plugin.Blosc(cname=name), ANY) for name in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")},
    "blosc-bits": (hdf5plugin.Blosc(cname="lz4", shuffle=hdf5plugin.Blosc.BITSHUFFLE), ANY),
    "blosc-stored": (hdf5plugin.Blosc(cname="lz4", clevel=0), ANY),
}
SHAPED: dict[str, tuple[Any, list[str]]] = {
    "zfp-accuracy": (hdf5plugin.Zfp(accuracy=0.1), ["<f4", "<f8"]),
    "zfp-rate": (hdf5plugin.Zfp(rate=8.0), ["<f4", "<f8", "<i4"]),
    "zfp-reversible": (hdf5plugin.Zfp(reversible=True), [*FLOATS, "<i4", "<i8"]),
    "sz3": (hdf5plugin.SZ3(absolute=0.1), ["<f4", "<f8", "<i4"]),
    "sperr": (hdf5plugin.Sperr(rate=16), ["<f4", "<f8"]),
    "fcidecomp": (hdf5plugin.FciDecomp(), PIXELS),
    # Since hdf5plugin 7.1.
    **({"htj2k": (hdf5plugin.Htj2k(), PIXELS)} if hasattr(hdf5plugin, "Htj2k") else {}),
}
MAKE = {"walk": walk, "noise": noise, "zeros": lambda shape, dtype, seed: np.zeros(shape, dtype)}  # noqa: ARG005


def assert_same_as_hdf5(data: Any, chunks: Any, keywords: Any) -> None:
    with dataset(data.shape, data.dtype, chunks, **keywords) as theirs:
        form = describe(theirs).form
        assert isinstance(encoder_for(form, keywords), DirectEncoder)
        expected = stored(theirs, data)
        assert encoded(theirs, data, **keywords) == expected
        ours = theirs.file.create_dataset("ours", data.shape, data.dtype, chunks=chunks, **keywords)
        assert describe(ours).form.filters == form.filters
        for origin, (mask, payload) in expected.items():
            ours.id.write_direct_chunk(origin, payload, mask)
        # Read from another opening: HDF5 may remember that there was no chunk, and no mask.
        theirs.file.flush()
        with h5py.File(io.BytesIO(theirs.file.id.get_file_image())) as file:
            assert read(file["ours"]) == read(file["x"])


def read(made: Any) -> bytes | str:
    try:
        found: bytes = made[...].tobytes()
    except OSError as error:  # fcidecomp does not get back every small chunk of its own
        return str(error)
    return found


anything = given(
    st.sampled_from(sorted(CODECS)),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.sampled_from(sorted(MAKE)),
    st.sampled_from([{}, {"shuffle": True}, {"fletcher32": True}, {"shuffle": True, "fletcher32": True}]),
    st.data(),
)


@anything
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_a_plugin_outside_hdf5_gives_hdf5s_bytes(name: Any, shape: Any, make: Any, around: Any, draw: Any) -> None:
    same_as_hdf5(name, shape, make, around, draw)


@pytest.mark.heavy
@anything
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_plugin_outside_hdf5_gives_hdf5s_bytes_at_length(
    name: Any, shape: Any, make: Any, around: Any, draw: Any
) -> None:
    same_as_hdf5(name, shape, make, around, draw)


def same_as_hdf5(name: Any, shape: Any, make: Any, around: Any, draw: Any) -> None:
    codec, dtypes = CODECS[name]
    dtype = draw.draw(st.sampled_from(dtypes))
    chunks = tuple(draw.draw(st.integers(1, length)) for length in shape)
    data = MAKE["noise" if np.dtype(dtype).kind in "SV" else make](tuple(shape), dtype, draw.draw(st.integers(0, 9)))
    assert_same_as_hdf5(data, chunks, {**codec, **around})


@given(
    st.sampled_from(sorted(SHAPED)), st.integers(8, 40), st.integers(8, 40), st.sampled_from(sorted(MAKE)), st.data()
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_a_plugin_that_sees_the_shape_of_a_chunk_gives_hdf5s_bytes(
    name: Any, rows: Any, columns: Any, make: Any, draw: st.DataObject
) -> None:
    codec, dtypes = SHAPED[name]
    dtype = draw.draw(st.sampled_from(dtypes))
    chunks = tuple(draw.draw(st.integers(8, length)) for length in (rows, columns))
    raw = MAKE[make]((rows, columns), "i2", 0)
    assert_same_as_hdf5((np.abs(raw.astype("i4")) % 200).astype(dtype), chunks, dict(codec))


@pytest.mark.parametrize("name", [*CODECS, *SHAPED])
def test_threads_share_a_plugin(name: Any) -> None:
    codec, dtypes = {**CODECS, **SHAPED}[name]
    data = np.abs(walk((8 * 64, 64), "i4")).astype(dtypes[1])
    with dataset(data.shape, data.dtype, (64, 64), **codec) as made:
        expected = stored(made, data)
        encoder = encoder_for(describe(made).form, dict(codec))
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(encoder.encode, [data[row : row + 64] for row in range(0, 512, 64)] * 4):
            assert (found.mask, bytes(found.data)) in expected.values()


def test_threads_with_different_codecs_of_blosc_do_not_disturb_one_another() -> None:
    data = walk((64, 64))
    encoders, expected = [], []
    for codec in ("lz4", "zstd", "zlib", "blosclz"):
        keywords = dict(hdf5plugin.Blosc(cname=codec))
        with dataset(data.shape, data.dtype, data.shape, **keywords) as made:
            expected += [payload for _, payload in stored(made, data).values()]
            encoders.append(encoder_for(describe(made).form, keywords))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda encoder: bytes(encoder.encode(data).data), encoders * 50))
    assert found == expected * 50


def test_a_variable_that_overrides_blosc_is_obeyed_as_hdf5_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOSC_CLEVEL", "9")
    data = walk((64, 64))
    keywords = dict(hdf5plugin.Blosc(cname="zstd", clevel=1))
    with dataset(data.shape, data.dtype, data.shape, **keywords) as made:
        assert encoder_for(describe(made).form, keywords).name == "blosc by its plugin, one at a time"
        assert encoded(made, data, **keywords) == stored(made, data)


def test_blosc_with_one_thread_is_told_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOSC_NTHREADS", "1")
    data = walk((64, 64))
    keywords = dict(hdf5plugin.Blosc(cname="zstd", clevel=1))
    with dataset(data.shape, data.dtype, data.shape, **keywords) as made:
        assert encoder_for(describe(made).form, keywords).name == "blosc by its plugin"
        assert encoded(made, data, **keywords) == stored(made, data)


def test_the_name_of_blosc2_says_how_to_keep_it_from_beginning_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    data = walk((64, 64))
    keywords = dict(hdf5plugin.Blosc2())
    with dataset(data.shape, data.dtype, data.shape, **keywords) as made:
        monkeypatch.delenv("BLOSC_NTHREADS", raising=False)
        assert "BLOSC_NTHREADS=1" in encoder_for(describe(made).form, keywords).name
        monkeypatch.setenv("BLOSC_NTHREADS", "1")
        assert encoder_for(describe(made).form, keywords).name == "blosc2 by its plugin"
        assert encoded(made, data, **keywords) == stored(made, data)


def test_an_optional_plugin_that_gains_nothing_sets_its_bit() -> None:
    data = noise((4096,))
    keywords = {**hdf5plugin.Blosc(cname="lz4", clevel=0), "shuffle": True}
    with dataset(data.shape, data.dtype, data.shape, **keywords) as made:
        ((mask, payload),) = encoded(made, data, **keywords).values()
    assert (mask, payload) == (0b10, data.tobytes())


def test_a_mandatory_plugin_that_fails_is_an_error() -> None:
    options = (2, 2, 1, 4096, 0, 0, 1)  # blosc at level 0: longer by its head, which it does not store
    encoder = DirectEncoder(ChunkFormat((4096,), np.dtype("u1"), (Filter(32001, 0, options, "blosc"),)))
    with pytest.raises(
        FilterError, match=r"blosc\(2,2,1,4096,0,0,1\) failed on a chunk of \(4096,\) elements of uint8"
    ):
        encoder.encode(noise((4096,)))


def raw(code: Any, *options: Any) -> Any:
    def install(plist: Any) -> None:
        plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, options)

    install.__name__ = "-".join(map(str, (code, *options)))
    return install


SHUFFLE, FLETCHER32 = h5py.h5p.PropDCID.set_shuffle, h5py.h5p.PropDCID.set_fletcher32


@pytest.mark.parametrize(
    "filters",
    [
        (SHUFFLE, SHUFFLE),
        (SHUFFLE, SHUFFLE, raw(32015, 3), SHUFFLE),
        (raw(1, 12),),
        (raw(1), SHUFFLE),
        (raw(1, 3, 4), FLETCHER32),
        (FLETCHER32, raw(32015, 3), SHUFFLE),
        (raw(32015, 3), raw(32015), raw(32004)),
        (raw(32008), raw(32004, 0), FLETCHER32),
        (raw(32001), raw(307, 1)),
        (SHUFFLE, raw(32001, 0, 0, 0, 0, 0, 0, 1), FLETCHER32),
    ],
    ids=lambda filters: "_".join(step.__name__.removeprefix("set_") for step in filters),
)
@pytest.mark.parametrize("make", [walk, noise])
def test_stacks_of_other_programs_have_hdf5s_bytes_and_mask(filters: tuple[Any, ...], make: Any) -> None:
    data = make((500,), "i4")
    with h5py.File("oracle", "w", driver="core", backing_store=False) as file:
        made = pipeline_dataset(file, data, *filters)
        assert isinstance(encoder_for(describe(made).form, {}), DirectEncoder)
        assert encoded(made, data) == stored(made, data)


@pytest.mark.parametrize("name", CODECS)
def test_a_chunk_of_one_byte(name: Any) -> None:
    assert_same_as_hdf5(np.array([7, 9], "u1"), (1,), dict(CODECS[name][0]))


@pytest.mark.parametrize("name", ["bitshuffle", "blosc-lz4", "zstd-fast"])
def test_a_chunk_of_65_megabytes(name: str) -> None:
    data = np.tile(walk((1 << 15,)), 1040)
    codec = dict(CODECS[name][0])
    with dataset(data.shape, data.dtype, data.shape, **codec) as made:
        assert encoded(made, data, **codec) == stored(made, data)


def test_a_payload_outlives_its_encoder() -> None:
    keywords = dict(hdf5plugin.Zstd())
    data = walk((1 << 16,))
    with dataset(data.shape, data.dtype, data.shape, **keywords) as made:
        payloads = [encoder_for(describe(made).form, keywords).encode(data) for _ in range(5)]
        ((_, expected),) = stored(made, data).values()
    assert [bytes(payload.data) for payload in payloads] == [expected] * 5


@pytest.mark.parametrize(
    ("keywords", "name"),
    [
        ({**hdf5plugin.Zstd(), "shuffle": True, "fletcher32": True}, "shuffle > zstd by its plugin > fletcher32"),
        (dict(hdf5plugin.Blosc()), "blosc by its plugin"),
        (dict(hdf5plugin.LZ4()), "lz4 by its plugin"),
        (dict(hdf5plugin.SZ(absolute=1)), "sz by HDF5, one at a time"),
    ],
)
def test_its_name_says_who_runs_it(keywords: dict[str, Any], name: str) -> None:
    with dataset((8, 8), "f4", (8, 8), **keywords) as made:
        assert encoder_for(describe(made).form, keywords).name == name


def form_of(keywords: Any) -> Any:
    with dataset((64, 64), "i2", (64, 64), **keywords) as made:
        return describe(made).form


def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_found", {})


def test_a_plugin_that_nobody_knows_runs_one_at_a_time_under_hdf5s_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(monkeypatch)
    monkeypatch.setattr(plugin, "_REENTRANT", frozenset())
    entered: list[str] = []
    monkeypatch.setattr(plugin, "phil", counting_lock(entered))
    keywords = dict(hdf5plugin.Zstd())
    encoder = DirectEncoder(form_of(keywords))
    for _ in range(3):
        encoder.encode(walk((64, 64)))
    assert entered == ["in", "out"] * 3
    assert encoder.name == "zstd by its plugin, one at a time"


def counting_lock(entered: list[str]) -> Any:
    class Lock:
        def __enter__(self) -> None:
            entered.append("in")

        def __exit__(self, *_: object) -> None:
            entered.append("out")

    return Lock()


def test_the_first_call_of_a_plugin_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(monkeypatch)
    entered: list[str] = []
    monkeypatch.setattr(plugin, "phil", counting_lock(entered))
    encoder = DirectEncoder(form_of(dict(hdf5plugin.Zstd())))
    for _ in range(3):
        encoder.encode(walk((64, 64)))
    assert entered == ["in", "out"]


@pytest.mark.parametrize("codec", [hdf5plugin.Zstd(), hdf5plugin.Blosc(), hdf5plugin.Zfp(reversible=True)])
def test_two_threads_are_in_a_plugin_at_once(codec: Any) -> None:
    both = threading.Barrier(2, timeout=60)
    data = walk((64, 64), "i4")
    with dataset(data.shape, data.dtype, data.shape, **codec) as made:
        ((_, expected),) = stored(made, data).values()
        encoder = encoder_for(describe(made).form, dict(codec))
    encoder.encode(data)
    found = find_plugin(codec.filter_id)
    name = "_blosc" if codec.filter_id == 32001 else "_function"
    function = getattr(found, name)

    def waits(*arguments: Any) -> Any:
        both.wait()
        return function(*arguments)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(found, name, waits)
        assert [bytes(payload.data) for payload in pool.map(encoder.encode, [data, data])] == [expected] * 2


def test_blosc_without_its_own_function_runs_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(monkeypatch)
    monkeypatch.setattr(plugin, "_blosc_function", lambda _: None)
    data, keywords = walk((64, 64)), dict(hdf5plugin.Blosc(cname="zstd"))
    with dataset(data.shape, data.dtype, data.shape, **keywords) as made:
        assert encoder_for(describe(made).form, keywords).name == "blosc by its plugin, one at a time"
        assert encoded(made, data, **keywords) == stored(made, data)


def test_on_windows_hdf5_runs_the_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(monkeypatch)
    monkeypatch.setattr(sys, "platform", "win32")
    keywords = dict(hdf5plugin.Zstd())
    form = form_of(keywords)
    assert isinstance(encoder_for(form, keywords), Hdf5Encoder)
    with pytest.raises(FilterError, match="can only be run by HDF5"):
        DirectEncoder(form)


def test_what_is_built_into_hdf5_is_no_plugin() -> None:
    assert find_plugin(4) is None
    assert direct_steps([Filter(4, 0, (32, 8), "szip")]) is None


@pytest.mark.skipif(sys.platform == "win32", reason="plugins are left to HDF5")
def test_h5pys_lzf_is_called_where_h5py_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_plugin(32000) is not None
    fresh(monkeypatch)
    monkeypatch.setattr(h5py.h5z, "__file__", h5py.h5s.__file__)
    assert find_plugin(32000) is None
    assert isinstance(encoder_for(form_of({"compression": "lzf"}), {"compression": "lzf"}), Hdf5Encoder)


@pytest.mark.skipif(sys.platform == "win32", reason="plugins are left to HDF5")
def test_a_plugin_on_hdf5s_path_is_found_among_files_that_are_none(tmp_path: Path) -> None:
    library = os.path.basename(hdf5plugin.get_config().registered_filters["zstd"])
    os.symlink(os.path.join(hdf5plugin.PLUGIN_PATH, library), tmp_path / library)
    (tmp_path / "libnothing.so").write_text("no library")
    (tmp_path / "readme").write_text("")
    script = """
        import sys
        sys.modules["hdf5plugin"] = None
        import numpy as np
        from dask_chunkio.filters.encoder import DirectEncoder
        from dask_chunkio.filters.chunk_format import ChunkFormat, Filter
        encoder = DirectEncoder(ChunkFormat((4096,), np.dtype("i2"), (Filter(32015, 1, (3,), "zstd"),)))
        print(encoder.name, encoder.encode(np.zeros(4096, "i2")).nbytes)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path)},
    )
    assert done.stdout.startswith("zstd by its plugin ")


@pytest.mark.parametrize(
    "keywords",
    [
        dict(hdf5plugin.Zstd(5)),
        {"compression": hdf5plugin.Zstd(5)},
        {"compression": 32015, "compression_opts": (5,)},
        {"compression": hdf5plugin.Bitshuffle(), "fletcher32": True},
    ],
    ids=["unpacked", "object", "code", "bitshuffle"],
)
def test_a_whole_write_with_a_plugin_is_h5pys(tmp_path: Path, keywords: dict[str, Any]) -> None:
    data = walk((100, 90))
    ours, theirs = tmp_path / "ours.h5", tmp_path / "theirs.h5"
    assert "by its plugin" in str(dask_chunkio.plan(ours, "/x", data, chunks=(40, 40), **keywords))
    dask_chunkio.to_hdf5(ours, "/x", data, chunks=(40, 40), **keywords)
    with h5py.File(theirs, "w") as file:
        file.create_dataset("x", data=data, chunks=(40, 40), **keywords)
    with h5py.File(ours) as first, h5py.File(theirs) as second:
        assert describe(first["x"]).form == describe(second["x"]).form
        for origin in [(0, 0), (40, 80), (80, 40)]:
            assert first["x"].id.read_direct_chunk(origin) == second["x"].id.read_direct_chunk(origin)
        np.testing.assert_array_equal(first["x"][...], data)
