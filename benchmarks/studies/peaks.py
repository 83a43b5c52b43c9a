"""How far memory rises while a system writes, in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dask
import psutil

from benchmarks.studies.codecs import CODECS
from benchmarks.studies.measure import PeakMemory
from benchmarks.studies.systems import SYSTEMS, Pool, remove
from benchmarks.studies.workload import Workload

__all__ = ["own_processes", "write_and_measure"]

_EVERY_SECONDS = 0.005


@contextlib.contextmanager
def own_processes(shared: bool) -> Iterator[ProcessPoolExecutor]:
    """Give what runs each call in a new process, or all in one, which is faster and less exact.

    Memory that one system has freed another would take again.
    """
    context = multiprocessing.get_context("forkserver")
    # What all import is imported once.
    context.set_forkserver_preload(["benchmarks.studies.peaks"])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=None if shared else 1) as pool:
        yield pool


def write_and_measure(workload: Workload, system: str, codec: str, threads: int, path: Path) -> int:
    """Write to `path`, and return by how many bytes memory rose, children included."""
    with dask.config.set(num_workers=threads):
        job = workload.job(CODECS[codec], Pool(threads))
        write = SYSTEMS[system].write
        # Packages that are imported, and threads that are started, are no memory of the write.
        write(str(path), workload.little(job), CODECS[codec])
        remove(path)
        with _children() as children:
            own = PeakMemory()
            write(str(path), job, CODECS[codec])
            more = own.more()
    return more + max(children)


@contextlib.contextmanager
def _children() -> Iterator[list[int]]:
    """Look at the memory of all programs that this process starts, again and again."""
    seen, stopped = [0], threading.Event()

    def look() -> None:
        me = psutil.Process()
        while not stopped.is_set():
            with contextlib.suppress(psutil.Error):
                seen.append(sum(child.memory_info().rss for child in me.children()))
            time.sleep(_EVERY_SECONDS)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stopped.set()
        thread.join()
