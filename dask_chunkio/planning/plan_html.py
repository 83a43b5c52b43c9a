"""The view of a plan in a notebook: a table and two drawings for each dataset."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence

from dask.array.core import normalize_chunks
from dask.array.svg import svg

from dask_chunkio.geometry.grid import Shape
from dask_chunkio.printable import printable

__all__ = ["dataset_html", "drawing", "plan_html"]

_CAPTIONS = "the array in buffers", "a buffer in chunks"
_SIZE = 160
_MARGIN = 4
# A digit's width and a line's height at dask's font size of 1rem, in pixels; generous, as fonts differ.
_DIGIT, _LINE = 11, 20

_HEAD = re.compile(r"<svg [^>]*>")
_LINE_ENDS = re.compile(r'<line x1="([-\d.]+)" y1="([-\d.]+)" x2="([-\d.]+)" y2="([-\d.]+)"')
_TEXT = re.compile(r'<text x="([-\d.]+)" y="([-\d.]+)" [^>]*?(?:transform="rotate\(([-\d.]+)[^>]*)?>([^<]*)</text>')

Box = tuple[float, float, float, float]


def plan_html(path: str, lines: Iterable[str], datasets: Iterable[str]) -> str:
    """Return the view of a whole plan.

    Parameters
    ----------
    path : str
        The file.
    lines : iterable of str
        What the plan says of the whole write.
    datasets : iterable of str
        The view of each dataset, from `dataset_html`.

    Returns
    -------
    str
        HTML, in which path and lines are escaped.

    Examples
    --------
    >>> plan_html("<out>.h5", ["1 dataset"], [])
    '<div><b>&lt;out&gt;.h5</b><p>1 dataset</p></div>'
    """
    head = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f"<div><b>{html.escape(printable(path))}</b>{head}{''.join(datasets)}</div>"


def dataset_html(
    name: str, rows: Iterable[tuple[str, str]], shape: Shape, buffer_shape: Shape, chunk_shape: Shape
) -> str:
    """Return the view of one dataset of a plan.

    Parameters
    ----------
    name : str
        Path in the file.
    rows : iterable of (str, str)
        Names and values of the table.
    shape, buffer_shape, chunk_shape : tuple of int
        Lengths of the array, of a buffer and of a chunk.

    Returns
    -------
    str
        HTML, in which name and values are escaped.

    Examples
    --------
    >>> dataset_html("/x", [("array", "(4, 4) int16")], (4, 4), (2, 4), (2, 2)).count("<svg ")
    2
    """
    table = "".join(
        f"<tr><th style='text-align:left'>{what}</th><td style='text-align:left'>{html.escape(words)}</td></tr>"
        for what, words in rows
    )
    buffer = tuple(map(min, buffer_shape, shape))
    pictures = drawing(shape, buffer_shape), drawing(buffer, chunk_shape)
    cells = "".join(f"<td>{picture}<br>{words}</td>" for picture, words in zip(pictures, _CAPTIONS, strict=True))
    title = f"<p><b>{html.escape(printable(name))}</b></p>"
    return f"{title}<table><tr><td><table>{table}</table></td>{cells}</tr></table>"


def drawing(shape: Shape, block: Shape) -> str:
    """Draw an array cut into blocks, as dask draws its arrays, in a view box that holds all of it.

    Parameters
    ----------
    shape, block : tuple of int
        Lengths of the array and of a block.

    Returns
    -------
    str
        SVG; empty for an array without axes or elements.

    Examples
    --------
    >>> drawing((4, 4), (2, 2)).splitlines()[0]  # doctest: +ELLIPSIS
    '<svg viewBox="..." width="..." height="..." style="stroke:currentColor;stroke-width:1">'
    >>> drawing((0, 4), (2, 2))
    ''
    """
    if not shape or 0 in shape:
        return ""
    # Above some dozens along an axis, dask draws no more lines.
    drawn = str(svg(normalize_chunks(block, shape), size=_SIZE))
    left, top, right, bottom = _bounds(drawn)
    width, height = right - left, bottom - top
    # Lines and numbers take the colour of the page's text, which may be light on dark.
    head = (
        f'<svg viewBox="{left} {top} {width} {height}" width="{width}" height="{height}" '
        f'style="stroke:currentColor;stroke-width:1">'
    )
    return _HEAD.sub(head, drawn.replace("<text ", '<text fill="currentColor" stroke="none" '), count=1)


def _bounds(drawn: str) -> Sequence[int]:
    """Return left, top, right and bottom of what dask draws, whose own width and height cut long numbers off."""
    boxes: list[Box] = []
    for ends in _LINE_ENDS.findall(drawn):
        x1, y1, x2, y2 = map(float, ends)
        boxes.append((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    for x, y, angle, words in _TEXT.findall(drawn):
        boxes.append(_text_bounds(float(x), float(y), math.radians(float(angle or 0)), len(words)))
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return (
        math.floor(min(lefts)) - _MARGIN,
        math.floor(min(tops)) - _MARGIN,
        math.ceil(max(rights)) + _MARGIN,
        math.ceil(max(bottoms)) + _MARGIN,
    )


def _text_bounds(x: float, y: float, angle: float, letters: int) -> Box:
    """Return the box around a text that is centred on a point of its base line, and turned around it."""
    half = letters * _DIGIT / 2
    corners = [(dx, dy) for dx in (-half, half) for dy in (-_LINE, _LINE / 4)]
    turned = [
        (x + dx * math.cos(angle) - dy * math.sin(angle), y + dx * math.sin(angle) + dy * math.cos(angle))
        for dx, dy in corners
    ]
    across, down = zip(*turned, strict=True)
    return min(across), min(down), max(across), max(down)
