"""What the processes that decode chunks are asked, and what they answer."""

from __future__ import annotations

import io
import struct

__all__ = ["ANSWER", "CRASHED", "DAMAGED", "DECODED", "MISSING", "REQUEST", "read_into"]

# The number of the request, the length of its words (JSON), the length of the payload; words and payload follow.
REQUEST = struct.Struct("<QIQ")
# The number of the request, what came of it, the length of the words; they follow, and the chunk if it was decoded.
ANSWER = struct.Struct("<QBI")
DECODED, DAMAGED, MISSING, CRASHED = range(4)


def read_into(source: io.FileIO, target: bytearray | memoryview) -> bool:
    """Fill `target`; return whether the source had enough bytes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryFile(buffering=0) as file:
    ...     read_into(file, bytearray(1))
    False
    """
    rest = memoryview(target)
    while rest:
        count = source.readinto(rest)
        if not count:
            return False
        rest = rest[count:]
    return True
