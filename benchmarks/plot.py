"""Draw what benchmarks.compare measured: python -m benchmarks.plot FIGURES.json docs/speed.svg (needs matplotlib)."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.systems import OURS

# Shape, colour and size of a point.
_LOOKS = {
    OURS: ("o", "#c0392b", 9.0),
    "h5py": ("s", "#8a8a8a", 5.0),
    "hdmf": ("x", "#8a8a8a", 5.0),
    "dask.to_hdf5": ("D", "#2c6fbb", 5.0),
    "dask to zarr": ("^", "#2e8b57", 6.0),
    "tensorstore": ("v", "#b8860b", 6.0),
    "h5repack": ("P", "#7d5ba6", 6.0),
}
_GAP = 10  # % of the array: files that are so much larger go to a panel of their own
# A label's height, the width of a letter, and how far it is from its point, in points.
_LINE, _LETTER, _AWAY = 9.0, 4.3, 7.0

Point = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one point for each system and codec: speed against size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("figures")
    parser.add_argument("picture")
    options = parser.parse_args(argv)
    with open(options.figures, encoding="utf-8") as file:
        measured = json.load(file)
    draw(measured["setting"], measured["rows"], options.picture)
    return 0


def draw(setting: str, rows: Sequence[Point], path: str) -> None:
    """Write the picture: the same bytes for the same figures."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "dask_chunkio", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    points = [row for row in rows if row["system"] in _LOOKS]
    parts = _panels(points)
    figure, panels = plt.subplots(
        1, len(parts), sharey=True, squeeze=False, figsize=(9, 5.4), width_ratios=[3, 1][: len(parts)]
    )
    _set_speeds(panels[0][0], points)
    for number, (axes, part) in enumerate(zip(panels[0], parts, strict=True)):
        _draw_codecs(axes, part)
        for system in _LOOKS:
            _draw_system(axes, system, [row for row in part if row["system"] == system])
        _set_look(axes, is_first=number == 0)
    figure.suptitle(setting.partition("\n")[0].replace("; ", "\n", 1), fontsize=8, color="#555555")
    figure.supxlabel("size of the file, % of the array; left is smaller", fontsize=9)
    systems = {row["system"] for row in points}
    handles = [_point(axes, [], [], system) for axes in panels[0][:1] for system in _LOOKS if system in systems]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    figure.set_layout_engine("constrained")
    figure.draw_without_rendering()
    for axes, part in zip(panels[0], parts, strict=True):
        _label(axes, part)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def _panels(points: Sequence[Point]) -> list[list[Point]]:
    """Return the points up to the first gap between sizes, and those behind it."""
    by_size = sorted(points, key=lambda row: row["of_raw"])
    for number, (row, following) in enumerate(itertools.pairwise(by_size), 1):
        if 100 * (following["of_raw"] - row["of_raw"]) > _GAP:
            return [by_size[:number], by_size[number:]]
    return [by_size]


def _draw_system(axes: Any, system: str, points: Sequence[Point]) -> None:
    if points:
        _point(axes, [100 * row["of_raw"] for row in points], [row["mb_per_s"] for row in points], system)


def _point(axes: Any, sizes: Sequence[float], speeds: Sequence[float], system: str) -> Any:
    marker, colour, size = _LOOKS[system]
    looks = {"marker": marker, "color": colour, "markersize": size, "zorder": 3 if system == OURS else 2}
    (drawn,) = axes.plot(sizes, speeds, linestyle="none", label=system, **looks)
    return drawn


def _draw_codecs(axes: Any, points: Sequence[Point]) -> None:
    """Join the points of each codec by a thin line."""
    codecs: dict[str, list[Point]] = defaultdict(list)
    for row in points:
        codecs[row["codec"]].append(row)
    for rows in codecs.values():
        by_speed = sorted(rows, key=lambda row: row["mb_per_s"])
        sizes, speeds = [100 * row["of_raw"] for row in by_speed], [row["mb_per_s"] for row in by_speed]
        axes.plot(sizes, speeds, color="#dddddd", linewidth=0.8, zorder=1)


def _label(axes: Any, points: Sequence[Point]) -> None:
    """Name the codec beside each of our points, where least else is."""
    scale = 72 / axes.figure.dpi
    places = [axes.transData.transform((100 * row["of_raw"], row["mb_per_s"])) * scale for row in points]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    ours = [pair for pair in zip(points, places, strict=True) if pair[0]["system"] == OURS]
    for row, (x, y) in sorted(ours, key=lambda pair: (-pair[1][1], pair[1][0])):
        width = _LETTER * len(row["codec"])
        sides = [(_AWAY, 0), (-_AWAY - width, 0), (-width / 2, _LINE), (-width / 2, -_LINE)]
        far = [(side, line * _LINE) for line in (1, -1, 2, -2, 3, -3) for side in (_AWAY, -_AWAY - width)]
        boxes = [(x + dx, y + dy - _LINE / 2, x + dx + width, y + dy + _LINE / 2) for dx, dy in (*sides, *far)]
        box = min(boxes, key=lambda box: sum(_overlap(box, other) for other in taken))
        taken.append(box)
        axes.annotate(
            row["codec"],
            (100 * row["of_raw"], row["mb_per_s"]),
            xytext=(box[0] - x, box[1] + _LINE / 2 - y),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_LOOKS[OURS][1],
            zorder=4,
        )


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the area that two boxes share."""
    width, height = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    return max(width, 0) * max(height, 0)


def _set_speeds(axes: Any, points: Sequence[Point]) -> None:
    least, most = (pick(row["mb_per_s"] for row in points) for pick in (min, max))
    ticks = [base * 10**power for power in range(5) for base in (1, 2, 5)]
    ticks = [tick for tick in ticks if least / 2 <= tick <= most * 2]
    axes.set_yscale("log")
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.set_ylabel("MB of the array written in a second; up is faster")


def _set_look(axes: Any, is_first: bool) -> None:
    axes.minorticks_off()
    axes.margins(x=0.15)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    for side in ("top", "right") if is_first else ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if not is_first:
        axes.tick_params(axis="y", length=0)


if __name__ == "__main__":
    sys.exit(main())
