import ctypes
import struct
import sys
from typing import Any

import hdf5plugin
import numpy as np
import pytest

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters import plugin, plugin_inverses
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.decoder import DirectDecoder
from dask_chunkio.filters.decoders import decoder_for
from dask_chunkio.filters.isolated_decoder import IsolatedDecoder
from dask_chunkio.filters.plugin import find_plugin, require_filter
from dask_chunkio.filters.plugin_inverses import find_inverse
from dask_chunkio.storage.hdf5.dataset import describe
from tests.support.h5py_stores import dataset, stored, walk

ZSTD, LZ4 = Filter(32015, 1, (3,), "zstd"), Filter(32004, 1, (0,), "lz4")
BITSHUFFLE = Filter(32008, 1, (0, 4, 2, 0, 2), "bitshuffle")
BLOSC = Filter(32001, 1, (2, 2, 2, 8192, 5, 1, 1), "blosc")


def undo(one: Filter, data: bytes, most: int) -> bytes:
    require_filter(one.code)
    run = find_inverse(one)
    assert run is not None
    return bytes(run(one, data, most))


def zstd_frame(content: bytes, **parameters: int) -> bytes:
    """A frame by the streaming interface of zstd, with its numbered parameters."""
    library = ctypes.CDLL(hdf5plugin.get_config().registered_filters["zstd"])
    names = {"content_size": 200, "checksum": 201}
    context = library["ZSTD_createCCtx"]
    context.restype = ctypes.c_void_p
    made = ctypes.c_void_p(context())
    for name, number in parameters.items():
        library["ZSTD_CCtx_setParameter"](made, names[name], number)
    target = ctypes.create_string_buffer(len(content) + 1000)
    compress = library["ZSTD_compress2"]
    compress.restype = ctypes.c_size_t
    length = compress(made, target, ctypes.c_size_t(len(target)), content, ctypes.c_size_t(len(content)))
    library["ZSTD_freeCCtx"](made)
    return target.raw[:length]


def test_a_zstd_frame_that_does_not_say_its_size_is_decoded_within_the_chunk() -> None:
    content = bytes(walk((500,)).tobytes())
    frame = zstd_frame(content, content_size=0)
    assert undo(ZSTD, frame, 1000) == content
    with pytest.raises(IntegrityError, match="its zstd payload is damaged"):
        undo(ZSTD, frame, 999)


def test_a_checksum_of_zstd_is_compared() -> None:
    content = bytes(walk((500,)).tobytes())
    frame = zstd_frame(content, checksum=1)
    assert undo(ZSTD, frame, 1000) == content
    for position in range(len(frame) - 4, len(frame)):
        damaged = bytearray(frame)
        damaged[position] ^= 1
        with pytest.raises(IntegrityError, match="its zstd payload is damaged"):
            undo(ZSTD, bytes(damaged), 1000)


HEAD = struct.Struct(">QI")


@pytest.mark.parametrize(
    ("one", "data", "words"),
    [
        (ZSTD, b"none", "has no valid header"),
        (ZSTD, b"", "has no valid header|is damaged"),
        (LZ4, b"short", "fewer than its header"),
        (LZ4, HEAD.pack(1 << 63, 8), "declares 9223372036854775808 bytes, and its chunk has at most 1000"),
        (LZ4, HEAD.pack(8, 0) + bytes(40), "has blocks without a length"),
        (LZ4, HEAD.pack(8, 8), "is cut off"),
        (LZ4, HEAD.pack(8, 8) + b"\xff\xff\xff\xff", "is cut off"),
        (LZ4, HEAD.pack(8, 8) + bytes((0, 0, 0, 2, 1, 2)), "is damaged"),
        (BITSHUFFLE, b"short", "fewer than its header"),
        (BITSHUFFLE, HEAD.pack(1 << 40, 64), "declares 1099511627776 bytes"),
        (BITSHUFFLE, HEAD.pack(9, 64) + bytes(40), "declares 9 bytes, and its elements have 2"),
        (BITSHUFFLE, HEAD.pack(64, 0) + bytes(40), "has blocks of 0 elements"),
        (BITSHUFFLE, HEAD.pack(64, 14) + bytes(40), "has blocks of 7 elements"),
        (BITSHUFFLE, HEAD.pack(64, 64) + b"\x7f\xff\xff\xff", "is cut off"),
        (BITSHUFFLE, HEAD.pack(64, 64) + b"\xff\xff\xff\xff", "has a block of 4294967295 bytes"),
        (BITSHUFFLE, HEAD.pack(66, 64) + struct.pack(">I", 0), "is cut off"),
        (BITSHUFFLE, HEAD.pack(64, 64) + struct.pack(">I", 4) + b"none", "is damaged"),
        (BLOSC, b"short", "fewer than its header"),
        (BLOSC, struct.pack("<4B3I", 2, 1, 0, 1, 8, 8, 1 << 31), "declares 2147483648 bytes, and has 16"),
        (BLOSC, struct.pack("<4B3I", 2, 1, 2, 1, 1 << 30, 8, 16), "has no valid header|declares 1073741824 bytes"),
    ],
)
def test_what_a_payload_declares_is_checked(one: Filter, data: bytes, words: str) -> None:
    with pytest.raises(IntegrityError, match=f"^its {plugin.PLUGIN_NAMES[one.code]} payload .*({words})"):
        undo(one, data, 1000)


@pytest.mark.parametrize("options", [(), (0, 4), (0, 4, 0, 0, 2), (0, 4, 4_000_000_000, 0, 2), (0, 4, 3, 7, 0)])
def test_options_of_bitshuffle_are_not_trusted(options: tuple[int, ...]) -> None:
    with pytest.raises(IntegrityError, match=r"^its bitshuffle payload"):
        undo(Filter(32008, 1, options, "bitshuffle"), HEAD.pack(64, 64) + bytes(52), 1000)


def form_of(codec: Any) -> tuple[ChunkFormat, Payload, Any]:
    data = walk((64, 64))
    with dataset(data.shape, data.dtype, data.shape, **codec) as made:
        ((mask, payload),) = stored(made, data).values()
        return describe(made).form, Payload(payload, mask), data


@pytest.mark.parametrize("codec", [hdf5plugin.Zstd(), hdf5plugin.Blosc(), hdf5plugin.Blosc2(), hdf5plugin.LZ4()])
def test_a_library_that_hides_its_functions_is_left_to_hdf5(codec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    form, payload, data = form_of(codec)

    def hidden(*_: Any) -> None:
        raise AttributeError("undefined symbol")

    plugin_inverses._found.cache_clear()
    monkeypatch.setattr(plugin_inverses, "_FINDERS", dict.fromkeys(plugin_inverses._FINDERS, hidden))
    decoder = decoder_for(form)
    plugin_inverses._found.cache_clear()
    assert isinstance(decoder, IsolatedDecoder)
    np.testing.assert_array_equal(decoder.decode(payload), data)


def test_on_windows_hdf5_undoes_the_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    form, _, _ = form_of(hdf5plugin.Zstd())
    monkeypatch.setattr(plugin, "_found", {})
    monkeypatch.setattr(sys, "platform", "win32")
    assert isinstance(decoder_for(form), IsolatedDecoder)


def test_the_first_call_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    form, payload, _ = form_of(hdf5plugin.Zstd())
    entered: list[str] = []

    class Lock:
        def __enter__(self) -> None:
            entered.append("in")

        def __exit__(self, *_: object) -> None:
            entered.append("out")

    found = find_plugin(32015)
    assert found is not None
    plugin_inverses._found.cache_clear()
    monkeypatch.setattr(found, "alone", Lock)
    decoder = DirectDecoder(form)
    for _ in range(3):
        decoder.decode(payload)
    plugin_inverses._found.cache_clear()
    assert entered == ["in", "out"]
