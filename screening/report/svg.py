"""Small drawings in SVG, written as text: the same bytes for the same data, no ids, no scripts, nothing from elsewhere.

A drawing is `WIDTH` units wide and scales with the page. Colours stand in the elements themselves, so that it looks the
same outside the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from screening.report.notation import clean

WIDTH = 480.0
"""Narrow enough that 13 units are still legible on a phone (10 px at 390), and 16 px in a column of 600 px."""
TEXT, SMALL = 13.0, 12.0
FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

PAPER, INK, QUIET, RULE, FAINT = "#ffffff", "#1c2430", "#56606d", "#c8ced6", "#eef1f4"
SERIES = ("#1f4e8c", "#b4460f", "#0b7261", "#7b3f8c", "#565d68")
"""Blue, vermilion, green, purple, grey: at least 4.5:1 on white, apart for the colour-blind, and never alone: each series
has its own dash and marker too."""
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2")


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.2, relative luminance of sRGB)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


_NARROW, _WIDE = frozenset("iljtfrI.,:;'|!()[] -/"), frozenset("mwMWQO%@—…")


def width_of(text: str, size: float = TEXT) -> float:
    """Return about how wide a text is in a sans serif face."""
    units = 0.0
    for letter in text:
        if ord(letter) > 0x2E7F:
            units += 1.05  # ideographs and emoji
        elif letter in _NARROW:
            units += 0.31
        elif letter in _WIDE:
            units += 0.87
        else:
            units += 0.68 if letter.isupper() else 0.555
    return units * size


def shortened(text: str, width: float, size: float = TEXT) -> str:
    """Return ``text``, cut with an ellipsis where it is wider than ``width``."""
    if width_of(text, size) <= width:
        return text
    while text and width_of(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, width: float, size: float = TEXT, *, lines: int = 2) -> list[str]:
    """Return ``text`` in at most ``lines`` lines, the last one cut where it must be."""
    rows, words = [""], text.split()
    for i, word in enumerate(words):
        longer = f"{rows[-1]} {word}".strip()
        if not rows[-1] or width_of(longer, size) <= width:
            rows[-1] = longer
        elif len(rows) < lines:
            rows.append(word)
        else:
            rows[-1] = " ".join([rows[-1], *words[i:]])
            break
    return [shortened(row, width, size) for row in rows]


class Drawing:
    """Elements of an SVG in the order in which they are painted."""

    def __init__(self) -> None:
        self._elements: list[str] = []

    def add(self, tag: str, content: str | None = None, /, **attributes: float | str | None) -> None:
        """Add an element; ``stroke_width`` is written stroke-width, and None leaves an attribute out."""
        written = "".join(
            f' {name.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
            for name, value in attributes.items()
            if value is not None and value != ""
        )
        self._elements.append(f"<{tag}{written}/>" if content is None else f"<{tag}{written}>{content}</{tag}>")

    def text(
        self, x: float, y: float, text: str, *, size: float = TEXT, fill: str = INK, anchor: str = "", **more: str
    ) -> None:
        """Add a text whose baseline is at ``y``."""
        self.add(
            "text",
            escape(clean(text), quote=False),
            x=x,
            y=y,
            font_size=None if size == TEXT else size,
            fill=None if fill == INK else fill,
            text_anchor=anchor,
            **more,
        )

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, stroke: str, width: float = 1, dash: str = ""
    ) -> None:
        """Add a straight line."""
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width, stroke_dasharray=dash)

    def path(self, points: Sequence[tuple[float, float]], *, stroke: str, width: float = 2, dash: str = "") -> None:
        """Add a broken line."""
        self.add(
            "path",
            d=_path(points),
            fill="none",
            stroke=stroke,
            stroke_width=width,
            stroke_dasharray=dash,
            stroke_linejoin="round",
        )

    def area(self, points: Sequence[tuple[float, float]], *, fill: str, opacity: float) -> None:
        """Add a filled outline."""
        self.add("path", d=_path(points) + "Z", fill=fill, fill_opacity=opacity)

    def rect(self, x: float, y: float, width: float, height: float, **paint: float | str | None) -> None:
        """Add a rectangle by its upper left corner."""
        self.add("rect", None, x=x, y=y, width=width, height=height, **paint)

    def marker(self, x: float, y: float, series: int, *, size: float = 4.5) -> None:
        """Add the marker of a series: filled dot, open dot, diamond, square, open square."""
        colour = SERIES[series % len(SERIES)]
        open_ = series % 5 in (1, 4)
        fill, stroke, width = (PAPER, colour, 1.8) if open_ else (colour, None, None)
        if series % 5 in (0, 1):
            self.add("circle", cx=x, cy=y, r=size, fill=fill, stroke=stroke, stroke_width=width)
        elif series % 5 == 2:
            s = size * 1.25
            outline = _path([(x, y - s), (x + s, y), (x, y + s), (x - s, y)]) + "Z"
            self.add("path", d=outline, fill=fill, stroke=stroke, stroke_width=width)
        else:
            self.rect(x - size, y - size, 2 * size, 2 * size, fill=fill, stroke=stroke, stroke_width=width)

    def svg(self, height: float, title: str, text: str) -> str:
        """Return the whole element with its name and its description."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_plain(WIDTH)} {_plain(height)}" role="img" '
            f'width="{_plain(WIDTH)}" height="{_plain(height)}" font-family="{FONT}" font-size="{_plain(TEXT)}" fill="{INK}">'
            f"<title>{escape(clean(title), quote=False)}</title><desc>{escape(clean(text), quote=False)}</desc>"
            + "".join(self._elements)
            + "</svg>"
        )


@dataclass(frozen=True)
class Scale:
    """A place on paper for a value between ``low`` and ``high``; ``start`` and ``stop`` are where these two lie."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place, at the nearer end for a value outside."""
        value = min(max(value, self.low), self.high)
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.stop - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Return round values from low to high."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                found = [
                    d * 10.0**p for p in powers for d in digits if self.low * 0.999 <= d * 10.0**p <= self.high * 1.001
                ]
                if len(found) <= most + 2:
                    break
            return found
        step = round_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(least: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is not under ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(d * power for d in (1, 2, 5, 10) if d * power >= least * (1 - 1e-9))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_plain(x)} {_plain(y)}" for x, y in points)


def _plain(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        raise ValueError("a drawing has no place for what is not finite")
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written
