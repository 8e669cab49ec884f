"""Importance drawn: bars with intervals over leads or territories, a map of leads by category, a map of waves by territory."""

from __future__ import annotations

import re
from collections.abc import Sequence

from screening.attribution.territories import TERRITORY_OF
from screening.contract import LEADS, N_LEADS, TERRITORIES, WAVES
from screening.report.document import Cell, Estimate, Figure
from screening.report.ecg_panel import tint
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
    parts: Sequence[str] = LEADS,
    y_title: str = "Mean fall of the logit",
    table: str | None = None,
) -> Figure:
    """Return bars of importance with intervals, of leads or of territories; leads are coloured and named by territory."""
    means = [settled(cell) for cell in cells]
    of = "leads" if parts == LEADS else "territories"
    if len(means) != len(parts):
        raise ValueError(f"figure {key}: {len(means)} cells for {len(parts)} {of}")
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
    pitch, between = (WIDTH - left - 14) / len(parts), 14.0
    wide = min(pitch * 0.68, 48.0)
    for i, (part, cell) in enumerate(zip(parts, means, strict=True)):
        x = left + (i + 0.5) * pitch + (between if of == "leads" and i >= 6 else 0)
        territory = TERRITORY_OF[part] if of == "leads" else part
        if isinstance(cell, Estimate):
            a, b = sorted((up(0), up(cell.value)))
            drawing.add("rect", x=x - wide / 2, y=a, width=wide, height=max(b - a, 0.5), fill=_COLOURS[territory])
            drawing.line(x, up(cell.low), x, up(cell.high), stroke=INK, width=1.4)
            for end in (cell.low, cell.high):
                drawing.line(x - 3.5, up(end), x + 3.5, up(end), stroke=INK, width=1.4)
        else:
            drawing.text(x, up(0) - 6, "×", fill=QUIET, anchor="middle")
        drawing.text(x, bottom + 17, part, size=SMALL, anchor="middle")
        if of == "leads":
            said = _ABBREVIATIONS[territory]
            drawing.text(x, bottom + 32, said, size=10.5, fill=_COLOURS[territory], anchor="middle")
    drawing.line(left, up(0), WIDTH, up(0), stroke=QUIET)
    text = _bars_text(parts, means, f"{y_title} by {'lead' if of == 'leads' else 'territory'}")
    return Figure(key, title, drawing.svg(bottom + (40 if of == "leads" else 26), title, text), text, table)


def _bars_text(parts: Sequence[str], means: Sequence[Cell], what: str) -> str:
    known = [(part, cell) for part, cell in zip(parts, means, strict=True) if isinstance(cell, Estimate)]
    if not known:
        return f"{what}: hidden."
    ranked = sorted(known, key=lambda one: -one[1].value)
    said = ", ".join(f"{lead} {written(cell, 'number_interval', 2)}" for lead, cell in ranked[:3])
    last = f"; smallest {ranked[-1][0]} {written(ranked[-1][1], 'number_interval', 2)}" if len(ranked) > 3 else ""
    return f"{what}, greatest first: {said}{last}."


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


def wave_figure(
    key: str, title: str, cells: Sequence[Cell], *, of: str = "Mean fall of the logit", table: str | None = None
) -> Figure:
    """Return a map of waves (columns) by territory (rows): orange for infarction, blue against it; the figures stand in it.

    ``cells`` (16) are of operator 'wave', in the order of ``contract.OPERATORS``.
    """
    values = [_number(cell) for cell in cells]
    if len(values) != len(WAVES) * len(TERRITORIES):
        raise ValueError(f"figure {key}: {len(values)} cells for {len(WAVES) * len(TERRITORIES)} waves of territories")
    largest = max([abs(value) for value in values if value is not None] + [0.0])
    drawing = Drawing()
    left, top, pitch, height = 74.0, 24.0, 92.0, 36.0
    for column, wave in enumerate(WAVES):
        x = left + column * pitch
        drawing.text(x + pitch / 2, 15, wave, size=SMALL, fill=QUIET, anchor="middle")
        for row in range(len(TERRITORIES)):
            y, value = top + row * height, values[column * len(TERRITORIES) + row]
            box = x + 1, y + 1, pitch - 2, height - 2
            if value is None:
                drawing.rect(*box, fill=FAINT)
                drawing.line(x + 8, y + height - 6, x + pitch - 8, y + 6, stroke=QUIET)
                continue
            drawing.rect(*box, fill=tint(value, largest, 0.0), stroke=RULE)
            drawing.text(x + pitch / 2, y + height / 2 + 4.5, figure(value, 2, signed=True), anchor="middle")
    for row, wall in enumerate(TERRITORIES):
        drawing.text(0, top + row * height + height / 2 + 4.5, wall)
    bottom = top + height * len(TERRITORIES)
    for x, value, words in ((left, 1.0, "speaks for infarction"), (left + 2 * pitch, -1.0, "speaks against it")):
        drawing.rect(x + 1, bottom + 8, 14, 12, fill=tint(value, 1.0), stroke=RULE)
        drawing.text(x + 22, bottom + 18, words, size=SMALL, fill=QUIET)
    text = _waves_text(values, of)
    return Figure(key, title, drawing.svg(bottom + 26, title, text), text, table)


def _waves_text(values: Sequence[float | None], of: str) -> str:
    names = [f"{wave} {wall}" for wave in WAVES for wall in TERRITORIES]
    known = sorted(
        ((value, name) for value, name in zip(values, names, strict=True) if value is not None), reverse=True
    )
    if not known:
        return f"{of} by wave and territory: hidden."
    said = ", ".join(f"{name} {figure(value, 2, signed=True)}" for value, name in known[:3])
    value, name = known[-1]
    return f"{of} by wave and territory, greatest first: {said}; smallest {name} {figure(value, 2, signed=True)}."


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
