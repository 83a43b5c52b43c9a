"""How long a process that gives no sign of life counts as writing."""

from __future__ import annotations

__all__ = ["DEFAULT_SECONDS", "MOST_SECONDS"]

DEFAULT_SECONDS = 30.0
# No lease is valid for longer, whatever its file says.
MOST_SECONDS = 600.0
