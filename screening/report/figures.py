"""Figures of the report: plain data in, `document.Figure` out, with the same said in words.

What is hidden is drawn as a marked gap, never as zero. No figure draws a point a record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from screening.report.axes import (
    TOP,
    course,
    gap_mark,
    gutter,
    inside,
    limits,
    marker_legend,
    missing_words,
    ticks_across,
    ticks_up,
)
from screening.report.curves import Curve, curves_figure, distributions_figure, reliability_figure
from screening.report.document import Cell, Estimate, Figure, Kind
from screening.report.flowchart import flow_figure
from screening.report.lead_figures import importance_figure, importance_map, wave_figure
from screening.report.notation import settled, written
from screening.report.svg import (
    DASHES,
    FAINT,
    INK,
    QUIET,
    SERIES,
    SMALL,
    TEXT,
    WIDTH,
    Drawing,
    Scale,
    width_of,
    wrapped,
)

__all__ = [
    "Curve",
    "curves_figure",
    "distributions_figure",
    "flow_figure",
    "importance_figure",
    "importance_map",
    "interval_figure",
    "reliability_figure",
    "trend_figure",
    "wave_figure",
]


def interval_figure(
    key: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[Cell]]],
    *,
    series: Sequence[str] = ("",),
    of: str = "Prevalence",
    kind: Kind = "share_interval",
    digits: int = 1,
    reference: tuple[str, Estimate] | None = None,
    ordered: bool = False,
    table: str | None = None,
) -> Figure:
    """Return a forest plot: a row a category (or an estimator), a marker with its interval a series.

    Parameters
    ----------
    rows
        Name of the category and its cells, one a series. The figures of the last series are written beside the plot.
    series
        Names, e.g. ("Apparent", "Adjusted").
    of
        What is estimated, as the axis and the alt text name it.
    reference
        Name and estimate of a line through all rows, e.g. ("All patients", total).
    ordered
        Whether the rows have an order (ages), so that the text tells the first and the last.
    """
    cells = [[settled(cell) for cell in row] for _, row in rows]
    if any(len(row) != len(series) for row in cells):
        raise ValueError(f"figure {key}: a row has not {len(series)} cells")
    known = [cell for row in cells for cell in row if isinstance(cell, Estimate)]
    if reference:
        known.append(reference[1])
    left = min(max([width_of(name) for name, _ in rows] + [40.0]), 150.0)
    texts = [written(row[-1], kind, digits) for row in cells]
    right = max([width_of(text, SMALL) for text in texts] + [60.0])
    scale = _across(known, left + 14, WIDTH - right - 14, kind)
    drawing = Drawing()
    y = TOP + marker_legend(drawing, series)
    if reference:
        drawing.text(
            inside(scale(reference[1].value), width_of(_reference_name(reference, kind, digits), SMALL)),
            y + 12,
            _reference_name(reference, kind, digits),
            size=SMALL,
            fill=QUIET,
            anchor="middle",
        )
        y += 20
    wraps = any(len(wrapped(name, left)) > 1 for name, _ in rows)
    top, step = y, max(17.0 + 9.0 * len(series), 32.0 if wraps else 0.0)
    bottom = top + step * len(rows)
    ticks_across(drawing, scale, top, bottom, kind)
    if reference:
        low, high = scale(reference[1].low), scale(reference[1].high)
        drawing.add(
            "rect", x=low, y=top, width=max(high - low, 1), height=bottom - top, fill=SERIES[4], fill_opacity=0.12
        )
        x = scale(reference[1].value)
        drawing.line(x, top, x, bottom, stroke=SERIES[4], dash="4 3")
    for i, ((name, _), row) in enumerate(zip(rows, cells, strict=True)):
        middle = top + (i + 0.5) * step
        if i:
            drawing.line(0, top + i * step, WIDTH, top + i * step, stroke=FAINT)
        lines = wrapped(name, left, lines=2)
        size = TEXT if len(lines) == 1 else SMALL
        for j, line in enumerate(lines):
            drawing.text(0, middle + 4.5 + (j - (len(lines) - 1) / 2) * 12.5, line, size=size)
        for j, cell in enumerate(row):
            _whisker(drawing, cell, middle + (j - (len(row) - 1) / 2) * 10, j, scale)
        plain = isinstance(row[-1], Estimate)
        drawing.text(WIDTH, middle + 4, texts[i], size=SMALL, fill=INK if plain else QUIET, anchor="end")
    drawing.text((scale.start + scale.stop) / 2, bottom + 35, of, size=SMALL, fill=QUIET, anchor="middle")
    text = _interval_text(rows, cells, series, of, kind, digits, reference, ordered)
    return Figure(key, title, drawing.svg(bottom + 42, title, text), text, table)


def _interval_text(
    rows: Sequence[tuple[str, Sequence[Cell]]],
    cells: Sequence[Sequence[Cell]],
    series: Sequence[str],
    of: str,
    kind: Kind,
    digits: int,
    reference: tuple[str, Estimate] | None,
    ordered: bool,
) -> str:
    names = [name for name, _ in rows]
    parts = []
    for j, one in enumerate(series):
        head = f"{of}, {one[:1].lower() + one[1:]}" if one else of
        column = [row[j] for row in cells]
        shown = [(name, cell) for name, cell in zip(names, column, strict=True) if isinstance(cell, Estimate)]
        if not shown:
            parts.append(f"{head}: no figure can be shown")
        elif len(rows) <= 8 and not ordered:
            listed = "; ".join(
                f"{name} {written(cell, kind, digits)}" for name, cell in zip(names, column, strict=True)
            )
            parts.append(f"{head}: {listed}")
        else:
            parts.append(f"{head}: {course(shown, kind, digits, ordered=ordered)}")
            parts[-1] += missing_words(column, "row")
    if reference:
        parts.append(_reference_name(reference, kind, digits, bounds=True))
    return ". ".join(parts) + "."


def _reference_name(reference: tuple[str, Estimate], kind: Kind, digits: int, *, bounds: bool = False) -> str:
    text = written(reference[1], kind, digits)
    return f"{reference[0]}: {text if bounds else text.split(' (')[0]}"


def _whisker(drawing: Drawing, cell: Cell, y: float, j: int, scale: Scale) -> None:
    colour = SERIES[j % len(SERIES)]
    if not isinstance(cell, Estimate):
        if cell is not None:
            gap_mark(drawing, scale.start + 6, y)
        return
    low, high = scale(cell.low), scale(cell.high)
    drawing.line(low, y, high, y, stroke=colour, width=1.8)
    for bound, place, way in ((cell.low < scale.low, low, 1), (cell.high > scale.high, high, -1)):
        if bound:  # an arrow head where the interval goes on beyond the axis
            drawing.path([(place + way * 5, y - 4), (place, y), (place + way * 5, y + 4)], stroke=colour, width=1.8)
        else:
            drawing.line(place, y - 3, place, y + 3, stroke=colour, width=1.8)
    drawing.marker(scale(cell.value), y, j)


def _across(known: Sequence[Estimate], start: float, stop: float, kind: Kind) -> Scale:
    low, high = limits(known, kind)
    return Scale(low, high, start, stop)


_PERIOD = re.compile(r"\d{4}(-(0[1-9]|1[0-2]))?")


def trend_figure(
    key: str,
    title: str,
    periods: Sequence[str],
    series: Mapping[str, Sequence[Cell]],
    *,
    of: str = "Prevalence",
    kind: Kind = "share_interval",
    digits: int = 1,
    table: str | None = None,
) -> Figure:
    """Return estimates over years (YYYY) or months (YYYY-MM), with interval bands and gaps where none is shown.

    Parameters
    ----------
    periods
        In order; a period that is left out is a gap as well. What is no date has no place here, and the text says so.
    series
        Name -> cells, one a period.
    """
    if any(len(cells) != len(periods) for cells in series.values()):
        raise ValueError(f"figure {key}: a series has not {len(periods)} cells")
    dated = [i for i, period in enumerate(periods) if _PERIOD.fullmatch(period)]
    undated = [period for period in periods if not _PERIOD.fullmatch(period)]
    columns = {name: [settled(cells[i]) for i in dated] for name, cells in series.items()}
    periods = [periods[i] for i in dated]
    known = [cell for cells in columns.values() for cell in cells if isinstance(cell, Estimate)]
    low, high = limits(known, kind)
    drawing = Drawing()
    top = TOP + marker_legend(drawing, list(columns)) + 8
    bottom = top + 210
    up = Scale(low, high, bottom, top)
    left, places = gutter(up, kind), [_when(period) for period in periods]
    first, last = (places[0], places[-1]) if places else (0, -1)
    along = Scale(first - 0.5, max(last, first) + 0.5, left, WIDTH - 4)
    ticks_up(drawing, up, left, WIDTH - 4, kind)
    missing = set(range(first, last + 1)) - {
        place for i, place in enumerate(places) if all(isinstance(cells[i], Estimate) for cells in columns.values())
    }
    for place in sorted(missing):
        drawing.add(
            "rect",
            x=along(place - 0.5),
            y=top,
            width=along(place + 0.5) - along(place - 0.5),
            height=bottom - top,
            fill=FAINT,
        )
    for first_missing, last_missing in _neighbours(sorted(missing)):
        gap_mark(drawing, (along(first_missing) + along(last_missing)) / 2, bottom - 9)
    for j, cells in enumerate(columns.values()):
        colour = SERIES[j % len(SERIES)]
        for run in _runs(places, cells):
            points = [(along(place), up(cell.value)) for place, cell in run]
            upper = [(along(place), up(cell.high)) for place, cell in run]
            lower = [(along(place), up(cell.low)) for place, cell in reversed(run)]
            if len(run) == 1:
                drawing.line(upper[0][0], upper[0][1], lower[0][0], lower[0][1], stroke=colour, width=1.6)
            else:
                drawing.area([*upper, *lower], fill=colour, opacity=0.13)
                drawing.path(points, stroke=colour, dash=DASHES[j % len(DASHES)])
            if len(places) <= 40 or len(run) == 1:
                for x, y in points:
                    drawing.marker(x, y, j, size=3.2)
    drawing.line(left, bottom, WIDTH - 4, bottom, stroke=QUIET)
    _period_ticks(drawing, periods, places, along, bottom)
    text = _trend_text(periods, columns, of, kind, digits, gaps=len(missing))
    if undated:
        text += f" Not in the figure: {', '.join(undated)}."
    height = bottom + 24
    if missing:
        gap_mark(drawing, left + 5, bottom + 35)
        drawing.text(left + 15, bottom + 39, "hidden, or nothing recorded", size=SMALL, fill=QUIET)
        height += 22
    return Figure(key, title, drawing.svg(height, title, text), text, table)


def _when(period: str) -> int:
    year, _, month = period.partition("-")
    return int(year) * 12 + int(month) - 1 if month else int(year)


def _runs(places: Sequence[int], cells: Sequence[Cell]) -> list[list[tuple[int, Estimate]]]:
    """Return stretches of neighbouring periods that all have an estimate."""
    runs: list[list[tuple[int, Estimate]]] = []
    for place, cell in zip(places, cells, strict=True):
        if isinstance(cell, Estimate):
            if not runs or runs[-1][-1][0] != place - 1:
                runs.append([])
            runs[-1].append((place, cell))
    return runs


def _neighbours(places: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and last of each stretch of consecutive places."""
    firsts = [place for place in places if place - 1 not in places]
    lasts = [place for place in places if place + 1 not in places]
    return list(zip(firsts, lasts, strict=True))


def _period_ticks(drawing: Drawing, periods: Sequence[str], places: Sequence[int], along: Scale, bottom: float) -> None:
    months = any("-" in period for period in periods)
    if not places:
        return
    first, last = places[0], places[-1]
    if months and last - first >= 24:
        ticks = {place: str(place // 12) for place in range(first, last + 1) if place % 12 == 0}
    elif months:
        ticks = {place: f"{place // 12}-{place % 12 + 1:02}" for place in range(first, last + 1)}
    else:
        ticks = {place: str(place) for place in range(first, last + 1)}
    widest = max((width_of(text, SMALL) for text in ticks.values()), default=0) + 10
    every = max(1, int(-(-len(ticks) * widest // (along.stop - along.start))))
    for i, (place, text) in enumerate(ticks.items()):
        if i % every == 0:
            drawing.line(along(place), bottom, along(place), bottom + 4, stroke=QUIET)
            x = inside(along(place), width_of(text, SMALL))
            drawing.text(x, bottom + 17, text, size=SMALL, fill=QUIET, anchor="middle")


def _trend_text(
    periods: Sequence[str], columns: Mapping[str, Sequence[Cell]], of: str, kind: Kind, digits: int, *, gaps: int
) -> str:
    parts = []
    for name, cells in columns.items():
        shown = [(period, cell) for period, cell in zip(periods, cells, strict=True) if isinstance(cell, Estimate)]
        head = f"{of}, {name[:1].lower() + name[1:]}" if len(columns) > 1 and name else of
        how = course(shown, kind, digits, ordered=True, at="in") if shown else "no period can be shown"
        parts.append(f"{head} over time: {how}")
    if gaps:
        parts.append(f"Gaps at {gaps} of {_when(periods[-1]) - _when(periods[0]) + 1} periods")
    return ". ".join(parts) + "."
