"""Lead importance drawn: bars with intervals over the twelve leads, and a map of leads by category."""

from __future__ import annotations

import re
from collections.abc import Sequence

from screening.attribution.territories import TERRITORY_OF
from screening.contract import LEADS, N_LEADS
from screening.report.document import Cell, Estimate, Figure
from screening.report.notation import figure, settled, written
from screening.report.svg import (
    FAINT,
    INK,
    PAPER,
    QUIET,
    RULE,
    SERIES,
    SMALL,
    TEXT,
    WIDTH,
    Drawing,
    Scale,
    contrast,
    round_step,
    width_of,
    wrapped,
)

_COLOURS = {"septal": SERIES[3], "anterior": SERIES[0], "lateral": SERIES[2], "inferior": SERIES[1], "": SERIES[4]}
_ABBREVIATIONS = {"septal": "sept", "anterior": "ant", "lateral": "lat", "inferior": "inf", "": ""}


def importance_figure(
    key: str,
    title: str,
    cells: Sequence[Cell],
    *,
    y_title: str = "Mean fall of the logit",
    table: str | None = None,
) -> Figure:
    """Return bars of lead importance with intervals, in the order of `contract.LEADS`, coloured and named by territory."""
    means = [settled(cell) for cell in cells]
    if len(means) != N_LEADS:
        raise ValueError(f"figure {key}: {len(means)} cells for {N_LEADS} leads")
    known = [cell for cell in means if isinstance(cell, Estimate)]
    low = min([0.0] + [cell.low for cell in known])
    high = max([0.0] + [cell.high for cell in known])
    if high <= low:
        high = 1.0
    drawing = Drawing()
    top, bottom = 34.0, 214.0
    up = Scale(low * 1.08, high * 1.05, bottom, top)
    step = round_step((up.high - up.low) / 5)
    digits = next(d for d in range(7) if d == 6 or abs(step - round(step, d)) < step * 1e-6)
    left = max(width_of(figure(tick, digits), SMALL) for tick in up.ticks(5)) + 10
    for tick in up.ticks(5):
        drawing.line(left, up(tick), WIDTH, up(tick), stroke=FAINT)
        drawing.text(left - 6, up(tick) + 4, figure(round(tick, 9), digits), size=SMALL, fill=QUIET, anchor="end")
    drawing.text(0, 16, y_title, size=SMALL, fill=QUIET)
    pitch, between = (WIDTH - left - 14) / N_LEADS, 14.0
    for i, (lead, cell) in enumerate(zip(LEADS, means, strict=True)):
        x = left + (i + 0.5) * pitch + (between if i >= 6 else 0)
        territory = TERRITORY_OF[lead]
        if isinstance(cell, Estimate):
            a, b = sorted((up(0), up(cell.value)))
            drawing.add(
                "rect", x=x - pitch * 0.34, y=a, width=pitch * 0.68, height=max(b - a, 0.5), fill=_COLOURS[territory]
            )
            drawing.line(x, up(cell.low), x, up(cell.high), stroke=INK, width=1.4)
            for end in (cell.low, cell.high):
                drawing.line(x - 3.5, up(end), x + 3.5, up(end), stroke=INK, width=1.4)
        else:
            drawing.text(x, up(0) - 6, "×", fill=QUIET, anchor="middle")
        drawing.text(x, bottom + 17, lead, size=SMALL, anchor="middle")
        drawing.text(x, bottom + 32, _ABBREVIATIONS[territory], size=10.5, fill=_COLOURS[territory], anchor="middle")
    drawing.line(left, up(0), WIDTH, up(0), stroke=QUIET)
    text = _bars_text(means, y_title)
    return Figure(key, title, drawing.svg(bottom + 40, title, text), text, table)


def _bars_text(means: Sequence[Cell], y_title: str) -> str:
    known = [(lead, cell) for lead, cell in zip(LEADS, means, strict=True) if isinstance(cell, Estimate)]
    if not known:
        return f"{y_title} by lead: hidden."
    ranked = sorted(known, key=lambda one: -one[1].value)
    said = ", ".join(f"{lead} {written(cell, 'number_interval', 2)}" for lead, cell in ranked[:3])
    last = f"; smallest {ranked[-1][0]} {written(ranked[-1][1], 'number_interval', 2)}" if len(ranked) > 3 else ""
    return f"{y_title} by lead, greatest first: {said}{last}."


def importance_map(
    key: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[Cell]]],
    *,
    of: str = "Mean fall of the logit",
    digits: int = 2,
    table: str | None = None,
) -> Figure:
    """Return a map of leads by category: the darker, the greater; the figures stand in the cells.

    Parameters
    ----------
    rows
        Name of the category and twelve numbers (or cells that are hidden), in the order of `contract.LEADS`.
    """
    cells = [[_number(cell) for cell in row] for _, row in rows]
    if any(len(row) != N_LEADS for row in cells):
        raise ValueError(f"figure {key}: a row has not {N_LEADS} cells")
    highest = max([abs(cell) for row in cells for cell in row if cell is not None] + [0.0]) or 1.0
    left = min(max([width_of(name) for name, _ in rows] + [40.0]), 116.0) + 8
    pitch, height = (WIDTH - left - 6) / N_LEADS, 26.0
    drawing = Drawing()
    top = 24.0
    for i, lead in enumerate(LEADS):
        drawing.text(_column(i, left, pitch) + pitch / 2, 16, lead, size=SMALL, fill=QUIET, anchor="middle")
    for k, ((name, _), row) in enumerate(zip(rows, cells, strict=True)):
        y = top + k * height
        lines = wrapped(name, left - 8, lines=2)
        for j, line in enumerate(lines):
            size = TEXT if len(lines) == 1 else 10.5
            drawing.text(0, y + height / 2 + 4.5 + (j - (len(lines) - 1) / 2) * 11.5, line, size=size)
        for i, value in enumerate(row):
            x = _column(i, left, pitch)
            box = x + 0.75, y + 0.75, pitch - 1.5, height - 1.5
            if value is None:
                drawing.rect(*box, fill=FAINT)
                drawing.line(x + 4, y + height - 4, x + pitch - 4, y + 4, stroke=QUIET)
                continue
            weight = max(value, 0.0) / highest
            drawing.rect(*box, fill=shade(weight), stroke=RULE if weight < 0.12 else None)
            fill = max((PAPER, "#000000"), key=lambda ink: contrast(ink, shade(weight)))
            words = re.sub(r"^(\D?)0\.", r"\1.", figure(round(value, digits), digits if abs(value) < 9.9 else 0))
            drawing.text(x + pitch / 2, y + height / 2 + 4, words, size=10.5, fill=fill, anchor="middle")
    text = _map_text(rows, cells, of, digits)
    bottom = top + height * len(rows)
    if any(value is None for row in cells for value in row):
        drawing.line(2, bottom + 20, 14, bottom + 10, stroke=QUIET)
        drawing.text(20, bottom + 19, "hidden", size=SMALL, fill=QUIET)
        bottom += 20
    return Figure(key, title, drawing.svg(bottom + 6, title, text), text, table)


def shade(weight: float) -> str:
    """Return a blue, from white at 0 to the first series' colour at 1."""
    ends = [(255, int(SERIES[0][i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * min(max(weight, 0.0), 1.0)):02x}" for a, b in ends)


def _column(i: int, left: float, pitch: float) -> float:
    return left + i * pitch + (6.0 if i >= 6 else 0.0)


def _number(cell: Cell) -> float | None:
    cell = settled(cell)
    if isinstance(cell, Estimate):
        return cell.value
    return float(cell) if isinstance(cell, (int, float)) else None


def _map_text(
    rows: Sequence[tuple[str, Sequence[Cell]]], cells: Sequence[Sequence[float | None]], of: str, digits: int
) -> str:
    said, unseen = [], 0
    for (name, _), row in zip(rows, cells, strict=True):
        known = [(value, lead) for value, lead in zip(row, LEADS, strict=True) if value is not None]
        if not known:
            unseen += 1
            continue
        value, lead = max(known, key=lambda one: one[0])
        said.append(f"{name}: {lead} {figure(value, digits)}")
    text = f"{of} by lead and category. Leading lead of each: " + ("; ".join(said[:8]) or "hidden")
    if len(said) > 8:
        text += f"; and {len(said) - 8} more in the table"
    return text + (f". Hidden: {unseen} row{'s' if unseen > 1 else ''}." if unseen else ".")
