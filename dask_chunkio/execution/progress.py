"""A write as one watches it: a bar in bytes on a terminal or in a notebook, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from dask.utils import format_bytes

from dask_chunkio.events import BufferCommitted, WriteEvent, WriteFailed, WriteFinished, WriteStarted
from dask_chunkio.printable import missing_in_words, printable

__all__ = ["ProgressBar", "ProgressLog", "byte_bar", "logger", "wants_progress"]

logger = logging.getLogger("dask_chunkio")


def wants_progress(progress: bool | None) -> bool:
    """Return `progress`, or for None whether somebody looks: at a terminal, or at a notebook.

    Parameters
    ----------
    progress : bool or None
        What the call or the configuration says.

    Examples
    --------
    >>> wants_progress(True), wants_progress(False)
    (True, False)
    """
    return sys.stderr.isatty() or _is_notebook() if progress is None else bool(progress)


def _is_notebook() -> bool:
    """Say whether this code runs in a Jupyter kernel; asks IPython only where that is loaded."""
    # While IPython is being imported, its module has no such function yet.
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython is not None else None
    # Notebooks of others have a shell of their own, made of Jupyter's.
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


def byte_bar(label: str, nbytes: int | None) -> Any:
    """Return a bar of tqdm that counts bytes: a widget in a notebook, text on a terminal.

    Parameters
    ----------
    label : str
        What it says; escaped, and shortened.
    nbytes : int or None
        Where it ends.
    """
    from tqdm.auto import tqdm

    return tqdm(total=nbytes, desc=printable(label, 80), unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr)


class ProgressBar:
    """Shows a bar on standard error or in a notebook, with rate and time left; never beyond its end."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, event: WriteEvent) -> None:
        """Draw what has happened."""
        if isinstance(event, WriteStarted):
            label = event.datasets[0] if len(event.datasets) == 1 else f"{len(event.datasets)} datasets"
            self._bar = byte_bar(label, event.nbytes)
        elif isinstance(event, BufferCommitted):
            self._move_to(event.done_nbytes)
        else:
            if isinstance(event, WriteFinished):
                # Events of a cluster may arrive after the result.
                self._move_to(event.nbytes)
            self._bar.close()

    def _move_to(self, nbytes: int) -> None:
        end = nbytes if self._bar.total is None else min(nbytes, self._bar.total)
        self._bar.update(max(0, end - self._bar.n))


class ProgressLog:
    """Writes to the logger ``dask_chunkio``, with each event as ``chunkio_event`` of its record.

    Parameters
    ----------
    seconds : float
        How often it says how far the write is.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._nbytes: int | None = None
        self._started = self._said = time.monotonic()

    def __call__(self, event: WriteEvent) -> None:
        """Say what has happened, if it is time."""
        if isinstance(event, WriteStarted):
            self._nbytes = event.nbytes
            size = "a stream" if event.nbytes is None else f"{format_bytes(event.nbytes)} in {event.buffers} buffers"
            _say(logging.INFO, event, "writing %s to %s: %s", ", ".join(event.datasets), event.path, size)
        elif isinstance(event, BufferCommitted):
            now = time.monotonic()
            if now - self._said >= self._seconds:
                self._said = now
                _say(logging.INFO, event, "%s: %s", event.path, self._how_far(event, now - self._started))
        elif isinstance(event, WriteFinished):
            state = "has its part of this call" if event.missing_parts else "is whole"
            _say(logging.INFO, event, "%s %s: %s", event.path, state, _in_all(event))
        else:
            _say(logging.WARNING, event, "%s was not finished: %s", event.path, _first_line(event))

    def _how_far(self, event: BufferCommitted, seconds: float) -> str:
        rate = event.done_nbytes / seconds
        done = f"{format_bytes(event.done_nbytes)} committed, {format_bytes(int(rate))}/s"
        if not self._nbytes:
            return done
        left = max(0, self._nbytes - event.done_nbytes) / rate
        return f"{100 * event.done_nbytes / self._nbytes:.1f} %, {done}, {left / 60:.0f} min left"


def _say(level: int, event: WriteEvent, words: str, *values: object) -> None:
    logger.log(level, words, *map(printable, values), extra={"chunkio_event": event})


def _in_all(event: WriteFinished) -> str:
    stored = format_bytes(event.stored_nbytes)
    left = f"; {missing_in_words(event.missing_parts)}" if event.missing_parts else ""
    return f"{format_bytes(event.nbytes)} stored in {stored}, in {event.seconds:.1f} s{left}"


def _first_line(event: WriteFailed) -> str:
    return (str(event.error) or type(event.error).__name__).partition("\n")[0]
