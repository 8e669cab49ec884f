"""Lines, distributions and calibration drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from screening.report.axes import (
    TOP,
    course,
    gap_mark,
    gutter,
    inside,
    limits,
    line_legend,
    missing_words,
    short,
    ticks_across,
    ticks_up,
)
from screening.report.document import Cell, Estimate, Figure, Kind
from screening.report.notation import settled, share
from screening.report.svg import (
    DASHES,
    QUIET,
    SERIES,
    SMALL,
    WIDTH,
    Drawing,
    Scale,
    shortened,
    width_of,
)


@dataclass(frozen=True)
class Curve:
    """A named line; None in ``y`` is a gap. ``low`` and ``high``, where given, are drawn as a band."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None


def curves_figure(
    key: str,
    title: str,
    curves: Sequence[Curve],
    *,
    x_title: str,
    y_title: str,
    x_kind: Kind = "share",
    y_kind: Kind = "share",
    log_x: bool = False,
    y_limits: tuple[float, float] | None = None,
    marks: Sequence[tuple[str, float]] = (),
    table: str | None = None,
) -> Figure:
    """Return lines over a quantity, each named at its end and with its own dash.

    Parameters
    ----------
    marks
        Names and places on x of vertical lines, e.g. ("estimated prevalence", 0.04).
    y_limits
        Of the axis; without them it holds all curves, and zero. Decision curves are cut a little below zero, as usual.
    """
    drawing = Drawing()
    lines = [_drawable(curve, log_x=log_x, y_limits=y_limits) for curve in curves]
    places = [x for line in lines for x in line.x]
    values = [y for line in lines for of in (line.y, line.low, line.high) for y in of or () if y is not None]
    if not places or not values:
        text = f"{y_title} over {_small(x_title)}: no figure can be shown."
        drawing.text(0, 24, "No figure can be shown.", fill=QUIET)
        return Figure(key, title, drawing.svg(40, title, text), text, table)
    low, high = y_limits or limits([Estimate(y, y, y) for y in values], y_kind)
    top = TOP + (17.0 * len(marks) + 4 if marks else 4)
    bottom = top + 220
    up = Scale(low, high, bottom, top)
    left = gutter(up, y_kind)
    right = WIDTH - min(max(width_of(curve.name, SMALL) for curve in curves) + 12, 150.0)
    along = Scale(min(places), max(places) if max(places) > min(places) else min(places) + 1, left + 4, right, log_x)
    ticks_up(drawing, up, left, right, y_kind)
    ticks_across(drawing, along, bottom, bottom, x_kind)
    for i, (name, x) in enumerate(marks):
        place, y = along(x), TOP + 17 * i
        drawing.line(place, y + 14, place, bottom, stroke=SERIES[4], dash="4 3")
        drawing.text(inside(place, width_of(name, SMALL)), y + 10, name, size=SMALL, fill=QUIET, anchor="middle")
    ends = []
    for j, line in enumerate(lines):
        colour = SERIES[j % len(SERIES)]
        for band in _stretches(line.x, line.low or (), line.high or ()):
            outline = [(along(x), up(b)) for x, _, b in band] + [(along(x), up(a)) for x, a, _ in reversed(band)]
            drawing.area(outline, fill=colour, opacity=0.13)
        stretches = _stretches(line.x, line.y, line.y)
        for stretch in stretches:
            path = [(along(x), up(y)) for x, y, _ in stretch]
            drawing.path(path, stroke=colour, dash=DASHES[j % len(DASHES)], width=2.2)
            if len(path) == 1:
                drawing.marker(*path[0], j, size=3)
        if stretches:
            ends.append((up(stretches[-1][-1][1]), j, line.name, along(stretches[-1][-1][0])))
    for y, j, name, x in _apart(ends, 15.0, top, bottom):
        drawing.text(x + 7, y + 4, shortened(name, WIDTH - x - 7, SMALL), size=SMALL, fill=SERIES[j % len(SERIES)])
    drawing.text((left + right) / 2, bottom + 35, x_title, size=SMALL, fill=QUIET, anchor="middle")
    text = f"{y_title} over {_small(x_title)}. {_curves_text(lines, x_kind, y_kind, marks)}."
    return Figure(key, title, drawing.svg(bottom + 42, title, text), text, table)


def _small(title: str) -> str:
    return title[:1].lower() + title[1:]


def _drawable(curve: Curve, *, log_x: bool, y_limits: tuple[float, float] | None) -> Curve:
    """Return the curve with gaps where it has no finite value or leaves the axes."""
    low, high = y_limits or (-math.inf, math.inf)
    kept = [i for i, x in enumerate(curve.x) if math.isfinite(x) and (x > 0 or not log_x)]

    def taken(values: Sequence[float | None] | None, *, cut: bool) -> list[float | None] | None:
        if values is None:
            return None
        found = [values[i] for i in kept]
        whole = [None if y is None or not math.isfinite(y) else float(y) for y in found]
        return [None if y is None or (cut and not low <= y <= high) else y for y in whole]

    y = taken(curve.y, cut=True) or []
    return Curve(
        curve.name, [float(curve.x[i]) for i in kept], y, taken(curve.low, cut=False), taken(curve.high, cut=False)
    )


def _stretches(
    xs: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None]
) -> list[list[tuple[float, float, float]]]:
    """Return stretches without gaps; none where there are no values."""
    found: list[list[tuple[float, float, float]]] = [[]]
    for x, low, high in zip(xs, lows, highs, strict=False):
        if low is None or high is None:
            found.append([])
        else:
            found[-1].append((float(x), float(low), float(high)))
    return [stretch for stretch in found if stretch]


def _apart(
    ends: Sequence[tuple[float, int, str, float]], least: float, top: float, bottom: float
) -> list[tuple[float, int, str, float]]:
    """Move labels so that none covers another, in the order of their lines' ends."""
    placed: list[tuple[float, int, str, float]] = []
    for y, j, name, x in sorted(ends):
        placed.append((max(y, placed[-1][0] + least) if placed else max(y, top), j, name, x))
    over = placed[-1][0] - bottom if placed else 0.0
    if over > 0:
        floor = bottom
        for i in range(len(placed) - 1, -1, -1):
            placed[i] = (min(placed[i][0], floor), *placed[i][1:])
            floor = placed[i][0] - least
    return placed


def _curves_text(lines: Sequence[Curve], x_kind: Kind, y_kind: Kind, marks: Sequence[tuple[str, float]]) -> str:
    parts = []
    for line in lines:
        known = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        if not known:
            parts.append(f"{line.name}: cannot be shown")
            continue
        (x0, y0), (x1, y1) = known[0], known[-1]
        say = f"{line.name}: {short(y0, y_kind)} at {short(x0, x_kind)}, {short(y1, y_kind)} at {short(x1, x_kind)}"
        for name, x in marks:
            if x0 <= x <= x1:
                near = min(known, key=lambda point: abs(point[0] - x))
                say += f", {short(near[1], y_kind)} at {short(x, x_kind)} ({name})"
        parts.append(say)
    return "; ".join(parts)


def distributions_figure(
    key: str,
    title: str,
    distributions: Sequence[tuple[str, Sequence[float], Sequence[float]] | tuple[str, None, None]],
    *,
    x_title: str,
    x_kind: Kind = "number",
    table: str | None = None,
) -> Figure:
    """Return step histograms over one another, as densities, so that bins of different width compare.

    Parameters
    ----------
    distributions
        Name, edges (bins + 1) and counts (bins); or name, None, None: not shown.
    """
    drawing = Drawing()
    top = (
        TOP
        + line_legend(drawing, [name + (" (hidden)" if edges is None else "") for name, edges, _ in distributions])
        + 6
    )
    shown = []
    for j, (name, edges, counts) in enumerate(distributions):
        if edges is not None and counts is not None and sum(counts) > 0:
            total = float(sum(counts))
            density = [float(n) / total / float(b - a) for n, a, b in zip(counts, edges, edges[1:], strict=False)]
            shown.append((j, name, [float(edge) for edge in edges], density, [float(n) / total for n in counts]))
    if not shown:
        text = f"Distribution of {x_title}: hidden."
        drawing.text(0, top + 16, "The distributions are hidden.", fill=QUIET)
        return Figure(key, title, drawing.svg(top + 30, title, text), text, table)
    bottom = top + 150
    low, high = min(one[2][0] for one in shown), max(one[2][-1] for one in shown)
    along = Scale(low, high, 4, WIDTH - 4)
    up = Scale(0, max(max(one[3]) for one in shown) * 1.05, bottom, top)
    ticks_across(drawing, along, bottom, bottom, x_kind)
    for j, _, edges, density, _ in shown:
        points = [(along(edges[0]), bottom)]
        for a, b, d in zip(edges, edges[1:], density, strict=False):
            points += [(along(a), up(d)), (along(b), up(d))]
        points.append((along(edges[-1]), bottom))
        colour = SERIES[j % len(SERIES)]
        if j == 0:
            drawing.area(points, fill=colour, opacity=0.12)
        drawing.path(points, stroke=colour, width=1.8, dash=DASHES[j % len(DASHES)])
    drawing.text(WIDTH / 2, bottom + 35, x_title, size=SMALL, fill=QUIET, anchor="middle")
    parts = [f"Distribution of {x_title}"]
    for _, name, edges, _, shares in shown:
        parts.append(
            f"{name}: median about {short(_quantile(edges, shares, 0.5), x_kind)}, middle half from "
            f"{short(_quantile(edges, shares, 0.25), x_kind)} to {short(_quantile(edges, shares, 0.75), x_kind)}"
        )
    unseen = [name for j, (name, *_) in enumerate(distributions) if j not in {one[0] for one in shown}]
    if unseen:
        parts.append(f"Hidden: {', '.join(unseen)}")
    text = ". ".join(parts) + "."
    return Figure(key, title, drawing.svg(bottom + 42, title, text), text, table)


def _quantile(edges: Sequence[float], shares: Sequence[float], level: float) -> float:
    below = 0.0
    for a, b, part in zip(edges, edges[1:], shares, strict=False):
        if below + part >= level and part > 0:
            return a + (b - a) * (level - below) / part
        below += part
    return edges[-1]


def reliability_figure(
    key: str,
    title: str,
    points: Sequence[tuple[float, Cell]],
    *,
    x_title: str = "Predicted probability",
    y_title: str = "Observed share",
    table: str | None = None,
) -> Figure:
    """Return observed shares over predicted probabilities, with the line on which they would be equal."""
    size, left, top = 280.0, 48.0, TOP
    bottom = top + size
    along, up = Scale(0, 1, left, left + size), Scale(0, 1, bottom, top)
    drawing = Drawing()
    ticks_up(drawing, up, left, left + size, "share")
    ticks_across(drawing, along, bottom, bottom, "share")
    drawing.line(along(0), up(0), along(1), up(1), stroke=QUIET, dash="4 3")
    drawing.text(left + size + 8, top + 10, "as predicted", size=SMALL, fill=QUIET)
    settled_points = [(float(x), settled(cell)) for x, cell in points]
    known = [(x, cell) for x, cell in settled_points if isinstance(cell, Estimate)]
    for x, cell in known:
        drawing.line(along(x), up(cell.low), along(x), up(cell.high), stroke=SERIES[0], width=1.8)
        drawing.marker(along(x), up(cell.value), 0)
    for x, one in settled_points:
        if not isinstance(one, Estimate):
            gap_mark(drawing, along(x), bottom - 8)
    drawing.text(left + size / 2, bottom + 35, x_title, size=SMALL, fill=QUIET, anchor="middle")
    drawing.text(left + size + 8, bottom - 4, "× hidden" if len(known) < len(points) else "", size=SMALL, fill=QUIET)
    named = [(f"a predicted {share(x)}", cell) for x, cell in known]
    text = f"{y_title} by {_small(x_title)}: " + (
        course(named, "share_interval", 1, ordered=True) if named else "no figure can be shown"
    )
    if known:
        x, worst = max(known, key=lambda point: abs(point[1].value - point[0]))
        text += f"; farthest apart where {share(x)} is predicted and {share(worst.value)} observed"
    text += missing_words([cell for _, cell in settled_points], "bin") + "."
    return Figure(key, title, drawing.svg(bottom + 42, title, text), text, table)
