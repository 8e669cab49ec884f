"""A page in millimetres, painted as SVG or as PNG, so that both show the same. Right and down from the upper left corner."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1a1a1a"
STEP_MM = 0.01
"""Coordinates of lines in an SVG are multiples of this."""
_DPI = 150
_FONT = "Arial, Helvetica, sans-serif"
_PT_PER_MM = 72 / 25.4


@dataclass(frozen=True)
class Lines:
    """Broken lines of one colour and width."""

    pieces: Sequence[np.ndarray]  # each (n, 2), mm
    colour: str
    width: float


@dataclass(frozen=True)
class Box:
    """A filled rectangle by its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True)
class Words:
    """A line of text."""

    x: float
    y: float  # of the baseline
    text: str
    size: float = 3.2
    colour: str = INK
    bold: bool = False
    anchor: Literal["start", "middle", "end"] = "start"
    halo: bool = False


Mark = Lines | Box | Words


# --- SVG -------------------------------------------------------------------------------------------------------------


def to_svg(page: Iterable[Mark], width: float, height: float, title: str) -> bytes:
    """Return the page as SVG of true size: no ids, styles or references, so that many can stand in one page."""
    size = f'width="{width:g}mm" height="{height:g}mm" viewBox="0 0 {width:g} {height:g}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}" '
        f'font-family="{_FONT}"><rect width="{width:g}" height="{height:g}" fill="#fff"/>'
    ]
    for mark in page:
        if isinstance(mark, Box):
            box = f'x="{_mm(mark.x)}" y="{_mm(mark.y)}" width="{_mm(mark.width)}" height="{_mm(mark.height)}"'
            parts.append(f'<rect {box} fill="{mark.fill}"/>')
        elif isinstance(mark, Words):
            attributes = f'x="{_mm(mark.x)}" y="{_mm(mark.y)}" font-size="{mark.size:g}" fill="{mark.colour}"'
            attributes += ' font-weight="bold"' if mark.bold else ""
            attributes += f' text-anchor="{mark.anchor}"' if mark.anchor != "start" else ""
            halo = ' stroke="#fff" stroke-width=".9" stroke-linejoin="round" paint-order="stroke"' if mark.halo else ""
            parts.append(f"<text {attributes}{halo}>{escape(mark.text, quote=False)}</text>")
        elif mark.pieces:
            # In hundredths of a millimetre, which are whole numbers: shorter, and relative steps do not add up errors.
            d = "".join(_path(np.rint(piece / STEP_MM).astype(np.int64)) for piece in mark.pieces)
            parts.append(
                f'<path transform="scale({STEP_MM:g})" d="{d}" fill="none" stroke="{mark.colour}" '
                f'stroke-width="{mark.width / STEP_MM:g}" stroke-linejoin="round"/>'
            )
    return ("\n".join(parts) + "</svg>\n").encode()


def _path(points: np.ndarray) -> str:
    steps = np.diff(points, axis=0)
    joined = "".join(f"{'' if dx < 0 else ' '}{dx}{'' if dy < 0 else ' '}{dy}" for dx, dy in steps.tolist())
    return f"M{points[0, 0]} {points[0, 1]}l{joined.lstrip()}" if len(points) > 1 else ""


def _mm(value: float) -> str:
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written


# --- PNG -------------------------------------------------------------------------------------------------------------


def to_png(page: Iterable[Mark], width: float, height: float) -> bytes:
    """Return the page as PNG, whose pixels a metre say its true size."""
    from matplotlib.figure import Figure

    paper = Figure(figsize=(width / 25.4, height / 25.4))
    axes = paper.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))  # one unit is one millimetre of paper
    axes.set_axis_off()
    for at, mark in enumerate(page):
        _paint(axes, mark, at)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is drawn, which is enough
        # Without the library's version in it, so that the same drawing is the same bytes.
        paper.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()


def _paint(axes: Axes, mark: Mark, order: int) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    if isinstance(mark, Lines):
        width = mark.width * _PT_PER_MM
        axes.add_collection(
            LineCollection(list(mark.pieces), colors=mark.colour, linewidths=width, zorder=order, joinstyle="round"),
            autolim=False,
        )
    elif isinstance(mark, Box):
        axes.add_patch(
            Rectangle((mark.x, mark.y), mark.width, mark.height, facecolor=mark.fill, linewidth=0, zorder=order)
        )
    else:
        axes.text(
            mark.x,
            mark.y,
            mark.text,
            fontsize=mark.size * _PT_PER_MM,
            fontweight="bold" if mark.bold else "normal",
            color=mark.colour,
            ha={"start": "left", "middle": "center", "end": "right"}[mark.anchor],
            va="baseline",
            zorder=order,
            parse_math=False,
            path_effects=[withStroke(linewidth=0.9 * _PT_PER_MM, foreground="white")] if mark.halo else None,
        )
