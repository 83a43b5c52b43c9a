"""The tokens of a dataset, which name the calls that are applied to it.

They are stored in one attribute, a string that holds a JSON list.  It changes in the transaction that finishes a
write: either the call is applied and its token is stored, or neither.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import h5py

from dask_chunkio.errors import TargetError, TargetExistsError
from dask_chunkio.storage.journal.records import parse_json

__all__ = ["TOKENS", "add_token", "is_applied", "read_tokens"]

TOKENS = "dask_chunkio_tokens"


def read_tokens(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Return the tokens of a dataset, the oldest first.

    Raises
    ------
    TargetError
        If the attribute holds something else.
    """
    if TOKENS not in dataset.attrs:
        return ()
    try:
        found = parse_json(dataset.attrs[TOKENS])
        if not isinstance(found, list) or not all(isinstance(token, str) for token in found):
            raise ValueError("not a list of strings")
    except (ValueError, TypeError, OSError) as error:
        raise TargetError(
            f"{dataset.name} has an attribute {TOKENS} that holds no tokens ({error}); rename or remove it"
        ) from error
    return tuple(found)


def add_token(dataset: h5py.Dataset, token: str) -> None:
    """Add a token to those of a dataset, unless it is among them.

    Raises
    ------
    TargetError
        If the attribute holds something else.
    """
    found = read_tokens(dataset)
    if token not in found:
        # HDF5 stores a scalar string of variable length in the file's heap, which has no limit of 64 kB.
        dataset.attrs[TOKENS] = json.dumps([*found, token])


def is_applied(file: h5py.File, names: Sequence[str], token: str | None) -> bool:
    """Return whether the call with a token is applied to all of its datasets.

    Raises
    ------
    TargetExistsError
        If it is applied to some of them.
    """
    if token is None:
        return False
    datasets = {name: file.get(name) for name in names}
    having = [name for name, one in datasets.items() if isinstance(one, h5py.Dataset) and token in read_tokens(one)]
    lacking = [name for name in names if name not in having]
    if having and lacking:
        raise TargetExistsError(
            f"the token {token!r} is applied to {', '.join(having)} of {file.filename}, but not to "
            f"{', '.join(lacking)}; give each call a token of its own"
        )
    return bool(having)
