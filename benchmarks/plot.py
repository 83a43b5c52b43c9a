"""Draw what benchmarks.compare measured: python -m benchmarks.plot FIGURES.json docs/speed.svg (needs matplotlib)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

COLOURS = {"dask_chunkio": "#c0392b", "dask": "#2c6fbb", "h5py": "#555555", "hdmf": "#2e8b57"}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one point for each system and setting: speed against size."""
    parser = argparse.ArgumentParser(prog="benchmarks.plot", description=__doc__)
    parser.add_argument("figures")
    parser.add_argument("picture")
    options = parser.parse_args(argv)
    with open(options.figures, encoding="utf-8") as file:
        measured = json.load(file)
    draw(measured["setting"], measured["rows"], options.picture)
    return 0


def draw(setting: str, rows: list[dict[str, Any]], path: str) -> None:
    """Write the picture."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "dask_chunkio"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.4))
    for row in (row for row in rows if "gzip" in row["name"]):
        system, _, filters = row["name"].partition(" ")
        low, high = (row["seconds"] * row["mb_per_s"] / seconds for seconds in reversed(row["spread"]))
        error = [[row["mb_per_s"] - low], [high - row["mb_per_s"]]]
        axes.errorbar(100 * row["of_raw"], row["mb_per_s"], yerr=error, fmt="o", ms=9, color=COLOURS[system], capsize=3)
        side = -1 if system in ("h5py", "dask") else 1
        axes.annotate(
            f"{system} {filters}",
            (100 * row["of_raw"], row["mb_per_s"]),
            xytext=(9 * side, -10 if system == "dask" else 8 if system == "h5py" else 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=9,
        )
    axes.set_yscale("log")
    axes.set_yticks([25, 50, 100, 200, 400], ["25", "50", "100", "200", "400"])
    axes.minorticks_off()
    axes.set_xlabel("file size, % of the array (shuffle on); left is smaller")
    axes.set_ylabel("MB/s of array written; up is faster")
    axes.margins(x=0.25, y=0.15)
    axes.grid(alpha=0.3)
    axes.set_title(setting.replace("; ", "\n"), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
