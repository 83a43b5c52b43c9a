"""Processes that end while a write is open.

Usage: python -m tests.support.storage.ending_processes forked|left|uncaught FOLDER
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from dask_chunkio.storage.hdf5 import staged_file
from tests.support.storage.writes import Write


@contextlib.contextmanager
def in_a_turn(write: Write) -> Iterator[None]:
    """Have another thread be in the middle of a transaction: in a child, it never ends."""
    begun, over = threading.Event(), threading.Event()

    def take_a_turn() -> None:
        with write.writer.transactions.transaction(contextlib.nullcontext):
            begun.set()
            over.wait()

    thread = threading.Thread(target=take_a_turn)
    thread.start()
    begun.wait()
    yield
    over.set()
    thread.join()


def _fork() -> int:
    with warnings.catch_warnings():
        # Python from 3.12 on warns of what is tried here: a fork while another thread is in a transaction.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()


def forked(folder: Path) -> None:
    with Write(folder / "out.h5", exclusive=True, compression="gzip") as write:
        write.commit(0)
        for ending in (sys.exit, os._exit):
            # (A child that ends as programs do would have HDF5 close what the thread in the transaction has open.)
            with in_a_turn(write) if ending is os._exit else contextlib.nullcontext():
                child = _fork()
                if child == 0:
                    # It would wait for ever for the parent's transaction to end, were it to close what is the parent's.
                    signal.alarm(60)
                    with Write(folder / f"{ending.__name__}{os.getpid()}.h5", exclusive=True) as other:
                        other.complete()
                    ending(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            write.commit(1)
        write.complete()


# What nobody lets go of before the interpreter ends.
KEPT: list[Write] = []


def left(folder: Path) -> None:
    write = Write(folder / "out.h5", exclusive=True, compression="gzip")
    KEPT.append(write)
    write.commit(0)
    # The file of an exclusive write stays open after this.
    with write.writer.transactions.opened() as state:
        state.h5["x"].attrs["staged"] = 1
        # Somebody keeps an object of the file beyond the end of Python: HDF5 closes it, and calls back into nothing.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(state.h5["x"]))


def uncaught(folder: Path) -> None:
    write = Write(folder / "out.h5", compression="gzip")
    with mock.patch.object(staged_file, "pread_into", side_effect=OSError("injected")):
        write.commit(0)


if __name__ == "__main__":
    {"forked": forked, "left": left, "uncaught": uncaught}[sys.argv[1]](Path(sys.argv[2]))
    sys.stdout.write("done\n")
