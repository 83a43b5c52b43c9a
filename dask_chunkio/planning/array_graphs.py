"""What only dask.array knows of the graphs of its arrays.  Its import takes half a second."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

from dask.array.chunk import getitem
from dask.array.core import Array
from dask.highlevelgraph import HighLevelGraph

__all__ = ["SELECTING", "has_layers", "optimized"]

# The functions of tasks that select a part of a block.
SELECTING = (operator.getitem, getitem)


def has_layers(array: Any) -> bool:
    """Return whether dask can optimize the array together with others by their layers."""
    return isinstance(array, Array) and isinstance(array.__dask_graph__(), HighLevelGraph)


def optimized(arrays: Sequence[Any], keys: Sequence[tuple[Any, ...]]) -> dict[Any, Any]:
    """Return the tasks of arrays with layers, optimized together, of which the blocks with these keys are needed."""
    # `dask.optimize` would optimize the arrays one by one.
    merged = HighLevelGraph.merge(*(array.__dask_graph__() for array in arrays))
    return dict(Array.__dask_optimize__(merged, list(itertools.chain.from_iterable(keys))))
