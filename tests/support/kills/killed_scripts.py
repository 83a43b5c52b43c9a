"""Scripts that are killed at random moments and run again; programs that count how often."""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.files import MEMORY
from tests.support.processes import environment

__all__ = ["count_kills", "parser_of", "run_and_kill"]

# The script makes this file in its folder when it has imported everything.
BEGUN = "begun"


def run_and_kill(words: Sequence[str], folder: Path, seconds: float) -> tuple[int, bytes, bool]:
    """Run a script, and kill it some time after its begin; return its exit code, its errors, whether it was killed."""
    (folder / BEGUN).unlink(missing_ok=True)
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (folder / BEGUN).exists() and process.poll() is None:
        time.sleep(0.002)
    try:
        _, errors = process.communicate(timeout=seconds)
        is_killed = False
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        is_killed = True
    return process.returncode, errors, is_killed


def parser_of(description: str | None, kills: int) -> argparse.ArgumentParser:
    """Return the options that all such programs have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--folder", type=Path)
    return parser


def count_kills(options: argparse.Namespace, one: Callable[[Path, random.Random], Counter[str]]) -> None:
    """Kill until it was often enough, and print the figures.

    Parameters
    ----------
    options : argparse.Namespace
        As `parser_of` parses them.
    one : callable
        Makes one thing in a new folder, kills what makes it until it is made, and judges it; raises where a promise is
        not kept.
    """
    started = time.monotonic()
    tally: Counter[str] = Counter()
    draw, number = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory(dir=options.folder or MEMORY, prefix="killed-") as root:
        while tally["kills"] < options.kills:
            folder = Path(root, str(number))
            folder.mkdir()
            tally += one(folder, draw)
            number += 1
    figures = ", ".join(f"{name} {count}" for name, count in tally.items())
    sys.stdout.write(f"seed {options.seed}: {figures}; {time.monotonic() - started:.0f} s\n")
