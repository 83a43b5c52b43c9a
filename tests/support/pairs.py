"""Products of parameters, of which the default tests take what covers every pair of values."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest


def every_pair(*axes: Mapping[str, Any]) -> list[Any]:
    """Return the product of some axes as parameters; those that add no pair of values are heavy.

    Parameters
    ----------
    *axes : dict
        From the id of each value to the value; the last of them no longer than any other.

    Returns
    -------
    list of pytest.param
    """
    lengths = [len(axis) for axis in axes]
    assert lengths[-1] == min(lengths), "the last axis is the shortest"
    params = []
    for numbered in itertools.product(*(enumerate(axis.items()) for axis in axes)):
        numbers, items = zip(*numbered, strict=True)
        names, values = zip(*items, strict=True)
        is_chosen = numbers[-1] == sum(numbers[:-1]) % lengths[-1]
        params.append(pytest.param(*values, id="-".join(names), marks=[] if is_chosen else pytest.mark.heavy))
    return params
