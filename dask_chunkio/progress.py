"""Word of how far a write is: a bar in bytes, with rate and time left."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

from dask.callbacks import Callback
from tqdm import tqdm

from dask_chunkio.locks import listen, progress_topic
from dask_chunkio.tasks import Receipt
from dask_chunkio.workers import Workers

__all__ = ["progress_bar", "wants_progress"]


def wants_progress(progress: bool | None) -> bool:
    """Return `progress`, or for None whether standard error is a terminal."""
    return sys.stderr.isatty() if progress is None else bool(progress)


@contextlib.contextmanager
def progress_bar(write_id: str, nbytes: int, label: str, workers: Workers) -> Iterator[None]:
    """Show a bar on standard error while a write runs, on any scheduler.

    Parameters
    ----------
    write_id : str
        The write.
    nbytes : int
        Bytes that it writes.
    label : str
        What stands before the bar.
    workers : Workers
        Who runs it.
    """
    with tqdm(total=nbytes, desc=label, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr) as bar:
        advance = _Advance(bar)
        if workers.share_process:
            with listen(write_id, advance):
                yield
        elif workers.client is not None:
            with _subscribed(workers.client, write_id, advance):
                yield
        else:
            with Callback(posttask=advance.posttask):
                yield
        advance.complete()


class _Advance:
    """Moves the bar, from whichever thread calls; never beyond its end."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._lock = bar, threading.Lock()

    def __call__(self, nbytes: int) -> None:
        with self._lock:
            self._bar.update(min(nbytes, self._bar.total - self._bar.n))

    def posttask(self, _key: object, result: object, *_: object) -> None:
        if isinstance(result, Receipt):
            self(result.nbytes)

    def complete(self) -> None:
        # Events of a cluster may arrive after the result.
        self(self._bar.total - self._bar.n)


@contextlib.contextmanager
def _subscribed(client: Any, write_id: str, advance: _Advance) -> Iterator[None]:
    topic = progress_topic(write_id)
    client.subscribe_topic(topic, lambda event: advance(event[1]))
    try:
        yield
    finally:
        client.unsubscribe_topic(topic)
