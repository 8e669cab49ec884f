"""Networks for records that a bundle has seen: trained once, on other records, and refused where they cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.train import trials
from screening.train.assemble import settings_json
from screening.train.data import TrainingSet
from screening.train.sweep import run_trials
from screening.train.trials import Trial, TrialStore
from screening.train.unseen import Unseen, procedure_of, splits_of, unseen_networks
from tests.bundles import make_bundle, tiny_network
from tests.train.sets import FIT, SETTINGS, training_set

CATALOG = "c" * 64


@pytest.fixture(scope="module")
def records() -> TrainingSet:
    """Return records whose infarcts a few epochs can learn, but not wholly."""
    records = training_set(240)
    records.signals_mV[:, 7] += np.random.default_rng(0).normal(0, 0.06, (240, 1))
    return records


def _bundle(folder: Path, seen: Any, **changes: Any) -> Bundle:
    settings = SETTINGS.model_copy(update={"fit": replace(FIT, learning_rate=1e-2, **changes)})
    return make_bundle(folder, seen={"trained": list(seen)}, training={"settings": settings_json(settings)})


def test_records_it_has_not_seen_are_explained_by_its_own(tmp_path: Path, records: TrainingSet) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (own,) = unseen_networks(bundle, records, catalog_id=CATALOG, store=TrialStore(tmp_path / "networks"))
    assert own.places.tolist() == list(range(len(records)))
    assert own.trial is None
    assert not (tmp_path / "networks").exists()
    logit = own.logits(records.signals_mV[:5])
    flagged = bundle.calibrator.probability(logit.astype(np.float64)) >= bundle.threshold
    assert (logit >= own.threshold_logit).tolist() == flagged.tolist()
    at = np.array([own.threshold_logit])
    assert bundle.calibrator.probability(at) == pytest.approx(bundle.threshold)


def test_networks_are_trained_without_their_records_and_kept(
    tmp_path: Path, records: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = records.record_sha256[:-12]
    bundle = _bundle(tmp_path / "bundle", half)
    told: list[str] = []
    trained: list[tuple[set[str], set[str]]] = []
    run = trials.run_procedure

    def watched(train: TrainingSet, tune: TrainingSet, *rest: Any, **options: Any) -> Any:
        trained.append((set(train.record_sha256) | set(tune.record_sha256), set(train.record_id)))
        return run(train, tune, *rest, **options)

    monkeypatch.setattr(trials, "run_procedure", watched)
    options: dict[str, Any] = {
        "catalog_id": CATALOG,
        "store": TrialStore(tmp_path / "networks"),
        "on_stage": told.append,
    }
    first = unseen_networks(bundle, records, **options)
    assert [of.name for of in first] == ["the bundle's own", *(f"without fold {fold}" for fold in (1, 2, 3))]
    assert told == [f"training a network without fold {fold}" for fold in (1, 2, 3)]
    assert sorted(np.concatenate([of.places for of in first]).tolist()) == list(range(len(records)))
    assert set(records.record_sha256[first[0].places]) == set(records.record_sha256[-12:])
    for of, (read, _) in zip(first[1:], trained, strict=True):
        assert not read & set(records.record_sha256[of.places])
        assert read <= set(half)  # nothing that the bundle itself was not made from

    told.clear()
    second = unseen_networks(bundle, records, **options)
    assert told == []
    assert len(trained) == 3
    for one, two in zip(first, second, strict=True):
        signals = records.signals_mV[:3]
        assert np.array_equal(one.logits(signals), two.logits(signals))
        assert (one.threshold, one.calibrator) == (two.threshold, two.calibrator)
    assert {path.suffix for path in (tmp_path / "networks").iterdir()} == {".safetensors", ".parquet"}

    # Another procedure or catalog has networks of its own.
    unseen_networks(_bundle(tmp_path / "other", half, seed=1), records, **options)
    unseen_networks(bundle, records, **{**options, "catalog_id": "d" * 64})
    assert len(list((tmp_path / "networks").glob("*.safetensors"))) == 9


def test_networks_of_the_nested_cross_validation_are_taken_where_they_are_kept(
    tmp_path: Path, records: TrainingSet
) -> None:
    records = replace(records, fold=(1 + np.arange(240) // 4 % 5).astype(np.int16))
    bundle = _bundle(tmp_path / "bundle", records.record_sha256)
    store, told = TrialStore(tmp_path / "trials"), list[str]()
    options: dict[str, Any] = {"catalog_id": CATALOG, "store": store, "on_stage": told.append}
    assert len(unseen_networks(bundle, records, **options)) == 3  # thirds, of five folds
    nested = [Trial(procedure_of(bundle), split, bundle.preprocessing) for split in trials.outer_folds((1, 2, 3, 4, 5))]
    run_trials(nested, records, store, catalog_id=CATALOG)
    told.clear()
    found = unseen_networks(bundle, records, **options)
    assert [of.name for of in found] == [f"without fold {fold}" for fold in range(1, 6)]
    assert told == []
    for of, trial in zip(found, nested, strict=True):
        kept = store.read(trial.key(CATALOG))
        assert kept is not None
        np.testing.assert_allclose(of.logits(records.signals_mV[of.places]), kept.logit, atol=1e-5)
        assert of.threshold == kept.facts["threshold"]


def test_a_damaged_network_is_named(tmp_path: Path, records: TrainingSet) -> None:
    bundle = _bundle(tmp_path / "bundle", records.record_sha256)
    options: dict[str, Any] = {"catalog_id": CATALOG, "store": TrialStore(tmp_path / "networks")}
    unseen_networks(bundle, records, **options)
    path = min((tmp_path / "networks").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        UserError, match=rf"{path.name} does not hold the weights of its trial \(\w+\); remove it and the"
    ):
        unseen_networks(bundle, records, **options)


def test_what_cannot_be_trained_is_told(tmp_path: Path, records: TrainingSet) -> None:
    silent = make_bundle(tmp_path / "silent", seen={"tuned": list(records.record_sha256)})
    with pytest.raises(
        UserError, match="tiny 1 does not say how it was trained.*give a catalog of records it has not seen"
    ):
        unseen_networks(silent, records, catalog_id=CATALOG, store=TrialStore(tmp_path))
    bundle = _bundle(tmp_path / "bundle", records.record_sha256)
    with pytest.raises(UserError, match="lie in 1 fold, and three are needed"):
        unseen_networks(bundle, records.of_folds([1]), catalog_id=CATALOG, store=TrialStore(tmp_path))


def test_every_fold_tests_once() -> None:
    for folds in ((1, 2, 3), (1, 2, 3, 4), tuple(range(1, 10))):
        splits = splits_of(folds)
        assert sorted(fold for split in splits for fold in split.test) == list(folds)
        assert all(not set(split.test) & {*split.train, *split.tune} for split in splits)
    assert len(splits_of(tuple(range(1, 10)))) == 3


def test_random_weights_are_random_where_they_should_be() -> None:
    from screening.train.random_weights import all_random, classifier_random

    network = tiny_network()
    x = np.random.default_rng(0).normal(0, 0.3, (3, 12, 200)).astype(np.float32)
    of = Unseen("", network, None, 0.5, np.arange(3))  # type: ignore[arg-type]
    before = of.logits(x)
    state = network.state_dict()
    for make, changed in ((classifier_random, {"classifier.1.weight", "classifier.1.bias"}), (all_random, None)):
        other = make(network, 1)
        differs = {name for name, value in other.state_dict().items() if not value.equal(state[name])}
        assert differs == changed if changed else differs > {"classifier.1.weight", "stem.0.weight"}
        assert np.array_equal(replace(of, network=other).logits(x), replace(of, network=make(network, 1)).logits(x))
        assert not np.allclose(replace(of, network=other).logits(x), replace(of, network=make(network, 2)).logits(x))
    assert np.array_equal(of.logits(x), before)
