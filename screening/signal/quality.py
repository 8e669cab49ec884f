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
from screening.signal.spectra import spectra

JUDGED_S = 10.0
FLAT_BLOCK_S = 0.2
FLAT_STEP_MV = 5e-4  # less than one step of any recorder
ABSURD_MV = 1e6
"""Beyond this nothing else is measured: single precision would overflow."""
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
    measured = measure(signals_mV, rate_hz)
    found = {name: measured[name].astype(np.float32) for name in _MEASURES}
    found["duration_s"] = np.full(records, n / rate_hz, np.float32)
    found["source_rate_hz"] = np.full(records, rate_hz, np.float32)
    found["quality_flags"] = _flags(measured)
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


def _flags(q: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the flags of each record, separated by commas, (records,)."""
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
    columns = [raised[name].tolist() for name in FLAGS]
    joined = [",".join(name for name, up in zip(FLAGS, row, strict=True) if up) for row in zip(*columns, strict=True)]
    return np.array(joined, object)


def measure(recorded_mV: np.ndarray, rate_hz: float) -> dict[str, np.ndarray]:
    """Measure recordings as `assess` does, with what only flags rest on: ``lead_I_likeness`` and ``chest_likeness``.

    Returns
    -------
    dict
        Measure -> float64 (records,), NaN where a recording has too little that could be measured.
    """
    records = len(recorded_mV)
    found = {name: np.full(records, np.nan) for name in (*_MEASURES, "lead_I_likeness", "chest_likeness")}
    n = min(recorded_mV.shape[2], round(JUDGED_S * rate_hz))
    n = fft.prev_fast_len(n, real=True) if n > 1 else n
    start = (recorded_mV.shape[2] - n) // 2
    signal = recorded_mV[:, :, start : start + n]
    finite = np.isfinite(signal)
    gaps = not finite.all()
    missing = 1 - finite.mean(axis=2).min(axis=1) if gaps and n > 1 else np.full(records, 0.0 if n > 1 else 1.0)
    found["missing_fraction"][:] = missing
    of = np.flatnonzero(missing <= QUALITY_LIMITS.max_missing_fraction)
    if n < 2 or not of.size:
        return found
    if gaps:
        signal = np.stack([fill_gaps(signal[i]) for i in of])
    lowest, highest = signal.min(axis=2, keepdims=True), signal.max(axis=2, keepdims=True)
    largest = np.maximum(-lowest.min(axis=(1, 2)), highest.max(axis=(1, 2)))
    if (largest > ABSURD_MV).any():
        found["amplitude_mV"][of] = largest
        sane = largest <= ABSURD_MV
        of, signal, lowest, highest = of[sane], signal[sane], lowest[sane], highest[sane]
        if not of.size:
            return found
    for name, values in _measure_whole(signal, lowest, highest, rate_hz).items():
        found[name][of] = values
    return found


def _measure_whole(
    signal: np.ndarray, lowest: np.ndarray, highest: np.ndarray, rate_hz: float
) -> dict[str, np.ndarray]:
    """Measure recordings without gaps, (records, 12, samples) in mV, whose extremes are (records, 12, 1)."""
    records, leads, n = signal.shape
    found = spectra(signal, rate_hz)
    ecg = found.ecg_mV
    # Fifths, of a second or more; their median, so that one artefact does not count.
    parts = max(1, min(5, int(n / rate_hz)))
    windows = ecg[..., : ecg.shape[2] // parts * parts].reshape(records, leads, parts, -1)
    amplitude = np.median(np.ptp(windows, axis=3), axis=2)
    limb = {lead: ecg[:, LEADS.index(lead)] for lead in LEADS[:6]}
    residuals = [
        np.std(limb[lead] - of_i * limb["I"] - of_ii * limb["II"], axis=1)
        for lead, (of_i, of_ii) in DERIVED_LEADS.items()
    ]
    residual = np.max(residuals, axis=0)
    limb_size = np.sqrt(np.square(ecg[:, :6]).mean(axis=(1, 2)))
    size = np.sqrt(np.diagonal(found.qrs, axis1=1, axis2=2)[:, 6:])
    chest = found.qrs[:, 6:, 6:] / np.maximum(size[:, :, None] * size[:, None], 1e-12)
    flat = _flat(signal, rate_hz)
    return {
        "flat_fraction": flat.max(axis=1),
        "clipped_fraction": _clipped((signal == lowest) | (signal == highest), rate_hz, flat),
        "amplitude_mV": amplitude.max(axis=1),
        "lead_amplitude_mV": amplitude.min(axis=1),
        "einthoven_mV": residual,
        "einthoven_share": residual / np.maximum(limb_size, 1e-9),
        "mains_mV": found.mains_mV.max(axis=1),
        "baseline_mV": found.baseline_mV.max(axis=1),
        "noise_mV": found.noise_mV.max(axis=1),
        "lead_I_likeness": _lead_I_likeness(found.qrs + found.below),
        "chest_likeness": chest[:, *np.triu_indices(6, 1)].max(axis=1),
    }


def _lead_I_likeness(products: np.ndarray) -> np.ndarray:
    """Correlation of lead I with what aVF and the chest leads, which swapped arms leave as they are, let expect of it.

    The idea is of Kors and van Herpen (Am J Cardiol 2001; 88:396), the weights are least squares on PTB-XL folds 1-8.
    """
    expected = (products * LEAD_I_WEIGHTS).sum(axis=2)
    size = np.sqrt(np.maximum((expected * LEAD_I_WEIGHTS).sum(axis=1) * products[:, 0, 0], 0))
    return np.asarray(expected[:, 0] / np.maximum(size, 1e-12))


def _flat(signal: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return for each lead the share of blocks without any change, (records, 12)."""
    length = max(2, int(FLAT_BLOCK_S * rate_hz))
    blocks = signal.shape[2] // length
    if not blocks:
        return np.zeros(signal.shape[:2])
    parts = signal[..., : blocks * length].reshape(*signal.shape[:2], blocks, length)
    # Four samples show of nearly every block that it moves; the others are looked through.
    first, *others = (parts[..., i * (length - 1) // 3] for i in range(4))
    still = np.abs(others[0] - first) < FLAT_STEP_MV
    for other in others[1:]:
        still &= np.abs(other - first) < FLAT_STEP_MV
    still[still] = np.ptp(parts[still], axis=1) < FLAT_STEP_MV
    return still.mean(axis=2)


def _clipped(at_limit: np.ndarray, rate_hz: float, flat: np.ndarray) -> np.ndarray:
    """Return for each record the largest share of time that a lead spends in plateaus at its own highest or lowest value."""
    longest = max(3, round(PLATEAU_S * rate_hz))
    worst = np.zeros(len(at_limit))
    often = np.count_nonzero(at_limit, axis=2) >= longest
    for record, lead in np.argwhere(often & (flat < QUALITY_LIMITS.max_flat_fraction)):
        edges = np.flatnonzero(np.diff(at_limit[record, lead], prepend=False, append=False))
        lengths = edges[1::2] - edges[::2]
        share = float(lengths[lengths >= longest].sum()) / at_limit.shape[2]
        worst[record] = max(worst[record], share)
    return worst
