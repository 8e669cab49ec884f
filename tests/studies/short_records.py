"""Which filling of a short recording changes its score least: repetition or zeros.

    python -m tests.studies.short_records ARCHIVE [--model FOLDER] [--fold 9]

Real 10 s recordings are cut to their first 5 to 9 s and scored again. Printed for each length and filling: the mean
change of the logit, its root mean square (in brackets: as a share of the logits' standard deviation), the share of
records that cross the bundle's threshold, and the AUROC of infarction against all others. ``window`` is the cut
recording without any filling, as far as the network can take it: what the loss of evidence alone costs.
"""

from __future__ import annotations

import argparse
import ast
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from screening.archive.reader import ArchiveReader
from screening.model.bundle import PRETRAINED, load_bundle
from screening.recording import Recording
from screening.signal.preprocess import Preprocessing, preprocess
from screening.signal.quality import assess, verdicts

LENGTHS_S = (5, 6, 7, 8, 9)
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--model", type=Path, default=PRETRAINED)
    parser.add_argument("--fold", type=int, default=9, help="one that the network was not trained on")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    network = bundle.network()
    recordings, infarction = _recordings(arguments.archive, arguments.fold)

    def logits(settings: Preprocessing, seconds: float) -> np.ndarray:
        found = []
        for batch in _batches(recordings):
            x = np.concatenate(
                [preprocess(r.signal_mV[None, :, : round(seconds * r.rate_hz)], r.rate_hz, settings) for r in batch]
            )
            with torch.inference_mode():
                found.append(network(torch.from_numpy(x)).numpy())
        return np.concatenate(found)

    def flagged(logit: np.ndarray) -> np.ndarray:
        return np.asarray(bundle.calibrator.probability(logit.astype(np.float64))) >= bundle.threshold

    whole = logits(bundle.preprocessing, bundle.preprocessing.window_s)
    print(f"{len(recordings)} records of fold {arguments.fold}, {infarction.sum()} with infarction")
    print(f"model {bundle.name} {bundle.version}, {bundle.sha256[:12]}")
    print(f"10 s: logit {whole.mean():.2f} +- {whole.std():.2f}, AUROC {roc_auc_score(infarction, whole):.3f}")
    print("length  filling   mean change   RMS change     cross the threshold   AUROC")
    for seconds in LENGTHS_S:
        for filling in ("repeat", "zero", "window"):
            settings = (
                replace(bundle.preprocessing, window_s=float(seconds))
                if filling == "window"
                else replace(bundle.preprocessing, short_record=filling)
            )
            cut = logits(settings, seconds)
            change = cut - whole
            rms = float(np.sqrt(np.mean(np.square(change))))
            crossed = float((flagged(cut) != flagged(whole)).mean())
            auroc = roc_auc_score(infarction, cut)
            print(
                f"{seconds:4d} s  {filling:8s} {change.mean():+11.3f} {rms:11.3f} ({rms / whole.std():4.0%}) {crossed:17.1%}"
                f" {auroc:15.3f}"
            )


def _recordings(archive: Path, fold: int) -> tuple[list[Recording], np.ndarray]:
    """Return the fold's recordings that quality accepts, and whether each is labelled as an infarction."""
    with (archive / "scp_statements.csv").open(newline="") as file:
        codes = {row[""] for row in csv.DictReader(file) if row["diagnostic_class"] == "MI"}
    reader = ArchiveReader(str(archive))
    recordings, infarction = [], []
    with (archive / "ptbxl_database.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if int(row["strat_fold"]) != fold:
                continue
            recording = reader.read(row["filename_hr"] + ".hea", row["ecg_id"])
            assert isinstance(recording, Recording), recording
            if verdicts(assess(recording.signal_mV[None], recording.rate_hz))[0] is None:
                recordings.append(recording)
                infarction.append(bool(codes & set(ast.literal_eval(row["scp_codes"]))))
    return recordings, np.array(infarction)


def _batches(recordings: list[Recording]) -> Iterator[list[Recording]]:
    for start in range(0, len(recordings), BATCH):
        yield recordings[start : start + BATCH]


if __name__ == "__main__":
    main()
