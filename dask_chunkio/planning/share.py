"""Which part of a write a call does: from the keyword ``part`` to a `Share`."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.geometry.share import Share
from dask_chunkio.planning.request import DatasetRequest
from dask_chunkio.sources.stream import StreamSource
from dask_chunkio.storage.target import Target

__all__ = ["parse_part", "require_shareable"]

_WORDS = "part=(number, count), with numbers from 0, or part='slurm' for the task of a Slurm job array"


def parse_part(part: Any) -> Share | None:
    """Return the share that the keyword ``part`` names; None for the whole write.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If it names none.
    """
    if part is None or isinstance(part, Share):
        return part
    if part == "slurm":
        return _share_of_slurm(os.environ)
    is_pair = isinstance(part, Sequence) and not isinstance(part, str) and len(part) == 2
    if not is_pair or any(isinstance(n, bool) or not hasattr(n, "__index__") for n in part):
        raise ArgumentTypeError(f"part={part!r} is not two whole numbers; give {_WORDS}")
    return Share(*map(operator.index, part))


def _share_of_slurm(environ: Mapping[str, str]) -> Share:
    """Return the share of a task of a job array, or of a job step.

    The variables are those of ``sbatch`` and ``srun``, as their manual pages describe them.
    """
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")
    try:
        if names[0] in environ:
            task, first, last, count = (int(environ[name]) for name in names)
            step = int(environ.get("SLURM_ARRAY_TASK_STEP", "1"))
            if (last - first) // step + 1 != count:
                raise ArgumentError(
                    f"part='slurm': the numbers of this job array, {count} from {first} to {last}, are not evenly "
                    f"spaced; give part=(number, count)"
                )
            return Share((task - first) // step, count)
        # A batch script has the number of tasks, too, but only a step runs them.
        int(environ["SLURM_STEP_ID"])
        return Share(int(environ["SLURM_PROCID"]), int(environ["SLURM_NTASKS"]))
    except (KeyError, ValueError) as error:
        raise ArgumentError(
            f"part='slurm': this process is no task of a Slurm job array or of srun ({type(error).__name__}: {error}); "
            f"give part=(number, count)"
        ) from error


def require_shareable(target: Target, requests: Sequence[DatasetRequest]) -> None:
    """Refuse what independent jobs cannot divide.

    Raises
    ------
    ArgumentError
        If a source has to be read in order, a dataset exists already, or a job that is run again after all parts are
        written could not be recognized.
    """
    if target.share is None:
        return
    for one in requests:
        if one.may_be_there and not (target.fills and one.append is None):
            raise ArgumentError(f"{one.name}: part= is for new datasets; region= and append= write existing ones")
        is_ordered = "ordered" in (one.read, one.source.read_mode)
        if isinstance(one.source, StreamSource) or is_ordered:
            raise ArgumentError(f"{one.name}: part= needs a source that can be read anywhere, not only in order")
    if target.overwrite and target.token is None:
        raise ArgumentError(
            "part= with overwrite=True needs a token: a job that is run again could not be told from a new write; give "
            "all jobs the same token='...'"
        )
