"""Twelve leads as a plain WFDB record: one file of 16-bit samples, and one header (header(5), signal(5))."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from screening.contract import LEADS

MISSING = -32768
"""A sample that is none (signal(5), format 16)."""
_MOST = 32767
_GAINS = (1000.0, 200.0, 400.0, 800.0, 500.0, 2000.0, 4000.0, 5000.0, 10000.0, 250.0, 100.0, 50.0, 20.0, 10.0)
"""Steps a millivolt that electrocardiographs use, the most usual first."""
_SAME_MV = 1e-6


def header_of(
    name: str,
    rate_hz: float,
    samples: int,
    gain: float,
    initial: Sequence[int],
    checksums: Sequence[int],
    comments: Sequence[str] = (),
) -> bytes:
    """Return the header of a record whose leads all have ``gain`` steps a millivolt; checksums are taken modulo 65536."""
    lines = [f"{name} {len(LEADS)} {rate_hz:.12g} {samples}"]
    lines += [
        f"{name}.dat 16 {gain:.12g}(0)/mV 16 0 {value} {checksum} 0 {lead}"
        for lead, value, checksum in zip(LEADS, initial, checksums, strict=True)
    ]
    return ("\n".join([*lines, *(f"#{comment}" for comment in comments)]) + "\n").encode()


def gain_for(signal_mV: np.ndarray) -> float:
    """Return steps a millivolt with which 16 bits give every sample back, or else the finest that hold all of them."""
    largest = float(np.nanmax(np.abs(signal_mV), initial=0.0))
    fitting = [gain for gain in _GAINS if largest * gain <= _MOST]
    finite = np.nan_to_num(signal_mV.astype(np.float64))
    moves = np.abs(np.diff(finite, axis=1))
    least = moves[moves > _SAME_MV].min(initial=np.inf)
    if np.isfinite(least) and largest / least <= _MOST:
        fitting.append(float(1 / least))  # a converter of its own step
    for gain in fitting:
        if np.abs(np.rint(finite * gain) / gain - finite).max(initial=0.0) <= _SAME_MV:
            return gain
    return max(fitting, default=_MOST / largest if largest else 1000.0)


def record_files(
    name: str, signal_mV: np.ndarray, rate_hz: float, comments: Sequence[str] = ()
) -> tuple[bytes, bytes, float]:
    """Return the bytes of header and signal file of a record, and its steps a millivolt.

    Parameters
    ----------
    name
        Of the record; letters, digits, hyphens and underscores.
    signal_mV
        float32 (12, samples); NaN where a sample is missing.
    rate_hz
        Samples a second.
    """
    gain = gain_for(signal_mV)
    digital = np.clip(np.rint(np.nan_to_num(signal_mV.astype(np.float64)) * gain), -_MOST, _MOST).astype(np.int16)
    digital[~np.isfinite(signal_mV)] = MISSING
    checksums = (digital.sum(axis=1, dtype=np.int64) & 0xFFFF).tolist()
    header = header_of(name, rate_hz, digital.shape[1], gain, digital[:, 0].tolist(), checksums, comments)
    return header, np.ascontiguousarray(digital.T).astype("<i2").tobytes(), gain
