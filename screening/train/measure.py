"""Measure a finished bundle on labelled records: refused where it has seen them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from screening.contract import NOTICE
from screening.errors import UserError
from screening.model.bundle import Bundle, check_golden
from screening.model.calibration import count_flags, reliability
from screening.train.data import TrainingSet
from screening.train.evaluate import Scored, evaluate, one_a_patient
from screening.train.fit import predict
from screening.train.reversal import flags_under_exchange
from screening.train.subgroups import counts_by_group, rates


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
    device: str = "cpu",
    resamples: int = 1000,
) -> tuple[dict[str, Any], np.ndarray]:
    """Score records and compare with their labels.

    Returns
    -------
    dict, array
        What ``evaluation.json`` holds: figures by task with patient-bootstrap 95% intervals; with one ECG a patient,
        counts at the bundle's threshold, overall and by group, sensitivity and specificity with Wilson 95% intervals,
        calibration, and the flags under exchanged electrodes; and the probabilities, float64 (n,).
    """
    network = bundle.network(device)
    check_golden(bundle, network, device)

    def score(signals_mV: np.ndarray) -> np.ndarray:
        return bundle.calibrator.probability(predict(network, signals_mV, device=device).astype(np.float64))

    probability = score(records.signals_mV)
    index = one_a_patient(records.patient_key, records.record_sha256)
    patients = records.where(index)
    flagged = probability[index] >= bundle.threshold
    counts = count_flags(flagged, patients.target)
    groups = counts_by_group(patients, flagged)
    both = len(np.unique(patients.target)) == 2
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
        "rates_one_ecg_a_patient": {
            "overall": rates(counts),
            **{kind: {group: rates(of) for group, of in members.items()} for kind, members in groups.items()},
        },
        "calibration": reliability(probability[index], patients.target) if both else None,
        "exchanged_electrodes_one_ecg_a_patient": flags_under_exchange(
            lambda signals_mV: score(signals_mV) >= bundle.threshold,
            patients.signals_mV,
            patients.target,
            rate_hz=bundle.preprocessing.rate_hz,
        ),
    }, probability
