"""From millivolts at any rate to the network's input: one rate, one band, one length.

Three linear steps, so amplitudes between leads and the limb-lead identities stay as recorded (nothing is normalised per
record or per lead; the network divides by one fixed scale):

1. Resampling and low-pass in one symmetric FIR filter (a Kaiser-windowed sinc evaluated at the exact time of every
   output sample), so that 50/60 Hz mains neither passes nor folds back.
2. A Butterworth high-pass run forwards and backwards. Zero phase and not above 0.5 Hz, because ST level and T wave are
   the evidence: AHA/ACC/HRS 2007 (Kligfield et al., Circulation 115:1306) allows 0.67 Hz for zero-phase filters and
   0.05 Hz for others.
3. The window: the central one of a longer recording, a filled one of a shorter recording.

Each record is computed by operations of its own shape only, so its bytes do not depend on the batch it travels in.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

TRANSITION_HZ = 10.0
"""Width of the low-pass' transition band, centred on ``high_hz``: 35-45 Hz, with mains beyond it."""
STOPBAND_DB = 60.0
EDGE_S = 3.0
"""How far both ends are continued before the high-pass, by even reflection. On PTB-XL cut to 6 s and compared with the
filtered whole, the first and last second then differ by 17 uV RMS; odd reflection gives 64, a constant 33."""
SLOW_GAIN = 1e-4
"""What the high-pass takes from a frequency may be left out below this share."""


@dataclass(frozen=True)
class Preprocessing:
    """Settings that turn a recording into the network's input; stored in the bundle and hashed.

    Attributes
    ----------
    rate_hz
        Rate of the network's input.
    window_s
        Length of the network's input.
    min_window_s
        Shortest recording that is scored; shorter ones are rejected as ``too_short``.
    low_hz, order
        High-pass: Butterworth of this order run both ways, together -3 dB at ``low_hz``.
    high_hz
        Low-pass: -6 dB here, flat 5 Hz below, some -60 dB 5 Hz above. A recording sampled too slowly for it
        keeps what lies 10 Hz and more below its own Nyquist frequency.
    long_record
        ``central``: the middle of a longer recording, because electrodes settle at its start and come off at its end.
    short_record
        ``repeat``: a shorter recording is repeated from its start; ``zero``: zeros on both sides. PTB-XL cut to 5 s and
        repeated scores as it does whole within 0.2 of a logit, with zeros within 1 (``tests/studies/short_records.py``).
    """

    rate_hz: int = 100
    window_s: float = 10.0
    min_window_s: float = 5.0
    low_hz: float = 0.5
    high_hz: float = 40.0
    order: int = 2
    long_record: str = "central"
    short_record: str = "repeat"

    def __post_init__(self) -> None:
        if self.long_record != "central" or self.short_record not in ("repeat", "zero"):
            raise ValueError(f"unknown window rule: long_record={self.long_record}, short_record={self.short_record}")
        if self.min_window_s < 1:
            raise ValueError(
                f"min_window_s={self.min_window_s:g} is below 1 s, the least that the filters can continue"
            )
        if not 0 < self.low_hz < self.high_hz <= (self.rate_hz - TRANSITION_HZ) / 2:
            raise ValueError(
                f"low_hz={self.low_hz:g} and high_hz={self.high_hz:g} are no band of rate_hz={self.rate_hz:g}: "
                f"high_hz may be {(self.rate_hz - TRANSITION_HZ) / 2:g} at most"
            )

    @property
    def samples(self) -> int:
        """Samples of the network's input."""
        return round(self.rate_hz * self.window_s)


def preprocess(signals_mV: np.ndarray, rate_hz: float, settings: Preprocessing) -> np.ndarray:
    """Resample, filter and cut a batch of recordings of one rate and length.

    Parameters
    ----------
    signals_mV
        (records, leads, samples) in mV. Missing samples (NaN) are interpolated linearly, at the ends held.
    rate_hz
        Samples a second; any positive number.
    settings
        The bundle's preprocessing.

    Returns
    -------
    numpy.ndarray
        float32 (records, leads, settings.samples), C-contiguous, filtered mV.

    Raises
    ------
    ValueError
        If the recordings are shorter than ``min_window_s`` or a lead holds no finite sample: the quality check rejects
        both before.
    """
    n_records, n_leads, n = signals_mV.shape
    if n < settings.min_window_s * rate_hz - 0.5:
        raise ValueError(f"recordings of {n / rate_hz:.2f} s are shorter than {settings.min_window_s:g} s")
    window = np.zeros((n_records, n_leads, settings.samples), np.float32)
    margin = round((settings.window_s + 2 * EDGE_S) * rate_hz)
    start = max(0, (n - margin) // 2)  # of a long recording only what the window's filters can see
    for record, target in zip(signals_mV, window, strict=True):
        signal = fill_gaps(record[:, start : start + margin])
        filtered = _high_pass(_resample(signal, rate_hz, settings), settings)
        _cut(filtered, target, settings)
    return window


def fill_gaps(signal_mV: np.ndarray) -> np.ndarray:
    """Return (leads, samples) float32 with missing samples interpolated linearly and, at the ends, held.

    Raises
    ------
    ValueError
        If a lead holds no finite sample.
    """
    signal = np.ascontiguousarray(signal_mV, np.float32)
    finite = np.isfinite(signal)
    if finite.all():
        return signal
    signal = signal.copy()
    time = np.arange(signal.shape[1])
    for lead, present in zip(signal, finite, strict=True):
        if not present.any():
            raise ValueError("a lead holds no finite sample")
        lead[~present] = np.interp(time[~present], time[present], lead[present])
    return signal


def _resample(signal: np.ndarray, rate_hz: float, settings: Preprocessing) -> np.ndarray:
    """Low-pass and resample (leads, n) to float32 (leads, round(n * new / old))."""
    down, half, kernel = _kernel(rate_hz, settings.rate_hz, settings.high_hz, settings.window_s)
    n_leads, n = signal.shape
    parts, _, up = kernel.shape
    n_out = max(1, round(n * settings.rate_hz / rate_hz))
    blocks = -(-n_out // up)
    padded = np.zeros((n_leads, max(blocks + parts - 1, -(-(n + 2 * half) // down)), down), np.float32)
    flat = padded.reshape(n_leads, -1)
    flat[:, half : half + n] = signal
    flat[:, :half] = signal[:, half:0:-1]
    flat[:, half + n : n + 2 * half] = signal[:, n - 1 - half : n - 1][:, ::-1]
    # Each block of inputs meets every part of the weights in one product, so that no input is copied for the blocks it is in.
    products = padded.reshape(-1, down) @ kernel.transpose(1, 0, 2).reshape(down, -1)
    products = products.reshape(n_leads, -1, parts, up)
    out = products[:, :blocks, 0].copy()
    for part in range(1, parts):
        out += products[:, part : part + blocks, part]
    return out.reshape(n_leads, blocks * up)[:, :n_out]


@lru_cache(maxsize=16)
def _kernel(rate_hz: float, new_rate_hz: float, high_hz: float, window_s: float) -> tuple[int, int, np.ndarray]:
    """Return (inputs a block, half length, weights (blocks that an output block sees, inputs a block, outputs a block)).

    A block is the shortest time after which input and output samples coincide again, some 20 outputs or more.
    """
    ratio = Fraction(rate_hz / new_rate_hz)
    # Few phases suffice if the time base then drifts by less than a tenth of an output sample over the window. Rates for
    # which they do not (499.94 Hz) may drift by one, 0.1%: more phases would cost seconds and, at 10 kHz, gigabytes.
    for denominator, drift in ((1, 0.1), (10, 0.1), (100, 0.1), (300, 0.1), (300, 1.0), (1000, np.inf)):
        close = ratio.limit_denominator(denominator)
        if abs(close / ratio - 1) * window_s * new_rate_hz < drift:
            ratio = close
            break
    repeat = -(-20 // ratio.denominator)
    down, up = ratio.numerator * repeat, ratio.denominator * repeat
    cutoff_hz = min(high_hz, rate_hz / 2 - TRANSITION_HZ / 2)
    length_s = (STOPBAND_DB - 7.95) / (2.285 * 2 * np.pi * TRANSITION_HZ)  # Kaiser's rule
    half = int(np.ceil(length_s / 2 * rate_hz))
    parts = -(-(down + 2 * half + 1) // down)
    time_s = (np.arange(parts * down)[:, None] - half - np.arange(up)[None] * float(ratio)) / rate_hz
    inside = np.clip(1 - (2 * time_s / length_s) ** 2, 0, None)
    taps = np.sinc(2 * cutoff_hz * time_s) * np.i0(0.1102 * (STOPBAND_DB - 8.7) * np.sqrt(inside)) * (inside > 0)
    return down, half, (taps / taps.sum(axis=0)).astype(np.float32).reshape(parts, down, up)


def _high_pass(signal: np.ndarray, settings: Preprocessing) -> np.ndarray:
    """Filter float32 (leads, n) forwards and backwards.

    The filter is linear, so a recording less what is slow in it is the same: the slow part of an ECG of 10 s is told by some
    130 numbers a lead. That takes a fifth of the time, and differs by some 2e-5 mV (``test_preprocess.py``), 3e-5 of a logit;
    recorders have steps of 1e-3 mV and more.
    """
    if signal.shape[1] not in _usual_lengths(settings):
        return _run_both_ways(signal, settings)
    basis, slow = _slow_part(signal.shape[1], settings)
    centred = signal - signal.mean(axis=1, keepdims=True)  # an electrode's offset would cost the wave its digits
    return centred - (centred @ basis) @ slow


def _usual_lengths(settings: Preprocessing) -> tuple[int, int]:
    """Return the samples of what fills the window, and of what is cut from anything longer."""
    return settings.samples, round((settings.window_s + 2 * EDGE_S) * settings.rate_hz)


@lru_cache(maxsize=4)
def _slow_part(n: int, settings: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Return k orthogonal signals (n, k) that tell all that is slow, and what the high-pass takes from each of them (k, n).

    They are found as Halko, Martinsson and Tropp do (SIAM Review 2011; 53:217, algorithm 4.1): a matrix of low rank is spanned
    by random sums of its columns.
    """
    # From here on the filter takes away less than SLOW_GAIN of anything: its gain is 1 - 2 (low / hz) ** (2 order), nearly.
    top_hz = settings.low_hz * (2 / SLOW_GAIN) ** (1 / (2 * settings.order))
    k = min(n, int(np.ceil(2 * top_hz * n / settings.rate_hz)) + 16)
    taken = np.eye(n) - _run_both_ways(np.eye(n), settings)  # from a pulse at each moment, (n, n)
    basis = np.linalg.qr(taken @ np.random.default_rng(0).standard_normal((n, k)))[0]
    return np.ascontiguousarray(basis, np.float32), (basis.T @ taken).astype(np.float32)


def _run_both_ways(signal: np.ndarray, settings: Preprocessing) -> np.ndarray:
    pad = min(round(EDGE_S * settings.rate_hz), signal.shape[1] - 1)
    from scipy.signal import sosfiltfilt  # here, as below: half a second that a driver can do without

    sections = _sections(settings.order, settings.low_hz, settings.rate_hz)
    return sosfiltfilt(sections, signal.astype(np.float64), padtype="even", padlen=pad)


@lru_cache(maxsize=8)
def _sections(order: int, low_hz: float, rate_hz: float) -> np.ndarray:
    from scipy.signal import butter

    # Run both ways the gain is squared: the cut-off moves so that the product is -3 dB at low_hz.
    return butter(order, low_hz * (np.sqrt(2) - 1) ** (1 / (2 * order)), "highpass", fs=rate_hz, output="sos")


def _cut(filtered: np.ndarray, target: np.ndarray, settings: Preprocessing) -> None:
    n, samples = filtered.shape[1], settings.samples
    if n >= samples:
        start = (n - samples) // 2
        target[:] = filtered[:, start : start + samples]
    elif settings.short_record == "repeat":
        target[:] = filtered[:, np.arange(samples) % n]
    else:
        start = (samples - n) // 2
        target[:, start : start + n] = filtered
