"""Where the noise of screening/train/augment.py comes from: what the preprocessing leaves of it on a real archive.

    python -m tests.studies.noise_bands ARCHIVE [--folds 1-8]

Measured is what the network sees: the shipped preprocessing at 100 Hz, the eight independent leads, one value a lead.
Muscle and amplifier: the root mean square above 20 Hz in tenths of a second, of which the median counts, so that QRS
edges do not; and the spectrum of the quietest fifth of windows of 0.4 s, which lie between T and the next P or QRS.
Baseline: the root mean square of narrow low bands. From 0.7 Hz (42 a minute) a band holds slow hearts' own beat, so that
0.3-0.7 Hz tells most of the wander itself. Last come the same measures of the augmentation's own noise at its largest.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.signal import firwin, oaconvolve

from screening.archive.reader import ArchiveReader
from screening.contract import INDEPENDENT_LEADS, LEADS
from screening.recording import Recording
from screening.signal.preprocess import Preprocessing, preprocess
from screening.train.augment import Augmentation, _disturbance

PERCENTILES = (50, 75, 90, 95, 99)
RATE_HZ = Preprocessing().rate_hz
NOISE_HZ = 20.0
WANDER_HZ = ((0.0, 0.3), (0.3, 0.7), (0.5, 1.0))
BLOCK, WINDOW = RATE_HZ // 10, 2 * RATE_HZ // 5


def noise_mV(x: np.ndarray) -> np.ndarray:
    """Return the median over tenths of a second of the root mean square above 20 Hz: (n, leads, t) -> (n, leads)."""
    high = oaconvolve(x, firwin(21, NOISE_HZ, pass_zero=False, fs=RATE_HZ)[None, None], mode="same", axes=-1)
    blocks = high[..., : high.shape[-1] // BLOCK * BLOCK].reshape(*high.shape[:-1], -1, BLOCK)
    return np.asarray(np.sqrt(np.median(np.square(blocks).mean(axis=-1), axis=-1)))


def spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies (f,) in Hz and the quiet windows' power density, uV^2/Hz: (n, leads, t) -> (n, leads, f)."""
    beat = firwin(41, (5, 15), pass_zero=False, fs=RATE_HZ)
    activity = np.abs(oaconvolve(x, beat[None, None], mode="same", axes=-1)).mean(axis=1)  # (n, t)
    hann = np.hanning(WINDOW + 2)[1:-1]
    slow = np.linalg.qr(np.vander(np.linspace(-1, 1, WINDOW), 3))[0]  # a parabola, taken away
    power = []
    for signal, moving in zip(x, activity, strict=True):
        loudest = np.lib.stride_tricks.sliding_window_view(moving, WINDOW)[::5].max(axis=1)
        quiet = np.argsort(loudest)[: max(1, len(loudest) // 5)]
        windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW, axis=1)[:, ::5][:, quiet]
        windows = windows - windows @ slow @ slow.T
        power.append(np.square(np.abs(np.fft.rfft(windows * hann, axis=-1))).mean(axis=1))
    return np.fft.rfftfreq(WINDOW, 1 / RATE_HZ), 1e6 * 2 * np.stack(power) / np.square(hann).sum() / RATE_HZ


def wander_mV(x: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Return the root mean square within a low band: (n, leads, t) -> (n, leads)."""
    n = x.shape[-1]
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)
    bins = np.fft.rfft(x, axis=-1)[..., (hz > low_hz) & (hz <= high_hz)]
    return np.asarray(np.sqrt(2 * np.square(np.abs(bins)).sum(axis=-1)) / n)


def show(what: str, values: np.ndarray, unit: str) -> None:
    """Print the percentiles of values."""
    figures = "".join(f"{value:9.2f}" for value in np.percentile(values, PERCENTILES))
    print(f"{what:34s}{figures}  {unit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--folds", default="1-8")
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.folds.split("-"))
    with (arguments.archive / "ptbxl_database.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if first <= int(row["strat_fold"]) <= last]
    reader = ArchiveReader(str(arguments.archive))
    seen = []
    for row in rows:
        recording = reader.read(row["filename_hr"] + ".hea", row["ecg_id"])
        assert isinstance(recording, Recording), recording
        seen.append(preprocess(recording.signal_mV[None], recording.rate_hz, Preprocessing())[0])
    x = np.stack(seen)[:, [LEADS.index(lead) for lead in INDEPENDENT_LEADS]].astype(np.float64)

    print(f"{len(x)} records, {x.shape[1]} leads of each{'':5s}" + "".join(f"{p:>8g}%" for p in PERCENTILES))
    show("noise above 20 Hz, RMS", 1e3 * noise_mV(x), "uV")
    for low, high in WANDER_HZ:
        show(f"{low:g}-{high:g} Hz, RMS", 1e3 * wander_mV(x, low, high), "uV")
    hz, power = spectrum(x)
    loudest = replace(Augmentation(), wander_mV=0.0)
    generator = torch.Generator().manual_seed(0)
    nothing = torch.zeros(400, len(INDEPENDENT_LEADS), x.shape[-1])
    noise = _disturbance(nothing, loudest, generator).double().numpy()
    # Its root mean square is uniform from 0; each record is scaled to the largest there is.
    noise *= loudest.noise_mV / np.sqrt(np.square(noise).mean(axis=(1, 2), keepdims=True))
    of_noise = np.median(spectrum(noise)[1], axis=(0, 1))
    for at in np.flatnonzero((hz >= 10) & (hz <= 45) & (hz % 5 == 0)):
        show(f"{hz[at]:g} Hz between beats", power[..., at], f"uV^2/Hz; largest augmented {of_noise[at]:.2f}")
    print(f"largest augmented noise above 20 Hz: {1e3 * np.median(noise_mV(noise)):.1f} uV RMS")
    wander = _disturbance(nothing, replace(Augmentation(), noise_mV=0.0), generator).double().numpy()
    show("augmented wander, RMS", 1e3 * np.sqrt(np.square(wander).mean(axis=-1)), "uV")


if __name__ == "__main__":
    main()
