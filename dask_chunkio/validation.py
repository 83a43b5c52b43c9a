"""Checks of arguments: each returns a plain value, or raises an error that names the argument."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError, ArgumentTypeError, IteratorArgumentError
from dask_chunkio.geometry.grid import Shape

__all__ = ["as_dtype", "as_integer", "as_shape", "check_choice", "check_either", "check_flag", "check_type"]
__all__ += ["check_within", "typed"]


def typed(value: Any) -> str:
    """Return the text of a value and its type, for a message.

    Examples
    --------
    >>> typed("1")
    "'1' of type str"
    """
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} of type {type(value).__name__}"


def check_type(name: str, value: Any, right: bool, expected: str) -> None:
    """Raise ArgumentTypeError unless `right` is true."""
    if not right:
        raise ArgumentTypeError(f"{name} is {typed(value)}; it must be {expected}")


def check_flag(name: str, value: Any) -> None:
    """Check that a value is true or false; a string such as ``"no"`` would count as true.

    Raises
    ------
    ArgumentTypeError
        If the value is not a bool, 0, 1 or None.
    """
    is_flag = value is None or isinstance(value, bool | np.bool_) or (isinstance(value, int) and value in (0, 1))
    check_type(name, value, is_flag, "True or False")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise ArgumentError unless a value is one of `choices`."""
    if not any(type(value) is type(one) and value == one for one in choices):
        words = ", ".join(repr(one) for one in choices if one is not None)
        raise ArgumentError(f"{name}={value!r} is not one of {words}")


def check_either(budget_name: str, budget: Any, shape_name: str, shape: Any) -> None:
    """Check the types of a budget and of the shape that it determines, and that at most one of them is given.

    Raises
    ------
    ArgumentTypeError
        If one of them is of the wrong type; a bool is not a number.
    IteratorArgumentError
        If both are given.
    """
    is_number = isinstance(budget, numbers.Real) and not isinstance(budget, bool)
    check_type(budget_name, budget, budget is None or is_number, "a number")
    check_type(shape_name, shape, shape is None or isinstance(shape, tuple), "a tuple of one length for each axis")
    if budget is not None and shape is not None:
        raise IteratorArgumentError(f"{budget_name} is {budget} and {shape_name} is {shape}; give only one of the two")


def check_within(name: str, cell: Shape, shape: Shape) -> None:
    """Raise IteratorArgumentError if `cell` exceeds `shape`; along an axis of length 0, `cell` may be 1."""
    for axis, (length, bound) in enumerate(zip(cell, shape, strict=True)):
        if length > max(bound, 1):
            raise IteratorArgumentError(
                f"{name} {cell} is {length} along axis {axis}, but the array of shape {shape} "
                f"has {bound} there; use at most {max(bound, 1)}"
            )


def as_integer(name: str, value: Any) -> int:
    """Return a number without fraction as an int; accept numpy's integers, and floats such as 1e4.

    Raises
    ------
    ArgumentTypeError
        If the value is not a number, is a bool, or has a fraction.

    Examples
    --------
    >>> as_integer("rows", np.int16(3)), as_integer("rows", 1e4)
    (3, 10000)
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return int(value)
    raise ArgumentTypeError(f"{name} is {typed(value)}; it must be an integer")


def as_shape(name: str, value: Any) -> Shape:
    """Return lengths, one for each axis, as a tuple of ints.

    Raises
    ------
    ArgumentTypeError
        If the value is not an iterable of integers; the message names the axis.
    """
    iterable = isinstance(value, Iterable) and not isinstance(value, str)
    check_type(name, value, iterable, "a tuple of one length for each axis")
    return tuple(as_integer(f"{name}, axis {axis},", length) for axis, length in enumerate(value))


def as_dtype(name: str, value: Any) -> np.dtype[Any]:
    """Return a value that numpy accepts as a dtype as a dtype; refuse None.

    Raises
    ------
    ArgumentTypeError
        If numpy does not accept the value as a dtype, or it is None.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except (TypeError, ValueError, SyntaxError) as error:
        raise ArgumentTypeError(f"{name} is {typed(value)}; it must be a numpy dtype or the name of one") from error
    check_type(name, value, value is not None, "a numpy dtype or the name of one")
    return dtype
