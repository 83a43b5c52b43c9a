"""Settings: what dask.config says under ``chunkio``, at the time of a call.

The defaults stand in ``chunkio.yaml`` beside this module.  They are changed as all of dask's are: by
files in dask's configuration folders, by environment variables such as ``DASK_CHUNKIO__BUFFER_SIZE``,
or by ``dask.config.set({"chunkio.buffer-size": "128MiB"})``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dask.config
from dask.utils import parse_bytes, parse_timedelta

from dask_chunkio.errors import ArgumentError
from dask_chunkio.storage.activity.lease import MOST_SECONDS

__all__ = ["Settings", "settings"]

_Value = TypeVar("_Value")

for _defaults in dask.config.collect_yaml([str(Path(__file__).with_name("chunkio.yaml"))]):
    dask.config.update_defaults(_defaults)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a call uses where its arguments say nothing.

    Parameters
    ----------
    buffer_nbytes : int
        The most bytes of a buffer that nobody gave a shape.
    buffers_per_thread : int
        At least so many buffers for each thread.
    chunk_nbytes : int
        The most bytes of a chunk that nobody gave a shape.
    memory_limit : int or None
        Bytes that one worker process may take in all.
    durability : str
        As `to_hdf5` takes it.
    wait : bool
        As `to_hdf5` takes it.
    progress : bool or None
        As `to_hdf5` takes it.
    log_seconds : float
        How often the logger says how far a write is.
    worker_seconds : float
        How long a call waits for the first worker of a cluster.
    lease_seconds : float
        How long a write is believed to be running without a sign of life, where file locks do not reach.
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
    """Return what dask.config says now.

    Raises
    ------
    ArgumentError
        Naming the setting whose value is none.

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
