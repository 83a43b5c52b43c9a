import copy
import gc
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.iterators import Describing, numbers, quarters, same


class Bar:
    """A progress bar that remembers what was done to it."""

    made: list[Any] | None = None

    def __init__(self, total: int, **options: Any) -> None:
        self.total, self.options, self.n, self.closed = total, options, 0, 0
        if self.made is not None:
            self.made.append(self)

    def update(self, n: int = 1) -> None:
        assert not self.closed
        self.n += n

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    made: list[Bar] = []
    monkeypatch.setattr(Bar, "made", made)
    return made


def test_a_loop_has_a_bar_from_its_first_buffer_to_its_end(bars: list[Bar]) -> None:
    it = quarters(display_progress=True, progress_bar_class=Bar, progress_bar_options={"desc": "x"})
    running = iter(it)
    assert bars == []
    next(running)
    assert [(bar.total, bar.n, bar.options, bar.closed) for bar in bars] == [(4, 1, {"desc": "x"}, 0)]
    assert len(list(running)) == 3
    assert [(bar.n, bar.closed) for bar in bars] == [(4, 1)]
    list(it)
    assert [(bar.n, bar.closed) for bar in bars] == [(4, 1), (4, 1)]


def test_the_bar_of_next_is_there_after_construction(bars: list[Bar]) -> None:
    it = quarters(display_progress=True, progress_bar_class=Bar)
    # A parallel write never calls next: nothing is shown before it is used.
    assert bars == []
    bar = it.progress_bar
    assert bars == [bar]
    next(it)
    assert (bar.n, it.progress_bar) == (1, bar)
    assert quarters().progress_bar is None


def test_next_has_a_bar_that_is_closed_with_the_last_buffer(bars: list[Bar]) -> None:
    it = quarters(display_progress=True, progress_bar_class=Bar)
    for _ in range(3):
        next(it)
    assert it.progress_bar is bars[0]
    assert [(bar.n, bar.closed) for bar in bars] == [(3, 0)]
    next(it)
    assert it.progress_bar is None
    assert next(it, None) is None
    assert [(bar.n, bar.closed) for bar in bars] == [(4, 1)]


def test_a_bar_is_closed_when_a_loop_is_left(bars: list[Bar]) -> None:
    for chunk in quarters(display_progress=True, progress_bar_class=Bar):
        assert chunk.selection[0].start == 0
        break
    gc.collect()
    assert [(bar.n, bar.closed) for bar in bars] == [(1, 1)]


def test_a_bar_is_closed_when_its_object_goes(bars: list[Bar]) -> None:
    it = quarters(display_progress=True, progress_bar_class=Bar)
    next(it)
    del it
    gc.collect()
    assert [(bar.n, bar.closed) for bar in bars] == [(1, 1)]


def test_a_bar_is_closed_on_an_error_and_the_next_one_goes_on(bars: list[Bar]) -> None:
    failing: list[OSError] = []
    base = numbers()

    def data(selection: Any) -> Any:
        if failing:
            raise failing.pop()
        return base[selection]

    it = Describing(data=data, buffer_shape=(3, 6), chunk_shape=(3, 2), display_progress=True, progress_bar_class=Bar)
    next(it)
    for read in (lambda: next(it), lambda: list(it)):
        failing.append(OSError("disk gone"))
        with pytest.raises(OSError, match="disk gone"):
            read()
    assert [(bar.n, bar.closed) for bar in bars] == [(1, 1), (0, 1)]
    next(it)
    assert [(bar.n, bar.closed) for bar in bars] == [(1, 1), (0, 1), (2, 0)]


def test_a_bar_needs_no_close() -> None:
    class Least:
        def __init__(self, total: int) -> None:
            self.left = total

        def update(self, n: int) -> None:
            self.left -= n

    assert len(list(quarters(display_progress=True, progress_bar_class=Least))) == 4


def test_the_total_is_not_the_users_to_give(bars: list[Bar]) -> None:
    options = {"total": 99, "desc": "x"}
    with pytest.warns(UserWarning, match="'total' in progress_bar_options is ignored"):
        it = quarters(display_progress=True, progress_bar_class=Bar, progress_bar_options=options)
    list(it)
    assert (bars[0].total, bars[0].options) == (4, {"desc": "x"})
    assert options == {"total": 99, "desc": "x"}


def test_no_bar_unless_asked(bars: list[Bar]) -> None:
    it = quarters(progress_bar_class=Bar)
    list(it)
    next(it)
    assert bars == []


def test_the_bar_is_tqdms_by_default() -> None:
    out = io.StringIO()
    assert len(list(quarters(display_progress=True, progress_bar_options={"file": out, "desc": "reading"}))) == 4
    assert "reading: 100%" in out.getvalue()
    assert "4/4" in out.getvalue()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_leaves_the_running_bar_behind(bars: list[Bar], duplicate: Callable[[Any], Any]) -> None:
    it = quarters(display_progress=True, progress_bar_class=Bar)
    next(it)
    other = duplicate(it)
    del other
    assert [(bar.n, bar.closed) for bar in bars] == [(1, 0)]
    it.progress_bar.lock = threading.Lock()
    assert same(duplicate(it), quarters())
