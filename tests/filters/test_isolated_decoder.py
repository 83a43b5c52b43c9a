import bz2
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import psutil
import pytest

from dask_chunkio import child_process
from dask_chunkio.errors import FilterError, IntegrityError, WorkerError
from dask_chunkio.filters import isolated_decoder
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.filter_class import CLASS_VERSION, FilterClass, FilterFunction
from dask_chunkio.filters.isolated_decoder import IsolatedDecoder
from dask_chunkio.storage.hdf5.dataset import describe
from tests.support.h5py_stores import dataset, stored, walk
from tests.support.processes import in_child, program, run_python, wait_until

FORM = ChunkFormat((8,), np.dtype("<i2"), (Filter(2, 0, (2,), "shuffle"),))
PAYLOAD = Payload(bytes((1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 1)))
CHUNK = [1, 2, 3, 4, 5, 6, 7, 264]


@pytest.fixture(autouse=True)
def _processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes of each test alone."""
    own = isolated_decoder._new_pool()
    monkeypatch.setattr(isolated_decoder, "_processes", own)
    yield
    own.end()


def sz3(shape: tuple[int, ...] = (64, 64)) -> tuple[IsolatedDecoder, bytes, Any]:
    data = walk(shape, "f4")
    with dataset(shape, "f4", shape, **hdf5plugin.SZ3(absolute=0.1)) as made:
        ((_, payload),) = stored(made, data).values()
        return IsolatedDecoder(describe(made).form), payload, made[...]


def supervisors() -> list[psutil.Process]:
    return [psutil.Process(one.pid) for one in isolated_decoder._processes.idle]


def test_one_process_decodes_one_chunk_after_another() -> None:
    decoder = IsolatedDecoder(FORM)
    for _ in range(3):
        assert decoder.decode(PAYLOAD).tolist() == CHUNK
        (first,) = supervisors()
    assert decoder.decode(PAYLOAD).tolist() == CHUNK
    assert supervisors() == [first]


def test_a_payload_that_crashes_its_filter_is_damaged_and_the_next_one_is_decoded() -> None:
    decoder, payload, chunk = sz3()
    words = set()
    for seed in range(12):
        draw = np.random.default_rng(seed)
        damaged = bytearray(payload)
        damaged[int(draw.integers(4, len(damaged)))] ^= int(draw.integers(1, 256))
        try:
            decoder.decode(Payload(bytes(damaged)))
        except IntegrityError as error:
            words.add(str(error))
        np.testing.assert_array_equal(decoder.decode(Payload(payload)), chunk)
    assert any(one.startswith("its payload crashes the filter that decodes it, with ") for one in words)
    assert all(one.startswith("its ") for one in words)
    assert len(supervisors()) == 1


def test_a_library_that_ends_the_process_is_a_crash() -> None:
    """SZ3 calls exit(0) for a payload of another version."""
    decoder, payload, _ = sz3()
    with pytest.raises(IntegrityError, match=r"^its "):
        decoder.decode(Payload(bytes(12) + payload[12:]))


@pytest.mark.heavy
def test_a_payload_without_an_end_is_damaged() -> None:
    """The plugin's own function of bzip2 waits for the rest for ever; so it is not used where nothing ends it."""
    form = ChunkFormat((1000,), np.dtype("u1"), (Filter(307, 0, (9,), "bzip2"),))
    decoder = IsolatedDecoder(form)
    whole = bz2.compress(bytes(1000))
    with pytest.raises(IntegrityError, match=r"^its payload takes more time to decode than any that is valid"):
        decoder.decode(Payload(whole[:-5]))
    assert decoder.decode(Payload(whole)).tobytes() == bytes(1000)


def test_memory_is_bounded_by_the_chunk() -> None:
    """szip's payload says how much memory to take."""
    data = walk((64, 64), "i4")
    with dataset(data.shape, data.dtype, data.shape, compression="szip") as made:
        ((mask, payload),) = stored(made, data).values()
        decoder = IsolatedDecoder(describe(made).form)
    with pytest.raises(IntegrityError, match=r"^its payload (cannot be decoded|takes more memory)"):
        decoder.decode(Payload(b"\xff\xff\xff\xff" + payload[4:], mask))
    np.testing.assert_array_equal(decoder.decode(Payload(payload, mask)), data)


def test_a_process_that_was_killed_is_replaced() -> None:
    decoder = IsolatedDecoder(FORM)
    decoder.decode(PAYLOAD)
    (first,) = supervisors()
    os.killpg(first.pid, signal.SIGKILL)
    wait_until(lambda: first.status() == psutil.STATUS_ZOMBIE, "it died")
    assert decoder.decode(PAYLOAD).tolist() == CHUNK


def test_a_worker_that_was_killed_while_it_waited_is_replaced() -> None:
    decoder = IsolatedDecoder(FORM)
    decoder.decode(PAYLOAD)
    (first,) = supervisors()
    (worker,) = first.children()
    wait_until(lambda: worker.status() == psutil.STATUS_SLEEPING, "it waits")
    worker.kill()
    wait_until(lambda: first.children() and first.children() != [worker], "another one is there")
    assert decoder.decode(PAYLOAD).tolist() == CHUNK
    assert supervisors() == [first]


def test_processes_that_somebody_kills_again_and_again_are_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_SCRIPT", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(WorkerError, match="a process that decodes was ended by signal 9"):
        IsolatedDecoder(FORM).decode(PAYLOAD)


def test_a_process_that_answers_something_else_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_SCRIPT", "import sys; sys.stdout.write('x' * 10_000)")
    with pytest.raises(IntegrityError, match="crashes"):
        IsolatedDecoder(FORM).decode(PAYLOAD)


def test_a_process_that_cannot_be_started_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/there/is/no/python")
    with pytest.raises(WorkerError, match="cannot start /there/is/no/python, which is to decode chunks"):
        IsolatedDecoder(FORM).decode(PAYLOAD)


def test_threads_decode_at_once_each_by_a_process() -> None:
    chunks = [walk((64, 64), "i4", seed) for seed in range(12)]
    with dataset((64, 64), "i4", (64, 64), scaleoffset=0) as made:
        payloads = [Payload(next(iter(stored(made, chunk).values()))[1]) for chunk in chunks]
        decoder = IsolatedDecoder(describe(made).form)
    with ThreadPoolExecutor(3) as pool:
        for found, chunk in zip(pool.map(decoder.decode, payloads * 3), chunks * 3, strict=True):
            np.testing.assert_array_equal(found, chunk)
    assert 1 <= len(supervisors()) <= 3


def test_more_threads_than_cores_wait_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each thread would be started for one chunk and ended again."""
    monkeypatch.setattr(isolated_decoder, "_MOST_PROCESSES", 1)
    started: list[object] = []

    class Counted(isolated_decoder._Process):
        def __init__(self) -> None:
            started.append(self)
            super().__init__()

    monkeypatch.setattr(isolated_decoder, "_Process", Counted)
    own = isolated_decoder._new_pool()
    monkeypatch.setattr(isolated_decoder, "_processes", own)
    decoder = IsolatedDecoder(FORM)
    with ThreadPoolExecutor(6) as pool:
        assert [found.tolist() for found in pool.map(decoder.decode, [PAYLOAD] * 30)] == [CHUNK] * 30
    own.end()
    assert len(started) == 1


def test_a_forked_process_has_processes_of_its_own() -> None:
    decoder = IsolatedDecoder(FORM)
    decoder.decode(PAYLOAD)

    def decodes() -> None:
        # (Of the module itself the hook of a fork knows.)
        isolated_decoder._processes.forget()
        assert decoder.decode(PAYLOAD).tolist() == CHUNK

    assert in_child(decodes) == 0
    assert decoder.decode(PAYLOAD).tolist() == CHUNK


def test_a_filter_that_only_this_process_has_is_missing() -> None:
    copying = FilterFunction(lambda flags, count, options, nbytes, size, buffer: nbytes)  # noqa: ARG005
    description = FilterClass(CLASS_VERSION, 509, 1, 1, b"of this process", None, None, copying)
    assert ctypes.PyDLL(h5py.h5z.__file__).H5Zregister(ctypes.byref(description)) >= 0
    try:
        form = ChunkFormat((8,), np.dtype("<i2"), (Filter(509, 0, (), "own"),))
        with pytest.raises(FilterError, match="HDF5 filter 509 is not available in this process"):
            IsolatedDecoder(form).decode(PAYLOAD)
    finally:
        h5py.h5z.unregister_filter(509)
    with pytest.raises(FilterError, match="HDF5 filter 509 is not available"):
        IsolatedDecoder(form)


def test_no_process_outlives_this_one() -> None:
    script = """
        import os, numpy as np, psutil
        from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
        from dask_chunkio.filters.isolated_decoder import IsolatedDecoder
        form = ChunkFormat((8,), np.dtype("u1"), (Filter(2, 0, (2,), "shuffle"),))
        IsolatedDecoder(form).decode(Payload(bytes(8)))
        print(*(one.pid for one in psutil.Process().children(recursive=True)), flush=True)
        os._exit(0)  # without the hooks of an ending interpreter, as if it was killed
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "they have ended")


def test_a_worker_that_nobody_watches_does_not_decode() -> None:
    """A process that was killed while it was idle leaves its worker."""
    decoder = IsolatedDecoder(FORM)
    decoder.decode(PAYLOAD)
    (first,) = supervisors()
    first.kill()
    wait_until(lambda: first.status() == psutil.STATUS_ZOMBIE, "it died")
    assert decoder.decode(PAYLOAD).tolist() == CHUNK
    assert first not in supervisors()


BLOCKING = """
import bz2, signal
import numpy as np
from dask_chunkio import errors
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.isolated_decoder import IsolatedDecoder
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGPROF, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGPROF})
decoder = IsolatedDecoder(ChunkFormat((1000,), np.dtype("u1"), (Filter(307, 0, (9,), "bzip2"),)))
whole = bz2.compress(bytes(1000))
try:
    decoder.decode(Payload(whole[:-5]))
except errors.IntegrityError as error:
    print(error, flush=True)
print(bytes(decoder.decode(Payload(whole))) == bytes(1000))
"""


@pytest.mark.heavy
def test_a_payload_without_an_end_is_ended_whatever_signals_the_parent_ignores_or_blocks() -> None:
    lines = run_python("-c", BLOCKING, timeout=100, check=True).stdout.splitlines()
    assert lines == ["its payload takes more time to decode than any that is valid", "True"]


FORKED = """
import os, signal, sys, threading, time
import numpy as np
from dask_chunkio.filters import isolated_decoder
from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.isolated_decoder import IsolatedDecoder
decoder = IsolatedDecoder(ChunkFormat((8,), np.dtype("u1"), (Filter(2, 0, (2,), "shuffle"),)))
decoder.decode(Payload(bytes(8)))
with isolated_decoder._processes.lent():  # as a thread has it that decodes
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_is_forked_while_a_thread_decodes_keeps_no_process_alive() -> None:
    with program("-c", FORKED) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        others = [one for one in psutil.Process(process.pid).children(recursive=True) if one != child]
        assert len(others) == 2
        process.stdin.write("\n")
        process.stdin.flush()
        wait_until(lambda: not any(one.is_running() for one in others), "both have ended")
        child.kill()  # which is still there
