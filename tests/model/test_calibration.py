from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from screening.model.calibration import (
    PlattCalibrator,
    count_flags,
    fit_platt,
    reliability,
    threshold_at_specificity,
)


def labelled(
    n: int = 400, *, seed: int = 0, slope: float = 1.7, intercept: float = -1.2
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit = rng.normal(0.4, 1.5, n)
    return logit, (rng.random(n) < expit(slope * logit + intercept)).astype(np.int8)


@pytest.mark.parametrize(("stretch", "shift"), [(1.0, 0.0), (0.01, 5.0), (300.0, -40.0)])
def test_platt_is_logistic_regression_without_penalty(stretch: float, shift: float) -> None:
    logit, target = labelled()
    logit = logit * stretch + shift
    found = fit_platt(logit, target)
    centred = ((logit - logit.mean()) / logit.std())[:, None]
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(centred, target)
    np.testing.assert_allclose(found.probability(logit), oracle.predict_proba(centred)[:, 1], atol=1e-5)
    assert found.slope == pytest.approx(oracle.coef_[0, 0] / logit.std(), rel=1e-4)
    assert found.prevalence == target.mean()


def test_platt_recovers_the_truth_and_the_prevalence() -> None:
    logit, target = labelled(200_000)
    found = fit_platt(logit, target)
    assert found.slope == pytest.approx(1.7, rel=0.02)
    assert found.intercept == pytest.approx(-1.2, abs=0.03)
    # Maximum likelihood with an intercept: mean probability is the prevalence, exactly.
    assert found.probability(logit).mean() == pytest.approx(target.mean(), abs=1e-7)


def test_probability_keeps_shape_type_and_order() -> None:
    calibrator = PlattCalibrator(2.0, -1.0, 0.3)
    p = calibrator.probability(np.array([[-1000.0, 0.0], [0.5, 1000.0]], np.float32))
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, [[0, expit(-1)], [0.5, 1]], atol=1e-7)


@pytest.mark.parametrize(
    ("logit", "target", "message"),
    [
        ([0.0, 1.0, 2.0], [0, 0, 0], "both present"),
        ([0.0, 1.0, 2.0], [0, 1, 2], "0 and 1"),
        ([0.0, np.nan, 2.0], [0, 1, 1], "not finite"),
        ([1.0, 1.0, 1.0], [0, 1, 1], "the same"),
        ([0.0, 1.0, 2.0], [0, 0, 1], "without overlap"),
        ([3.0, 2.5, 1.0, 0.0, 2.0], [0, 0, 1, 1, 1], "do not rise"),
        ([0.0, 1.0], [0, 1, 1], "equally long"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logit: list[float], target: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_platt(np.array(logit), np.array(target))


@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.9, 0.95, 1.0])
def test_threshold_is_the_lowest_that_keeps_the_specificity(specificity: float) -> None:
    score, target = labelled(101, seed=3)
    threshold = threshold_at_specificity(score, target, specificity)
    assert count_flags(score >= threshold, target).specificity >= specificity
    lower = np.sort(score)[np.sort(score) < threshold]
    if len(lower):
        assert count_flags(score >= float(lower[-1]), target).TP >= count_flags(score >= threshold, target).TP
        negatives_below = score[(target == 0) & (score < threshold)].max(initial=-np.inf)
        if specificity > 0:
            assert count_flags(score >= float(negatives_below), target).specificity < specificity


def test_threshold_stands_between_records_and_ties_stay_together() -> None:
    score = np.array([0.1, 0.2, 0.2, 0.2, 0.6, 0.8])
    target = np.array([0, 0, 0, 0, 1, 1])
    assert threshold_at_specificity(score, target, 0.5) == pytest.approx(0.4)  # three tied negatives are one step
    assert threshold_at_specificity(score, target, 0.25) == pytest.approx(0.15)
    everybody_below = threshold_at_specificity(np.array([0.9, 0.1, 0.2]), np.array([0, 1, 1]), 1.0)
    assert everybody_below > 0.9
    with pytest.raises(ValueError, match="specificity must lie between 0 and 1, not 95"):
        threshold_at_specificity(score, target, 95)


def test_flags_are_counted() -> None:
    counts = count_flags(np.array([0.9, 0.5, 0.4, 0.5, 0.1]) >= 0.5, np.array([1, 1, 1, 0, 0]))
    assert (counts.TP, counts.FN, counts.TN, counts.FP) == (2, 1, 1, 1)
    empty = count_flags(np.empty(0), np.empty(0))
    assert (empty.TP, empty.FN, empty.TN, empty.FP) == (0, 0, 0, 0)


def test_reliability_against_scikit_learn_and_by_hand() -> None:
    logit, target = labelled(500)
    p = fit_platt(logit, target).probability(logit)
    found = reliability(p, target)
    assert found["brier"] == pytest.approx(brier_score_loss(target, p))
    assert found["log_loss"] == pytest.approx(log_loss(target, p))
    assert sum(row["n"] for row in found["bins"]) == 500
    assert found["expected_calibration_error"] < 0.05
    by_hand = reliability(np.array([0.2, 0.2, 0.8, 0.6]), np.array([0, 1, 1, 1]), bins=2)
    assert by_hand["bins"][0] == {"n": 2, "mean_probability": 0.2, "frequency": 0.5}
    assert by_hand["expected_calibration_error"] == pytest.approx((0.3 * 2 + 0.3 * 2) / 4)
