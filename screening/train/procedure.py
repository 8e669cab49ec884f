"""From labelled records to a calibrated network with a threshold: the whole that each outer fold repeats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from screening.errors import UserError
from screening.model.calibration import PlattCalibrator, fit_platt, threshold_at_specificity
from screening.model.classifier import Classifier, NetworkConfig
from screening.model.networks import config_from_json
from screening.train.data import TrainingSet
from screening.train.evaluate import one_a_patient
from screening.train.fit import FitResult, FitSettings, fit, predict

RATES = (1e-3, 2e-3, 4e-3)
TRIAL_EPOCHS = 4

WHOLE = "whole"  # the name of the fit that is kept; the others try learning rates

Fit = Callable[[FitSettings, str], FitResult]
"""Trains under settings; the name tells the trainings of one procedure apart, so that each can be resumed."""


@dataclass(frozen=True)
class Procedure:
    """What is done with training and tuning records; the tuning records choose rate and epoch, calibrate, and cut."""

    network: NetworkConfig
    fit: FitSettings
    learning_rates: tuple[float, ...] = ()  # each is tried; empty: the fit's own
    trial_epochs: int = TRIAL_EPOCHS  # of a whole, short schedule, after which the best rate is trained in full
    specificity: float = 0.95  # of the threshold, among tuning patients without infarction

    def __post_init__(self) -> None:
        if self.trial_epochs < 1 or not 0 < self.specificity < 1 or any(rate <= 0 for rate in self.learning_rates):
            raise ValueError("learning rates and trial_epochs must be positive, and specificity between 0 and 1")

    def to_json(self) -> dict[str, Any]:
        """Return the procedure as plain JSON values."""
        return {
            "network": self.network.to_json(),
            "fit": self.fit.to_json(),
            "learning_rates": list(self.learning_rates),
            "trial_epochs": self.trial_epochs,
            "specificity": self.specificity,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Procedure:
        """Return the procedure that ``to_json`` wrote."""
        return cls(
            **{
                **value,
                "network": config_from_json(value["network"]),
                "fit": FitSettings.from_json(value["fit"]),
                "learning_rates": tuple(value["learning_rates"]),
            }
        )


@dataclass(frozen=True)
class Fitted:
    """What a procedure gives."""

    network: Classifier  # on the CPU, in evaluation mode
    result: FitResult
    learning_rate: float
    rates_tried: dict[float, float]  # rate -> best tuning AUROC of its short training
    calibrator: PlattCalibrator
    threshold: float  # on the calibrated probability


def run_procedure(
    train: TrainingSet, tune: TrainingSet, procedure: Procedure, *, train_with: Fit | None = None, device: str = "cpu"
) -> Fitted:
    """Choose a learning rate, train, calibrate and fix the threshold.

    Parameters
    ----------
    train, tune : TrainingSet
        With no patient in common; that is the caller's to check.
    train_with : callable, optional
        Where the fits run; default: here, on ``device``.

    Raises
    ------
    UserError
        The tuning records cannot calibrate the network.
    """
    network, result, rate, tried = train_network(train, tune, procedure, train_with=train_with, device=device)
    logit = predict(network.to(device), tune.signals_mV, device=device)
    calibrator, threshold = calibrate(logit, tune, procedure.specificity)
    return Fitted(network.to("cpu").eval(), result, rate, tried, calibrator, threshold)


def train_network(
    train: TrainingSet, tune: TrainingSet, procedure: Procedure, *, train_with: Fit | None = None, device: str = "cpu"
) -> tuple[Classifier, FitResult, float, dict[float, float]]:
    """Choose a learning rate and train; parameters are those of ``run_procedure``.

    Returns
    -------
    tuple
        The network, on the CPU; how it was fitted; the rate, and those tried with the best tuning AUROC of each.
    """

    def here(settings: FitSettings, _name: str) -> FitResult:
        return fit(train, tune, settings, network_config=procedure.network, device=device)

    train_with = train_with or here
    tried: dict[float, float] = {}
    for rate in procedure.learning_rates if len(procedure.learning_rates) > 1 else ():
        short = replace(procedure.fit, learning_rate=rate, epochs=procedure.trial_epochs)
        tried[rate] = train_with(short, f"rate-{rate:g}").best_score
    chosen = max(tried, key=lambda rate: tried[rate]) if tried else (*procedure.learning_rates, None)[0]
    settings = procedure.fit if chosen is None else replace(procedure.fit, learning_rate=chosen)
    result = train_with(settings, WHOLE)
    network = procedure.network.build()
    network.load_state_dict(result.state_dict)
    return network, result, settings.learning_rate, tried


def calibrate(logit: np.ndarray, records: TrainingSet, specificity: float) -> tuple[PlattCalibrator, float]:
    """Return Platt's calibrator and the threshold at a specificity, both from one ECG a patient.

    The threshold is the lowest calibrated probability at which at least ``specificity`` of the patients without
    infarction are not flagged.

    Raises
    ------
    UserError
        The logits do not tell the classes apart at all, or a class is missing.
    """
    index = one_a_patient(records.patient_key, records.record_sha256)
    try:
        calibrator = fit_platt(logit[index], records.target[index])
    except ValueError as error:
        raise UserError(f"the tuning folds cannot calibrate this network: {error}") from None
    probability = calibrator.probability(logit[index].astype(np.float64))
    return calibrator, threshold_at_specificity(probability, records.target[index], specificity)
