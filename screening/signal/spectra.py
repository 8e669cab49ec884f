"""What one Fourier transform a recording tells of its quality: bands, products of leads, mains, wander and noise.

Each recording is computed by itself: how many travel together must not decide its last digits, and the spectrum of one (240 kB
for ten seconds at 500 Hz) stays in a core's cache while all is read off it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import fft

ECG_BAND_HZ = (0.5, 40.0)
ECG_RATE_HZ = 100.0
QRS_BAND_HZ = (5.0, 40.0)
T_LOW_HZ = 0.8
SLOWEST_HZ = 0.05
"""One wave in twenty seconds: baseline wander is measured from here up to the ECG."""
NOISE_TOP_HZ = 125.0
"""Electromyogram and amplifier noise are measured from 40 Hz up to here, or to the Nyquist frequency."""
NOISE_BLOCK_S = 0.1
MAINS_HZ = (50.0, 60.0)
HANN_POWER = 3 / 8
"""Mean square of the window."""


class Spectra(NamedTuple):
    """What is read off the transforms of recordings."""

    ecg_mV: np.ndarray  # (records, leads, samples) within ECG_BAND_HZ, at about ECG_RATE_HZ
    qrs: np.ndarray  # (records, leads, leads) sums of products of the leads within QRS_BAND_HZ
    below: np.ndarray  # the same from T_LOW_HZ to there
    mains_mV: np.ndarray  # (records, leads) RMS of the stronger mains frequency
    baseline_mV: np.ndarray  # (records, leads) RMS of what is slower than the ECG
    noise_mV: np.ndarray  # (records, leads) median over tenths of a second of the RMS above the ECG, without mains


def spectra(signals_mV: np.ndarray, rate_hz: float) -> Spectra:
    """Transform recordings without gaps, (records, leads, samples) in mV."""
    records, leads, n = signals_mV.shape
    where = _layout(n, rate_hz)
    kind = np.result_type(signals_mV.dtype, np.complex64)
    ecg_bins = np.zeros((leads, where.ecg_samples // 2 + 1), kind)
    noise_bins = np.zeros((leads, where.noise_samples // 2 + 1), kind)
    ecg = np.empty((records, leads, where.ecg_samples), signals_mV.dtype)
    qrs, below = np.empty((2, records, leads, leads))
    slow = np.empty((records, leads, where.slow.stop - where.slow.start), kind)
    mains = [np.empty((records, leads, kept.stop - kept.start + 2), kind) for kept in where.mains]
    blocks = np.zeros((records, leads, where.noise_blocks), signals_mV.dtype)
    for i, recorded in enumerate(signals_mV):
        bins = fft.rfft(recorded - recorded.mean(axis=1, keepdims=True))
        ecg_bins[:, where.ecg] = bins[:, where.ecg]
        ecg[i] = fft.irfft(ecg_bins, n=where.ecg_samples)
        qrs[i], below[i] = _products(bins[:, where.qrs]), _products(bins[:, where.below])
        slow[i] = bins[:, where.slow]
        for found, kept in zip(mains, where.mains, strict=True):
            found[i] = bins[:, kept.start - 1 : kept.stop + 1]
        if where.noise:
            for kept in where.noise:
                noise_bins[:, kept] = bins[:, kept]
            high = fft.irfft(noise_bins, n=where.noise_samples)
            high *= np.float32(where.noise_samples / n)
            length = where.noise_samples // where.noise_blocks
            parts = high[:, : where.noise_blocks * length].reshape(leads, where.noise_blocks, length)
            blocks[i] = np.einsum("...i,...i->...", parts, parts) / np.float32(length)
    peaks = [_peak_power(found, off_hz, n) for found, off_hz in zip(mains, where.off_hz, strict=True)]
    return Spectra(
        ecg * np.float32(where.ecg_samples / n),
        qrs,
        below,
        np.sqrt(np.max(peaks, axis=0)) if peaks else np.zeros((records, leads)),
        np.sqrt(2 * (np.square(slow.real) + np.square(slow.imag)).sum(axis=2) / n**2),
        np.sqrt(np.median(blocks, axis=2)),
    )


class _Layout(NamedTuple):
    """Where in a transform everything lies."""

    ecg: slice
    ecg_samples: int
    qrs: slice
    below: slice
    slow: slice
    mains: tuple[slice, ...]  # those that lie whole within the transform, and their neighbourhood too
    off_hz: tuple[np.ndarray, ...]  # distance of their bins from mains
    noise: tuple[slice, ...]  # between the harmonics of mains; none where the rate is too low for noise
    noise_samples: int
    noise_blocks: int


@lru_cache(maxsize=16)
def _layout(n: int, rate_hz: float) -> _Layout:
    """Return where things lie in the transform of ``n`` samples."""
    step_hz, top = rate_hz / n, n // 2 + 1

    def between(low_hz: float, high_hz: float) -> slice:
        return slice(*(min(int(np.ceil(hz / step_hz)), top) for hz in (low_hz, high_hz)))

    def samples(kept: slice, wanted_hz: float) -> int:
        return fft.next_fast_len(max(2 * kept.stop, round(wanted_hz / step_hz)), real=True)

    ecg = between(*ECG_BAND_HZ)
    mains, off_hz = [], []
    for hz in MAINS_HZ:
        kept = between(hz - 3, hz + 3)
        off = np.abs(np.arange(kept.start, kept.stop) * step_hz - hz)
        if kept.start >= 1 and kept.stop + 1 <= top and (off <= 0.5).any() and (off > 1).any():
            mains.append(kept)
            off_hz.append(off)
    top_hz = min(NOISE_TOP_HZ, top * step_hz)
    noise: list[slice] = []
    whole = between(ECG_BAND_HZ[1], top_hz)
    if top_hz > ECG_BAND_HZ[1] + 5:
        start = whole.start
        for hz in sorted(f * k for f in MAINS_HZ for k in (1, 2)):
            hole = between(hz - 1, hz + 1)
            noise.append(slice(start, min(hole.start, whole.stop)))
            start = hole.stop
        noise.append(slice(start, whole.stop))
    return _Layout(
        ecg,
        samples(ecg, ECG_RATE_HZ),
        between(*QRS_BAND_HZ),
        between(T_LOW_HZ, QRS_BAND_HZ[0]),
        between(SLOWEST_HZ, ECG_BAND_HZ[0]),
        tuple(mains),
        tuple(off_hz),
        tuple(part for part in noise if part.start < part.stop),
        samples(whole, 2 * NOISE_TOP_HZ),
        max(1, round(1 / step_hz / NOISE_BLOCK_S)),
    )


def _peak_power(bins: np.ndarray, off_hz: np.ndarray, n: int) -> np.ndarray:
    """Return the mean square of each lead at one frequency above what its neighbourhood holds, mV^2.

    Under a Hann window, or a step of the baseline, whose spectrum is wide, would look like mains. ``bins`` holds one more at
    either end than ``off_hz``.
    """
    bins = bins[..., 1:-1] / 2 - (bins[..., :-2] + bins[..., 2:]) / 4
    power = 2 * (np.square(bins.real) + np.square(bins.imag)) / n**2 / HANN_POWER
    near, around = off_hz <= 0.5, off_hz > 1
    return np.maximum(power[..., near].sum(axis=2) - power[..., around].mean(axis=2) * near.sum(), 0)


def _products(bins: np.ndarray) -> np.ndarray:
    """Return the sums of products of the leads, (leads, leads)."""
    parts = np.ascontiguousarray(bins)
    parts = parts.view(parts.real.dtype)  # real and imaginary parts one after the other
    return np.asarray(parts @ parts.T)
