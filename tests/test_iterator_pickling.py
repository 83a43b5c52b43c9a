import pickle
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from tests.support.iterators import FromArray, numbers, quarters, same


class AsHdmfPickles(FromArray):
    def _to_dict(self) -> dict[str, Any]:
        return {"shape": self.array.shape, "buffer_shape": self.buffer_shape, "chunk_shape": self.chunk_shape}

    @staticmethod
    def _from_dict(dictionary: dict[str, Any]) -> FromArray:
        return AsHdmfPickles(numbers(dictionary.pop("shape")), **dictionary)


class OnlyToDict(FromArray):
    def _to_dict(self) -> NoReturn:
        raise AssertionError


class Slotted(FromArray):
    __slots__ = ("more",)
    more: int


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [FromArray, AsHdmfPickles, OnlyToDict])
def test_it_pickles_and_starts_over(kind: type[FromArray], protocol: int) -> None:
    it = kind(numbers(), buffer_shape=(3, 6), chunk_shape=(3, 2))
    next(it)
    running = iter(it)
    next(running)
    other = pickle.loads(pickle.dumps(it, protocol))
    assert type(other) is kind
    assert same(other, it)
    assert same([next(other)], [it[0]])
    assert same([next(it)], [it[1]])


def test_attributes_in_slots_are_pickled_too() -> None:
    it = Slotted(numbers())
    it.more = 5
    other = pickle.loads(pickle.dumps(it))
    assert (other.more, other.num_buffers) == (5, 1)


def test_what_cannot_be_pickled_is_said_by_pickle() -> None:
    it: Any = quarters()
    it.lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        pickle.dumps(it)


@pytest.mark.parametrize("call", [lambda it: it._to_dict(), lambda it: it._from_dict({})])
def test_the_optional_pickling_methods_say_what_to_define(call: Callable[..., Any]) -> None:
    with pytest.raises(NotImplementedError, match="define _to_dict and _from_dict"):
        call(quarters())
