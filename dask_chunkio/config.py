"""Settings from the section ``chunkio`` of dask.config, read at each call.

The file ``chunkio.yaml`` beside this module has the defaults.  Users change them like all settings of dask: with
files in dask's configuration folders, with environment variables such as ``DASK_CHUNKIO__BUFFER_SIZE``,
or with ``dask.config.set({"chunkio.buffer-size": "128MiB"})``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dask.config
from dask.utils import parse_bytes, parse_timedelta

from dask_chunkio.errors import ArgumentError
from dask_chunkio.storage.activity.limits import MOST_SECONDS

__all__ = ["Settings", "settings"]

_Value = TypeVar("_Value")

for _defaults in dask.config.collect_yaml([str(Path(__file__).with_name("chunkio.yaml"))]):
    dask.config.update_defaults(_defaults)


@dataclass(frozen=True, slots=True)
class Settings:
    """Values that a call uses for the arguments that are not given.

    Parameters
    ----------
    buffer_nbytes : int
        Maximum size of a buffer whose shape is not given, in bytes.
    buffers_per_thread : int
        Minimum number of buffers for each thread.
    chunk_nbytes : int
        Maximum size of a chunk whose shape is not given, in bytes.
    memory_limit : int or None
        Total memory that one worker process may use, in bytes.
    durability : str
        Same as in `to_hdf5`.
    wait : bool
        Same as in `to_hdf5`.
    progress : bool or None
        Same as in `to_hdf5`.
    log_seconds : float
        Time between two progress messages of the logger.
    worker_seconds : float
        Maximum time that a call waits for the first worker of a cluster.
    lease_seconds : float
        Time after which a write on a host that file locks do not reach counts as dead, if it gives no sign of life.
    """

    buffer_nbytes: int
    buffers_per_thread: int
    chunk_nbytes: int
    memory_limit: int | None
    durability: str
    wait: bool
    progress: bool | None
    log_seconds: float
    worker_seconds: float
    lease_seconds: float


def settings() -> Settings:
    """Return the present settings of dask.config.

    Raises
    ------
    ArgumentError
        If the value of a setting is invalid; the message names the setting.

    Examples
    --------
    >>> with dask.config.set({"chunkio.buffer-size": "128MiB"}):
    ...     settings().buffer_nbytes
    134217728
    """
    return Settings(
        _read("buffer-size", _size, "a size such as 64MiB"),
        _read("buffers-per-thread", _count, "a whole number above 0"),
        _read("chunk-size", _size, "a size such as 1MiB"),
        _read("memory-limit", _or_none(_size), "null, or a size such as 2GB"),
        _read("durability", str, "'process' or 'power'"),
        _read("wait", _truth, "true or false"),
        _read("progress", _or_none(_truth), "null, true or false"),
        _read("log-interval", _seconds, "a time such as 60s"),
        _read("worker-timeout", _seconds, "a time such as 10 minutes"),
        _read("lease-duration", _lease, "a time from 1s to 10min, such as 30s"),
    )


def _read(name: str, parse: Callable[[Any], _Value], words: str) -> _Value:
    value = dask.config.get(f"chunkio.{name}")
    try:
        return parse(value)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ArgumentError(f"dask.config has chunkio.{name}={value!r}, which is not {words}") from error


def _size(value: Any) -> int:
    nbytes = int(parse_bytes(value))
    if nbytes < 1:
        raise ValueError(nbytes)
    return nbytes


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(value)
    return value


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(value)
    return value


def _seconds(value: Any) -> float:
    seconds = float(parse_timedelta(value))
    if not seconds > 0:
        raise ValueError(value)
    return seconds


def _lease(value: Any) -> float:
    seconds = _seconds(value)
    if not 1 <= seconds <= MOST_SECONDS:
        raise ValueError(value)
    return seconds


def _or_none(parse: Callable[[Any], _Value]) -> Callable[[Any], _Value | None]:
    return lambda value: None if value is None else parse(value)
