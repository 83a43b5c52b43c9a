"""Draw speeds at one compression from a table of compare.

Run as ``python -m benchmarks.studies.plot docs/benchmarks.md docs/speed.svg``.

The page is any Markdown that holds the table that ``python -m benchmarks.studies.compare`` prints; the first is drawn.
"""

from __future__ import annotations

import argparse
import html
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.studies.rows import HEAD
from benchmarks.studies.systems import OURS

__all__ = ["Bar", "bars", "draw", "main"]

CODEC = "gzip 4 + shuffle"
# All write to HDF5 from memory, and what they write is as small.
SYSTEMS = (OURS, "h5py", "hdmf", "dask.to_hdf5")
_BASE = "h5py"

_WIDTH, _BAR, _STEP, _TOP = 720, 34, 46, 84
_LEFT, _LONGEST = 150, 330
_FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
# Its own background in both, as nobody knows what it is laid on.
_STYLE = f"""
text {{ font: 16px {_FONT}; fill: #1f2328 }}
.title {{ font-size: 20px; font-weight: 600 }}
.small {{ font-size: 13px; fill: #59636e }}
.ratio {{ font-weight: 600 }}
.back {{ fill: #ffffff }}
.bar {{ fill: #8c959f }}
.ours {{ fill: #c0392b }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #f0f6fc }}
  .small {{ fill: #9198a1 }}
  .back {{ fill: #0d1117 }}
  .bar {{ fill: #656c76 }}
  .ours {{ fill: #e5604f }}
}}
""".strip()


@dataclass(frozen=True, slots=True)
class Bar:
    """One system.

    Parameters
    ----------
    system : str
        Its name.
    rate : float
        MB of the array written in a second.
    percent : float
        Size of the file, in % of the array.
    """

    system: str
    rate: float
    percent: float


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a bar for each system."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.plot", description=__doc__)
    parser.add_argument("page")
    parser.add_argument("picture")
    options = parser.parse_args(argv)
    with open(options.page, encoding="utf-8") as file:
        found = bars(file)
    with open(options.picture, "w", encoding="utf-8") as file:
        file.write(draw(found))
    return 0


def bars(lines: Iterable[str]) -> list[Bar]:
    """Return what the first table in a page says of `SYSTEMS` with `CODEC`.

    Raises
    ------
    ValueError
        If there is no such table, or it leaves out one of the systems.
    """
    rows = _first_table(lines)
    rate, percent = HEAD.index("MB/s"), HEAD.index("file, %")
    by_name = {row[0]: Bar(row[0].partition(": ")[2], float(row[rate]), float(row[percent])) for row in rows}
    missing = [system for system in SYSTEMS if f"{CODEC}: {system}" not in by_name]
    if missing:
        raise ValueError(f"no row in the first table of the page is '{CODEC}: {missing[0]}'")
    return [by_name[f"{CODEC}: {system}"] for system in SYSTEMS]


def _first_table(lines: Iterable[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if rows and len(cells) != len(HEAD):
            break
        if rows or tuple(cells) == HEAD:
            rows.append(cells)
    # Without the head and the rule below it.
    return rows[2:]


def draw(found: Sequence[Bar]) -> str:
    """Return the picture: a bar for each system, its ratio to h5py written on it."""
    height = _TOP + _STEP * len(found) + 34
    base = next(bar.rate for bar in found if bar.system == _BASE)
    most = max(bar.rate for bar in found)
    sizes = sorted(bar.percent for bar in found)
    title = "Writing a compressed HDF5 file, MB/s: longer is faster"
    spread = 100 * (sizes[-1] / sizes[0] - 1)
    below = f"Same data, chunks and {CODEC}, two cores; the files differ by {spread:.1f} % in size"
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{_words(found)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="back" width="{_WIDTH}" height="{height}" rx="8"/>',
        f'<text class="title" x="24" y="38">{title}</text>',
        f'<text class="small" x="24" y="62">{below}</text>',
    ]
    for number, bar in enumerate(found):
        top, width = _TOP + _STEP * number, _LONGEST * bar.rate / most
        middle = top + _BAR / 2 + 6
        looks = "bar ours" if bar.system == OURS else "bar"
        drawn += [
            f'<text x="{_LEFT - 12}" y="{middle:g}" text-anchor="end">{html.escape(bar.system)}</text>',
            f'<rect class="{looks}" x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="3"/>',
            f'<text x="{_LEFT + width + 12:.1f}" y="{middle:g}">{bar.rate:.0f} MB/s'
            f'<tspan class="ratio" dx="12">{_ratio(bar.rate / base)}</tspan></text>',
        ]
    source = "Medians of interleaved runs; all figures, and how to measure them again: docs/benchmarks.md"
    drawn += [f'<text class="small" x="24" y="{height - 18}">{source}</text>', "</svg>", ""]
    return "\n".join(drawn)


def _ratio(ratio: float) -> str:
    return f"{ratio:.1f} x {_BASE}" if ratio >= 1.05 else f"{ratio:.1f} x"


def _words(found: Iterable[Bar]) -> str:
    return html.escape(", ".join(f"{bar.system}: {bar.rate:.0f} MB/s" for bar in found))


if __name__ == "__main__":
    sys.exit(main())
