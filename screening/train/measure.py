"""Measure a finished bundle on labelled records: refused where it has seen them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from screening.contract import NOTICE
from screening.errors import UserError
from screening.model.bundle import Bundle, check_golden
from screening.model.calibration import operating_counts, reliability
from screening.train.assemble import counts_by_group
from screening.train.data import TrainingSet
from screening.train.evaluate import Scored, evaluate, one_a_patient
from screening.train.fit import predict


def refuse_seen(bundle: Bundle, records: TrainingSet) -> None:
    """Raise UserError where a record was trained, tuned or calibrated on; its bytes are what counts, not its name."""
    seen = bundle.seen()
    found = {use: sum(sha256 in hashes for sha256 in records.record_sha256.tolist()) for use, hashes in seen.items()}
    if any(found.values()):
        told = ", ".join(f"{count:,} {use}" for use, count in found.items() if count)
        raise UserError(
            f"model {bundle.name} {bundle.version} was made from some of these {len(records):,} records ({told}); "
            "choose other --folds or another archive, or --allow-seen for figures that flatter it"
        )


def measure(
    bundle: Bundle,
    records: TrainingSet,
    *,
    statements: Mapping[str, Sequence[str]],
    device: str = "cpu",
    resamples: int = 1000,
) -> tuple[dict[str, Any], np.ndarray]:
    """Score records and compare with their labels.

    Returns
    -------
    dict, array
        What ``evaluation.json`` holds: figures by task with patient-bootstrap 95% intervals, counts at the bundle's
        threshold with one ECG a patient, and calibration; and the probabilities, float64 (n,).
    """
    network = bundle.network(device)
    check_golden(bundle, network, device)
    logit = predict(network, records.signals_mV, device=device)
    probability = bundle.calibrator.probability(logit.astype(np.float64))
    index = one_a_patient(records.patient_key, records.record_sha256)
    counts = operating_counts(probability[index], records.target[index], bundle.threshold)
    groups = counts_by_group(records.where(index), probability[index], bundle.threshold, statements)
    both = len(np.unique(records.target[index])) == 2
    return {
        "notice": NOTICE,
        "model": {
            "name": bundle.name,
            "version": bundle.version,
            "bundle_sha256": bundle.sha256,
            "input_contract_sha256": bundle.input_contract_sha256,
            "threshold": bundle.threshold,
            "calibration_prevalence": bundle.calibrator.prevalence,
        },
        "records": len(records),
        "left_out": dict(records.left_out),
        "tasks": evaluate(
            Scored(probability, probability >= bundle.threshold),
            records.target,
            records.label,
            records.patient_key,
            resamples=resamples,
        ),
        "counts_one_ecg_a_patient": {
            "overall": asdict(counts),
            **{kind: {group: asdict(of) for group, of in members.items()} for kind, members in groups.items()},
        },
        "calibration": reliability(probability[index], records.target[index]) if both else None,
    }, probability


def plot(evaluation: Mapping[str, Any], probability: np.ndarray, target: np.ndarray, path: Path) -> bool:
    """Draw the ROC curve and the reliability of the probabilities as PNG; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    roc, calibration = figure.subplots(1, 2)
    false, true, _ = roc_curve(target, probability)
    roc.plot(false, true)
    roc.set(xlabel="1 − specificity", ylabel="sensitivity", title="MI vs all other")
    bins = evaluation["calibration"]["bins"]
    calibration.plot([row["mean_probability"] for row in bins], [row["frequency"] for row in bins], "o-")
    calibration.set(xlabel="probability", ylabel="share with infarction", title="Reliability, one ECG a patient")
    for axes in (roc, calibration):
        axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
        axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.savefig(path, format="png", dpi=120)
    return True
