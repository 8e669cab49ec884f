"""Where the limits of screening/contract.py (QualityLimits) come from: the distributions on a real archive.

    python -m tests.studies.quality_limits ARCHIVE [--folds 1-8]

Prints percentiles of every measure, who is rejected and flagged, how well the noise measures agree with PTB-XL's own
notes (columns baseline_drift, static_noise, burst_noise) as AUROC, and the weights that predict lead I.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from screening.archive.reader import ArchiveReader
from screening.contract import QUALITY_LIMITS
from screening.recording import Recording
from screening.signal.quality import _MEASURES, assess, measure, verdicts
from screening.signal.spectra import spectra

PERCENTILES = (0, 0.1, 1, 50, 95, 99, 99.9, 100)
NOTES = {"baseline_drift": "baseline_mV", "static_noise": "noise_mV", "burst_noise": "noise_mV"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--folds", default="1-8")
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.folds.split("-"))
    with (arguments.archive / "ptbxl_database.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if first <= int(row["strat_fold"]) <= last]
    reader = ArchiveReader(str(arguments.archive))
    found, likeness = [], []
    products = np.zeros((12, 12))
    for row in rows:
        recording = reader.read(row["filename_hr"] + ".hea", row["ecg_id"])
        assert isinstance(recording, Recording), recording
        found.append(assess(recording.signal_mV[None], recording.rate_hz))
        likeness.append(float(measure(recording.signal_mV[None], recording.rate_hz)["lead_I_likeness"][0]))
        whole = spectra(recording.signal_mV[None], recording.rate_hz)
        products += whole.qrs[0] + whole.below[0]
    print(f"{'':20s}" + "".join(f"{p:>10g}%" for p in PERCENTILES))
    for name in _MEASURES:
        values = np.array([float(q[name][0]) for q in found])
        print(f"{name:20s}" + "".join(f"{value:11.4f}" for value in np.percentile(values, PERCENTILES)))
    print(f"{'likeness of lead I':20s}" + "".join(f"{value:11.4f}" for value in np.percentile(likeness, PERCENTILES)))
    weights = np.linalg.solve(products[5:, 5:], products[5:, 0])
    print("lead I from aVF, V1..V6 by least squares:", weights.round(2))
    swapped = -np.array(likeness)  # swapped arms turn lead I over and leave aVF and the chest leads alone
    print(f"with arms swapped {np.mean(swapped < QUALITY_LIMITS.flag_reversal):.1%} of them would be flagged")
    for row, quality in zip(rows, found, strict=True):
        if verdict := verdicts(quality)[0]:
            print(f"rejected {row['ecg_id']}: {verdict[0]}: {verdict[1]}")
    flags = Counter(flag for q in found for flag in q["quality_flags"][0].split(",") if flag)
    print("flags:", dict(flags.most_common()))
    for flag in flags:
        ids = [row["ecg_id"] for row, q in zip(rows, found, strict=True) if flag in q["quality_flags"][0].split(",")]
        print(f"  {flag}: {' '.join(ids[:12])}")
    for note, name in NOTES.items():
        noted = np.array([bool(row[note].strip()) for row in rows])
        auroc = roc_auc_score(noted, [float(q[name][0]) for q in found])
        print(f"{name} against the note {note} ({noted.sum()} records): AUROC {auroc:.3f}")


if __name__ == "__main__":
    main()
