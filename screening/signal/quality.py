"""What is measured of a recording's quality, when it is refused, and what else is doubtful.

Measured is the central 10 s, which is what is scored, whatever the length of the recording; only ``duration_s`` tells of
the whole. One Fourier transform a record serves all measures. Each record is computed by
operations of its own shape only, so its values do not depend on the batch it travels in.

A limit refuses what no network should score; a flag says what a reader of the scores should know. Limits were set on
PTB-XL folds 1-8 (``python -m tests.studies.quality_limits``): far outside what 2,331 clinical recordings show, so
that a refusal is rare and right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import fft

from screening.contract import DERIVED_LEADS, LEADS, QUALITY_LIMITS, Reason
from screening.signal.preprocess import fill_gaps

JUDGED_S = 10.0
ECG_BAND_HZ = (0.5, 40.0)
QRS_BAND_HZ = (5.0, 40.0)
T_LOW_HZ = 0.8
NOISE_TOP_HZ = 125.0
"""Electromyogram and amplifier noise are measured from 40 Hz up to here, or to the Nyquist frequency."""
MAINS_HZ = (50.0, 60.0)
FLAT_BLOCK_S = 0.2
FLAT_STEP_MV = 5e-4  # less than one step of any recorder
ABSURD_MV = 1e6
"""Beyond this nothing else is measured: single precision would overflow."""
HANN_POWER = 3 / 8  # mean square of the window
LEAD_I_WEIGHTS = np.zeros(12)
LEAD_I_WEIGHTS[5:] = (-0.66, -0.36, 0.08, 0.08, 0.05, 0.09, 0.41)  # aVF, V1..V6
"""Lead I from the others, by least squares (``python -m tests.studies.quality_limits``)."""
PLATEAU_S = 0.02
"""A QRS peak stands still for one or two samples; an amplifier at its limit for longer."""

FLAGS: dict[str, str] = {
    "missing": "samples are missing and were interpolated",
    "flat": "a lead stands still for some of the time",
    "clipped": "a lead stands at the limits of its range for some of the time",
    "einthoven": "the limb leads do not quite obey Einthoven's law",
    "mains": "mains interference",
    "baseline": "strong baseline wander",
    "noise": "strong high-frequency noise",
    "amplitude": "a lead is larger than nearly every ECG: an electrode that comes off, or a defibrillator",
    "suspected_limb_reversal": "lead I runs against what the other leads let expect: arm electrodes probably swapped",
    "identical_chest_leads": "two chest leads are nearly the same signal",
}
"""One-line meaning of every name in ``quality_flags`` that quality gives (the reader adds its own)."""


def quality_settings() -> dict[str, float]:
    """Return the limits, for the plan's hash."""
    return asdict(QUALITY_LIMITS)


def assess(signals_mV: np.ndarray, rate_hz: float) -> dict[str, np.ndarray]:
    """Measure recordings of one rate and length.

    Parameters
    ----------
    signals_mV
        (records, 12, samples) in mV, NaN where missing.
    rate_hz
        Samples a second.

    Returns
    -------
    dict
        Column of `contract.QUALITY_COLUMNS` -> (records,); beside them ``lead_amplitude_mV``, of the smallest lead, and
        ``einthoven_share``, which verdicts need and rows do not.
    """
    records, _, n = signals_mV.shape
    rows = [_measure(signal, rate_hz) for signal in signals_mV]
    found = {name: np.array([row[name] for row in rows], np.float32) for name in _MEASURES}
    found["duration_s"] = np.full(records, n / rate_hz, np.float32)
    found["source_rate_hz"] = np.full(records, rate_hz, np.float32)
    found["quality_flags"] = np.array([",".join(_flags(row)) for row in rows], object)
    return found


_MEASURES = (
    "missing_fraction",
    "flat_fraction",
    "clipped_fraction",
    "amplitude_mV",
    "lead_amplitude_mV",
    "einthoven_mV",
    "einthoven_share",
    "mains_mV",
    "baseline_mV",
    "noise_mV",
)


_UNKNOWN = dict.fromkeys((*_MEASURES, "lead_I_likeness", "chest_likeness"), float("nan"))


def verdicts(quality: Mapping[str, Any]) -> list[tuple[Reason, str] | None]:
    """Return for each record of `assess` the reason and the sentence that refuse it, or None."""
    rows = zip(*(quality[name] for name in _MEASURES), strict=True)
    return [_verdict(dict(zip(_MEASURES, row, strict=True))) for row in rows]


def _verdict(q: Mapping[str, float]) -> tuple[Reason, str] | None:
    limit = QUALITY_LIMITS
    if not q["missing_fraction"] <= limit.max_missing_fraction:
        return Reason.MISSING_SAMPLES, (
            f"{q['missing_fraction']:.0%} of a lead's samples are missing (limit {limit.max_missing_fraction:.0%})"
        )
    if not q["amplitude_mV"] <= limit.max_amplitude_mV:
        return Reason.IMPLAUSIBLE_AMPLITUDE, (
            f"the largest lead has {q['amplitude_mV']:.3g} mV peak to peak (limit {limit.max_amplitude_mV:g} mV)"
        )
    # Even an ECG stands still if it is read a thousand times too small, so this is asked before.
    if FLAT_STEP_MV < q["amplitude_mV"] < limit.min_amplitude_mV:
        return Reason.IMPLAUSIBLE_AMPLITUDE, (
            f"the largest lead has {q['amplitude_mV']:.3g} mV peak to peak (at least {limit.min_amplitude_mV:g} mV)"
        )
    if q["flat_fraction"] > limit.max_flat_fraction:
        return Reason.FLAT_LEAD, (
            f"a lead stands still for {q['flat_fraction']:.0%} of the time (limit {limit.max_flat_fraction:.0%})"
        )
    if q["lead_amplitude_mV"] < limit.min_lead_amplitude_mV:
        return Reason.FLAT_LEAD, (
            f"a lead has {q['lead_amplitude_mV']:.3g} mV peak to peak (at least {limit.min_lead_amplitude_mV:g} mV)"
        )
    if q["clipped_fraction"] > limit.max_clipped_fraction:
        return Reason.CLIPPED, (
            f"a lead is clipped for {q['clipped_fraction']:.0%} of the time (limit {limit.max_clipped_fraction:.0%})"
        )
    if q["einthoven_mV"] > limit.max_einthoven_mV and q["einthoven_share"] > limit.max_einthoven_share:
        return Reason.INCONSISTENT_LIMB_LEADS, (
            f"the limb leads miss Einthoven's law by {q['einthoven_mV']:.2g} mV, {q['einthoven_share']:.0%} of their size "
            f"(limit {limit.max_einthoven_share:.0%})"
        )
    if q["noise_mV"] > limit.max_noise_mV:
        return Reason.NOISE, f"noise of {q['noise_mV']:.2g} mV above 40 Hz (limit {limit.max_noise_mV:g} mV)"
    return None


def _flags(q: Mapping[str, Any]) -> list[str]:
    limit = QUALITY_LIMITS
    raised = {
        "missing": q["missing_fraction"] > 0,
        "flat": q["flat_fraction"] > limit.flag_flat_fraction,
        "clipped": q["clipped_fraction"] > limit.flag_clipped_fraction,
        "einthoven": q["einthoven_mV"] > limit.flag_einthoven_mV,
        "mains": q["mains_mV"] > limit.flag_mains_mV,
        "baseline": q["baseline_mV"] > limit.flag_baseline_mV,
        "noise": q["noise_mV"] > limit.flag_noise_mV,
        "amplitude": q["amplitude_mV"] > limit.flag_amplitude_mV,
        "suspected_limb_reversal": q["lead_I_likeness"] < limit.flag_reversal,
        "identical_chest_leads": q["chest_likeness"] > limit.flag_identical,
    }
    return [name for name in FLAGS if raised[name]]


def _measure(recorded: np.ndarray, rate_hz: float) -> dict[str, float]:
    """Measure one recording, (12, samples) in mV."""
    n = min(recorded.shape[1], round(JUDGED_S * rate_hz))
    n = fft.prev_fast_len(n, real=True) if n > 1 else n
    start = (recorded.shape[1] - n) // 2
    signal = recorded[:, start : start + n]
    finite = np.isfinite(signal)
    missing = 0.0 if finite.all() else float(1 - finite.mean(axis=1).min())
    if n < 2 or missing > QUALITY_LIMITS.max_missing_fraction:
        return _UNKNOWN | {"missing_fraction": missing if n > 1 else 1.0}
    signal = fill_gaps(signal)
    lowest, highest = signal.min(axis=1, keepdims=True), signal.max(axis=1, keepdims=True)
    largest = max(abs(float(lowest.min())), abs(float(highest.max())))
    if largest > ABSURD_MV:
        return _UNKNOWN | {"missing_fraction": missing, "amplitude_mV": largest}

    spectrum = _Spectrum(signal, rate_hz)
    ecg = spectrum.band(*ECG_BAND_HZ, rate_hz=100.0)
    parts = max(
        1, min(5, int(n / rate_hz))
    )  # fifths, of a second or more; their median, so that one artefact does not count
    windows = ecg[:, : ecg.shape[1] // parts * parts].reshape(len(ecg), parts, -1)
    amplitude = np.median(np.ptp(windows, axis=2), axis=1)
    limb = {lead: ecg[LEADS.index(lead)] for lead in LEADS[:6]}
    residual = [
        float(np.std(limb[lead] - of_i * limb["I"] - of_ii * limb["II"]))
        for lead, (of_i, of_ii) in DERIVED_LEADS.items()
    ]
    limb_size = float(np.sqrt(np.mean(np.square(ecg[:6]))))
    qrs, below = spectrum.products(*QRS_BAND_HZ), spectrum.products(T_LOW_HZ, QRS_BAND_HZ[0])
    size = np.sqrt(np.diag(qrs)[6:])
    chest = (qrs[6:, 6:] / np.maximum(np.outer(size, size), 1e-12))[np.triu_indices(6, 1)]
    flat = _flat(signal, rate_hz)
    return {
        "missing_fraction": missing,
        "flat_fraction": float(flat.max()),
        "clipped_fraction": _clipped((signal == lowest) | (signal == highest), rate_hz, flat),
        "amplitude_mV": float(amplitude.max()),
        "lead_amplitude_mV": float(amplitude.min()),
        "einthoven_mV": max(residual),
        "einthoven_share": max(residual) / max(limb_size, 1e-9),
        "mains_mV": float(np.sqrt(np.max([spectrum.peak_power(f) for f in MAINS_HZ], axis=0).max())),
        "baseline_mV": float(np.sqrt(spectrum.power(0.5 / JUDGED_S, ECG_BAND_HZ[0]).max())),
        "noise_mV": float(spectrum.noise().max()),
        "lead_I_likeness": _lead_I_likeness(qrs + below),
        "chest_likeness": float(chest.max()),
    }


class _Spectrum:
    """The transform of one recording, (12, bins), and what is read off it."""

    def __init__(self, signal: np.ndarray, rate_hz: float) -> None:
        self._n = signal.shape[1]
        self._step_hz = rate_hz / self._n
        self._bins = fft.rfft(signal - signal.mean(axis=1, keepdims=True))

    def _slice(self, low_hz: float, high_hz: float) -> slice:
        top = self._bins.shape[1]
        return slice(*(min(int(np.ceil(hz / self._step_hz)), top) for hz in (low_hz, high_hz)))

    def power(self, low_hz: float, high_hz: float) -> np.ndarray:
        """Mean square of each lead between two frequencies, mV^2."""
        part = self._bins[:, self._slice(low_hz, high_hz)]
        return 2 * (np.square(part.real) + np.square(part.imag)).sum(axis=1) / self._n**2

    def peak_power(self, hz: float) -> np.ndarray:
        """Mean square of each lead at one frequency above what its neighbourhood holds, mV^2.

        Under a Hann window, or a step of the baseline, whose spectrum is wide, would look like mains.
        """
        kept = self._slice(hz - 3, hz + 3)
        if kept.start < 1 or kept.stop + 1 > self._bins.shape[1]:
            return np.zeros(len(self._bins), np.float32)
        bins = self._bins[:, kept.start - 1 : kept.stop + 1]
        bins = bins[:, 1:-1] / 2 - (bins[:, :-2] + bins[:, 2:]) / 4
        power = 2 * (np.square(bins.real) + np.square(bins.imag)) / self._n**2 / HANN_POWER
        off_hz = np.abs(np.arange(kept.start, kept.stop) * self._step_hz - hz)
        near, around = off_hz <= 0.5, off_hz > 1
        if not (near.any() and around.any()):
            return np.zeros(len(self._bins), np.float32)
        return np.maximum(power[:, near].sum(axis=1) - power[:, around].mean(axis=1) * near.sum(), 0)

    def band(self, low_hz: float, high_hz: float, *, rate_hz: float, without: tuple[float, ...] = ()) -> np.ndarray:
        """Return the leads limited to a band, at about ``rate_hz``."""
        kept = self._slice(low_hz, high_hz)
        n = fft.next_fast_len(max(2 * kept.stop, round(rate_hz * self._seconds)), real=True)
        bins = self._bins[:, : kept.stop].copy()
        bins[:, : kept.start] = 0
        for hz in without:
            bins[:, self._slice(hz - 1, hz + 1)] = 0
        return fft.irfft(bins, n) * (n / self._n)

    def noise(self) -> np.ndarray:
        """Median over tenths of a second of the root mean square above 40 Hz without mains: QRS edges do not count."""
        top_hz = min(NOISE_TOP_HZ, self._bins.shape[1] * self._step_hz)
        if top_hz <= ECG_BAND_HZ[1] + 5:
            return np.zeros(len(self._bins), np.float32)
        harmonics = tuple(f * k for f in MAINS_HZ for k in (1, 2))
        high = self.band(ECG_BAND_HZ[1], top_hz, rate_hz=2 * NOISE_TOP_HZ, without=harmonics)
        blocks = max(1, round(self._seconds / 0.1))
        length = high.shape[1] // blocks
        parts = high[:, : blocks * length].reshape(len(high), blocks, length)
        return np.sqrt(np.median(np.square(parts).mean(axis=2), axis=1))

    @property
    def _seconds(self) -> float:
        return 1 / self._step_hz

    def products(self, low_hz: float, high_hz: float) -> np.ndarray:
        """Return the (12, 12) sums of products of the leads within a band."""
        part = self._bins[:, self._slice(low_hz, high_hz)]
        return np.asarray(part.real @ part.real.T + part.imag @ part.imag.T, np.float64)


def _lead_I_likeness(products: np.ndarray) -> float:
    """Correlation of lead I with what aVF and the chest leads, which swapped arms leave as they are, let expect of it.

    The idea is of Kors and van Herpen (Am J Cardiol 2001; 88:396), the weights are least squares on PTB-XL folds 1-8.
    """
    expected = products @ LEAD_I_WEIGHTS
    size = np.sqrt(max(float(LEAD_I_WEIGHTS @ expected * products[0, 0]), 0.0))
    return float(expected[0] / max(size, 1e-12))


def _flat(signal: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return for each lead the share of blocks without any change."""
    length = max(2, int(FLAT_BLOCK_S * rate_hz))
    whole = signal[:, : signal.shape[1] // length * length]
    if not whole.shape[1]:
        return np.zeros(len(signal))
    starts = np.arange(0, whole.shape[1], length)
    change = np.maximum.reduceat(whole, starts, axis=1) - np.minimum.reduceat(whole, starts, axis=1)
    return np.asarray((change < FLAT_STEP_MV).mean(axis=1))


def _clipped(at_limit: np.ndarray, rate_hz: float, flat: np.ndarray) -> float:
    """Return the largest share of time that a lead spends in plateaus at its own highest or lowest value."""
    longest = max(3, round(PLATEAU_S * rate_hz))
    worst = 0.0
    for lead in np.flatnonzero((at_limit.sum(axis=1) >= longest) & (flat < QUALITY_LIMITS.max_flat_fraction)):
        edges = np.flatnonzero(np.diff(at_limit[lead], prepend=False, append=False))
        lengths = edges[1::2] - edges[::2]
        worst = max(worst, float(lengths[lengths >= longest].sum()) / at_limit.shape[1])
    return worst
