"""An ECG on paper: 12 leads and a rhythm strip at 25 mm/s and 10 mm/mV, with the importance of its parts, as SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from screening.attribution.territories import TERRITORY_OF
from screening.contract import LEADS, N_LEADS, NOTICE, TERRITORIES, WAVES
from screening.report.ecg_panel import AGAINST, draw_panel, panel_height, tint
from screening.report.ecg_panel import WIDTH_MM as PANEL_MM
from screening.report.explained import Explanation, wave_map
from screening.report.notation import clean, figure
from screening.report.paper import INK, Box, Lines, Mark, Words, to_png, to_svg
from screening.report.svg import wrapped

MM_PER_S, MM_PER_MV = 25.0, 10.0
PAGE_S = 10.0
COLUMN_S = 2.5
MOST_SAID = 400
"""Characters of a line above the trace that are read at all."""
WIDTH_MM = 266.0
"""Of the page; with margins of 6 mm it fits A4 and US Letter paper across, so that it can be printed to scale."""

_PAPER = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
_RHYTHM = "II"
_BORDER_MM = 3.0
_PULSE_MM = 10.0  # left of the trace, for the calibration pulse
_GRID_MM = (_PULSE_MM + PAGE_S * MM_PER_S, 135.0)
_FOOT_MM, _LEGEND_MM, _LINE_MM = 7.0, 3.8, 4.1
_HEAD_LINES = 10
"""So many stand beside the importance; findings have what the others leave of them."""
_BAND_MM = 6.0  # over the traces of a lead, for its name
_HATCH_MM = 1.5  # between the strokes of what speaks against infarction
_REACH_MM = 30.0
"""A trace is cut, and says so, where it is further than this from its middle."""
_LEAST_MM = 11.0  # that a row has above and below its middle
_FINEST_MM = 0.2  # less than the width of a trace: what moves up and down within it is one stroke
_SLACK_MM = 0.04
"""A line between two samples may miss those between them by this: 4 uV, a seventh of the trace's width."""

_QUIET, _FINE, _COARSE = "#5f5f5f", "#f6d5d5", "#e8a3a3"
_SHADED = (
    "Shaded waves: their importance in the territory of the lead, where beyond 1.96 standard errors; orange for infarction, "
    "hatched blue against it."
)
_BAND = " Band over a lead: its own importance."
_WIDER, _BOLD = 1.17, 1.3
"""How much wider than Arial, by which texts are measured, the face of the PNG is."""


def ecg_plot(
    signal_mV: np.ndarray,
    rate_hz: float,
    *,
    head: Sequence[str] = (),
    explanation: Explanation | None = None,
    form: Literal["png", "svg"] = "png",
) -> bytes:
    """Return an ECG as on paper: 3 by 4 leads of 2.5 s and a rhythm strip of lead II of 10 s, 25 mm/s and 10 mm/mV.

    Sizes are true: of an SVG by its width and height in millimetres, of a PNG by its pixels a metre. The same input gives
    the same bytes. An SVG has no ids, styles or references, so that many of them can stand in one page.

    Parameters
    ----------
    signal_mV : array (12, n)
        In ``contract.LEADS``, drawn as recorded but for each lead's mean; NaN leaves a gap. Of more than 10 s the middle is
        drawn. Beyond 3 mV from its middle a trace is cut, with a mark that says how far it reaches.
    rate_hz : float
        Samples a second.
    head : sequence of str
        Lines above the trace, the first in bold; what is too long is shortened.
    explanation : Explanation, optional
        Importances of leads and territories are drawn as bars with intervals, those of waves as a map. What of a lead speaks
        for infarction tints it; with ``windows``, the waves of each lead are shaded by the importance of its territory, where
        that is beyond 1.96 standard errors: orange for infarction, hatched blue against it, and the lead's own tint is a band.
    form : {"png", "svg"}
        Of the result.
    """
    signal = np.asarray(signal_mV, np.float64)
    if signal.ndim != 2 or len(signal) != N_LEADS:
        raise ValueError(f"an ECG has the shape (12, samples), not {signal.shape}")
    explained = explanation or Explanation()
    page: list[Mark] = []
    panel = panel_height(explained)
    top = _draw_head(page, head, explained.findings or "", panel)
    if panel:
        draw_panel(page, explained, WIDTH_MM - _BORDER_MM - PANEL_MM, _BORDER_MM)
    drawn = _middle(signal, rate_hz)
    start_s = (signal.shape[1] - drawn.shape[1]) // 2 / rate_hz
    shading = _Shading(explained, start_s, drawn.shape[1] / rate_hz)
    height = top + _GRID_MM[1] + _FOOT_MM + (_LEGEND_MM if shading.shades else 0)
    _draw_leads(page, drawn, rate_hz, top, shading)
    _draw_foot(page, drawn.shape[1] / rate_hz, signal.shape[1] / rate_hz, height)
    if shading.shades:
        said = _SHADED + (_BAND if shading.leads is not None else "")
        page.append(Words(_BORDER_MM, top + _GRID_MM[1] + 4.2, said, 2.6, _QUIET))
    if form == "png":
        return to_png(page, WIDTH_MM, height)
    return to_svg(
        page, WIDTH_MM, height, f"12-lead ECG, 25 mm/s, 10 mm/mV. {clean(head[0][:MOST_SAID]) if head else ''}".strip()
    )


# --- Layout ----------------------------------------------------------------------------------------------------------


def _draw_head(page: list[Mark], head: Sequence[str], findings: str, panel_mm: float) -> float:
    """Write the lines, the findings after the first, and return where the grid begins."""
    room = WIDTH_MM - 2 * _BORDER_MM - (PANEL_MM + 4 if panel_mm else 0)

    def lines_of(text: str, widening: float, most: int) -> list[str]:
        return wrapped(clean(text[:MOST_SAID]), room / widening, 3.2, lines=most)

    first, *others = [lines_of(line, _WIDER if at else _BOLD, 2) for at, line in enumerate(head)] or [[]]
    rest = [line for lines in others for line in lines]
    if findings:
        rest = lines_of(findings, _WIDER, max(1, _HEAD_LINES - len(first) - len(rest))) + rest
    y = _BORDER_MM + 3
    for at, line in enumerate([*first, *rest]):
        page.append(Words(_BORDER_MM, y, line, 3.2, bold=at < len(first)))
        y += _LINE_MM
    return max(y - 1, _BORDER_MM + panel_mm if panel_mm else 0.0)


class _Shading:
    """What colour lies behind each lead, and behind each of its waves."""

    def __init__(self, explanation: Explanation, start_s: float, shown_s: float) -> None:
        self.leads = explanation.parts.get("lead")
        self._waves = explanation.parts.get("wave")
        self._windows = {
            wave: np.clip(window - start_s, 0, shown_s) for wave, window in explanation.windows.items() if len(window)
        }
        self.shades = bool(self._windows) and self._waves is not None

    def tint(self, lead: str) -> str:
        """Return the colour of a lead that speaks for infarction, empty for the others."""
        if self.leads is None or self.leads.mean.max() <= 0:
            return ""
        value, largest = float(self.leads.mean[LEADS.index(lead)]), float(self.leads.mean.max())
        return tint(value, largest, 0.0) if value / largest > 0.02 else ""

    def waves(self, lead: str) -> Iterator[tuple[np.ndarray, float, str]]:
        """Yield windows (beats, 2) in seconds from the first drawn sample, with importance and colour."""
        wall = TERRITORY_OF[lead]
        if not wall or self._waves is None:
            return
        by_wave, at = wave_map(self._waves), TERRITORIES.index(wall)
        beyond = self._waves.beyond.reshape(by_wave.shape)
        for value, there, wave in zip(by_wave[:, at].tolist(), beyond[:, at].tolist(), WAVES, strict=True):
            if there and wave in self._windows:
                yield self._windows[wave], value, tint(value, float(np.abs(by_wave).max()), 0.25)


def _draw_leads(page: list[Mark], drawn: np.ndarray, rate_hz: float, top: float, shading: _Shading) -> None:
    samples = drawn.shape[1]
    length = min(samples, round(COLUMN_S * rate_hz))
    rows: list[list[tuple[str, int, int, float]]] = []  # lead, first and last sample, x
    for leads in _PAPER:
        starts = [min(round(COLUMN_S * rate_hz * column), samples - length) for column in range(len(leads))]
        rows.append(
            [
                (lead, start, start + length, _BORDER_MM + _PULSE_MM + COLUMN_S * MM_PER_S * column)
                for column, (lead, start) in enumerate(zip(leads, starts, strict=True))
            ]
        )
    rows.append([(_RHYTHM, 0, samples, _BORDER_MM + _PULSE_MM)])
    middles, edges = _rows([np.concatenate([drawn[LEADS.index(r[0]), r[1] : r[2]] for r in row]) for row in rows], top)
    hatched: list[np.ndarray] = []
    for at, row in enumerate(rows):
        for lead, start, stop, x in row:
            high = edges[at + 1] - edges[at]
            over = _BAND_MM if at < len(_PAPER) else 0.0
            box = (x, edges[at] + over, (stop - start) / rate_hz * MM_PER_S, high - over)
            hatched += _shade(page, shading, lead, start / rate_hz, box)
            if at < len(_PAPER) and (colour := shading.tint(lead)):
                page.append(Box(x, edges[at], COLUMN_S * MM_PER_S, _BAND_MM if shading.shades else high, fill=colour))
    _draw_grid(page, top)
    page.append(Lines(hatched, AGAINST, 0.12))
    marks: list[Mark] = []
    for at, (row, middle) in enumerate(zip(rows, middles, strict=True)):
        _draw_pulse(page, middle)
        for lead, start, stop, x in row:
            if x > _BORDER_MM + _PULSE_MM:
                page.append(Lines([np.array([[x, middle - 3], [x, middle + 3]])], INK, 0.2))
            trace = drawn[LEADS.index(lead), start:stop]
            page.append(Words(x + 1, edges[at] + 4.5, lead, 3.6, bold=True, halo=True))
            if shading.leads is not None and at < len(_PAPER):
                said = figure(float(shading.leads.mean[LEADS.index(lead)]), 2, signed=True)
                page.append(Words(x + 10, edges[at] + 4.5, said, 2.8, _QUIET, halo=True))
            if not np.isfinite(trace).any():
                page.append(Words(x + 4, middle - 2, "no samples", 3.0, _QUIET, halo=True))
            bounds = (max(middle - _REACH_MM, top), min(middle + _REACH_MM, top + _GRID_MM[1]))
            marks += _draw_trace(page, trace, rate_hz, x, middle, bounds)
    page += marks  # over whatever trace runs there


def _shade(
    page: list[Mark], shading: _Shading, lead: str, start_s: float, box: tuple[float, float, float, float]
) -> list[np.ndarray]:
    """Shade the waves of a lead within its box (x, y, width, height); return the strokes over those that speak against."""
    x, y, width, height = box
    strokes: list[np.ndarray] = []
    for windows, value, colour in shading.waves(lead):
        for left, right in (windows - start_s) * MM_PER_S + x:
            left, right = max(left, x), min(right, x + width)
            if right - left < _FINEST_MM:
                continue
            page.append(Box(left, y, right - left, height, fill=colour))
            if value < 0:
                strokes += _hatched(left, y, right - left, height)
    return strokes


def _hatched(x: float, y: float, width: float, height: float) -> list[np.ndarray]:
    """Return strokes that rise to the right through a box, as far apart in all boxes of a row."""
    first = math.ceil((x + y) / _HATCH_MM)
    strokes = []
    for along in (
        np.arange(first, math.floor((x + width + y + height) / _HATCH_MM) + 1) * _HATCH_MM
    ):  # x + y on a stroke
        low, high = max(x, along - y - height), min(x + width, along - y)
        if high - low > 0.05:
            strokes.append(np.array([[low, along - low], [high, along - high]]))
    return strokes


def _rows(traces: Sequence[np.ndarray], top: float) -> tuple[list[float], list[float]]:
    """Return the middle of each row and the edges between rows: room goes to where the traces need it."""
    reach = np.empty((len(traces), 2))  # up and down, mm beyond the least that a row has on either side
    for row, trace in zip(reach, traces, strict=True):
        known = trace[np.isfinite(trace)]
        row[:] = known.max(initial=0.0), -known.min(initial=0.0)
    wanted = np.clip(reach * MM_PER_MV + 1, _LEAST_MM, _REACH_MM) - _LEAST_MM
    free = _GRID_MM[1] - wanted.size * _LEAST_MM
    wanted *= min(1.0, free / max(float(wanted.sum()), 1e-9))
    room = _LEAST_MM + wanted + (free - wanted.sum()) / wanted.size
    edges = top + np.concatenate([[0.0], room.sum(axis=1).cumsum()])
    return (edges[:-1] + room[:, 0]).tolist(), edges.tolist()


def _draw_grid(page: list[Mark], top: float) -> None:
    right, bottom = _BORDER_MM + _GRID_MM[0], top + _GRID_MM[1]
    for step, colour, width in ((1, _FINE, 0.1), (5, _COARSE, 0.18)):
        xs = np.arange(0, _GRID_MM[0] + 0.5, step) + _BORDER_MM
        ys = np.arange(0, _GRID_MM[1] + 0.5, step) + top
        lines = [np.array([[x, top], [x, bottom]]) for x in xs] + [np.array([[_BORDER_MM, y], [right, y]]) for y in ys]
        page.append(Lines(lines, colour, width))


def _draw_pulse(page: list[Mark], middle: float) -> None:
    """Draw the calibration pulse: 1 mV for 0.2 s."""
    x = _BORDER_MM + np.array([1, 2.5, 2.5, 7.5, 7.5, 9])
    page.append(Lines([np.column_stack([x, middle - np.array([0, 0, 1, 1, 0, 0]) * MM_PER_MV])], INK, 0.28))


def _draw_trace(
    page: list[Mark], trace: np.ndarray, rate_hz: float, x: float, middle: float, bounds: tuple[float, float]
) -> list[Mark]:
    """Draw one lead; return the marks where it is cut at ``bounds`` (upper and lower y)."""
    at_x = x + np.arange(len(trace)) / rate_hz * MM_PER_S
    y = middle - trace * MM_PER_MV
    cut = np.clip(y, *bounds)
    known = np.isfinite(y)
    ends = np.flatnonzero(np.diff(known, prepend=False, append=False)).reshape(-1, 2)
    page.append(Lines([_drawable(at_x[a:b], cut[a:b]) for a, b in ends], INK, 0.28))
    marks: list[Mark] = []
    for beyond, at, arrow, line in (
        (known & (y < bounds[0]), np.argmin, "\N{UPWARDS ARROW}", bounds[0] + 3),
        (known & (y > bounds[1]), np.argmax, "\N{DOWNWARDS ARROW}", bounds[1] - 1),
    ):
        if beyond.any():
            worst = int(at(np.where(known, y, middle)))
            said = f"{arrow} {figure(float(trace[worst]), 1, signed=True)} mV"
            right = x + 15 < at_x[worst]
            where = float(at_x[worst]) + (-1 if right else 1)
            marks.append(Words(where, line, said, 2.8, anchor="end" if right else "start", halo=True))
    return marks


def _drawable(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the points (n, 2) that a trace of the drawn width shows: its line or, where it is mostly noise, its envelope."""
    line = simplified(x, y, _SLACK_MM)
    column = ((x - x[0]) / _FINEST_MM).astype(np.int64)
    first = np.flatnonzero(np.diff(column, prepend=-1))
    if len(line) <= 2 * len(first):
        return line
    ranked = np.lexsort((y, column))  # by column, and in each from the highest to the lowest on the page
    kept = np.unique(np.concatenate([ranked[first], ranked[np.append(first[1:], len(x)) - 1], [0, len(x) - 1]]))
    return np.column_stack([x[kept], y[kept]])


def simplified(x: np.ndarray, y: np.ndarray, slack: float) -> np.ndarray:
    """Return some of the points (n, 2) of a line, x ascending, such that no point left out is off it by more than ``slack``.

    The swinging door (Bristol 1990): a point can be the next end while its direction lies within the doors, the directions
    that pass all points since the last end.
    """
    xs, ys = x.tolist(), y.tolist()
    kept = [0]
    low, high = -math.inf, math.inf
    for i in range(1, len(xs)):
        run = xs[i] - xs[kept[-1]]
        slope = (ys[i] - ys[kept[-1]]) / run
        if not low <= slope <= high:
            kept.append(i - 1)
            run = xs[i] - xs[i - 1]
            slope, low, high = (ys[i] - ys[i - 1]) / run, -math.inf, math.inf
        low, high = max(low, slope - slack / run), min(high, slope + slack / run)
    if kept[-1] != len(xs) - 1:
        kept.append(len(xs) - 1)
    return np.column_stack([x[kept], y[kept]])


def _draw_foot(page: list[Mark], shown_s: float, recorded_s: float, height: float) -> None:
    of = f" of {recorded_s:.1f} s, the middle," if recorded_s > shown_s + 0.05 else ""
    scale = f"25 mm/s · 10 mm/mV · {shown_s:.1f} s{of} shown · as recorded, mean of each lead removed"
    page.append(Words(_BORDER_MM, height - 2.2, NOTICE, 2.6, _QUIET))
    page.append(Words(WIDTH_MM - _BORDER_MM, height - 2.2, scale, 2.6, _QUIET, anchor="end"))


def _middle(signal_mV: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the middle ten seconds, each lead without its mean; what is not finite becomes NaN."""
    n = min(signal_mV.shape[1], round(PAGE_S * rate_hz))
    start = (signal_mV.shape[1] - n) // 2
    part = signal_mV[:, start : start + n]
    known = np.isfinite(part)
    mean = np.where(known, part, 0).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.where(known, part, np.nan) - mean
