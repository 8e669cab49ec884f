"""The importance of a record's parts, drawn beside its ECG: bars of territories and of leads, and the map of waves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from screening.contract import TERRITORIES, WAVES
from screening.report.explained import Explanation, Parts, wave_map
from screening.report.notation import figure
from screening.report.paper import INK, Box, Lines, Mark, Words

WIDTH_MM = 122.0
FOR, AGAINST = "#b4460f", "#1f4e8c"
"""Of importance: speaks for infarction, speaks against it. Apart for the colour-blind, and by direction as well."""
_TINT_FOR, _TINT_AGAINST = (255, 208, 138), (186, 209, 240)
_QUIET, _RULE = "#5f5f5f", "#d5d5d5"
_AXIS_MM = 11.0  # left of bars, for the labels of their axis
_MAP_MM = (15.0, 10.5, 3.4)  # room for territories, a column, a row
_LEADS_HIGH_MM, _HIGH_MM = 33.0, 45.0
"""What leads alone need, and territories and waves over them."""

_MEANING = "Fall of the logit when a part is taken from other patients' ECGs."
_SIGN = "Above 0 speaks for infarction. Whiskers: ±1.96 standard errors{}."
_SHARED = " (of leads: their mean)"


def panel_height(explanation: Explanation) -> float:
    """Return the height of the panel in mm; 0 where nothing is to be drawn."""
    drawn = explanation.parts.keys()
    if "territory" in drawn or "wave" in drawn:
        return _HIGH_MM if "lead" in drawn else _HIGH_MM - 15.0
    return _LEADS_HIGH_MM if "lead" in drawn else 0.0


def draw_panel(page: list[Mark], explanation: Explanation, left: float, top: float) -> None:
    """Draw what the explanation holds of leads, territories and waves, its upper left corner at ``left`` and ``top``."""
    parts, right = explanation.parts, left + WIDTH_MM
    page.append(Words(left, top + 2.6, "Importance, in logits", 2.8, bold=True))
    page.append(Words(right, top + 2.6, _MEANING, 2.4, _QUIET, anchor="end"))
    page.append(Words(left, top + 5.9, _SIGN.format(_SHARED if "lead" in parts else ""), 2.4, _QUIET))
    y = top + 9.8
    territories, waves, leads = parts.get("territory"), parts.get("wave"), parts.get("lead")
    beside = y
    if territories is not None:
        _title(page, left, y, "Territories", territories)
        _draw_bars(page, territories, left, left + 50, y + 2.2, y + 14.2)
        beside = y + 18.4
    if waves is not None:
        _title(page, left + 56, y, "Waves by territory", waves)
        _draw_map(page, waves, right - _MAP_MM[0] - len(WAVES) * _MAP_MM[1], y + 1.2)
        beside = y + 18.4
    if leads is not None:
        tall = beside == y
        y = beside + (0 if tall else 2.2)
        _title(page, left, y, "Leads, each alone", leads)
        _draw_bars(page, leads, left, right, y + 2, y + (18.6 if tall else 10.2))


def tint(value: float, largest: float, least: float = 0.1) -> str:
    """Return the shade of an importance beside the ``largest``: orange for infarction, blue against it."""
    share = min(1.0, max(least, abs(value) / largest)) if largest > 0 else 0.0
    colour = _TINT_FOR if value > 0 else _TINT_AGAINST
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in colour)


def _title(page: list[Mark], x: float, y: float, title: str, parts: Parts) -> None:
    page.append(Words(x, y, title, 2.6, bold=True))
    words = f"operator '{parts.operator}', {parts.donors} donors"
    page.append(Words(x + 0.66 * 2.6 * len(title), y, words, 2.3, _QUIET))


def _draw_bars(page: list[Mark], parts: Parts, left: float, right: float, top: float, bottom: float) -> None:
    """Draw a bar with its whisker for each part, between the axis at ``left`` and ``right``; names stand below."""
    half = parts.half
    high = max(0.0, float((parts.mean + half).max()))
    low = min(0.0, float((parts.mean - half).min()))
    scale = (bottom - top) / ((high - low) or 1.0)
    zero = top + high * scale
    for value in (float(parts.mean.max()), 0.0, float(parts.mean.min())):
        y = zero - value * scale
        if value == 0 or (abs(y - zero) > 2.4 and (value > 0) == (y < zero)):
            page.append(Lines([np.array([[left + _AXIS_MM - 1, y], [right, y]])], _RULE, 0.12))
            said = figure(value, 2, signed=True) if value else "0"
            page.append(Words(left + _AXIS_MM - 2, y + 0.9, said, 2.4, _QUIET, anchor="end"))
    pitch = (right - left - _AXIS_MM) / len(parts.names)
    whiskers: list[np.ndarray] = []
    for at, name in enumerate(parts.names):
        x, value = left + _AXIS_MM + at * pitch, float(parts.mean[at])
        y = zero - value * scale
        width = min(0.7 * pitch, 5.6)
        page.append(
            Box(x + (pitch - width) / 2, min(y, zero), width, abs(y - zero), fill=FOR if value > 0 else AGAINST)
        )
        page.append(Words(x + pitch / 2, bottom + 3.0, name, 2.5, anchor="middle"))
        whiskers += _whisker(x + pitch / 2, y, float(half[at]) * scale)
    page.append(Lines([np.array([[left + _AXIS_MM - 1, zero], [right, zero]])], INK, 0.18))
    page.append(Lines(whiskers, INK, 0.25))


def _whisker(x: float, y: float, half: float) -> Sequence[np.ndarray]:
    if half <= 0:
        return []
    ends = [np.array([[x - 0.6, y + way * half], [x + 0.6, y + way * half]]) for way in (-1, 1)]
    return [np.array([[x, y - half], [x, y + half]]), *ends]


def _draw_map(page: list[Mark], waves: Parts, left: float, top: float) -> None:
    """Draw the importances of waves (columns) by territory (rows) as figures on the shades that the traces have."""
    room, across, down = _MAP_MM
    by_wave, beyond = wave_map(waves), waves.beyond.reshape(len(WAVES), len(TERRITORIES))
    largest = float(np.abs(by_wave).max())
    for column, wave in enumerate(WAVES):
        x = left + room + column * across
        page.append(Words(x + across / 2, top + 2.4, wave, 2.5, anchor="middle"))
        for row in range(len(TERRITORIES)):
            value, y = float(by_wave[column, row]), top + 3.3 + row * down
            there = bool(beyond[column, row])
            fill = tint(value, largest) if there else "#f4f4f4"
            page.append(Box(x + 0.15, y + 0.15, across - 0.3, down - 0.3, fill=fill))
            said = figure(value, 2, signed=True)
            page.append(Words(x + across / 2, y + 2.6, said, 2.4, INK if there else _QUIET, anchor="middle"))
    for row, wall in enumerate(TERRITORIES):
        page.append(Words(left + room - 1.5, top + 5.9 + row * down, wall, 2.5, anchor="end"))
