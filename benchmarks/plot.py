"""Draw what benchmarks.compare measured: python -m benchmarks.plot FIGURES.json docs/speed.svg (needs matplotlib)."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import middle
from benchmarks.systems import OURS, OURS_FROM_FILE

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
_LEFT_OUT = (OURS_FROM_FILE,)
_LABEL_ROWS = 4
_CLOSE = 0.045  # of the width: labels nearer than that go to different rows

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
    figure, axes = plt.subplots(figsize=(9, 5.6))
    _draw_codecs(axes, points)
    for system in _LOOKS:
        _draw_system(axes, system, [row for row in points if row["system"] == system])
    _set_axes(axes, points)
    axes.set_title(setting.partition("\n")[0].replace("; ", "\n", 1), fontsize=8, color="#555555", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)


def _draw_system(axes: Any, system: str, points: Sequence[Point]) -> None:
    if not points:
        return
    marker, colour, size = _LOOKS[system]
    axes.plot(
        [100 * row["of_raw"] for row in points],
        [row["mb_per_s"] for row in points],
        linestyle="none",
        marker=marker,
        color=colour,
        markersize=size,
        label=system,
        zorder=3 if system == OURS else 2,
    )


def _draw_codecs(axes: Any, points: Sequence[Point]) -> None:
    """Join the points of each codec by a thin line, with its name on top."""
    codecs: dict[str, list[Point]] = defaultdict(list)
    for row in points:
        codecs[row["codec"]].append(row)
    places = {codec: middle([100 * row["of_raw"] for row in rows]) for codec, rows in codecs.items()}
    width = max(places.values()) - min(places.values()) or 1
    heights = _heights(places, width)
    top = max(row["mb_per_s"] for row in points)
    for codec, rows in codecs.items():
        by_speed = sorted(rows, key=lambda row: row["mb_per_s"])
        label_at = top * 1.5 * 1.45 ** heights[codec]
        axes.plot(
            [*(100 * row["of_raw"] for row in by_speed), places[codec]],
            [*(row["mb_per_s"] for row in by_speed), label_at],
            color="#dddddd",
            linewidth=0.8,
            zorder=1,
        )
        axes.text(places[codec], label_at, codec, ha="center", va="bottom", fontsize=8, color="#333333")


def _heights(places: dict[str, float], width: float) -> dict[str, int]:
    """Return a row for each label, so that neighbours do not stand in one."""
    last: dict[int, float] = {}
    found = {}
    for codec, place in sorted(places.items(), key=lambda item: item[1]):
        room = {row: place - last.get(row, -1e9) for row in range(max(len(places), _LABEL_ROWS))}
        needed = _CLOSE * width * len(codec) / 4
        found[codec] = next((row for row, free in room.items() if free > needed), max(room, key=lambda row: room[row]))
        last[found[codec]] = place
    return found


def _set_axes(axes: Any, points: Sequence[Point]) -> None:
    least, most = (pick(row["mb_per_s"] for row in points) for pick in (min, max))
    ticks = [base * 10**power for power in range(5) for base in (1, 2, 5)]
    ticks = [tick for tick in ticks if least / 2 <= tick <= most * 2]
    axes.set_yscale("log")
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("size of the file, % of the array; left is smaller")
    axes.set_ylabel("MB of the array written in a second; up is faster")
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
