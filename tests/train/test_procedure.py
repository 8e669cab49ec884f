from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from screening.errors import UserError
from screening.train.evaluate import one_a_patient
from screening.train.fit import FitResult, FitSettings, fit, predict
from screening.train.procedure import Procedure, calibrate, run_procedure
from tests.bundles import TINY
from tests.train.sets import FIT, training_set

DATA = training_set()
TRAIN, TUNE = DATA.of_folds((1, 2)), DATA.of_folds((3,))


def test_the_best_learning_rate_of_short_trials_is_trained_in_full() -> None:
    seen: list[tuple[float, int, str]] = []

    def record(settings: FitSettings, name: str) -> FitResult:
        seen.append((settings.learning_rate, settings.epochs, name))
        return fit(TRAIN, TUNE, settings, network_config=TINY)

    procedure = Procedure(TINY, FIT, (1e-6, 1e-3, 5e-4), trial_epochs=2)
    fitted = run_procedure(TRAIN, TUNE, procedure, train_with=record)
    assert seen[:3] == [(1e-6, 2, "rate-1e-06"), (1e-3, 2, "rate-0.001"), (5e-4, 2, "rate-0.0005")]
    best = max(fitted.rates_tried, key=lambda rate: fitted.rates_tried[rate])
    assert seen[3:] == [(best, FIT.epochs, "whole")]
    assert fitted.learning_rate == best


def test_without_a_choice_nothing_is_tried() -> None:
    for rates, expected in (((), FIT.learning_rate), ((7e-3,), 7e-3)):
        fitted = run_procedure(TRAIN, TUNE, Procedure(TINY, replace(FIT, epochs=1), rates))
        assert fitted.rates_tried == {}
        assert fitted.learning_rate == expected


def test_the_fitted_network_gives_what_was_calibrated() -> None:
    fitted = run_procedure(TRAIN, TUNE, Procedure(TINY, FIT, specificity=0.8))
    logit = predict(fitted.network, TUNE.signals_mV)
    calibrator, threshold = calibrate(logit, TUNE, 0.8)
    assert (calibrator, threshold) == (fitted.calibrator, fitted.threshold)
    index = one_a_patient(TUNE.patient_key, TUNE.record_sha256)
    probability = calibrator.probability(logit[index].astype(np.float64))
    negatives = probability[TUNE.target[index] == 0]
    assert np.mean(negatives < threshold) >= 0.8
    assert not fitted.network.training


def test_a_network_that_ranks_backwards_cannot_be_calibrated() -> None:
    with pytest.raises(UserError, match="the tuning folds cannot calibrate this network: the logits do not rise"):
        calibrate(-TUNE.target.astype(np.float32) + np.linspace(0, 3, len(TUNE), dtype=np.float32), TUNE, 0.95)


def test_json_is_an_inverse() -> None:
    procedure = Procedure(TINY, FIT, (1e-3, 2e-3), trial_epochs=3, specificity=0.9)
    assert Procedure.from_json(procedure.to_json()) == procedure
    with pytest.raises(ValueError, match="learning rates and trial_epochs must be positive"):
        Procedure(TINY, FIT, (0.0,))
