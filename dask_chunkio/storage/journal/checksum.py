"""The checksum of payloads and of records: xxh3-64."""

from __future__ import annotations

import xxhash

from dask_chunkio.storage.filesystem.io import pread_into

__all__ = ["Bytes", "checksum", "checksum_at"]

Bytes = bytes | bytearray | memoryview
_SMALL = 4096
_AT_ONCE = 1 << 20


def checksum(*parts: Bytes) -> int:
    """Return the xxh3-64 checksum of `parts`, joined in their order."""
    if len(parts) == 1:
        return int(xxhash.xxh3_64_intdigest(parts[0]))
    if sum(map(len, parts)) < _SMALL:
        return int(xxhash.xxh3_64_intdigest(b"".join(parts)))
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return int(state.intdigest())


def checksum_at(descriptor: int, offset: int, nbytes: int, after: bytes = b"") -> int:
    """Return the checksum of bytes and of a part of a file behind them, as far as the file reaches; read in blocks."""
    state = xxhash.xxh3_64(after)
    buffer, end = memoryview(bytearray(min(nbytes, _AT_ONCE))), offset + nbytes
    while offset < end and (count := pread_into(descriptor, buffer[: end - offset], offset)):
        state.update(buffer[:count])
        offset += count
    return int(state.intdigest())
