from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from screening.train.evaluate import Scored, compare, evaluate, one_a_patient


def archive(n: int = 300, *, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    label = rng.choice(["MI", "NORM", "other"], n, p=[0.25, 0.5, 0.25])
    target = (label == "MI").astype(np.int8)
    logit = rng.normal(0, 1, n) + 1.5 * target + 0.5 * (label == "other")
    return (logit.round(0) if ties else logit), target, label, np.array([f"p{i // 2}" for i in range(n)])


@pytest.mark.parametrize("ties", [False, True])
def test_values_are_those_of_scikit_learn(ties: bool) -> None:
    logit, target, label, patient = archive(ties=ties)
    found = evaluate(Scored(logit, logit >= 0.7), target, label, patient, resamples=10)
    for task, use in (("MI vs NORM", label != "other"), ("MI vs all other", label != "")):
        x, y = logit[use], target[use]
        assert found[task]["n"] == use.sum()
        assert found[task]["positives"] == y.sum()
        assert found[task]["auroc"]["value"] == pytest.approx(roc_auc_score(y, x))
        assert found[task]["auprc"]["value"] == pytest.approx(average_precision_score(y, x))
        assert found[task]["f1"]["value"] == pytest.approx(f1_score(y, x >= 0.7))
        fpr, tpr, _ = roc_curve(y, x, drop_intermediate=False)
        expected = tpr[fpr <= 0.05 + 1e-9].max()
        assert found[task]["sensitivity_at_specificity_0.95"]["value"] == pytest.approx(expected)
    best = evaluate(Scored(logit), target, label, patient, resamples=10)["MI vs all other"]["best_f1"]["value"]
    precision, recall, _ = precision_recall_curve(target, logit)
    assert best == pytest.approx((2 * precision * recall / (precision + recall).clip(1e-12)).max())


def test_bootstrap_draws_whole_patients() -> None:
    """The same intervals as a plain loop that copies the records of each drawn patient."""
    logit, target, label, patient = archive(120, ties=True)
    found = evaluate(Scored(logit), target, label, patient, resamples=200, seed=4)["MI vs all other"]["auroc"]
    rng = np.random.default_rng(4)
    rows = [np.flatnonzero(patient == p) for p in dict.fromkeys(patient)]
    times = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=200)
    values = []
    for drawn in times:
        index = np.concatenate([np.tile(row, count) for row, count in zip(rows, drawn, strict=True)]).astype(int)
        values.append(roc_auc_score(target[index], logit[index]))
    assert found["low"] == pytest.approx(np.quantile(values, 0.025))
    assert found["high"] == pytest.approx(np.quantile(values, 0.975))


def test_ecgs_of_one_patient_are_not_independent() -> None:
    """Every ECG copied four times under its patient's key changes nothing; as new patients it narrows the interval."""
    logit, target, label, _ = archive(150)
    own = np.arange(150).astype(str)
    once = evaluate(Scored(logit), target, label, own, seed=1)
    copied = [np.tile(part, 4) for part in (logit, target, label)]
    together = evaluate(Scored(copied[0]), *copied[1:], np.tile(own, 4), seed=1)
    apart = evaluate(Scored(copied[0]), *copied[1:], np.arange(600).astype(str), seed=1)
    for task in once:
        assert together[task]["auroc"] == pytest.approx(once[task]["auroc"])
        assert together[task]["patients"] == once[task]["patients"]
        width = {k: v[task]["auroc"]["high"] - v[task]["auroc"]["low"] for k, v in (("once", once), ("apart", apart))}
        assert width["apart"] < 0.65 * width["once"]


def test_the_interval_covers_the_truth() -> None:
    """Normal scores one apart: AUROC is Phi(1 / sqrt 2) = 0.7602. 100 studies, so at least 88 hits of 95 expected."""
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        target = (np.arange(200) < 60).astype(int)
        label = np.where(target == 1, "MI", "NORM")
        scored = Scored(rng.normal(size=200) + target)
        auroc = evaluate(scored, target, label, np.arange(200), resamples=200)["MI vs NORM"]["auroc"]
        hits += auroc["low"] <= 0.76025 <= auroc["high"]
    assert hits >= 88


def test_closed_forms() -> None:
    target = np.array([1, 1, 0, 0])
    label = np.array(["MI", "MI", "NORM", "other"])
    perfect = evaluate(Scored(np.array([3.0, 2.0, 1.0, 0.0])), target, label, np.arange(4), resamples=50)
    assert perfect["MI vs NORM"]["auroc"]["value"] == 1.0
    assert perfect["MI vs all other"]["best_f1"]["value"] == 1.0
    assert perfect["MI vs all other"]["sensitivity_at_specificity_0.95"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    same = evaluate(Scored(np.zeros(4)), target, label, np.arange(4), resamples=50)["MI vs all other"]
    assert same["auroc"]["value"] == 0.5
    assert same["auprc"]["value"] == same["prevalence"] == 0.5
    assert same["sensitivity_at_specificity_0.95"]["value"] == 0.0


def test_a_task_without_one_of_the_classes_gives_its_counts() -> None:
    found = evaluate(
        Scored(np.arange(3.0)), np.array([1, 0, 0]), np.array(["MI", "other", "other"]), np.arange(3), resamples=20
    )
    assert found["MI vs NORM"] == {"n": 1, "patients": 1, "positives": 1, "prevalence": 1.0}
    assert "auroc" in found["MI vs all other"]


def test_null_patients_are_patients_of_their_own() -> None:
    patient = np.array([None, None, "a", "a", ""], dtype=object)
    label = np.array(["MI", "NORM", "MI", "NORM", "NORM"])
    found = evaluate(Scored(np.arange(5.0)), (label == "MI").astype(int), label, patient, resamples=20)
    assert found["MI vs all other"]["patients"] == 4
    assert one_a_patient(patient, np.array([5, 4, 3, 2, 1])).tolist() == [0, 1, 3, 4]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="equally long"):
        evaluate(Scored(np.zeros(3)), np.zeros(3), np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        evaluate(Scored(np.array([np.nan, 1])), np.array([0, 1]), np.array(["NORM", "MI"]), np.arange(2))


def test_a_thousand_resamples_of_a_test_set_take_about_a_second() -> None:
    started = time.process_time()
    logit, *rest = archive(2000)
    evaluate(Scored(logit), *rest)
    assert time.process_time() - started < 5


def test_a_model_compared_with_itself_differs_by_nothing() -> None:
    logit, target, label, patient = archive()
    for task in compare(Scored(logit), Scored(logit), target, label, patient, resamples=50).values():
        assert all(d == {"value": 0, "low": 0, "high": 0, "p_lower": 0} for d in task.values())


def test_a_comparison_is_paired() -> None:
    """Nearly equal models differ by little, however wide the interval of each; both see the same resamples."""
    logit, target, label, patient = archive()
    near = logit + np.random.default_rng(1).normal(0, 0.1, len(logit))
    alone = evaluate(Scored(logit), target, label, patient)["MI vs all other"]["auroc"]
    other = evaluate(Scored(near), target, label, patient)["MI vs all other"]["auroc"]
    paired = compare(Scored(logit), Scored(near), target, label, patient)["MI vs all other"]["auroc"]
    assert paired["value"] == pytest.approx(alone["value"] - other["value"])
    assert paired["high"] - paired["low"] < 0.3 * (alone["high"] - alone["low"])
    worse = compare(Scored(np.zeros(len(logit))), Scored(logit), target, label, patient)["MI vs all other"]["auroc"]
    assert worse["p_lower"] == 1.0
    assert worse["high"] < 0


def test_networks_of_different_folds_are_ranked_apart() -> None:
    """A shift of one part's scores, which ranks across parts would feel, changes nothing."""
    logit, target, label, patient = archive()
    part = np.array([int(p[1:]) % 3 for p in patient])
    found = evaluate(Scored(logit + 100 * part, part=part), target, label, patient, resamples=100)
    for task, use in (("MI vs NORM", label != "other"), ("MI vs all other", label != "")):
        values, weights = [], []
        for number in range(3):
            chosen = use & (part == number)
            values.append(roc_auc_score(target[chosen], logit[chosen]))
            weights.append(target[chosen].sum())
        assert found[task]["auroc"]["value"] == pytest.approx(np.average(values, weights=weights))
        assert found[task]["auroc"]["low"] < found[task]["auroc"]["value"] < found[task]["auroc"]["high"]
