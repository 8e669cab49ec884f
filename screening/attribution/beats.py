"""Where the waves of every beat lie: one set of times for all leads, found on the eight independent leads together.

Beats are where the leads move fastest together. Their limits are found on the median beat, which has little noise, and then
laid on every beat. Speed over all leads is that of a loop in space, as in the vectorcardiogram's spatial velocity, so that a
wave which one lead shows as a straight line is still found. Ends of P and T are where they have fallen to a share of their
height. The input is the network's: filtered without phase, 0.5-40 Hz, which rounds the corners of a QRS by some 10 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.ndimage import uniform_filter1d

from screening.contract import INDEPENDENT_LEADS, LEADS, WAVES

FINE_HZ = 500
"""Everything is found at this rate: between the samples of a filtered recording lies what the filter left."""

_LEADS = [LEADS.index(lead) for lead in INDEPENDENT_LEADS]
_BEFORE_S, _AFTER_S = 0.40, 0.62  # of the median beat around R
_REFRACTORY_S = 0.25
_SMALL_MV = 0.03  # over eight leads together: below it a wave is not told from noise
_SMALL_P_MV = 0.06  # what the filters leave of the line before a QRS without P reaches 0.05
_EDGE_S = 0.02  # half of the rounded edge of a mask


@dataclass(frozen=True)
class Beats:
    """Times of every beat, float64 (beats,), in seconds from the first sample; NaN where a beat has no such wave."""

    p_on: np.ndarray
    p_off: np.ndarray
    qrs_on: np.ndarray
    r: np.ndarray  # where the loop of the QRS is widest
    qrs_off: np.ndarray
    t_on: np.ndarray
    t_off: np.ndarray

    def __len__(self) -> int:
        return len(self.r)

    def window(self, wave: str) -> np.ndarray:
        """Return when one of ``contract.WAVES`` begins and ends in each beat, (beats, 2); ST lies between QRS and T."""
        ends = {
            "P": (self.p_on, self.p_off),
            "QRS": (self.qrs_on, self.qrs_off),
            "ST": (self.qrs_off, self.t_on),
            "T": (self.t_on, self.t_off),
        }
        return np.column_stack(ends[wave])


NO_BEATS = Beats(*(np.empty(0) for _ in range(7)))


def finely(signal_mV: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the signal (leads, n) at `FINE_HZ`, float32."""
    ratio = Fraction(FINE_HZ / rate_hz).limit_denominator(1000)
    if ratio == 1:
        return np.asarray(signal_mV, np.float32)
    from scipy.signal import resample_poly  # here, as below: half a second that a driver can do without

    fine = resample_poly(signal_mV, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    return np.asarray(fine, np.float32)


def delineate(signal_mV: np.ndarray, rate_hz: float) -> Beats:
    """Find the beats of a recording and the waves in them.

    Parameters
    ----------
    signal_mV
        float (12, n), filtered, finite.
    rate_hz
        Samples a second.

    Returns
    -------
    Beats
        Of length 0 where no beats are found. A beat's QRS lies within the recording; its P and T may not.
    """
    fine = finely(signal_mV, rate_hz)[_LEADS].astype(np.float64)
    n = fine.shape[1]
    if n < FINE_HZ:
        return NO_BEATS
    speed = _speed(fine)
    centres = _centres(speed)
    if len(centres) < 2:
        return NO_BEATS
    centres, template, alike = _aligned(fine, centres)
    times = _limits(template, alike, rr=float(np.median(np.diff(centres))) if len(centres) > 1 else FINE_HZ)
    if times is None:
        return NO_BEATS
    before = round(_BEFORE_S * FINE_HZ)
    at = centres[:, None] + (times - before)[None, :]  # (beats, 7) in fine samples
    at = at[(at[:, 2] >= 0) & (at[:, 4] <= n - 1)]
    if not len(at):
        return NO_BEATS
    # A wave ends before the next beat's first one begins.
    starts = np.where(np.isfinite(at[1:, 0]), at[1:, 0], at[1:, 2] - 0.04 * FINE_HZ)
    short = at[:-1, 6] > starts
    at[:-1, 6] = np.where(short, starts, at[:-1, 6])
    crowded = at[:-1, 6] < at[:-1, 5] + 0.04 * FINE_HZ
    at[:-1][crowded, 5:] = np.nan
    return Beats(*(at / FINE_HZ).T)


def wave_masks(beats: Beats, rate_hz: float, samples: int) -> np.ndarray:
    """Return when each of ``contract.WAVES`` lasts: float32 (4, samples) between 0 and 1, their sum at most 1.

    Edges are half cosines of 40 ms, centred where waves begin and end, so that neighbours give way to each other.
    """
    time = np.arange(samples) / rate_hz
    masks = np.zeros((len(WAVES), samples))
    for mask, wave in zip(masks, WAVES, strict=True):
        for start, end in beats.window(wave):
            if not end > start:  # NaN too
                continue
            edge = min(_EDGE_S, (end - start) / 2)
            rise = np.clip((time - start + edge) / (2 * edge), 0, 1)
            fall = np.clip((end + edge - time) / (2 * edge), 0, 1)
            np.maximum(mask, (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 - 0.5 * np.cos(np.pi * fall)), out=mask)
    return (masks / np.maximum(masks.sum(axis=0), 1)).astype(np.float32)


def _speed(fine: np.ndarray) -> np.ndarray:
    """Return how fast the leads move together, mV/s (n,), smoothed over 20 ms."""
    slope = np.gradient(uniform_filter1d(fine, 5, axis=1), axis=1) * FINE_HZ
    return np.asarray(uniform_filter1d(np.sqrt(np.square(slope).sum(axis=0)), 9))


def _centres(speed: np.ndarray) -> np.ndarray:
    """Return the samples about which beats are fastest."""
    envelope = uniform_filter1d(speed, round(0.08 * FINE_HZ))
    blocks = envelope[: len(envelope) // FINE_HZ * FINE_HZ].reshape(-1, FINE_HZ).max(axis=1)
    level = float(np.median(blocks[blocks >= 0.3 * np.quantile(blocks, 0.9)]))  # of seconds that hold a beat
    if not level > 1.0:  # mV/s; a QRS of 0.1 mV in one lead is above it
        return np.empty(0, np.int64)
    from scipy.signal import find_peaks

    peaks, _ = find_peaks(envelope, height=0.25 * level, distance=round(_REFRACTORY_S * FINE_HZ))
    high = envelope[peaks] >= 0.45 * level
    # Of the lower ones those count that are not a T wave of the beat before: no high one within 0.4 s before them.
    kept = [
        i
        for i, peak in enumerate(peaks)
        if high[i] or not np.any(high & (peaks < peak) & (peaks > peak - 0.4 * FINE_HZ))
    ]
    found = peaks[kept]
    gaps = np.diff(found)
    if len(found) > 3:  # a low one stays only where a beat is missing
        usual = np.median(gaps)
        lonely = envelope[found] < 0.45 * level
        near = np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf)) < 0.6 * usual
        found = found[~(lonely & near)]
    return np.asarray(found)


def _aligned(fine: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the centres moved so that beats lie on each other, the median beat (8, w), and two halves' means (2, 8, w)."""
    before, after = round(_BEFORE_S * FINE_HZ), round(_AFTER_S * FINE_HZ)
    reach, core = round(0.04 * FINE_HZ), round(0.07 * FINE_HZ)
    padded = np.pad(fine, ((0, 0), (before + reach, after + reach)), mode="edge")

    def cut(at: np.ndarray, first: int, last: int) -> np.ndarray:
        places = (at + before + reach)[:, None] + np.arange(first, last)[None, :]
        return padded[:, places].transpose(1, 0, 2)  # (beats, 8, width)

    for _ in range(2):
        shape = cut(centres, -core, core)
        template = np.median(shape, axis=0)
        template -= template.mean(axis=1, keepdims=True)
        around = cut(centres, -core - reach, core + reach)
        windows = np.lib.stride_tricks.sliding_window_view(around, 2 * core, axis=2)  # (beats, 8, lags, width)
        products = np.einsum("bclw,cw->bl", windows, template, optimize=True)
        norms = np.sqrt(np.maximum(np.square(windows - windows.mean(axis=3, keepdims=True)).sum(axis=(1, 3)), 1e-12))
        likeness = products / norms / max(float(np.linalg.norm(template)), 1e-9)
        best = likeness.argmax(axis=1)
        centres = centres + best - reach
    usual = likeness.max(axis=1) > 0.7  # others, such as ventricular extrasystoles, do not shape the median beat
    chosen = centres[usual] if usual.sum() >= 2 else centres
    inner = chosen[(chosen >= before) & (chosen < fine.shape[1] - after)]
    chosen = inner if len(inner) >= 2 else chosen
    beats = cut(chosen, -before, after)
    beats = beats - np.median(beats[:, :, : before - round(0.05 * FINE_HZ)], axis=2, keepdims=True)
    halves = np.stack([beats[0::2].mean(axis=0), beats[1::2].mean(axis=0)])
    return centres, np.median(beats, axis=0), halves


def _limits(beat: np.ndarray, halves: np.ndarray, *, rr: float) -> np.ndarray | None:
    """Return p_on, p_off, qrs_on, r, qrs_off, t_on, t_off on the median beat, in samples of it; None without a QRS."""
    before = round(_BEFORE_S * FINE_HZ)
    speed = _speed(beat)
    reach = round(0.13 * FINE_HZ)
    first, last = before - reach, before + reach
    top = first + int(speed[first:last].argmax())
    high = float(speed[top])
    if high < 1.0:
        return None
    quiet = float(np.quantile(speed[round(0.06 * FINE_HZ) :], 0.15))
    low = max(0.06 * high, min(2.5 * quiet, 0.15 * high))
    on = _still(speed, top, -1, low, round(0.016 * FINE_HZ), round(0.14 * FINE_HZ))
    off = _still(speed, top, 1, max(low, 0.10 * high), round(0.020 * FINE_HZ), round(0.17 * FINE_HZ))
    level = beat[:, max(on - 8, 0) : max(on - 1, 1)].mean(axis=1, keepdims=True)  # just before the QRS
    height = uniform_filter1d(np.sqrt(np.square(beat - level).sum(axis=0)), 11)
    r = on + int(np.sqrt(np.square(beat - level).sum(axis=0))[on : off + 1].argmax())
    noise = float(np.sqrt(np.square(halves[0] - halves[1]).sum(axis=0)).mean() / 2)
    p_on, p_off = _p_wave(beat, halves, on, noise, rr)
    t_on, t_off = _t_wave(height, off, noise, rr, before)
    return np.array([p_on, p_off, on, r, off, t_on, t_off], np.float64)


def _still(speed: np.ndarray, top: int, step: int, low: float, lasting: int, furthest: int) -> int:
    """Return where the speed, going from its top, first stays below ``low`` for a while; else the stillest place."""
    at = top
    for distance in range(1, furthest + 1):
        at = top + step * distance
        if not 0 <= at < len(speed):
            return at - step
        ahead = speed[at : at + lasting] if step > 0 else speed[max(0, at - lasting + 1) : at + 1]
        if (ahead < low).all():
            return at
    span = range(top + step * furthest, top + step * round(0.03 * FINE_HZ), -step)
    return min((place for place in span if 0 <= place < len(speed)), key=lambda place: speed[place], default=at)


def _p_wave(beat: np.ndarray, halves: np.ndarray, on: int, noise: float, rr: float) -> tuple[float, float]:
    """Return begin and end of P, NaN where none stands out or where beats do not agree on it (fibrillation)."""
    start, end = max(0, on - round(min(0.30, 0.45 * rr / FINE_HZ) * FINE_HZ)), on - round(0.012 * FINE_HZ)
    if end - start < round(0.06 * FINE_HZ):
        return np.nan, np.nan
    part = beat[:, start:end]
    line = np.linspace(part[:, 0], part[:, -1], part.shape[1]).T  # from the TP level to the PR level
    height = uniform_filter1d(np.sqrt(np.square(part - line).sum(axis=0)), 9)
    peak = int(height.argmax())
    one, other = (half[:, start:end] - half[:, start:end].mean(axis=1, keepdims=True) for half in halves)
    agreement = float((one * other).sum() / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9))
    if height[peak] < max(_SMALL_P_MV, 2 * noise) or agreement < 0.6:
        return np.nan, np.nan
    low = 0.2 * height[peak]
    below = np.flatnonzero(height[:peak] < low)
    above = np.flatnonzero(height[peak:] < low)
    first = int(below[-1]) if len(below) else 0
    last = peak + int(above[0]) if len(above) else len(height) - 1
    if last - first < round(0.04 * FINE_HZ):
        return np.nan, np.nan
    return float(start + first), float(start + last)


def _t_wave(height: np.ndarray, off: int, noise: float, rr: float, before: int) -> tuple[float, float]:
    """Return begin and end of T on the height above the level before the QRS; NaN where none stands out."""
    end = min(len(height) - 1, before + round(min(0.60, 0.72 * rr / FINE_HZ) * FINE_HZ))
    start = off + round(0.06 * FINE_HZ)
    if end - start < round(0.10 * FINE_HZ):
        return np.nan, np.nan
    peak = start + int(height[start:end].argmax())
    after = height[peak:end]
    rest = float(after.min())
    if height[peak] - rest < max(_SMALL_MV, 2 * noise):
        return np.nan, np.nan
    low = rest + 0.15 * (height[peak] - rest)
    past = np.flatnonzero(after <= low)
    last = peak + int(past[0]) if len(past) else end
    valley = off + int(height[off : peak + 1].argmin())
    rise = height[valley] + 0.15 * (height[peak] - height[valley])
    under = np.flatnonzero(height[valley : peak + 1] <= rise)
    first = valley + int(under[-1]) if len(under) else valley
    first = max(first, off + round(0.02 * FINE_HZ))
    return float(first), float(max(last, first + round(0.06 * FINE_HZ)))
