"""Child processes of this package, in which HDF5 meets what may crash it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

__all__ = ["can_start_children", "child_command", "reserve_output"]

_PACKAGE = str(Path(__file__).parent)
# Runs the package without its `__init__`, which takes seconds to import dask.
_SCRIPT = """
import importlib, json, sys, types
name, folder, sys.path[:] = json.loads(sys.argv.pop())
package = sys.modules["dask_chunkio"] = types.ModuleType("dask_chunkio")
package.__path__ = [folder]
importlib.import_module(name).main()
"""


def can_start_children() -> bool:
    """Return whether `sys.executable` is Python: in a frozen program it is that program itself."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def child_command(module: str, argument: object) -> list[str]:
    """Return the command of a process that runs ``main()`` of a module of this package.

    The process is isolated: a json.py in the working folder, which may be the folder of a file, is not imported.

    Parameters
    ----------
    module : str
        Absolute name of the module.
    argument : object
        What the module reads as JSON from ``sys.argv[1]``.

    Examples
    --------
    >>> child_command("dask_chunkio.reading.verification_process", ["x.h5", 0])[-2]
    '["x.h5", 0]'
    """
    where = json.dumps([module, _PACKAGE, sys.path])
    return [sys.executable, "-I", "-c", _SCRIPT, json.dumps(argument), where]


def reserve_output() -> int:
    """Return a descriptor of standard output for answers; what HDF5 and plugins print goes to standard error."""
    own = os.dup(1)
    os.dup2(2, 1)
    return own
