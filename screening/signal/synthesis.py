"""From traits to signals: beats on a time axis, seen through the lead field, with the electrodes' noise, digitised.

Everything is computed row by row with the same operations in the same order, so a record's bytes do not depend on the
batch it is made in. Microvolts are whole numbers, as an electrocardiograph digitises them; leads I and II are even, so
that III, aVR, aVL and aVF are whole too and all limb-lead identities hold exactly.
"""

from __future__ import annotations

import numpy as np

from screening.signal import heart
from screening.signal.population import NOISE_STREAM, SimulationSettings, Traits, raw_words

UNITS_PER_MV = 1000


def digitised(traits: Traits, settings: SimulationSettings) -> np.ndarray:
    """Return the ECGs as int16 (b, 12, n) in microvolts."""
    weights, waves = _cardiac(traits, settings)
    leads = weights @ waves  # one product a record: (8, waves) by (waves, n)
    if settings.noise > 0:
        leads += heart.leads_of(_electrode_noise(traits, settings))
    units = np.rint(leads * np.float32(UNITS_PER_MV))
    units[:, :2] = 2 * np.rint(leads[:, :2] * np.float32(UNITS_PER_MV / 2))
    whole = np.clip(units, -16_000, 16_000).astype(np.int16)
    one, two = whole[:, :1], whole[:, 1:2]
    return np.concatenate(
        [one, two, two - one, -(one + two) // 2, one - two // 2, two - one // 2, whole[:, 2:]], axis=1
    )


def _cardiac(traits: Traits, settings: SimulationSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (b, 8, w) on waves (b, w, n): what the heart, breathing and the mains give to the eight leads."""
    time = (np.arange(settings.samples) / settings.rate_hz).astype(np.float32)
    onsets = _onsets(traits)
    last, upcoming = _beat_of_sample(onsets, settings, -0.07), _beat_of_sample(onsets, settings, 0.11)
    after = time - np.take_along_axis(onsets, last, axis=1)  # (b, n) since the QRS onset of the beat
    before = time - np.take_along_axis(onsets, np.minimum(upcoming + 1, onsets.shape[1] - 1), axis=1)

    def column(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[:, :, None]

    p_centre = -traits.pr_s[:, None] + 0.045 + heart.P_DELAY_S
    p = np.exp(-0.5 * np.square((before[:, None, :] - column(p_centre)) * np.float32(1 / 0.019)))
    qrs = np.exp(-0.5 * np.square((after[:, None, :] - column(traits.qrs_centre_s)) * column(1 / traits.qrs_sigma_s)))
    long = traits.qt_s / 0.40
    fall = 0.044 * long
    peak = traits.qt_s - 2 * fall
    distance = after[:, None, :] - column(peak[:, None] + heart.T_DELAY_S)
    width = np.where(distance < 0, column(1 / (0.054 * long)[:, None]), column(1 / fall[:, None]))
    t = np.exp(-0.5 * np.square(distance * width))
    j_point = (traits.qrs_centre_s + 1.5 * traits.qrs_sigma_s).max(axis=1)
    rise = np.tanh((after - j_point[:, None].astype(np.float32)) * np.float32(1 / 0.012))
    st = 0.5 * (rise - np.tanh((after - peak[:, None].astype(np.float32)) * np.float32(1 / 0.045)))[:, None, :]
    st = np.maximum(st, 0)
    phase = np.float32(2 * np.pi) * time[None, None, :]
    slow = column(traits.wander_hz) * phase
    breath = np.sin(slow[:, 3:])
    stretch = 1 + np.float32(0.035) * breath  # breathing moves the heart
    flutter = np.sin(6.1 * phase + 1.7 * breath + 2 * slow[:, :1]) + np.float32(0.5) * np.sin(
        9.2 * phase + 3 * slow[:, 1:2]
    )
    waves = [p, qrs * stretch, t * stretch, st, flutter]

    def seen(moments: np.ndarray, places: np.ndarray) -> np.ndarray:
        return heart.leads_of(heart.potentials(traits.electrode_cm, places, moments))

    atria = seen(traits.p_moment, traits.atria_cm)
    right_atrium = np.broadcast_to(heart.P_MOMENT[:1] / 20, (len(time[:0]) + len(after), 1, 3))
    weights = [
        atria,
        seen(traits.qrs_moment, traits.segment_cm),
        seen(traits.t_moment, traits.segment_cm),
        seen(traits.st_moment, traits.segment_cm).sum(axis=2, keepdims=True),
        seen(right_atrium * traits.fibrillation_mV[:, None, None] * 100, traits.atria_cm[:, :1]),
    ]
    if settings.noise > 0:
        waves += [np.cos(slow), np.sin(slow)]
        weights.append(heart.leads_of(traits.wander_mV) * settings.noise)
        if settings.mains_hz < settings.rate_hz / 2:
            waves += [np.cos(settings.mains_hz * phase), np.sin(settings.mains_hz * phase)]
            weights.append(heart.leads_of(traits.mains_mV) * settings.noise)
    shape = (len(after), -1, settings.samples)
    flat = [np.broadcast_to(wave, (len(after), *wave.shape[1:])).reshape(shape) for wave in waves]
    return np.concatenate(weights, axis=2).astype(np.float32), np.concatenate(flat, axis=1)


def _onsets(traits: Traits) -> np.ndarray:
    """Return the times of QRS onset (b, beats), float32, from before the recording to after its end."""
    count = traits.beats.shape[1]
    breathing = np.sin(2 * np.pi * traits.breath_hz[:, None] * traits.rr_s[:, None] * np.arange(count))
    change = traits.rr_sd[:, None] * traits.beats + traits.sinus_arrhythmia[:, None] * breathing
    intervals = traits.rr_s[:, None] * np.clip(1 + change, 0.5, 2.0)
    onsets = np.cumsum(intervals, axis=1) - intervals[:, :1] * (1 + traits.start[:, None])
    return onsets.astype(np.float32)


def _beat_of_sample(onsets: np.ndarray, settings: SimulationSettings, delay_s: float) -> np.ndarray:
    """Return for each sample (b, n) the number of the last beat that began ``delay_s`` or more before it."""
    first = np.ceil((onsets + delay_s) * settings.rate_hz).astype(np.int64)
    marks = np.zeros((len(onsets), settings.samples + 1), np.int64)
    rows = np.broadcast_to(np.arange(len(onsets))[:, None], first.shape)
    np.add.at(marks, (rows, np.clip(first, 0, settings.samples)), 1)
    return np.maximum(np.cumsum(marks[:, :-1], axis=1) - 1, 0)


def _electrode_noise(traits: Traits, settings: SimulationSettings) -> np.ndarray:
    """Return muscle noise (b, 9, n) in mV: independent at each electrode, near normal, of equal density at any rate."""
    n = settings.samples
    words = raw_words(settings.seed, traits.index, NOISE_STREAM, -(-9 * n * 4 // 8))
    octets = words.view(np.uint8)[:, : 36 * n].reshape(len(words), 4, 9, n)
    # The sum of four uniform octets: mean 510, variance (256^2 - 1) / 3
    total = octets.sum(axis=1, dtype=np.int16)
    scale = traits.emg_mV * settings.noise * np.sqrt(max(settings.rate_hz, 100) / 100 / (65_535 / 3))
    noise = (total - np.int16(510)).astype(np.float32) * scale[:, :, None].astype(np.float32)
    # Muscle noise fades above about 50 Hz: at higher rates a moving mean over 10 ms takes what would lie there.
    width = settings.rate_hz // 100
    smooth = noise.copy()
    for shift in range(1, width):
        smooth += np.roll(noise, shift, axis=2)
    return smooth / np.float32(max(width, 1))
