"""Two checkouts of the package against one another: python -m benchmarks.studies.paired --old TREE.

In each run, both are imported by a new process, write each case once to warm up, and then in
turn (old, new, new, old), so that whatever else the machine does hits both alike.  The ratio of a run is that of
the least times of both; the table has the median of all runs, with the interval that holds it with 95 % by bootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.studies import data, trees
from benchmarks.studies.measure import add_usual_options, busy, machine, markdown_table, middle, save, working_folder

__all__ = ["interval", "main"]

LEAST = 0.97
CLOCKS = ("wall", "CPU")
_HERE = Path(__file__).parents[2]
_UNITS = {"serial part": (1e6, "µs a commit"), "small write": (1e3, "ms")}
_HEAD = ("case", "clock", "old", "new", "old / new", "95 %", "quartiles", "file, new / old")


@dataclass(frozen=True, slots=True)
class Sample:
    """The least times of both trees in one run, and the sizes of their files."""

    old: dict[str, float]
    new: dict[str, float]

    def ratio(self, key: str) -> float:
        """Return old to new."""
        return self.old[key] / self.new[key]


class Tree:
    """A process that writes with the package of a checkout."""

    def __init__(self, tree: Path, options: dict[str, Any]) -> None:
        environment = os.environ | {"PYTHONPATH": str(tree), "BLOSC_NTHREADS": "1"}
        # -P: the folder of the script has a module `codecs`, as Python has.
        self._process = subprocess.Popen(
            [sys.executable, "-P", trees.__file__],
            env=environment, cwd=options["folder"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._send(json.dumps({"tree": str(tree), **options}))

    def measure(self, case: str) -> dict[str, float]:
        """Have a case written."""
        self._send(case)
        answer = _pipe(self._process.stdout).readline()
        if not answer:
            sys.exit(f"a process of the old or the new tree ended with {self._process.wait()}")
        times: dict[str, float] = json.loads(answer)
        return times

    def close(self) -> None:
        """End the process."""
        _pipe(self._process.stdin).close()
        self._process.wait()
        _pipe(self._process.stdout).close()

    def _send(self, line: str) -> None:
        stdin = _pipe(self._process.stdin)
        stdin.write(line + "\n")
        stdin.flush()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("the process has no pipe")
    return pipe


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if the new tree is slower than it may be."""
    options = _parser().parse_args(argv)
    trees_of = {"old": _checkout(options.old), "new": _checkout(options.new)}
    size, runs = (1_000_000, 1) if options.tiny else (int(options.size_mb * 1e6), options.runs)
    with working_folder(options.folder, 6 * size + (64 << 20)) as folder:
        array = data.make("noise", size)
        np.save(folder / "array.npy", array)
        given = {
            "array": str(folder / "array.npy"), "chunks": data.chunk_shape("noise", array), "threads": options.threads,
            "buffers": 20 if options.tiny else options.buffers, "repeats": 2 if options.tiny else options.small,
        }  # fmt: skip
        samples = _samples(trees_of, folder, given, runs)
    rows = [_row(case, clock, samples[case]) for case in trees.NAMES for clock in CLOCKS]
    judged = [_judge(case, clock, samples[case], options.least) for case in trees.NAMES for clock in CLOCKS]
    title = (
        f"{array.nbytes / 1e6:.0f} MB of noise, {options.threads} threads; {runs} runs, each in new processes.\n"
        f"old: {_commit(trees_of['old'])}; new: {_commit(trees_of['new'])}\n{machine()}; {busy()}."
    )
    text = "\n".join((title, "", markdown_table(_HEAD, rows), "", *(words for _, words in judged)))
    print(text)
    figures = {case: [{"old": one.old, "new": one.new} for one in samples[case]] for case in trees.NAMES}
    save(text, figures, options.markdown, options.json)
    return int(not options.tiny and not all(passed for passed, _ in judged))


def _samples(trees_of: dict[str, Path], folder: Path, given: dict[str, Any], runs: int) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {case: [] for case in trees.NAMES}
    for number in range(runs):
        running = {}
        for name, tree in trees_of.items():
            own = folder / f"{name}-{number}"
            own.mkdir()
            running[name] = Tree(tree, {"folder": str(own), **given})
        try:
            for case in trees.NAMES:
                samples[case].append(_sample(running, case, first=("old", "new")[number % 2]))
        finally:
            for one in running.values():
                one.close()
        print(f"run {number + 1} of {runs}", file=sys.stderr)
    return samples


def _sample(running: dict[str, Tree], case: str, first: str) -> Sample:
    second = "new" if first == "old" else "old"
    for name in (first, second):
        running[name].measure(case)
    found: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
    for name in (first, second, second, first):
        found[name].append(running[name].measure(case))
    # What else the machine does only adds to a time.
    old, new = ({key: min(one[key] for one in found[name]) for key in found[name][0]} for name in ("old", "new"))
    return Sample(old, new)


def interval(values: Sequence[float], share: float = 0.95, times: int = 2000) -> tuple[float, float]:
    """Return the interval that holds the median with a probability of `share`, by bootstrap."""
    drawn = random.Random(0)
    medians = sorted(middle(drawn.choices(values, k=len(values))) for _ in range(times))
    left = int((1 - share) / 2 * times)
    return medians[left], medians[times - 1 - left]


def _row(case: str, clock: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    scale, unit = _UNITS.get(case, (1.0, "s"))
    ratios = [one.ratio(clock) for one in samples]
    low, high = interval(ratios)
    first, third = np.quantile(ratios, (0.25, 0.75))
    return (
        f"{case}, {unit}",
        clock,
        f"{scale * middle([one.old[clock] for one in samples]):.3g}",
        f"{scale * middle([one.new[clock] for one in samples]):.3g}",
        f"{middle(ratios):.3f}",
        f"{low:.3f}-{high:.3f}",
        f"{first:.3f}-{third:.3f}",
        f"{1 / middle([one.ratio('nbytes') for one in samples]):.4f}",
    )


def _judge(case: str, clock: str, samples: Sequence[Sample], least: float) -> tuple[bool, str]:
    ratios = [one.ratio(clock) for one in samples]
    ratio, (low, high) = middle(ratios), interval(ratios)
    words = f"{'PASS' if ratio >= least else 'MISS'}  {case}, {clock}: old / new is {ratio:.3f} (at least {least})"
    if low < least < high:
        words += f"; not certain, as the interval holds {least}: more --runs, or a machine with less load"
    return ratio >= least, words


def _checkout(tree: Path) -> Path:
    if not (tree / "dask_chunkio" / "__init__.py").is_file():
        sys.exit(f"{tree} is no checkout of dask_chunkio: make one by git worktree add --detach {tree} COMMIT")
    return tree.resolve()


def _commit(tree: Path) -> str:
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or str(tree)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.paired", description=__doc__)
    parser.add_argument("--old", type=Path, required=True, metavar="TREE", help="a checkout, as of git worktree add")
    parser.add_argument("--new", type=Path, default=_HERE, metavar="TREE", help="another one (default: this one)")
    parser.add_argument("--runs", type=int, default=15, help="runs of both (default: 15)")
    parser.add_argument("--size-mb", type=float, default=100, help="of the fast cases (default: 100)")
    parser.add_argument("--threads", type=int, default=2, help="of the fast cases (default: 2)")
    parser.add_argument("--buffers", type=int, default=400, help="commits of the serial part (default: 400)")
    parser.add_argument("--small", type=int, default=20, help="small writes in a row (default: 20)")
    parser.add_argument("--least", type=float, default=LEAST, help=f"least ratio of old to new (default: {LEAST})")
    add_usual_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
