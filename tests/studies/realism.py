"""How like real ECGs are the simulated ones? One measure for both, and the bounds that real ones set.

    python -m tests.studies.realism bounds PTBXL_ROOT    # measure PTB-XL's folds 1-8, write tests/signal/realism_bounds.json
    python -m tests.studies.realism compare              # simulated ECGs against those bounds, as a table

A beat is the median of a record's beats, aligned by correlation; its fiducial points come from the spatial velocity of the
eight independent leads. The measure is deliberately simple: it need not be right to the millisecond, only the same for
both. Rule, fixed before the simulator was tuned: for each measure, the median of the simulated ECGs lies between the 25th
and the 75th percentile of the real ones, and the distance from the 10th to the 90th percentile is 0.5 to 2 times theirs.
"""

from __future__ import annotations

import ast
import csv
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.signal import butter, find_peaks, resample_poly, sosfiltfilt

from screening.contract import LEADS

BOUNDS = Path(__file__).resolve().parent.parent / "signal" / "realism_bounds.json"
RATE_HZ = 250
PERCENTILES = (10, 25, 50, 75, 90)
SPREAD_RATIO = (0.5, 2.0)
BEFORE_S, AFTER_S = 0.32, 0.60
_INDEPENDENT = [0, 1, 6, 7, 8, 9, 10, 11]
_BANDS = {
    "ecg": butter(2, (0.3, 40), "bandpass", fs=RATE_HZ, output="sos"),
    "qrs": butter(2, (8, 30), "bandpass", fs=RATE_HZ, output="sos"),
    "noise": butter(4, (20, 45), "bandpass", fs=RATE_HZ, output="sos"),
    "baseline": butter(2, 0.5, "lowpass", fs=RATE_HZ, output="sos"),
}


def median_beat(signal_mV: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the median beat (12, samples) and the places of the beats in (12, n) at RATE_HZ; None with fewer than 3."""
    ecg = sosfiltfilt(_BANDS["ecg"], signal_mV, axis=1)
    steep = np.diff(sosfiltfilt(_BANDS["qrs"], signal_mV[_INDEPENDENT], axis=1), axis=1, prepend=0)
    speed = np.convolve(np.sqrt((steep**2).sum(axis=0)), np.ones(15) / 15, "same")
    peaks, _ = find_peaks(speed, distance=int(0.33 * RATE_HZ), height=0.4 * np.percentile(speed, 98))
    before, after = round(BEFORE_S * RATE_HZ), round(AFTER_S * RATE_HZ)
    peaks = peaks[(peaks > before + 10) & (peaks < ecg.shape[1] - after - 10)]
    if len(peaks) < 3:
        return None
    around = np.arange(-25, 25)
    template = np.median(ecg[:, peaks[:, None] + around], axis=1)
    lags = np.arange(-6, 7)
    fit = (ecg[:, peaks[:, None, None] + lags[:, None] + around] * template[:, None, None, :]).sum(axis=(0, 3))
    peaks = peaks + lags[np.argmax(fit, axis=1)]
    beats = ecg[:, peaks[:, None] + np.arange(-before, after)]
    return np.median(beats, axis=1), peaks


def measure(signal_mV: np.ndarray) -> dict[str, float]:
    """Return the measures of one ECG (12, n) in mV at RATE_HZ; NaN where one cannot be taken."""
    found = median_beat(signal_mV)
    if found is None:
        return {}
    beat, peaks = found
    to_ms = 1000 / RATE_HZ
    rr = float(np.median(np.diff(peaks))) if len(peaks) > 1 else np.nan
    here = round(BEFORE_S * RATE_HZ)
    speed = np.sqrt((np.gradient(beat[_INDEPENDENT], axis=1) ** 2).sum(axis=0))
    speed = np.convolve(speed, np.ones(3) / 3, "same")
    near = slice(here - 30, here + 35)
    top = here - 30 + int(np.argmax(speed[near]))
    slow = speed < 0.10 * speed[top]
    on, off = top, top
    while on > here - 38 and not slow[on - 2 : on + 1].all():
        on -= 1
    while off < here + 45 and not slow[off : off + 3].all():
        off += 1
    beat = beat - beat[:, on - 6 : on - 1].mean(axis=1, keepdims=True)
    m: dict[str, float] = {"heart_rate_bpm": 60 * RATE_HZ / rr, "qrs_ms": (off - on) * to_ms}
    # T: largest deflection after the QRS; its end where the steepest tangent of the leads' root mean square ends
    t_from, t_to = off + 20, min(off + 95, on + int(0.68 * rr), beat.shape[1] - 25)
    size = np.sqrt((beat[_INDEPENDENT] ** 2).mean(axis=0))
    if t_to > t_from + 10:
        t_top = t_from + int(np.argmax(size[t_from:t_to]))
        tail = size[t_top : t_top + 30]
        slope = np.gradient(tail)
        steepest = int(np.argmin(slope))
        floor = tail[steepest:].min()
        if slope[steepest] < 0:
            m["qt_ms"] = (t_top + steepest + (tail[steepest] - floor) / -slope[steepest] - on) * to_ms
    # P: the largest positive deflection of lead II before the QRS; its onset where it falls under a fifth
    p = beat[1, max(on - 60, 3) : on - 8]
    p = p - np.linspace(p[:3].mean(), p[-3:].mean(), len(p))
    p_top = int(np.argmax(p))
    m["p_II_mV"] = float(p[p_top])
    if p[p_top] > 0.04:
        low = np.flatnonzero(p[:p_top] < 0.2 * p[p_top])
        if len(low):
            m["pr_ms"] = (len(p) + 8 - low[-1]) * to_ms
    for row, lead in enumerate(LEADS):
        x = beat[row, on : off + 1]
        r = int(np.argmax(x)) if x.max() >= 0.05 else len(x) - 1
        m[f"r_{lead}_mV"] = max(float(x.max()), 0.0)
        m[f"s_{lead}_mV"] = max(float(-x[r:].min()), 0.0)
        m[f"q_{lead}_mV"] = max(float(-x[: r + 1].min()), 0.0)
        m[f"st_{lead}_mV"] = float(beat[row, off + 5 : off + 15].mean())
        if t_to > t_from + 10:
            t = beat[row, t_from:t_to]
            m[f"t_{lead}_mV"] = float(t[np.argmax(np.abs(t))])
    energy = np.linalg.svd(beat[_INDEPENDENT, on : min(off + 100, beat.shape[1])], compute_uv=False) ** 2
    m["log10_beyond_rank_3"] = float(np.log10(energy[3:].sum() / energy.sum()))
    independent = signal_mV[_INDEPENDENT]
    quiet = np.ones(signal_mV.shape[1], bool)
    quiet[np.clip(peaks[:, None] + np.arange(-25, 30), 0, len(quiet) - 1)] = False
    noise = sosfiltfilt(_BANDS["noise"], independent, axis=1)[:, quiet]
    m["log10_noise_mV"] = float(np.log10(np.median(noise.std(axis=1)) + 1e-5))
    wander = sosfiltfilt(_BANDS["baseline"], independent - np.median(independent, axis=1, keepdims=True), axis=1)
    m["log10_baseline_mV"] = float(np.log10(np.median(wander.std(axis=1)) + 1e-5))
    return m


# --- Real and simulated ----------------------------------------------------------------------------------------------


def real_ecgs(root: Path, folds: range) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (group, (12, n) mV at RATE_HZ) of PTB-XL's records that are NORM or MI and have no pacemaker."""
    with (root / "scp_statements.csv").open() as file:
        mi = {row[""] for row in csv.DictReader(file) if row["diagnostic_class"] == "MI"}
    with (root / "ptbxl_database.csv").open() as file:
        for row in csv.DictReader(file):
            codes = set(ast.literal_eval(row["scp_codes"]))
            group = "MI" if codes & mi else "NORM" if "NORM" in codes else None
            if group and int(row["strat_fold"]) in folds and "PACE" not in codes:
                stored = np.fromfile(root / f"{row['filename_hr']}.dat", "<i2").reshape(-1, 12).T / 1000.0
                yield group, resample_poly(stored, 1, 2, axis=1)


def simulated_ecgs(count: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (group, (12, n) mV at RATE_HZ) of simulated ECGs that are NORM or MI, ``count`` before the others are left out."""
    from screening.signal.simulate import SimulationSettings, simulate

    batch = simulate(range(count), SimulationSettings(records=count, prevalence=0.5, seed=seed, rate_hz=RATE_HZ))
    for signal, truth in zip(batch.signal_mV, batch.truth, strict=True):
        group = "MI" if truth.territory else "NORM" if truth.condition == "NORM" else None
        if group:
            yield group, signal.astype(float)


def percentiles(ecgs: Iterator[tuple[str, np.ndarray]]) -> dict[str, dict[str, list[float]]]:
    """Return group -> measure -> values at PERCENTILES."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for group, signal in ecgs:
        values[group]["records"].append(1.0)
        for name, value in measure(signal).items():
            if np.isfinite(value):
                values[group][name].append(value)
    return {
        group: {
            name: [round(float(v), 4) for v in np.percentile(found, PERCENTILES)] if name != "records" else [len(found)]
            for name, found in sorted(measures.items())
        }
        for group, measures in sorted(values.items())
    }


def outside(simulated: dict[str, dict[str, list[float]]], real: dict[str, dict[str, list[float]]]) -> dict[str, str]:
    """Return 'group measure' -> what is out of bounds, for all that is."""
    found = {}
    for group, measures in real.items():
        for name, (p10, p25, _, p75, p90) in ((n, v) for n, v in measures.items() if n != "records"):
            s10, _, s50, _, s90 = simulated[group][name]
            ratio = (s90 - s10) / (p90 - p10)
            if not p25 <= s50 <= p75:
                found[f"{group} {name}"] = f"median {s50:.3g} outside {p25:.3g} to {p75:.3g}"
            elif not SPREAD_RATIO[0] <= ratio <= SPREAD_RATIO[1]:
                found[f"{group} {name}"] = f"spread {ratio:.2f} of the real one"
    return found


def main(arguments: list[str]) -> None:
    warnings.simplefilter("error")
    if arguments[0] == "bounds":
        real = percentiles(real_ecgs(Path(arguments[1]), range(1, 9)))
        text = {
            "source": "PTB-XL 1.0.3 (Wagner et al., doi.org/10.1038/s41597-020-0495-6), the records held, folds 1-8, CC BY 4.0",
            "command": "python -m tests.studies.realism bounds PTBXL_ROOT",
            "percentiles": PERCENTILES,
            "groups": real,
        }
        BOUNDS.write_text(json.dumps(text, indent=1).replace("\n    ", " ").replace("\n   ]", "]") + "\n")
    else:
        real = json.loads(BOUNDS.read_text())["groups"]
        simulated = percentiles(simulated_ecgs(600, seed=1))
        wrong = outside(simulated, real)
        for group, measures in real.items():
            for name in measures:
                mark = wrong.get(f"{group} {name}", "")
                print(f"{group:5} {name:20} real {measures[name]}  simulated {simulated[group][name]}  {mark}")
        print(f"{len(wrong)} of {sum(len(m) - 1 for m in real.values())} out of bounds")


if __name__ == "__main__":
    main(sys.argv[1:])
