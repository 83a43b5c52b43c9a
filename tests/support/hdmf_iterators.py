"""hdmf's own iterator over an array: the module that imports hdmf."""

from typing import Any

from hdmf.data_utils import GenericDataChunkIterator

__all__ = ["FromArrayOfHdmf"]


class FromArrayOfHdmf(GenericDataChunkIterator):  # type: ignore[misc]
    """Like `tests.support.iterators.FromArray`, as hdmf's tutorial writes it."""

    def __init__(self, array: Any, **keywords: Any) -> None:
        self.array = array
        super().__init__(**keywords)

    def _get_data(self, selection: Any) -> Any:
        return self.array[selection]

    def _get_maxshape(self) -> Any:
        return self.array.shape

    def _get_dtype(self) -> Any:
        return self.array.dtype
