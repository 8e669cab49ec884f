"""Whether two recordings are of the same tracing, whatever the format, unit and rate in which they were kept.

The hash is that of random hyperplanes (M. S. Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002,
doi.org/10.1145/509907.509965): each of 256 bits tells on which side of a plane the tracing lies. Copies that differ by rounding
or resampling differ in few bits, ECGs of two hearts, or of two moments of one heart, in about half of them.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np

from screening.contract import INDEPENDENT_ROWS

BITS = 256
BIN_S = 0.02
BINS = 500
"""Ten seconds; what is longer is judged by its beginning, what is shorter as if nothing followed."""
STEPS = 200
"""To which a lead's root mean square change is rounded."""
_LARGEST = 2047
"""Steps; 4,000 of them add up to less than 2**24, so that float32 sums are exact in whatever order they are taken."""
SAME_BITS = 24
"""Most bits in which two hashes of one tracing differ. Of 3.5 million pairs of PTB-XL, folds 1-9, five have 0 and all others
83 and more; rounding to 5 uV makes at most 4, 100 Hz instead of 500 Hz at most 17."""


def tracing_hashes(signals_mV: np.ndarray, rate_hz: float) -> list[str]:
    """Return a hash of 64 hex digits for each recording.

    Parameters
    ----------
    signals_mV
        float32 (records, 12, samples), unfiltered; NaN counts as 0 mV.
    rate_hz
        Samples a second, of all of them.
    """
    leads = signals_mV[:, INDEPENDENT_ROWS]
    edges = np.round(np.arange(BINS + 1) * BIN_S * rate_hz).astype(int)
    bins = max(0, int(np.searchsorted(edges, leads.shape[2], side="left")) - 1)
    changes = np.zeros((*leads.shape[:2], BINS), np.float32)
    if bins > 1:
        inside = leads[:, :, : edges[bins] + 1]
        if not np.isfinite(inside).all():
            inside = np.nan_to_num(inside, nan=0.0, posinf=0.0, neginf=0.0)
        # The area under straight lines between samples, so that rates differ in what they resolve and not in time.
        ends = inside[:, :, edges[: bins + 1]]
        areas = _sums(inside[:, :, :-1], edges[: bins + 1]) + (ends[:, :, 1:] - ends[:, :, :-1]) / 2
        # From bin to bin: a baseline that wanders, or stands apart, is not what makes a tracing.
        changes[:, :, 1:bins] = np.diff(areas / np.diff(edges[: bins + 1]), axis=2)
        changes /= np.maximum(np.sqrt((changes**2).mean(axis=2, keepdims=True)), 1e-3)
    steps = np.clip(np.round(changes * STEPS), -_LARGEST, _LARGEST).reshape(len(leads), -1)
    packed = np.packbits(steps @ _planes() > 0, axis=1)
    return [row.tobytes().hex() for row in packed]


def _sums(samples: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the sums from edge to edge, (records, leads, bins)."""
    width = edges[1]
    if samples.shape[2] != width * (len(edges) - 1):  # 20 ms are no whole number of samples
        return np.add.reduceat(samples, edges[:-1], axis=2)
    binned = samples.reshape(*samples.shape[:2], -1, width)
    return np.asarray(binned @ np.ones(width, samples.dtype))  # a third of the time


def bits_apart(one: str, other: str) -> int:
    """Return in how many bits two hashes differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


@cache
def _planes() -> np.ndarray:
    """Return +1 and -1, float32 (leads * bins, bits), the same on every machine and with every version of NumPy."""
    count = len(INDEPENDENT_ROWS) * BINS * BITS
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"screening tracing 1").digest(count // 8), np.uint8))
    return (bits.astype(np.float32) * 2 - 1).reshape(-1, BITS)
