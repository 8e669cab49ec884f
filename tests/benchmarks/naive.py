"""The script a competent user would write for an evening: wfdb, scipy, torch, record by record, one table at the end.

    python -m tests.benchmarks.naive ARCHIVE OUT.parquet [--model BUNDLE]

It uses our network and its bundle, because that is given; everything else is what the manuals of wfdb and scipy
show. It does less than `screening run`: no quality measures, no checksums, no pseudonyms, no resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import wfdb
from scipy.signal import butter, resample_poly, sosfiltfilt

from screening.model.bundle import PRETRAINED, load_bundle

LEADS = ["i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6"]
RATE_HZ = 100
SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Score an archive record by record")
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=PRETRAINED)
    args = parser.parse_args()

    bundle = load_bundle(args.model)
    network = bundle.network()
    filters = {}
    rows = []
    for header in sorted(args.archive.rglob("*.hea")):
        path = header.with_suffix("")
        row = {"record_id": path.relative_to(args.archive).as_posix(), "logit": None, "probability": None}
        rows.append(row)
        try:
            record = wfdb.rdrecord(str(path))
            names = [name.lower() for name in record.sig_name]
            signal = record.p_signal[:, [names.index(lead) for lead in LEADS]].T
        except (OSError, ValueError) as error:
            row["error"] = str(error)
            continue
        rate = int(record.fs)
        if rate not in filters:
            filters[rate] = butter(2, [0.5, 40], "bandpass", fs=rate, output="sos")
        signal = sosfiltfilt(filters[rate], np.nan_to_num(signal), axis=1)
        signal = resample_poly(signal, RATE_HZ, rate, axis=1)[:, : RATE_HZ * SECONDS]
        if signal.shape[1] < RATE_HZ * SECONDS:
            row["error"] = "shorter than 10 s"
            continue
        with torch.inference_mode():
            logit = network(torch.from_numpy(signal.astype(np.float32))[None]).item()
        row["logit"] = logit
        row["probability"] = float(bundle.calibrator.probability(np.array([logit]))[0])
    pd.DataFrame(rows).to_parquet(args.out)


if __name__ == "__main__":
    main()
