"""How large the waves of an ECG are, lead by lead, on its median beat.

Measured on the network's input (0.5-40 Hz, without phase), at 500 Hz, against the level just before the QRS. The filter
rounds a QRS: against the recording R loses 3% in the median, and durations gain 2 ms (`tests/studies/delineation.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from screening.attribution.beats import FINE_HZ, Beats, finely
from screening.contract import N_LEADS

LEAST_MV = 0.03
"""Deflections below this are not told from noise."""
_AFTER_J_S = 0.06


@dataclass(frozen=True)
class Measurements:
    """Of the median beat, in the order of ``contract.LEADS``."""

    q_ms: np.ndarray  # (12,), of a first deflection downwards that an R follows, or of a QS; 0 without one
    q_mV: np.ndarray  # (12,), its depth, not below 0
    r_ms: np.ndarray  # (12,), of the largest deflection upwards
    r_mV: np.ndarray  # (12,), its height, not below 0
    s_mV: np.ndarray  # (12,), depth of the largest deflection downwards after it, not below 0
    qs: np.ndarray  # bool (12,): downwards only
    st_mV: np.ndarray  # (12, 2), at the J point and 60 ms after it
    t_mV: np.ndarray  # (12,), where T is furthest from the level before the QRS; NaN without T
    qrs_ms: float
    rate_bpm: float
    beats: int


def measure(signal_mV: np.ndarray, rate_hz: float, beats: Beats) -> Measurements | None:
    """Measure the median beat; None with fewer than two beats.

    Parameters
    ----------
    signal_mV
        float (12, n), filtered.
    rate_hz
        Samples a second.
    beats
        As `beats.delineate` found them.
    """
    if len(beats) < 2:
        return None
    fine = finely(signal_mV, rate_hz).astype(np.float64)
    n = fine.shape[1]
    r = np.round(beats.r * FINE_HZ).astype(np.int64)
    to_on, to_off = _typical(beats.r, beats.qrs_on), _typical(beats.r, beats.qrs_off)
    with_t = np.isfinite(beats.t_on) & np.isfinite(beats.t_off)
    to_t = None
    if 2 * with_t.sum() >= len(beats):
        to_t = [_typical(beats.r[with_t], ends[with_t]) for ends in (beats.t_on, beats.t_off)]
    last = max([to_off + round(_AFTER_J_S * FINE_HZ), *(to_t or [])]) + 1
    first = to_on - 10
    inside = (r + first >= 0) & (r + last < n)
    if not inside.any():
        return None
    places = r[inside][:, None] + np.arange(first, last)
    each = fine[:, places]  # (12, beats, width)
    each -= each[:, :, 2:9].mean(axis=2, keepdims=True)  # 16 to 4 ms before the QRS
    beat = np.median(each, axis=1)
    on, off = to_on - first, to_off - first
    waves = np.array([_deflections(lead[on : off + 1]) for lead in beat])  # (12, 6)
    j = beat[:, [off, min(off + round(_AFTER_J_S * FINE_HZ), beat.shape[1] - 1)]]
    t_mV = np.full(N_LEADS, np.nan)
    if to_t is not None and to_t[1] > to_t[0]:
        part = beat[:, to_t[0] - first : to_t[1] - first + 1]
        t_mV = part[np.arange(N_LEADS), np.abs(part).argmax(axis=1)]
    return Measurements(
        q_ms=waves[:, 0] * 1000 / FINE_HZ,
        q_mV=waves[:, 1],
        r_ms=waves[:, 2] * 1000 / FINE_HZ,
        r_mV=waves[:, 3],
        s_mV=waves[:, 4],
        qs=waves[:, 5] > 0,
        st_mV=j,
        t_mV=t_mV,
        qrs_ms=float((to_off - to_on) * 1000 / FINE_HZ),
        rate_bpm=float(60 / np.median(np.diff(beats.r))),
        beats=int(inside.sum()),
    )


def _typical(r: np.ndarray, other: np.ndarray) -> int:
    """Return the usual distance from R, in samples at `FINE_HZ`."""
    return int(np.round(np.median(other - r) * FINE_HZ))


def _deflections(qrs: np.ndarray) -> tuple[float, float, float, float, float, float]:
    """Return Q in samples and mV, R in samples and mV, S in mV, and whether there is nothing but a QS."""
    signs = np.where(np.abs(qrs) < LEAST_MV / 3, 0, np.sign(qrs))
    ends = np.flatnonzero(np.diff(signs, prepend=0, append=0))
    parts = [
        (int(signs[a]), b - a, float(np.abs(qrs[a:b]).max()))
        for a, b in zip(ends[:-1], ends[1:], strict=True)
        if signs[a] and np.abs(qrs[a:b]).max() >= LEAST_MV
    ]
    up = [at for at, part in enumerate(parts) if part[0] > 0]
    if not parts:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if not up:
        deepest = max(parts, key=lambda part: part[2])
        return float(sum(part[1] for part in parts)), deepest[2], 0.0, 0.0, 0.0, 1.0
    tallest = max(up, key=lambda at: parts[at][2])
    q = parts[0] if parts[0][0] < 0 else (0, 0, 0.0)
    after = [part[2] for part in parts[tallest + 1 :] if part[0] < 0]
    return float(q[1]), q[2], float(parts[tallest][1]), parts[tallest][2], max(after, default=0.0), 0.0
