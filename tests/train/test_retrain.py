"""A retraining from arrays to a registered bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from screening.archive.labels import PTBXL_MI
from screening.errors import UserError
from screening.model.bundle import check_golden
from screening.settings import load_settings
from screening.train import retrain
from screening.train.assemble import TrainSettings, training_id
from screening.train.data import TrainingSet
from screening.train.registry import versions
from screening.train.trials import Split
from tests.train.sets import FIT, SETTINGS, training_set

SPLIT = Split(SETTINGS.train_folds, SETTINGS.tune_folds, ())


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> TrainingSet:
    """Stand in for the archive: a catalog whose records are the arrays above."""
    data = training_set()

    def iter_batches(columns: list[str]) -> list[dict[str, object]]:
        values = {"record_id": data.record_id.tolist(), "labels": [["AMI"] if t else [] for t in data.target]}
        return [{name: SimpleNamespace(to_pylist=lambda name=name: values[name]) for name in columns}]

    opened = SimpleNamespace(path="cat", catalog_id="c" * 64, label_rule=PTBXL_MI, iter_batches=iter_batches)
    monkeypatch.setattr(retrain, "open_catalog", lambda *_, **__: opened)
    monkeypatch.setattr(retrain, "load_training_set", lambda *_, **__: data)
    return data


def run(tmp_path: Path, mlflow_uri: str, settings: TrainSettings = SETTINGS, **options: object) -> retrain.Retraining:
    return retrain.retrain("cat", settings, trainings=tmp_path / "trainings", tracking_uri=mlflow_uri, **options)


def test_retraining_gives_a_registered_bundle_once(catalog: TrainingSet, tmp_path: Path, mlflow_uri: str) -> None:
    epochs: list[int] = []
    done = run(tmp_path, mlflow_uri, out=tmp_path / "out", on_epoch=lambda epoch, _: epochs.append(epoch))
    bundle = done.bundle
    assert epochs == [0, 1, 2]
    assert (bundle.path, bundle.name, bundle.version) == (tmp_path / "out", "tiny", done.training_id)
    check_golden(bundle, bundle.network())
    train, tune, _ = SPLIT.records(catalog)
    assert bundle.seen()["trained"] == frozenset(train.record_sha256)
    assert bundle.seen()["calibrated"] == frozenset(tune.record_sha256)
    assert bundle.training["left_out"] == {"flat_lead": 2}
    reference = bundle.reference()
    assert reference is not None
    assert (reference.data, reference.scored) == ("Noise, folds 1-2", "Noise, fold 3, one ECG a patient")
    assert (reference.records, reference.patients) == (len(train), len(train))
    assert reference.scores.patients == sum(reference.features["log_odds"].counts) == len(tune)
    assert bundle.calibrator.prevalence == pytest.approx(tune.target.mean())
    counts = bundle.operating_characteristics.overall
    assert tune.target.sum() == counts.TP + counts.FN
    assert len(tune) - tune.target.sum() == counts.TN + counts.FP
    assert counts.specificity >= 0.95
    anterior = bundle.operating_characteristics.subgroups["infarct (positives only)"]["anterior"]
    assert (anterior.TP, anterior.FN, anterior.TN, anterior.FP) == (counts.TP, counts.FN, 0, 0)
    card = (bundle.path / "card.md").read_text()
    assert "Noise. Made up by a generator. Licence: none." in card
    for must in ("no result is a diagnosis", "| AUROC | ", "| sex | female |", "## Not for"):
        assert must in card
    [registered] = versions(mlflow_uri, "tiny")
    assert registered == done.registered
    assert (registered.bundle_sha256, registered.aliases) == (bundle.sha256, ())  # the gate makes champions
    assert registered.figures["auroc"] == pytest.approx(
        bundle.operating_characteristics.figures["MI vs all other: auroc"]["value"]
    )

    again = run(tmp_path, mlflow_uri, out=tmp_path / "out", on_epoch=lambda epoch, _: epochs.append(epoch))
    assert again.already
    assert (again.bundle.sha256, again.registered.version) == (bundle.sha256, 1)
    assert epochs == [0, 1, 2]


def test_an_interrupted_training_ends_with_the_same_bundle(
    catalog: TrainingSet, tmp_path: Path, mlflow_uri: str
) -> None:
    whole = run(tmp_path / "a", mlflow_uri)

    def stop(epoch: int, _: object) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", mlflow_uri, on_epoch=stop)
    epochs: list[int] = []
    resumed = run(tmp_path / "b", mlflow_uri, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == [2]
    assert resumed.bundle.sha256 == whole.bundle.sha256


def test_the_name_of_a_training_is_what_goes_in() -> None:
    other_seed = SETTINGS.model_copy(update={"fit": dataclasses.replace(FIT, seed=1)})
    ids = {
        training_id("c" * 64, SETTINGS),
        training_id("d" * 64, SETTINGS),
        training_id("c" * 64, other_seed),
        training_id("c" * 64, SETTINGS.model_copy(update={"workers": 2})),
    }
    assert len(ids) == 4
    assert training_id("c" * 64, SETTINGS.model_copy(update={"max_failures": 9})) in ids


def test_what_stands_in_the_way_is_told_before_training(catalog: TrainingSet, tmp_path: Path, mlflow_uri: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"out exists and is not the bundle of this training; name another folder"):
        run(tmp_path, mlflow_uri, out=tmp_path / "out")
    with pytest.raises(UserError, match="the tuning folds 9 hold 0 positive and 0 negative records"):
        run(tmp_path, mlflow_uri, SETTINGS.model_copy(update={"tune_folds": (9,)}))
    folder = tmp_path / "trainings" / training_id("c" * 64, SETTINGS)
    with retrain._alone(folder), pytest.raises(UserError, match="is running already"):
        run(tmp_path, mlflow_uri)
    keys = np.where(catalog.record_id == "r8", "p0", catalog.patient_key)
    with pytest.raises(UserError, match="share 1 patient"):
        SPLIT.records(dataclasses.replace(catalog, patient_key=keys))


def test_settings_name_the_line_and_the_key(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("name: mine\nfit:\n  epochs: 5\n  contrast: fscl\nnetwork:\n  dilations: [1, 3]\n")
    settings = load_settings(TrainSettings, file, {"workers": 2, "name": None})
    assert (settings.name, settings.fit.epochs, settings.network.dilations, settings.workers) == ("mine", 5, (1, 3), 2)
    file.write_text("name: mine\nfit:\n  epochs: 5\n  epoch: 6\n")
    with pytest.raises(UserError, match=r"train\.yaml, line 4: fit\.epoch: "):
        load_settings(TrainSettings, file)
    file.write_text("fit:\n  epochs: many\n")
    with pytest.raises(UserError, match=r"train\.yaml, line 2: fit\.epochs: .*valid integer.*'many'"):
        load_settings(TrainSettings, file)


def test_nested_cross_validation_gives_the_counts_that_ship(
    catalog: TrainingSet, tmp_path: Path, mlflow_uri: str
) -> None:
    settings = SETTINGS.model_copy(update={"nested": True, "learning_rates": (1e-3, 1e-4), "trial_epochs": 1})
    told: list[str] = []
    epochs: list[int] = []
    bundle = run(
        tmp_path,
        mlflow_uri,
        settings,
        comparisons="### Peers\n\n| model |",
        on_stage=told.append,
        on_epoch=lambda epoch, _: epochs.append(epoch),
    ).bundle
    assert epochs == [0, 1, 2]  # of the whole training alone
    assert [line for line in told if line.startswith("fold")] == ["fold 1 tested", "fold 2 tested", "fold 3 tested"]
    assert "trying learning rate 0.0001 for 1 epochs" in told
    predictions = bundle.out_of_fold()
    assert predictions is not None
    assert sorted(predictions.record_sha256) == sorted(catalog.record_sha256)
    fold = dict(zip(catalog.record_sha256, catalog.fold, strict=True))
    assert predictions.fold.tolist() == [fold[sha256] for sha256 in predictions.record_sha256]
    target = dict(zip(catalog.record_sha256, catalog.target, strict=True))
    y = np.array([target[sha256] for sha256 in predictions.record_sha256])
    counts = bundle.operating_characteristics.overall
    assert ((predictions.flagged & (y == 1)).sum(), (~predictions.flagged & (y == 1)).sum()) == (counts.TP, counts.FN)
    assert ((predictions.flagged & (y == 0)).sum(), (~predictions.flagged & (y == 0)).sum()) == (counts.FP, counts.TN)
    reference = bundle.reference()
    assert reference is not None
    assert (sum(reference.scores.positive), sum(reference.scores.negative)) == (y.sum(), (1 - y).sum())
    assert reference.scores.flagged == counts.TP + counts.FP
    assert reference.scores.data == bundle.operating_characteristics.data
    assert sum(reference.features["log_odds"].counts) == np.isin(catalog.fold, [3]).sum()
    assert bundle.operating_characteristics.data == "Noise, folds 1, 2, 3, nested cross-validation, one ECG a patient"
    assert bundle.training["tuning"]["data"] == "Noise, fold 3, one ECG a patient"
    card = (bundle.path / "card.md").read_text()
    assert "### Peers" in card
    assert "![" in card
    assert (bundle.path / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "trials").glob("*.parquet"))) == 3  # a study of the same folds would find them
