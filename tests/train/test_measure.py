from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from screening.errors import UserError
from screening.model.bundle import Bundle, load_bundle
from screening.train.data import TrainingSet
from screening.train.measure import measure, refuse_seen
from screening.train.reversal import ARMS, V1_V2, exchange
from tests.bundles import make_bundle
from tests.train.sets import training_set


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(make_bundle(tmp_path_factory.mktemp("measure") / "bundle", threshold=0.36).path)


@pytest.fixture(scope="module")
def records() -> TrainingSet:
    """Return 96 ECGs of 90 patients, of the length that the bundle takes."""
    data = training_set(samples=1000)
    keys = data.patient_key.copy()
    keys[:12:2] = keys[1:12:2]
    return dataclasses.replace(data, patient_key=keys)


def expected(bundle: Bundle, signals: np.ndarray) -> np.ndarray:
    """Return the probabilities by the formula, without the code under test."""
    with torch.inference_mode():
        logit = bundle.network()(torch.from_numpy(signals)).double().numpy()
    return 1 / (1 + np.exp(-(bundle.calibrator.slope * logit + bundle.calibrator.intercept)))


def test_what_is_measured(bundle: Bundle, records: TrainingSet) -> None:
    found, probability = measure(bundle, records, resamples=20)
    json.dumps(found, allow_nan=False)
    np.testing.assert_allclose(probability, expected(bundle, records.signals_mV), rtol=1e-4)
    assert found["records"] == 96
    assert found["tasks"]["MI vs all other"]["patients"] == 90
    counts, shares = found["counts_one_ecg_a_patient"], found["rates_one_ecg_a_patient"]
    assert sum(counts["overall"].values()) == 90
    assert counts.keys() == shares.keys()
    assert {"overall", "sex", "age", "site", "infarct (positives only)"} <= counts.keys()
    overall = shares["overall"]["sensitivity"]
    assert overall["value"] == counts["overall"]["TP"] / (counts["overall"]["TP"] + counts["overall"]["FN"])
    assert overall["low"] <= overall["value"] <= overall["high"]
    for kind, groups in counts.items():
        assert kind == "overall" or groups.keys() == shares[kind].keys()
    assert {"slope", "intercept", "bins"} <= found["calibration"].keys()


def test_exchanged_electrodes_are_scored_by_the_same_network(bundle: Bundle) -> None:
    data = training_set(samples=1000)  # one ECG a patient: the order of the records stays
    found, probability = measure(bundle, data, resamples=10)
    changes = found["exchanged_electrodes_one_ecg_a_patient"]
    flagged = probability >= bundle.threshold
    for which in (ARMS, V1_V2):
        after = expected(bundle, exchange(data.signals_mV, which)) >= bundle.threshold
        for who, chosen in (("positives", data.target == 1), ("negatives", data.target == 0)):
            of = changes[which][who]
            assert of["n"] == chosen.sum()
            assert of["flagged"] == flagged[chosen].sum()
            assert of["flagged_exchanged"] == after[chosen].sum()
            assert of["flagged"] + of["gained"] - of["lost"] == of["flagged_exchanged"]


def test_one_class_alone_has_counts_and_no_calibration(bundle: Bundle, records: TrainingSet) -> None:
    found, _ = measure(bundle, records.where(records.target == 0), resamples=10)
    assert found["calibration"] is None
    assert set(found["rates_one_ecg_a_patient"]["overall"]) == {"specificity"}
    assert "auroc" not in found["tasks"]["MI vs all other"]


def test_records_that_the_bundle_has_seen_are_refused(tmp_path: Path, records: TrainingSet) -> None:
    sha256 = records.record_sha256.tolist()
    seen = {"trained": sha256[:3], "tuned": sha256[3:5], "calibrated": sha256[3:4]}
    bundle = make_bundle(tmp_path / "bundle", seen=seen)
    with pytest.raises(
        UserError, match=r"tiny 1 was made from some of these 96 records \(3 trained, 2 tuned, 1 calibr"
    ):
        refuse_seen(bundle, records)
    refuse_seen(bundle, records.where(np.arange(96) >= 5))
