"""Modules as another operating system imports them."""

import importlib.util
from types import ModuleType
from typing import Any


def imported_anew(module: ModuleType) -> Any:
    """Return a second copy of a module, which finds the system as it is patched now; the first copy stays in use."""
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy
