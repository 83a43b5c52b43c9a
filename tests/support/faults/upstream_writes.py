"""Writes whose work upstream of them blocks, on any scheduler.

Usage: python -m tests.support.faults.upstream_writes KIND OUT.h5 FOLDER

KIND is threads, processes, cluster or compute.
With FOLDER/fail, the blocked work raises, and the same call goes on in the ``except`` clause.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from numpy.typing import NDArray

from dask_chunkio.errors import SourceError

# Workers import it with this module, for the first block: the write has to begin before dask has taken all blocks.
from dask_chunkio.write import to_hdf5

SHAPE, BLOCK, BUFFER = (800, 10), (50, 10), (100, 10)
DATA = np.arange(SHAPE[0] * SHAPE[1], dtype="i4").reshape(SHAPE)


def compute_block(block: NDArray[Any], folder: str | Path, block_id: tuple[int, ...]) -> NDArray[Any]:
    """Wait at a gate, or fail, in the second half and once the write has begun.

    Computed later, a write begins when it is its task's turn: with other things, dask may take blocks first.
    """
    folder = Path(folder)
    if block_id[0] >= SHAPE[0] // BLOCK[0] // 2 and any(folder.glob("*.writing")):
        blocked = folder / f"blocked-{block_id[0]}"
        blocked.write_text(str(os.getpid()))
        if (folder / "fail").exists():
            raise ArithmeticError("upstream")
        # The gate is open to all; who removes the file lets one block through.
        while not (folder / "gate").exists() and blocked.exists():
            time.sleep(0.01)
    return block


def source(folder: str | Path) -> Any:
    """Two blocks make a buffer, so that they are computed in tasks of their own."""
    x = da.from_array(DATA, chunks=BLOCK, asarray=True)
    return x.map_blocks(compute_block, str(folder), dtype=DATA.dtype, meta=DATA[:0])


def write(path: str | Path, folder: str | Path, scheduler: Any, **keywords: Any) -> Any:
    with dask.config.set(num_workers=2):
        return to_hdf5(
            path, "/x", source(folder), chunks=(25, 10), buffer_shape=BUFFER, progress=False,
            scheduler=scheduler, **keywords,
        )  # fmt: skip


def run(kind: str, path: str, folder: str) -> None:
    if kind in ("threads", "processes"):
        call(lambda **keywords: write(path, folder, kind, **keywords), folder)
        return
    with LocalCluster(2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        if kind == "compute":
            call(lambda **keywords: persist(client, write(path, folder, client, compute=False, **keywords)), folder)
        else:
            call(lambda **keywords: write(path, folder, client, **keywords), folder)


def persist(client: Client, delayed: Any) -> Any:
    future = client.compute(delayed)
    try:
        return future.result()
    finally:
        # Else the error's traceback keeps it, and dask answers the same to whoever asks for the same blocks.
        future.release()


def call(function: Callable[..., object], folder: str) -> None:
    try:
        function()
    except (ArithmeticError, SourceError) as error:
        os.unlink(os.path.join(folder, "fail"))
        Path(folder, "gate").touch()
        function(resume=True)
        # Until here, its traceback holds what the tasks were given.
        del error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(*sys.argv[1:])
    sys.stdout.write("done\n")
