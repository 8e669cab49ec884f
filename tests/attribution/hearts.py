"""ECGs written out wave by wave, so that every time and amplitude is known."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from screening.contract import DERIVED_LEADS, LEADS

RATE_HZ = 500

# Lead -> heights in mV of P, Q, R, S and T of a normal beat.
NORMAL = {
    "I": (0.08, 0.00, 0.70, 0.10, 0.20),
    "II": (0.12, 0.05, 1.00, 0.15, 0.30),
    "V1": (0.05, 0.00, 0.20, 0.90, 0.05),
    "V2": (0.06, 0.00, 0.45, 1.10, 0.45),
    "V3": (0.06, 0.00, 0.80, 0.80, 0.45),
    "V4": (0.06, 0.03, 1.30, 0.50, 0.40),
    "V5": (0.06, 0.06, 1.20, 0.25, 0.35),
    "V6": (0.06, 0.06, 0.95, 0.10, 0.25),
}


def beat_times(rate_bpm: float = 70.0, seconds: float = 10.0, first: float = 0.45) -> np.ndarray:
    """Return times of R, s."""
    return np.arange(first, seconds - 0.45, 60 / rate_bpm)


def ecg(
    *,
    r_s: np.ndarray | None = None,
    seconds: float = 10.0,
    leads: dict[str, tuple[float, float, float, float, float]] | None = None,
    with_p: bool = True,
    st_mV: dict[str, float] | None = None,
    noise_mV: float = 0.002,
    width: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Return an ECG, float32 (12, n) at 500 Hz: half-sine Q, R and S of 36, 44 and 36 ms, Gaussian P and T.

    Q begins 40 ms before R and R's own half-sine is centred on it; ``width`` stretches all three.
    """
    heights = {**NORMAL, **(leads or {})}
    times = beat_times(seconds=seconds) if r_s is None else r_s
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    traces = dict.fromkeys(heights, np.zeros(0))

    def half_sine(centre: float, length: float) -> np.ndarray:
        phase = (t - centre) / length
        return np.where(np.abs(phase) <= 0.5, np.cos(np.pi * phase), 0.0)

    for lead, (p, q, r, s, wave_t) in heights.items():
        trace = np.zeros_like(t)
        for at in times:
            trace += p * np.exp(-0.5 * ((t - at + 0.16) / 0.022) ** 2) * with_p
            trace -= q * half_sine(at - 0.040 * width, 0.036 * width)
            trace += r * half_sine(at, 0.044 * width)
            trace -= s * half_sine(at + 0.040 * width, 0.036 * width)
            trace += wave_t * np.exp(-0.5 * ((t - at - 0.28) / 0.045) ** 2)
            level = (st_mV or {}).get(lead, 0.0)
            trace += level * (expit((t - at - 0.062 * width) / 0.004) - expit((t - at - 0.28) / 0.02))
        traces[lead] = trace + np.random.default_rng([seed, LEADS.index(lead)]).normal(0, noise_mV, len(t))
    for lead, (a, b) in DERIVED_LEADS.items():
        traces[lead] = a * traces["I"] + b * traces["II"]
    return np.stack([traces[lead] for lead in LEADS]).astype(np.float32)
