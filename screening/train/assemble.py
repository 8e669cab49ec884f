"""All of a retraining but reading and the fit itself: settings, identity, calibration, threshold, figures, the bundle.

Pure: arrays in, a bundle folder out. Where the fit runs is the business of ``loop.py``, and the order of it
all that of ``retrain.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from screening.contract import LEADS, sha256_of
from screening.model.bundle import Bundle, OperatingCharacteristics
from screening.model.bundle_writer import save_bundle
from screening.model.calibration import count_flags, reliability
from screening.model.classifier import count_flop, count_parameters
from screening.model.msaic import MSAICConfig
from screening.model.out_of_fold import OutOfFold
from screening.model.reference import NUMERIC_QUALITY, Reference, make_reference, score_distribution
from screening.settings import Settings
from screening.signal.preprocess import Preprocessing, preprocess
from screening.train.card import CALIBRATION_PLOT, CardFacts, Cost, Results, choice_in_words, render_card
from screening.train.data import TrainingSet
from screening.train.evaluate import TASKS, Scored, evaluate, one_a_patient
from screening.train.figures import calibration_plot
from screening.train.fit import FitSettings, predict
from screening.train.procedure import RATES, TRIAL_EPOCHS, Fitted, Procedure
from screening.train.reversal import flags_under_exchange
from screening.train.subgroups import counts_by_group

MAIN_TASK = "MI vs all other"
GOLDEN_RECORDS = 4
TRAINING_SCHEMA = 2  # a change of what a training does with the same settings, so that it gets a new name


class TrainSettings(Settings):
    """Settings of ``screening train``."""

    name: str = Field("msaic-mi", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="of the model")
    data: str = Field("", max_length=500, description="name of the archive, for the card")
    citation: str = Field("", max_length=2000, description="source and licence of the archive, for the card")
    chosen: str = Field("", max_length=2000, description="how network and settings were chosen, for the card")
    train_folds: tuple[int, ...] = Field((1, 2, 3, 4, 5, 6, 7, 8), min_length=1)
    tune_folds: tuple[int, ...] = Field((9,), min_length=1, description="choice, calibration and threshold")
    specificity: float = Field(0.95, gt=0, lt=1, description="of the threshold, on the tuning folds")
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        RATES, max_length=20, description="each is tried for trial_epochs; empty: that of fit"
    )
    trial_epochs: int = Field(TRIAL_EPOCHS, ge=1, description="of the short trainings that choose the learning rate")
    nested: bool = Field(
        False, description="repeat it all without each fold in turn: as many trainings more as there are folds"
    )
    resamples: int = Field(1000, ge=10, le=100_000, description="of the bootstrap over patients")
    preprocessing: Preprocessing = Preprocessing()
    network: MSAICConfig = MSAICConfig()
    fit: FitSettings = FitSettings()
    workers: int = Field(0, ge=0, le=4096, description="Ray Train workers; 0 trains in this process")
    resources: dict[str, float] = Field({}, description="of each worker, by Ray's names: CPU [1], GPU, memory, ...")
    backend: Literal["auto", "gloo", "nccl"] = Field("auto", description="auto: nccl between GPUs, gloo between CPUs")
    max_failures: int = Field(3, ge=0, description="lost workers that a training survives")

    def procedure(self) -> Procedure:
        """Return what is done with the training and tuning folds, and again in each outer fold."""
        return Procedure(self.network, self.fit, self.learning_rates, self.trial_epochs, self.specificity)


def training_id(catalog_id: str, settings: TrainSettings, comparisons: str = "") -> str:
    """Return the name of a training: the same catalog, settings and tables resume it, any other begin anew."""
    what = {
        "schema": TRAINING_SCHEMA,
        "catalog": catalog_id,
        "settings": settings_json(settings),
        "leads": LEADS,
        "comparisons": comparisons,
    }
    return sha256_of(what)[:12]


def settings_json(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that decide what a training gives, as JSON values.

    The number of workers is one of them: each worker draws its own random numbers.
    """
    plain: dict[str, Any] = settings.model_dump(mode="json", exclude={"max_failures", "resources", "backend"})
    return plain


@dataclass(frozen=True)
class Measured:
    """Records, what was said of them by networks that had not trained on them, and the figures that this gives."""

    records: TrainingSet
    scored: Scored
    figures: dict[str, Any]  # see train.evaluate.evaluate
    one_a_patient: np.ndarray  # indices: counts and calibration are of patients
    characteristics: OperatingCharacteristics

    @classmethod
    def of(cls, records: TrainingSet, scored: Scored, settings: TrainSettings, *, where: str, rule: str) -> Measured:
        """Measure scores; ``where`` names the records in words, ``rule`` the labels."""
        index = one_a_patient(records.patient_key, records.record_sha256)
        figures = evaluate(
            scored,
            records.target,
            records.label,
            records.patient_key,
            specificity=settings.specificity,
            resamples=settings.resamples,
            seed=settings.fit.seed,
        )
        flagged = np.asarray(scored.flagged)[index]
        of_patients = records.where(index)
        return cls(
            records,
            scored,
            figures,
            index,
            OperatingCharacteristics(
                data=f"{where}, one ECG a patient",
                reference=f"label rule {rule} on the archive's statements",
                overall=count_flags(flagged, of_patients.target),
                subgroups=counts_by_group(of_patients, flagged),
                figures={f"{t}: {name}": value for t in TASKS for name, value in interval_figures(figures[t]).items()},
            ),
        )


def make_bundle(
    folder: str | Path,
    *,
    fitted: Fitted,
    train: TrainingSet,
    tune: TrainingSet,
    data: TrainingSet,
    predictions: OutOfFold | None,
    settings: TrainSettings,
    catalog: Mapping[str, Any],
    comparisons: str = "",
    device: str = "cpu",
) -> Bundle:
    """Measure what was fitted and save the bundle.

    Parameters
    ----------
    folder
        Where the bundle goes; refused if it exists.
    data
        All records of the training and tuning folds.
    predictions
        Of a nested cross-validation over ``data``. They give the operating characteristics; without them the tuning
        folds do, which flatters.
    catalog
        ``catalog_id``, ``label_rule`` and ``label_rule_settings``: what the training rests on.
    comparisons
        Tables of a study, Markdown, for the card.
    """
    logit = predict(fitted.network.to(device), tune.signals_mV, device=device)
    fitted.network.to("cpu")
    probability = fitted.calibrator.probability(logit.astype(np.float64))
    folds = ", ".join(map(str, settings.tune_folds))
    name = settings.data or f"The archive of catalog {str(catalog['catalog_id'])[:12]}"
    rule = str(catalog["label_rule"])
    tuning = Measured.of(
        tune, Scored(probability, probability >= fitted.threshold), settings, where=f"{name}, fold {folds}", rule=rule
    )
    nested = None
    if predictions is not None:
        every = ", ".join(map(str, sorted(set(predictions.fold.tolist()))))
        known, found = predictions.match(data.record_sha256)
        scored = Scored(found.probability, found.flagged, found.fold)
        nested = Measured.of(
            data.where(known), scored, settings, where=f"{name}, folds {every}, nested cross-validation", rule=rule
        )
    measured = nested or tuning
    index = tuning.one_a_patient
    threshold_rule = (
        f"The threshold is the lowest at which {settings.specificity:.0%} of the patients without infarction in fold "
        f"{folds} are not flagged."
    )
    x, recorded, rate_hz = golden_inputs(settings.preprocessing)
    version = training_id(str(catalog["catalog_id"]), settings, comparisons)
    seen = {
        "trained": train.record_sha256.tolist(),
        "tuned": tune.record_sha256.tolist(),
        "calibrated": tune.record_sha256[index].tolist(),
    }
    tuning_results, nested_results = _results(tuning), _results(nested) if nested else None
    calibration = (nested_results or tuning_results).calibration
    patients = tune.where(index)
    card = render_card(
        CardFacts(
            name=settings.name,
            version=version,
            data=name,
            citation=settings.citation or "Its source and licence were not stated in the settings.",
            label_rule=catalog["label_rule_settings"],
            counts={"trained": _counts(train), "tuned": _counts(tune), "calibrated": _counts(patients)},
            left_out=train.left_out,
            how_chosen=settings.chosen
            + (" " if settings.chosen else "")
            + choice_in_words(
                train_folds=settings.train_folds,
                tune_folds=settings.tune_folds,
                rates_tried=fitted.rates_tried,
                learning_rate=fitted.learning_rate,
                keep=settings.fit.keep,
                best_epoch=fitted.result.best_epoch,
                epochs_run=len(fitted.result.history),
                epochs=settings.fit.epochs,
            ),
            settings=settings_json(settings),
            calibration_prevalence=fitted.calibrator.prevalence,
            threshold=fitted.threshold,
            threshold_rule=threshold_rule,
            tuned=tuning_results,
            nested=nested_results,
            preprocessing=asdict(settings.preprocessing),
            architecture=settings.network.to_json(),
            cost=Cost(
                count_parameters(fitted.network), count_flop(fitted.network, settings.preprocessing.samples) / 1e6
            ),
            reversal=flags_under_exchange(
                lambda x: (
                    fitted.calibrator.probability(predict(fitted.network, x).astype(np.float64)) >= fitted.threshold
                ),
                patients.signals_mV,
                patients.target,
                rate_hz=settings.preprocessing.rate_hz,
            ),
            reversal_data=tuning.characteristics.data,
            comparisons=comparisons,
        )
    )
    return save_bundle(
        folder,
        name=settings.name,
        version=version,
        network=fitted.network,
        preprocessing=settings.preprocessing,
        calibrator=fitted.calibrator,
        threshold=fitted.threshold,
        threshold_rule=threshold_rule,
        operating_characteristics=measured.characteristics,
        training={
            "catalog": dict(catalog),
            "settings": settings_json(settings),
            "left_out": dict(train.left_out),
            "learning_rate": fitted.learning_rate,
            "rates_tried": [[rate, score] for rate, score in fitted.rates_tried.items()],
            "best_epoch": fitted.result.best_epoch,
            "history": [{"epoch": epoch, **numbers} for epoch, numbers in enumerate(fitted.result.history)],
            "tuning": {
                "data": tuning.characteristics.data,
                "overall": asdict(tuning.characteristics.overall),
                "figures": tuning.characteristics.figures,
            },
        },
        seen=seen,
        card=card,
        golden_inputs=x,
        golden_signals=recorded,
        golden_rate_hz=rate_hz,
        out_of_fold=predictions,
        reference=_reference(train, tuning, measured, name, settings),
        pictures={CALIBRATION_PLOT: calibration_plot(calibration)} if calibration else None,
    )


def _reference(
    train: TrainingSet, tuning: Measured, measured: Measured, name: str, settings: TrainSettings
) -> Reference:
    """Return what the training records look like, and how patients score whom the network had not trained on."""
    index, folds = measured.one_a_patient, settings.train_folds
    together = len(folds) > 1 and list(folds) == list(range(folds[0], folds[-1] + 1))
    written = f"{folds[0]}-{folds[-1]}" if together else ", ".join(map(str, folds))
    return make_reference(
        f"{name}, fold{'s' if len(folds) > 1 else ''} {written}",
        patients=_counts(train)["patients"],
        quality={column: train.quality[column] for column in NUMERIC_QUALITY},
        quality_flags=train.quality_flags.tolist(),
        age=train.age,
        sex=train.sex.tolist(),
        scored=tuning.characteristics.data,
        probability=np.asarray(tuning.scored.score)[tuning.one_a_patient],
        scores=score_distribution(
            measured.characteristics.data,
            np.asarray(measured.scored.score)[index],
            measured.records.target[index],
            np.asarray(measured.scored.flagged)[index],
        ),
    )


def _results(measured: Measured) -> Results:
    """Return what the card shows of these figures."""
    target = measured.records.target[measured.one_a_patient]
    both = len(np.unique(target)) == 2
    return Results(
        measured.characteristics,
        measured.figures,
        reliability(np.asarray(measured.scored.score)[measured.one_a_patient], target) if both else None,
    )


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
