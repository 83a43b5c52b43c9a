"""The open writers of a process: those of one write are no hindrance to another."""

import contextlib
import fcntl
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import TargetError
from dask_chunkio.storage import session
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.filesystem import process_exit
from dask_chunkio.storage.writer import Writer
from tests.support.processes import Call, wait_until, waits_for_a_file
from tests.support.storage.writes import Write, numbers

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no flock")


def test_a_write_that_waits_for_a_lock_holds_up_no_other(tmp_path: Path) -> None:
    with Write(tmp_path / "waits.h5") as waiting, open(waiting.target.lock, "rb") as foreign:
        fcntl.flock(foreign, fcntl.LOCK_EX)
        with ThreadPoolExecutor(2) as pool:

            def engage() -> None:
                with session.in_use(waiting.target, False):
                    pass

            held = pool.submit(engage)
            try:
                other = pool.submit(dcio.to_hdf5, tmp_path / "other.h5", "/x", numbers(), scheduler="sync")
                other.result(30)
                assert not held.done()
            finally:
                fcntl.flock(foreign, fcntl.LOCK_UN)
            held.result(30)


def test_a_write_is_let_go_between_its_tasks_and_never_under_one(tmp_path: Path) -> None:
    """As the thread does that looks after the writes of a process, whenever it finds one that nothing needs."""
    with Write(tmp_path / "a.h5") as write:
        ended = threading.Event()

        def let_go() -> None:
            while not ended.is_set():
                session.release_unused(write.target.write_id)

        def use(_: Any) -> Any:
            with session.in_use(write.target, False) as writer, writer.transactions.files.used():
                return os.fstat(writer.transactions.files.file).st_ino

        with ThreadPoolExecutor(3) as pool:
            pool.submit(let_go)
            try:
                assert len(set(pool.map(use, range(300)))) == 1
            finally:
                ended.set()


def test_a_write_whose_folder_is_left_is_not_finished_whatever_is_known_of_its_id(tmp_path: Path) -> None:
    with Write(tmp_path / "a.h5", write_id="same") as finished:
        finished.commit_missing()
        finished.finish()
    assert session.is_finished(finished.target)
    with Write(tmp_path / "b.h5", write_id="same") as other:
        assert not session.is_finished(other.target)


class CountingLock:
    """A lock that counts who has come to take it."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0

    def __enter__(self) -> None:
        self.count += 1
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_threads_that_begin_at_once_share_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Write(tmp_path / "a.h5") as write:
        write.release()
        opened: list[Writer] = []
        may_open, lock = threading.Event(), CountingLock()

        def slowly(*arguments: Any) -> Writer:
            assert may_open.wait(60)
            opened.append(Writer(*arguments))
            return opened[-1]

        monkeypatch.setattr(session, "Writer", slowly)
        monkeypatch.setitem(session.__dict__["_opening"], write.target.write_id, lock)
        calls = [Call(session.writer_for, write.target) for _ in range(4)]
        wait_until(lambda: lock.count == len(calls), "all but one wait for the one that opens it")
        may_open.set()
        assert {id(call.result()) for call in calls} == {id(opened[0])}
        assert len(opened) == 1
        write.complete()


def test_a_write_that_ends_as_a_task_opens_it_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Write(tmp_path / "a.h5") as write:
        write.commit(0)
        write.release()
        opened: list[Writer] = []

        def ended_first(*arguments: Any) -> Writer:
            opened.append(Writer(*arguments))
            session.end(write.target.write_id)
            return opened[-1]

        monkeypatch.setattr(session, "Writer", ended_first)
        with pytest.raises(TargetError, match=r"a\.h5 has ended; nothing more is committed to it"):
            session.writer_for(write.target)
        with pytest.raises(TargetError, match="closed in this process"), opened[0].transactions.files.kept_open():
            pass
    monkeypatch.undo()
    with Write(tmp_path / "a.h5", resume=True) as again:
        assert again.is_stored(0)
        again.complete()


@pytest.mark.parametrize("is_ended", [False, True])
def test_a_writer_that_is_closed_before_a_task_has_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ended: bool
) -> None:
    """Unless the write has ended: then the task is refused."""
    with Write(tmp_path / "a.h5") as write:
        found, writer_for = [], session.writer_for

        def closed_first(target: Any, exclusive: bool) -> Writer:
            found.append(writer_for(target, exclusive))
            if len(found) == 1:
                (session.end if is_ended else session.release)(target.write_id)
            return found[-1]

        monkeypatch.setattr(session, "writer_for", closed_first)
        refused = pytest.raises(TargetError, match="has ended; nothing more is committed")
        with refused if is_ended else contextlib.nullcontext(), session.in_use(write.target, False) as writer:
            assert writer is found[1]
            assert writer.transactions.files.is_used
    assert len(found) == (1 if is_ended else 2)


def test_a_writer_that_refuses_its_files_is_not_opened_again_and_again(tmp_path: Path) -> None:
    """Something has ended it, and it stands for the write still."""
    with Write(tmp_path / "a.h5") as write:
        write.writer.transactions.files.end()
        with pytest.raises(TargetError, match="has ended"), session.in_use(write.target, False):
            pass


def test_a_file_system_that_loses_its_locks_is_named_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Write(tmp_path / "a.h5") as write:
        write.release()

        def refuse(_: ActivityLock) -> None:
            raise TargetError("the file system of lock has no file locks")

        monkeypatch.setattr(ActivityLock, "share", refuse)
        with pytest.raises(TargetError, match=r"^the file system of lock has no file locks$"):
            session.writer_for(write.target, exclusive=True)


# Ctrl-C


def test_a_call_that_another_process_interrupts_begins_no_more_tasks(tmp_path: Path) -> None:
    with Write(tmp_path / "a.h5") as write:
        write.commit(0)
        session.interrupt(write.target)
        for use in (
            lambda: session.require_going(write.target),
            lambda: session.in_use(write.target, False).__enter__(),
        ):
            with pytest.raises(TargetError, match=r"a\.h5 was interrupted; go on with resume=True"):
                use()
    with Write(tmp_path / "a.h5", resume=True) as again:
        session.require_going(again.target)
        with session.in_use(again.target, False) as writer:
            assert again.is_stored(0, writer)


def test_what_is_left_of_a_finished_write_is_not_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to go on saying that the write is finished."""
    with Write(tmp_path / "a.h5") as write:
        write.commit_missing()
        monkeypatch.setattr("dask_chunkio.storage.filesystem.side_folder.Folder.remove", lambda *_: None)
        write.finish()
        session.interrupt(write.target)
        assert "stop" not in os.listdir(write.target.folder)


def test_a_call_that_is_interrupted_waits_for_its_other_processes(tmp_path: Path) -> None:
    with Write(tmp_path / "a.h5") as write:
        write.release()
        worker = ActivityLock(write.target.lock)
        worker.share()
        try:
            waiting = Call(session.wait_for_others, write.target)
            waiting.join(0.1)
            assert waiting.is_alive()
        finally:
            worker.close()
        waiting.result()
        shutil.rmtree(write.target.folder)
        session.wait_for_others(write.target)


# The end of the process


def test_nothing_is_committed_while_the_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Write(tmp_path / "a.h5") as write:
        write.commit(0)
        with monkeypatch.context() as patch:
            patch.setattr(process_exit, "_inside", process_exit._Inside())
            process_exit.leave()
            with pytest.raises(
                TargetError, match="the process is ending: nothing more is committed; go on with resume"
            ):
                write.commit(1)
        assert write.is_stored(0)
        assert not write.is_stored(1)
        write.complete()


def test_the_end_of_the_process_waits_for_no_thread_that_waits_for_another_program(tmp_path: Path) -> None:
    with Write(tmp_path / "a.h5", exclusive=True) as write, open(write.target.log, "rb") as other:
        write.commit(0)
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = Call(write.commit, 1)
        wait_until(lambda: waits_for_a_file(os.getpid(), write.target.log))
        write.writer.transactions.close_at_exit()
        fcntl.flock(other, fcntl.LOCK_UN)
        waiting.result()
        write.complete()


def test_a_process_remembers_the_last_writes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many that it has ended, none has tasks any more but the last."""
    monkeypatch.setattr(session, "_MOST_ENDED", 2)
    monkeypatch.setattr(session, "_ended", {})
    monkeypatch.setattr(session, "_finished", {})
    targets = []
    for number in range(4):
        with Write(tmp_path / f"{number}.h5") as write:
            write.commit_missing()
            write.finish()
            session.end(write.target.write_id)
        targets.append(write.target)
    assert list(session._ended) == [target.write_id for target in targets[-2:]]
    assert [session.is_finished(target) for target in targets] == [False, False, True, True]
