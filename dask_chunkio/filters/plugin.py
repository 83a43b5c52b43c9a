"""Calls of the C functions of HDF5's filter plugins, without HDF5 and without the GIL.

A plugin is a shared library that provides an ``H5Z_class2_t`` to HDF5.  This module calls the
same function as HDF5, so that the payload is the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil

from dask_chunkio.errors import FilterError
from dask_chunkio.filters.chunk_format import Data, Filter
from dask_chunkio.filters.filter_class import CLASS_VERSION, FilterClass, FilterFunction

__all__ = ["PLUGIN_NAMES", "Plugin", "add_plugin_paths", "filters_of", "find_plugin", "plugin_paths"]
__all__ += ["require_decoder", "require_decoders", "require_filter"]

_LZF, _BLOSC, _SZ, _BLOSC2 = 32000, 32001, 32017, 32026
PLUGIN_NAMES = {
    307: "bzip2",
    _LZF: "lzf",
    _BLOSC: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    _SZ: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    _BLOSC2: "blosc2",
    32028: "sperr",
    32033: "htj2k",
}
# Functions that keep no state between calls and do not call HDF5.  Tests called each from many threads at once, in a
# process without HDF5, and compared the results with those of HDF5.
_REENTRANT = frozenset({307, _LZF, 32004, 32008, 32013, 32015, 32018, 32024, _BLOSC2, 32028, 32033})
# SZ keeps its parameters in global variables, which HDF5 sets for each dataset.
_ONLY_IN_HDF5 = frozenset({_SZ})

# These environment variables override the options of the dataset in blosc, except in `blosc_compress_ctx`.
_BLOSC_VARIABLES = tuple(
    f"BLOSC_{name}"
    for name in ("BLOCKSIZE", "CLEVEL", "COMPRESSOR", "NOLOCK", "NTHREADS", "SHUFFLE", "SPLITMODE", "TYPESIZE")
)

_TYPE_FILTER, _REVERSE = 0, 0x0100


@dataclass(frozen=True, slots=True)
class _Memory:
    """The allocator that plugins use: a filter frees the buffer that it receives, and returns another."""

    malloc: Callable[[int], int | None]
    realloc: Callable[[int, int], int | None]
    free: Callable[[int | None], None]


class _Block:
    """Memory that a plugin allocated; freed together with the last array that uses it."""

    def __init__(self, memory: _Memory, address: int, size: int) -> None:
        self._free, self._address = memory.free, address
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __del__(self) -> None:
        self._free(self._address)


def plugin_paths() -> list[str]:
    """Return the folders in which HDF5 looks for plugins in this process, for another one."""
    return [h5py.h5pl.get(number).decode("utf-8", "surrogateescape") for number in range(h5py.h5pl.size())]


def add_plugin_paths(paths: Iterable[str]) -> None:
    """Have HDF5 look for plugins in further folders, which `plugin_paths` of another process returned."""
    for path in paths:
        h5py.h5pl.append(path.encode("utf-8", "surrogateescape"))


def require_filter(code: int) -> None:
    """Check that HDF5 can run a filter in this process; load the filters of hdf5plugin if they are installed.

    Raises
    ------
    FilterError
        If the filter is not available.

    Examples
    --------
    >>> require_filter(1)
    """
    if h5py.h5z.filter_avail(code) or _load_plugins(code):
        return
    raise FilterError(
        f"HDF5 filter {code} is not available in this process; install the package that brings it "
        f"(for most: pip install hdf5plugin) where the workers run, or choose another compression"
    )


def require_decoder(dataset: h5py.Dataset) -> None:
    """Check that HDF5 can decode a dataset in this process; load the filters of hdf5plugin if they are installed.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset, of any layout.

    Raises
    ------
    FilterError
        If a plugin is missing; the data may be intact.
    """
    require_decoders(dataset.name, filters_of(dataset))


def filters_of(dataset: h5py.Dataset) -> list[tuple[int, str]]:
    """Return number and name of each filter of a dataset."""
    plist = dataset.id.get_create_plist()
    found = (plist.get_filter(number) for number in range(plist.get_nfilters()))
    return [(code, name.decode("utf-8", "replace")) for code, _, _, name in found]


def require_decoders(where: str, filters: Iterable[tuple[int, str]]) -> None:
    """Check that HDF5 can undo filters in this process, as `require_decoder`.

    Parameters
    ----------
    where : str
        The dataset, for messages.
    filters : iterable of tuple
        As `filters_of` returns them.

    Raises
    ------
    FilterError
        If a plugin is missing.
    """
    for code, name in filters:
        if not h5py.h5z.filter_avail(code) and not _load_plugins(code):
            words = PLUGIN_NAMES.get(code) or name.partition(";")[0] or "of a filter"
            raise FilterError(
                f"{where}: cannot decode: plugin {words} ({code}) is missing; install it where the file is read "
                f"(for most: pip install hdf5plugin)"
            )


def _load_plugins(code: int) -> bool:
    try:
        import hdf5plugin  # noqa: F401  (importing registers its filters)
    except ImportError:
        return False
    return bool(h5py.h5z.filter_avail(code))


class Plugin:
    """The function of a plugin, which can be called from any thread.

    Parameters
    ----------
    code : int
        HDF5's identifier of the filter.
    library : ctypes.CDLL
        The plugin.
    description : ctypes.Structure
        The ``H5Z_class2_t`` that the plugin provides.
    memory : object
        The allocator that the plugin shares with HDF5.

    Notes
    -----
    A function that is not known to be re-entrant runs under h5py's lock, as in HDF5 itself.
    """

    def __init__(self, code: int, library: ctypes.CDLL, description: FilterClass, memory: _Memory) -> None:
        self.code = code
        self._library, self._memory = library, memory
        self._function = description.filter
        self._is_warm = False
        self._blosc = _blosc_function(library) if code == _BLOSC else None

    @property
    def library(self) -> ctypes.CDLL:
        """The library with the function of the filter, and often with others."""
        return self._library

    def is_parallel(self, step: Filter) -> bool:
        """Return whether several threads may run a step of a pipeline at once."""
        return self.code in _REENTRANT or self._runs_by_context(step)

    def name(self, step: Filter) -> str:
        """Return the name of a step that `plan` shows.

        Parameters
        ----------
        step : Filter
            A step of a pipeline.
        """
        name = PLUGIN_NAMES.get(self.code) or step.name.partition(";")[0] or f"filter {self.code}"
        where = "in h5py" if self.code == _LZF else "by its plugin"
        if self.code == _BLOSC2 and "BLOSC_NTHREADS" not in os.environ:
            where += ", which starts threads for each chunk unless BLOSC_NTHREADS=1 is set"
        return f"{name} {where}" + ("" if self.is_parallel(step) else ", one at a time")

    def encode(self, step: Filter, data: Data) -> Data | None:
        """Run the filter on the bytes of a chunk.

        Parameters
        ----------
        step : Filter
            A step of a pipeline.
        data : bytes-like
            The result of the preceding step.

        Returns
        -------
        bytes-like or None
            None if the function of the filter returned 0: it failed, or chose not to change the data.
        """
        if self._runs_by_context(step):
            return self._compress_by_context(step, data)
        with self._turn(step):
            return self._call(step, data)

    def _turn(self, step: Filter) -> AbstractContextManager[object]:
        return contextlib.nullcontext() if self._is_warm and self.is_parallel(step) else self._alone()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self.alone():
            yield
            self._is_warm = True

    def alone(self) -> AbstractContextManager[object]:
        """Return the context of a first call, which may fill global tables that calls of HDF5 fill, too."""
        lock: AbstractContextManager[object] = phil
        return lock

    def _call(self, step: Filter, data: Data) -> Data | None:
        memory, size = self._memory, len(data)
        buffer, capacity = ctypes.c_void_p(_copied(memory, data)), ctypes.c_size_t(size)
        options = (ctypes.c_uint * len(step.options))(*step.options)
        made = self._function(
            step.flags & ~_REVERSE, len(options), options, size, ctypes.byref(capacity), ctypes.byref(buffer)
        )
        if not made or buffer.value is None:
            memory.free(buffer.value)
            return None
        return _owned(memory, buffer.value, made)

    def _runs_by_context(self, step: Filter) -> bool:
        """Return whether blosc can take all options as arguments, without global or environment variables."""
        if self._blosc is None or len(step.options) < 7:
            return False
        # `blosc_compress_ctx` runs with one thread here: its payload equals HDF5's if that uses one thread too.
        found = {name: os.environ[name] for name in _BLOSC_VARIABLES if name in os.environ}
        return found in ({}, {"BLOSC_NTHREADS": "1"})

    def _compress_by_context(self, step: Filter, data: Data) -> Data | None:
        itemsize, level, shuffle, codec = (step.options[k] for k in (2, 4, 5, 6))
        name = ctypes.c_char_p()
        if self._blosc is None or self._library.blosc_compcode_to_compname(codec, ctypes.byref(name)) < 0:
            return None
        source, target = np.frombuffer(data, np.uint8), np.empty(len(data), np.uint8)
        made = self._blosc(
            level, shuffle, itemsize, len(data), source.ctypes.data, target.ctypes.data, len(data), name, 0, 1
        )
        return target[:made].copy().data if made > 0 else None


def _copied(memory: _Memory, data: Data) -> int:
    address = memory.malloc(len(data))
    if not address:
        raise MemoryError(f"{len(data)} bytes for a filter")
    ctypes.memmove(address, np.frombuffer(data, np.uint8).ctypes.data, len(data))
    return address


def _owned(memory: _Memory, address: int, size: int) -> memoryview:
    """Return the buffer of a plugin, shrunk to the payload: a filter may allocate more than the size of the chunk."""
    return np.asarray(_Block(memory, memory.realloc(address, size) or address, size)).data


_found: dict[int, Plugin | None] = {}
_finding = threading.Lock()


def find_plugin(code: int) -> Plugin | None:
    """Return the plugin of a filter, loaded once in a process.

    Parameters
    ----------
    code : int
        HDF5's identifier of the filter.

    Returns
    -------
    Plugin or None
        None if HDF5 itself must run the filter: because the filter is built in, comes from an unknown
        library, or keeps state that must not be shared, or because the system is Windows.
    """
    with _finding:
        if code not in _found:
            _found[code] = _find(code)
        return _found[code]


def _find(code: int) -> Plugin | None:
    memory = _shared_memory()
    if memory is None or code in _ONLY_IN_HDF5:
        return None
    if code == _LZF:
        return _in_h5py(memory)
    for path in _libraries(code):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        description = _description(library)
        if description is not None and _encodes(description, code):
            return Plugin(code, library, description, memory)
    return None


def _in_h5py(memory: _Memory) -> Plugin | None:
    """Return the filter of h5py, if the module that registers it with HDF5 exports its function."""
    try:
        library = ctypes.CDLL(h5py.h5z.__file__)
        function = FilterFunction(("lzf_filter", library))
    except (OSError, AttributeError):
        return None
    return Plugin(_LZF, library, FilterClass(CLASS_VERSION, _LZF, 1, 1, b"lzf", None, None, function), memory)


def _shared_memory() -> _Memory | None:
    """Return the allocator that plugins and HDF5 share; None on Windows, where each may have its own."""
    if sys.platform == "win32":
        return None
    library = ctypes.CDLL(None)
    malloc, realloc, free = library.malloc, library.realloc, library.free
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    realloc.restype, realloc.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    return _Memory(malloc, realloc, free)


def _libraries(code: int) -> Iterator[str]:
    """Yield the libraries that may have the filter: the one that hdf5plugin registered, or those on HDF5's path."""
    registered = _registered(code)
    if registered is not None:
        yield registered
        return
    for number in range(h5py.h5pl.size()):
        with contextlib.suppress(OSError), os.scandir(os.fsdecode(h5py.h5pl.get(number))) as folder:
            yield from (entry.path for entry in folder if _is_library(entry.name))


def _registered(code: int) -> str | None:
    hdf5plugin: Any = sys.modules.get("hdf5plugin")
    if hdf5plugin is None:
        return None
    paths = hdf5plugin.get_config().registered_filters
    found = (paths.get(name) for name, number in hdf5plugin.FILTERS.items() if number == code)
    return next((str(path) for path in found if path and os.path.isfile(path)), None)


def _is_library(name: str) -> bool:
    return name.startswith("lib") and (".so" in name or ".dylib" in name)


def _description(library: ctypes.CDLL) -> FilterClass | None:
    try:
        kind, describe = library.H5PLget_plugin_type, library.H5PLget_plugin_info
    except AttributeError:
        return None
    kind.restype = ctypes.c_int
    describe.restype = ctypes.POINTER(FilterClass)
    if kind() != _TYPE_FILTER:
        return None
    found = describe()
    return found.contents if found else None


def _encodes(description: FilterClass, code: int) -> bool:
    # Some plugins leave the version at 0; the identifier has the same position in both versions.
    is_current = description.version in (0, CLASS_VERSION)
    return is_current and description.id == code and bool(description.encoder_present) and bool(description.filter)


def _blosc_function(library: ctypes.CDLL) -> Any:
    """Return the function of blosc that takes all options as arguments; None if the plugin does not export it."""
    try:
        function, names = library.blosc_compress_ctx, library.blosc_compcode_to_compname
    except AttributeError:
        return None
    number, size, address = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    function.restype = number
    function.argtypes = [number, number, size, size, address, address, size, ctypes.c_char_p, size, number]
    names.restype, names.argtypes = number, [number, ctypes.POINTER(ctypes.c_char_p)]
    return function
