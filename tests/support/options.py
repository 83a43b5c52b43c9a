"""Options that the programs share which run many seeded cases."""

import argparse

from tests.support.files import MEMORY


def seeded(description: str | None, runs: int) -> argparse.ArgumentParser:
    """Return a parser of ``--runs``, ``--seed`` and ``--folder``.

    Parameters
    ----------
    description : str
        The docstring of the program.
    runs : int
        The default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--folder", default=MEMORY)
    return parser
