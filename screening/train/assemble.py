"""All of a retraining but reading and the fit itself: settings, identity, calibration, threshold, figures, the bundle.

Pure: arrays in, a bundle folder out. Where the fit runs is the business of ``loop.py``, and the order of it
all that of ``retrain.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from screening.archive.catalog import Catalog
from screening.contract import LEADS, sha256_of
from screening.errors import UserError
from screening.model.bundle import Bundle, Counts, OperatingCharacteristics, save_bundle
from screening.model.calibration import fit_platt, operating_counts, threshold_at_specificity
from screening.model.msaic import MSAICConfig
from screening.settings import Settings
from screening.signal.preprocess import Preprocessing, preprocess
from screening.train.card import render_card
from screening.train.data import TrainingSet, check_disjoint
from screening.train.evaluate import TASKS, Scored, evaluate, one_a_patient
from screening.train.fit import FitResult, FitSettings, predict

MAIN_TASK = "MI vs all other"
AGE_BANDS = ((0, 39), (40, 49), (50, 59), (60, 69), (70, 79), (80, 150))
INFARCT_STATEMENTS: dict[str, tuple[str, ...]] = {
    "anterior": ("AMI", "ASMI", "ALMI"),
    "inferior": ("IMI", "ILMI", "IPMI", "IPLMI"),
    "lateral": ("LMI", "ALMI", "ILMI", "IPLMI"),
    "posterior": ("PMI", "IPMI", "IPLMI"),
    "injury": ("INJAS", "INJAL", "INJIN", "INJLA", "INJIL"),
}
"""Where PTB-XL's statements (scp_statements.csv) place an infarct; a record may be in several groups."""
GOLDEN_RECORDS = 4
TRAINING_SCHEMA = 1  # a change of what a training does with the same settings, so that it gets a new name


class TrainSettings(Settings):
    """Settings of ``screening train``."""

    name: str = Field("msaic-mi", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="of the model")
    data: str = Field("", max_length=500, description="name of the archive, for the card")
    citation: str = Field("", max_length=2000, description="source and licence of the archive, for the card")
    train_folds: tuple[int, ...] = Field((1, 2, 3, 4, 5, 6, 7, 8), min_length=1)
    tune_folds: tuple[int, ...] = Field((9,), min_length=1, description="choice, calibration and threshold")
    specificity: float = Field(0.95, gt=0, lt=1, description="of the threshold, on the tuning folds")
    resamples: int = Field(1000, ge=10, le=100_000, description="of the bootstrap over patients")
    preprocessing: Preprocessing = Preprocessing()
    network: MSAICConfig = MSAICConfig()
    fit: FitSettings = FitSettings()
    workers: int = Field(0, ge=0, le=4096, description="Ray Train workers; 0 trains in this process")
    max_failures: int = Field(3, ge=0, description="lost workers that a training survives")


def training_id(catalog_id: str, settings: TrainSettings) -> str:
    """Return the name of a training: the same catalog and settings resume it, any other begin anew."""
    what = {
        "schema": TRAINING_SCHEMA,
        "catalog": catalog_id,
        "settings": settings_json(settings),
        "leads": LEADS,
    }
    return sha256_of(what)[:12]


def settings_json(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that decide what a training gives, as JSON values.

    The number of workers is one of them: each worker draws its own random numbers.
    """
    plain: dict[str, Any] = settings.model_dump(mode="json", exclude={"max_failures"})
    return plain


def split(data: TrainingSet, settings: TrainSettings) -> tuple[TrainingSet, TrainingSet]:
    """Return the training and the tuning records, which share no patient.

    Raises
    ------
    UserError
        If a set lacks one of the two classes or both share a patient or a record.
    """
    train, tune = data.of_folds(settings.train_folds), data.of_folds(settings.tune_folds)
    for what, part, folds in (("train", train, settings.train_folds), ("tune", tune, settings.tune_folds)):
        positives = int(part.target.sum())
        if min(positives, len(part) - positives) < 2:
            raise UserError(
                f"the {what}_folds {', '.join(map(str, folds))} hold {positives} positive and {len(part) - positives} "
                "negative records, and two of each are needed; choose other folds or a larger archive"
            )
    check_disjoint(train, tune)
    return train, tune


def make_bundle(
    folder: str | Path,
    *,
    fitted: FitResult,
    train: TrainingSet,
    tune: TrainingSet,
    settings: TrainSettings,
    catalog: Mapping[str, Any],
    statements: Mapping[str, Sequence[str]],
    device: str = "cpu",
) -> tuple[Bundle, dict[str, Any]]:
    """Calibrate, fix the threshold, measure, and save the bundle.

    Parameters
    ----------
    folder
        Where the bundle goes; refused if it exists.
    catalog
        ``catalog_id``, ``label_rule`` and ``label_rule_settings``: what the training rests on.
    statements
        Record id -> the archive's statement codes, for the counts by place of the infarct.

    Returns
    -------
    Bundle, dict
        The bundle and its evaluation on the tuning folds (see ``train.evaluate.evaluate``).
    """
    network = settings.network.build()
    network.load_state_dict(fitted.state_dict)
    logit = predict(network.to(device), tune.signals_mV, device=device)
    network.to("cpu")
    index = one_a_patient(tune.patient_key, tune.record_sha256)
    try:
        calibrator = fit_platt(logit[index], tune.target[index])
    except ValueError as error:
        raise UserError(f"the tuning folds cannot calibrate this network: {error}") from None
    probability = calibrator.probability(logit.astype(np.float64))
    threshold = threshold_at_specificity(probability[index], tune.target[index], settings.specificity)
    figures = evaluate(
        Scored(probability, probability >= threshold),
        tune.target,
        tune.label,
        tune.patient_key,
        specificity=settings.specificity,
        resamples=settings.resamples,
        seed=settings.fit.seed,
    )
    folds = ", ".join(map(str, settings.tune_folds))
    data = settings.data or f"The archive of catalog {str(catalog['catalog_id'])[:12]}"
    measured = OperatingCharacteristics(
        data=f"{data}, fold {folds}, one ECG a patient",
        reference=f"label rule {catalog['label_rule']} on the archive's statements",
        overall=operating_counts(probability[index], tune.target[index], threshold),
        subgroups=counts_by_group(tune.where(index), probability[index], threshold, statements),
        figures={f"{task}: {name}": value for task in TASKS for name, value in interval_figures(figures[task]).items()},
    )
    rule = (
        f"The threshold is the lowest at which {settings.specificity:.0%} of the patients without infarction in fold "
        f"{folds} are not flagged."
    )
    x, recorded, rate_hz = golden_inputs(settings.preprocessing)
    version = training_id(str(catalog["catalog_id"]), settings)
    seen = {
        "trained": train.record_sha256.tolist(),
        "tuned": tune.record_sha256.tolist(),
        "calibrated": tune.record_sha256[index].tolist(),
    }
    card = render_card(
        name=settings.name,
        version=version,
        data=data,
        citation=settings.citation or "Its source and licence were not stated in the settings.",
        label_rule=f"rule {catalog['label_rule']}, `{json.dumps(catalog['label_rule_settings'])}`",
        counts={"trained": _counts(train), "tuned": _counts(tune), "calibrated": _counts(tune.where(index))},
        calibration_prevalence=calibrator.prevalence,
        threshold=threshold,
        threshold_rule=rule,
        measured=measured,
        preprocessing=asdict(settings.preprocessing),
        architecture=settings.network.to_json(),
    )
    bundle = save_bundle(
        folder,
        name=settings.name,
        version=version,
        network=network,
        preprocessing=settings.preprocessing,
        calibrator=calibrator,
        threshold=threshold,
        threshold_rule=rule,
        operating_characteristics=measured,
        training={
            "catalog": dict(catalog),
            "settings": settings_json(settings),
            "left_out": dict(train.left_out),
            "best_epoch": fitted.best_epoch,
            "history": [{"epoch": epoch, **numbers} for epoch, numbers in enumerate(fitted.history)],
        },
        seen=seen,
        card=card,
        golden_inputs=x,
        golden_signals=recorded,
        golden_rate_hz=rate_hz,
    )
    return bundle, figures


def counts_by_group(
    records: TrainingSet, probability: np.ndarray, threshold: float, statements: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Counts]]:
    """Return the counts by sex, age band and, of positives alone, place of the infarct; empty groups are absent."""
    groups: dict[str, dict[str, np.ndarray]] = {
        "sex": {sex: records.sex == sex for sex in ("female", "male")},
        "age": {
            f"{low}-{high}" if high < 150 else f"{low} and over": (records.age >= low) & (records.age < high + 1)
            for low, high in AGE_BANDS
        },
    }
    positive = records.target == 1
    codes = [frozenset(statements.get(record_id, ())) for record_id in records.record_id.tolist()]
    groups["infarct (positives only)"] = {
        place: positive & np.array([bool(of.intersection(wanted)) for of in codes], dtype=bool)
        for place, wanted in INFARCT_STATEMENTS.items()
    }
    return {
        kind: {
            group: operating_counts(probability[mask], records.target[mask], threshold)
            for group, mask in members.items()
            if mask.any()
        }
        for kind, members in groups.items()
    }


def statements_of(catalog: Catalog, records: TrainingSet) -> dict[str, Sequence[str]]:
    """Return the archive's statement codes of these records, by record id."""
    wanted = set(records.record_id.tolist())
    found: dict[str, Sequence[str]] = {}
    for batch in catalog.iter_batches(["record_id", "labels"]):
        for record_id, codes in zip(batch["record_id"].to_pylist(), batch["labels"].to_pylist(), strict=True):
            if record_id in wanted and codes:
                found[record_id] = codes
    return found


def interval_figures(task: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return those entries of a task's evaluation that are figures with an interval."""
    return {name: dict(value) for name, value in task.items() if isinstance(value, Mapping) and "low" in value}


def golden_inputs(settings: Preprocessing) -> tuple[np.ndarray, np.ndarray, float]:
    """Return network inputs (b, 12, t), the simulated ECGs (b, 12, n) in mV that they come from, and their rate."""
    from screening.signal.simulate import SimulationSettings, simulate

    wanted = SimulationSettings(records=GOLDEN_RECORDS, prevalence=0.5, seed=2, rate_hz=500)
    recorded = simulate(range(GOLDEN_RECORDS), wanted).signal_mV
    return preprocess(recorded, wanted.rate_hz, settings), recorded, float(wanted.rate_hz)


def registry_entry(bundle: Bundle) -> dict[str, Any]:
    """Return what the registry is told of a bundle: ``parameters``, ``curves``, ``figures`` and ``tags``."""
    training = bundle.training
    suffix = {"MI vs all other": "", "MI vs NORM": "_norm"}
    figures: dict[str, float] = {}
    for named, value in bundle.operating_characteristics.figures.items():
        task, name = named.split(": ", 1)
        for end, number in (("", value["value"]), ("_low", value["low"]), ("_high", value["high"])):
            figures[f"{name}{suffix[task]}{end}"] = number
    figures["threshold"] = bundle.threshold
    return {
        "parameters": _flat(training["settings"]),
        "curves": training["history"],
        "figures": figures,
        "tags": {
            "catalog_id": str(training["catalog"]["catalog_id"]),
            "label_rule": str(training["catalog"]["label_rule"]),
            "records_trained": str(training["records"]["trained"]),
        },
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _counts(records: TrainingSet) -> dict[str, int]:
    keys = records.patient_key.tolist()
    return {
        "records": len(records),
        "patients": len({key for key in keys if key}) + sum(not key for key in keys),
        "positives": int(records.target.sum()),
    }
