"""The iterator that users subclass: the interface of hdmf's iterator, implemented with numpy only.

A subclass defines how to read a selection, and the shape and dtype of the array.  This module defines buffers
and chunks, their order, progress and pickling.
"""

from __future__ import annotations

import copy
import sys
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from dask_chunkio.data_chunk import DataChunk
from dask_chunkio.errors import SourceError
from dask_chunkio.geometry.grid import BufferGrid, ChunkGrid, Selection, selection_shape
from dask_chunkio.geometry.selections import BufferSelections
from dask_chunkio.geometry.sizing import default_buffer_shape, default_chunk_shape
from dask_chunkio.validation import as_dtype, as_integer, as_shape, check_either, check_type, check_within, typed

__all__ = ["GenericDataChunkIterator"]


class _SeenByHdmf:
    """Mixin that makes hdmf accept an object as one of its iterators, without an import of hdmf.

    hdmf asks ``isinstance(data, AbstractDataChunkIterator)``, and any ABC answers that by
    first reading ``data.__class__``.  Only this moment always comes after the import of hdmf
    and before its check, whichever package was imported first and whenever the object was
    made.  As long as hdmf is not imported, nothing happens.
    """

    @property  # type: ignore[misc]  # read-only is enough
    def __class__(self) -> type[Self]:
        _register_with_hdmf()
        return type(self)


def _register_with_hdmf() -> None:
    """Register our iterator as a virtual subclass of hdmf's, if hdmf is imported."""
    # While another thread imports hdmf, the module may lack the class; the next call finds it.
    abstract = getattr(sys.modules.get("hdmf.data_utils"), "AbstractDataChunkIterator", None)
    if abstract is not None:
        abstract.register(GenericDataChunkIterator)


class GenericDataChunkIterator(_SeenByHdmf, ABC):
    """An array that is read buffer by buffer; the base class for users' own sources.

    A subclass defines `_get_data`, `_get_maxshape` and `_get_dtype`.  It sets its own
    attributes before it calls ``super().__init__()``, which calls the last two.

    There are two ways to iterate over the buffers.  A loop (``for chunk in it``, ``iter(it)``,
    ``list(it)``) always runs from the first buffer to the last, and can be repeated.
    ``next(it)`` advances a position that the object keeps: it continues after the last
    ``next(it)``, raises StopIteration at every call after the last buffer, and returns the
    same buffer again after an error.  hdmf's writer uses ``next``; to write one iterator
    with it twice, pass ``copy.copy(it)``, which starts at the first buffer.

    There is no ``len(it)``: numpy would treat the object as a sequence and read all of it.

    Parameters
    ----------
    buffer_gb : float, optional
        Size of a buffer in gigabytes of 1e9 bytes, from which `buffer_shape` is inferred;
        1.0 if neither is given.  Not together with `buffer_shape`.
    buffer_shape : tuple of int, optional
        Shape of a buffer, in elements: along each axis a multiple of the chunk, or the
        whole axis.
    chunk_mb : float, optional
        Size of a chunk in megabytes of 1e6 bytes, from which `chunk_shape` is inferred;
        10.0 if neither is given.  Not together with `chunk_shape`.
    chunk_shape : tuple of int, optional
        Shape of a chunk, in elements.
    display_progress : bool, default False
        Show a progress bar while the buffers are read.
    progress_bar_class : callable, optional
        Class or function that makes the bar.  It is called with ``total`` and `progress_bar_options`,
        and returns an object with ``update(n=1)`` and optionally ``close()``.  ``tqdm.tqdm`` by default.
    progress_bar_options : dict, optional
        Further keywords for `progress_bar_class`; ``total`` is ignored, with a warning.

    Attributes
    ----------
    chunk_shape, buffer_shape : tuple of int
        The shapes in use, in elements.
    num_buffers : int
        Number of buffers.
    buffer_selection_generator : BufferSelections
        The selections of the buffers; supports repeated loops and ``next``.
    display_progress : bool
        Whether a bar is shown.
    progress_bar_class : callable or None
    progress_bar_options : dict
        As given, without ``total``.
    progress_bar : object or None
        The bar that ``next(it)`` updates; None without `display_progress`, and after the last buffer.

    Raises
    ------
    IteratorArgumentError
        If a shape and its budget are both given, a budget is not above 0 or holds no
        element, or a chunk or buffer exceeds the array.  It is an AssertionError, as in hdmf.
    AlignmentError
        If the rank of a shape differs from that of the array, or a buffer would split chunks.
        It is an AssertionError, too.
    ArgumentTypeError
        If an argument is of the wrong type, or `_get_maxshape` or `_get_dtype` returned
        something other than a shape and a dtype.

    Examples
    --------
    >>> class Squares(GenericDataChunkIterator):
    ...     def _get_data(self, selection):
    ...         return np.arange(10)[selection] ** 2
    ...
    ...     def _get_maxshape(self):
    ...         return (10,)
    ...
    ...     def _get_dtype(self):
    ...         return np.dtype("int64")
    >>> squares = Squares(buffer_shape=(4,), chunk_shape=(2,))
    >>> for chunk in squares:
    ...     print(chunk.selection, chunk.data)
    (slice(0, 4, None),) [0 1 4 9]
    (slice(4, 8, None),) [16 25 36 49]
    (slice(8, 10, None),) [64 81]
    >>> squares[-1].data
    array([64, 81])
    """

    __progress_bar: Any = None

    def __init__(  # noqa: PLR0917  # hdmf's order
        self,
        buffer_gb: float | None = None,
        buffer_shape: tuple[int, ...] | None = None,
        chunk_mb: float | None = None,
        chunk_shape: tuple[int, ...] | None = None,
        display_progress: bool = False,
        progress_bar_class: Callable[..., Any] | None = None,
        progress_bar_options: dict[str, Any] | None = None,
    ) -> None:
        check_either("buffer_gb", buffer_gb, "buffer_shape", buffer_shape)
        check_either("chunk_mb", chunk_mb, "chunk_shape", chunk_shape)
        self._set_progress(display_progress, progress_bar_class, progress_bar_options)
        self._dtype = as_dtype("_get_dtype()", self._get_dtype())
        self._maxshape = as_shape("_get_maxshape()", self._get_maxshape())
        if chunk_shape is None:
            chunk_shape = self._get_default_chunk_shape(chunk_mb=10.0 if chunk_mb is None else chunk_mb)
        self.chunk_shape = as_shape("chunk_shape", chunk_shape)
        chunks = ChunkGrid(self._maxshape, self.chunk_shape)
        check_within("chunk_shape", self.chunk_shape, self._maxshape)
        self.__buffer_shape_given = buffer_shape is not None
        if buffer_shape is None:
            buffer_shape = self._get_default_buffer_shape(buffer_gb=1.0 if buffer_gb is None else buffer_gb)
        self.buffer_shape = as_shape("buffer_shape", buffer_shape)
        self.buffer_selection_generator = BufferSelections(BufferGrid(chunks, self.buffer_shape))
        check_within("buffer_shape", self.buffer_shape, self._maxshape)
        self.num_buffers = len(self.buffer_selection_generator)

    def _set_progress(self, display: bool, make: Callable[..., Any] | None, options: dict[str, Any] | None) -> None:
        check_type("display_progress", display, isinstance(display, bool | np.bool_), "a bool")
        check_type("progress_bar_class", make, make is None or callable(make), "callable")
        check_type("progress_bar_options", options, options is None or isinstance(options, dict), "a dict")
        self.display_progress = bool(display)
        self.progress_bar_class = make
        self.progress_bar_options = {name: value for name, value in (options or {}).items() if name != "total"}
        if self.display_progress and options and "total" in options:
            warnings.warn(
                "'total' in progress_bar_options is ignored: it is the number of buffers. Leave it out", stacklevel=3
            )

    @abstractmethod
    def _get_data(self, selection: Selection) -> npt.NDArray[Any]:
        """Read the selected part of the array into memory.

        A parallel write calls this from several threads and in any order.  The result should
        depend on `selection` only.

        Parameters
        ----------
        selection : tuple of slice
            One slice for each axis, with start and stop inside the array.

        Returns
        -------
        numpy.ndarray
            The values, with the shape of the selection.
        """

    @abstractmethod
    def _get_maxshape(self) -> tuple[int, ...]:
        """Return the shape of the whole array, in elements."""

    @abstractmethod
    def _get_dtype(self) -> npt.DTypeLike:
        """Return the dtype of the array, or a name or type that numpy accepts as one."""

    def _get_default_chunk_shape(self, chunk_mb: float) -> tuple[int, ...]:
        """Return the chunk shape for a budget; see `dask_chunkio.geometry.sizing.default_chunk_shape`."""
        return default_chunk_shape(self.maxshape, self.dtype.itemsize, chunk_mb)

    def _get_default_buffer_shape(self, buffer_gb: float) -> tuple[int, ...]:
        """Return the buffer shape for a budget; see `dask_chunkio.geometry.sizing.default_buffer_shape`."""
        return default_buffer_shape(self.maxshape, self.chunk_shape, self.dtype.itemsize, buffer_gb)

    @property
    def maxshape(self) -> tuple[int, ...]:
        """Shape of the whole array, in elements."""
        return self._maxshape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the array."""
        return self._dtype

    @property
    def progress_bar(self) -> Any:
        """The bar that ``next(it)`` updates; the first use shows it.

        A parallel write shows a bar of its own instead, and a loop one for each run.
        """
        cursor = self.buffer_selection_generator
        if self.__progress_bar is None and self.display_progress and cursor.position < len(cursor):
            self.__begin_progress(done=cursor.position)
        return self.__progress_bar

    @property
    def buffer_shape_is_explicit(self) -> bool:
        """Whether the user or the subclass chose `buffer_shape`, so that a writer must not change it."""
        inferred = type(self)._get_default_buffer_shape is GenericDataChunkIterator._get_default_buffer_shape
        return self.__buffer_shape_given or not inferred

    def recommended_chunk_shape(self) -> tuple[int, ...]:
        """Return the chunk shape for the dataset to which a writer writes this array."""
        return self.chunk_shape

    def recommended_data_shape(self) -> tuple[int, ...]:
        """Return the shape for the dataset to which a writer writes this array."""
        return self.maxshape

    def __getitem__(self, number: int) -> DataChunk:
        """Read buffer `number`; negative numbers count from the end.

        Raises
        ------
        IndexError
            If there is no such buffer.
        SourceError
            If `_get_data` returned something other than an array of the selection's shape.
        """
        number = as_integer("the number of a buffer", number)
        if not -self.num_buffers <= number < self.num_buffers:
            raise IndexError(f"there is no buffer {number}; there are {self.num_buffers}, numbered from 0")
        return self._read(number % self.num_buffers)

    def __iter__(self) -> Iterator[DataChunk]:
        bar = self._new_progress_bar()
        try:
            for number in range(self.num_buffers):
                chunk = self._read(number)
                if bar is not None:
                    bar.update(n=1)
                yield chunk
        finally:
            _close(bar)

    def __next__(self) -> DataChunk:
        cursor = self.buffer_selection_generator
        if cursor.position >= len(cursor):
            raise StopIteration
        bar = self.progress_bar
        try:
            chunk = self._read(cursor.position)
        except BaseException:
            self.__end_progress()
            raise
        next(cursor)
        if bar is not None:
            bar.update(n=1)
        if cursor.position >= len(cursor):
            self.__end_progress()
        return chunk

    def _read(self, number: int) -> DataChunk:
        # Must not use the position of `next`: several threads read at once.
        selection = self.buffer_selection_generator[number]
        where = f"for buffer {number} of {self.num_buffers}, selection {selection}"
        try:
            data: Any = self._get_data(selection=selection)
        except StopIteration as stop:
            raise SourceError(
                f"_get_data raised StopIteration {where}; that would leave out this buffer and all after it, "
                f"silently. Return the data, or raise another error"
            ) from stop
        if isinstance(data, np.generic):
            data = np.asarray(data)
        if not isinstance(data, np.ndarray):
            raise SourceError(f"_get_data returned {typed(data)} {where}; return a numpy.ndarray")
        if data.shape != selection_shape(selection):
            raise SourceError(
                f"_get_data returned the shape {data.shape} {where}; return the shape {selection_shape(selection)}"
            )
        return DataChunk(data, selection)

    def _new_progress_bar(self) -> Any:
        if not self.display_progress:
            return None
        from tqdm import tqdm

        return (self.progress_bar_class or tqdm)(total=self.num_buffers, **self.progress_bar_options)

    def __begin_progress(self, done: int) -> None:
        self.__progress_bar = bar = self._new_progress_bar()
        # The caller of next() may stop at any time: the bar is then closed together with this object.
        self.__close_progress_bar = weakref.finalize(self, _close, bar)
        if done:
            bar.update(n=done)

    def __end_progress(self) -> None:
        if self.__progress_bar is not None:
            self.__progress_bar = None
            self.__close_progress_bar()

    def _to_dict(self) -> dict[str, Any]:
        """Return a dict from which `_from_dict` makes an equal iterator; optional, as in hdmf."""
        raise NotImplementedError("define _to_dict and _from_dict together, or neither")

    @staticmethod
    def _from_dict(dictionary: dict[str, Any]) -> GenericDataChunkIterator:
        """Return an iterator made from the result of `_to_dict`; optional, as in hdmf."""
        raise NotImplementedError("define _to_dict and _from_dict together, or neither")

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        own, base = type(self), GenericDataChunkIterator
        if own._to_dict is not base._to_dict and own._from_dict is not base._from_dict:
            return self._from_dict, (self._to_dict(),)
        return super().__reduce_ex__(protocol)

    def __getstate__(self) -> Any:
        # If a subclass has slots, the state is a pair of dicts.
        state = super().__getstate__()
        attributes, *slots = state if isinstance(state, tuple) else (state,)
        left_out = ("_GenericDataChunkIterator__progress_bar", "_GenericDataChunkIterator__close_progress_bar")
        kept = {name: value for name, value in attributes.items() if name not in left_out}
        # A shallow copy must have its own position in the buffers.
        kept["buffer_selection_generator"] = copy.copy(self.buffer_selection_generator)
        return (kept, *slots) if slots else kept


def _close(bar: Any) -> None:
    # hdmf does not require that a bar has close().
    close = getattr(bar, "close", None)
    if close is not None:
        close()
