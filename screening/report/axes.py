"""Axes, legends and the wording of alt texts that the figures share."""

from __future__ import annotations

from collections.abc import Sequence

from screening.report.document import Cell, Estimate, Hidden, Kind, NotEstimable
from screening.report.notation import HIDDEN_WORD, figure, share, written
from screening.report.svg import (
    DASHES,
    FAINT,
    QUIET,
    RULE,
    SERIES,
    SMALL,
    WIDTH,
    Drawing,
    Scale,
    shortened,
    width_of,
)

TOP = 10.0
"""Room over the first thing drawn."""


def marker_legend(drawing: Drawing, series: Sequence[str]) -> float:
    """Draw markers and names in lines from the left; return the height used."""
    if len(series) < 2:
        return 0.0
    x, y = 6.0, TOP + 4
    for j, name in enumerate(series):
        if x + 14 + width_of(name, SMALL) > WIDTH:
            x, y = 6.0, y + 17
        drawing.marker(x, y, j)
        drawing.text(x + 10, y + 4, name, size=SMALL)
        x += 30 + width_of(name, SMALL)
    return y + 4


def line_legend(drawing: Drawing, names: Sequence[str]) -> float:
    """Draw lines with their names; return the height used."""
    x, y = 0.0, TOP + 4
    for j, name in enumerate(names):
        if x and x + 34 + width_of(name, SMALL) > WIDTH:
            x, y = 0.0, y + 17
        drawing.line(x, y, x + 26, y, stroke=SERIES[j % len(SERIES)], width=2, dash=DASHES[j % len(DASHES)])
        drawing.text(x + 32, y + 4, shortened(name, WIDTH - x - 32, SMALL), size=SMALL)
        x += 52 + width_of(name, SMALL)
    return y + 6


def gap_mark(drawing: Drawing, x: float, y: float) -> None:
    """Draw the mark of what is not shown: a small cross."""
    drawing.line(x - 4, y - 4, x + 4, y + 4, stroke=QUIET, width=1.2)
    drawing.line(x - 4, y + 4, x + 4, y - 4, stroke=QUIET, width=1.2)


def inside(x: float, width: float) -> float:
    """Return where a centred text must stand so as not to leave the drawing."""
    return min(max(x, width / 2), WIDTH - width / 2)


def limits(known: Sequence[Estimate], kind: Kind) -> tuple[float, float]:
    """Return an axis over estimates: from zero where none is below; the widest intervals may be cut."""
    if not known:
        return 0.0, 1.0
    low, high = min(0.0, *(one.low for one in known)), max(one.high for one in known)
    highs = sorted(one.high for one in known)
    usual = max(highs[len(highs) // 2] * 1.6, max(one.value for one in known) * 1.15)
    if usual > 0:
        high = min(high, usual)
    if high <= low:
        high = low + (0.01 if kind.startswith("share") else 1.0)
    high += 0.04 * (high - low)
    if kind.startswith("share"):
        high = min(high, max(1.0, *(one.value for one in known)))
    return low - (0.04 * (high - low) if low < 0 else 0.0), high


def tick_text(value: float, kind: Kind, step: float) -> str:
    """Return an axis label with as many places as the step needs."""
    percent = kind.startswith("share")
    step, value = (step * 100, value * 100) if percent else (step, value)
    digits = next((d for d in range(6) if abs(step - round(step, d)) < step * 1e-6), 6)
    return figure(round(value, 9), digits if value else 0) + ("%" if percent else "")


def step_of(ticks: Sequence[float]) -> float:
    """Return the distance of two ticks."""
    return ticks[1] - ticks[0] if len(ticks) > 1 else (abs(ticks[0]) or 1.0)


def ticks_across(drawing: Drawing, scale: Scale, top: float, bottom: float, kind: Kind) -> None:
    """Draw an axis below a plot, with faint lines up to ``top``."""
    ticks = scale.ticks(5)
    widest = max(width_of(tick_text(t, kind, step_of(ticks)), SMALL) for t in ticks) + 8
    every = max(1, int(-(-len(ticks) * widest // max(abs(scale.stop - scale.start), 1.0))))
    for i, tick in enumerate(ticks):
        drawing.line(scale(tick), top, scale(tick), bottom, stroke=RULE if scale.low < 0 == tick else FAINT)
        if i % every == 0:
            step = tick if scale.log else step_of(ticks)
            drawing.text(scale(tick), bottom + 16, tick_text(tick, kind, step), size=SMALL, fill=QUIET, anchor="middle")
    drawing.line(scale.start, bottom, scale.stop, bottom, stroke=QUIET)


def ticks_up(drawing: Drawing, scale: Scale, left: float, right: float, kind: Kind) -> None:
    """Draw an axis at the left, with faint lines across."""
    ticks = scale.ticks(5)
    for tick in ticks:
        drawing.line(left, scale(tick), right, scale(tick), stroke=RULE if tick == 0 else FAINT)
        text = tick_text(tick, kind, tick if scale.log else step_of(ticks))
        drawing.text(left - 6, scale(tick) + 4, text, size=SMALL, fill=QUIET, anchor="end")


def gutter(scale: Scale, kind: Kind) -> float:
    """Return the room that the labels of an upright axis need."""
    ticks = scale.ticks(5)
    return max(width_of(tick_text(t, kind, t if scale.log else step_of(ticks)), SMALL) for t in ticks) + 10


def course(shown: Sequence[tuple[str, Estimate]], kind: Kind, digits: int, *, ordered: bool, at: str = "at") -> str:
    """Say how estimates run from the first to the last, or between which two they lie."""

    def say(one: tuple[str, Estimate], word: str) -> str:
        return f"{written(one[1], kind, digits)} {word} {one[0]}"

    lowest, highest = min(shown, key=lambda one: one[1].value), max(shown, key=lambda one: one[1].value)
    if len(shown) == 1:
        return say(shown[0], at if ordered else "in")
    if not ordered:
        return f"from {say(lowest, 'in')} to {say(highest, 'in')}"
    first, last = shown[0], shown[-1]
    change = last[1].value - first[1].value
    words = "rising to" if change > 0 else "falling to" if change < 0 else "and the same,"
    text = f"{say(first, at)} {words} {say(last, at)}"
    if highest[0] not in (first[0], last[0]):
        text += f", highest {say(highest, at)}"
    if lowest[0] not in (first[0], last[0]):
        text += f", lowest {say(lowest, at)}"
    return text


def missing_words(column: Sequence[Cell], what: str) -> str:
    """Say how many of a series are hidden, not estimable or empty."""
    parts = []
    for kind, word in ((Hidden, HIDDEN_WORD), (NotEstimable, "not estimable")):
        count = sum(isinstance(cell, kind) for cell in column)
        if count:
            parts.append(f"{count} {what}{'s' if count > 1 else ''} {word}")
    return f" ({', '.join(parts)})" if parts else ""


def short(value: float, kind: Kind) -> str:
    """Return a figure in few digits, for alt texts."""
    if kind.startswith("share"):
        return share(value, 0 if value >= 0.1 else 1 if value >= 0.001 else 2)
    return figure(value, 0 if kind == "count" or abs(value) >= 100 else 1 if abs(value) >= 1 else 3)
