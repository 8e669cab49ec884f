from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from screening.errors import UserError
from screening.model.msaic import MSAICConfig
from screening.study.models import ABLATION, PEERS, REFERENCE
from screening.study.parts import PARTS, Part, folds_of, thirds
from screening.study.tables import finished, make_rows, measure_speed, render
from screening.train.procedure import Procedure
from screening.train.sweep import run_trials
from screening.train.trials import TrialStore
from tests.bundles import TINY
from tests.train.sets import FIT, training_set

FOLDS = tuple(range(1, 10))
DATA = replace(training_set(312), fold=(1 + np.arange(312) // 4 % 6).astype(np.int16))
DATA.signals_mV[:, 7] += np.random.default_rng(0).normal(
    0, 0.06, (312, 1)
)  # so that no network parts the classes wholly
SMALL = {
    REFERENCE: Procedure(TINY, FIT, (1e-3, 2e-3), trial_epochs=1),
    "no attention": Procedure(replace(TINY, attention_kernel=None), FIT, (1e-3, 2e-3), trial_epochs=1),
}


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> tuple[Part, TrialStore]:
    part = Part("Small", SMALL, thirds(folds_of(DATA)))
    store = TrialStore(tmp_path_factory.mktemp("trials"))
    run_trials([trial for of in part.trials().values() for trial in of], DATA, store, catalog_id="c")
    return part, store


def test_every_model_has_the_same_budget() -> None:
    """A weak peer proves nothing: as many learning rates, as many epochs, the same augmentation for all."""
    models = [*ABLATION.values(), *PEERS.values()]
    assert {len(of.learning_rates) for of in models} == {len(models[0].learning_rates)}
    for key in ("trial_epochs", "specificity"):
        assert len({getattr(of, key) for of in models}) == 1
    for key in ("epochs", "batch_size", "augmentation", "keep", "positive_share", "seed"):
        assert len({str(getattr(of.fit, key)) for of in models}) == 1


def test_the_ablation_adds_one_piece_at_a_time() -> None:
    steps = list(ABLATION.values())[:7]
    changes = []
    for one, other in zip(steps, steps[1:], strict=False):
        before, after = one.to_json(), other.to_json()
        changes.append(
            {f"{g}.{key}" for g in ("network", "fit") for key in after[g] if before[g][key] != after[g][key]}
        )
    assert changes == [
        {"network.dilations", "network.channels"},
        {"network.attention_kernel"},
        {"fit.contrast"},
        {"fit.contrast"},
        {"network.pooling"},
        {"network.leads_apart", "network.channels", "network.projection_channels"},
    ]


def test_the_plain_cnn_multiplies_as_much_in_a_layer_as_the_branches_together() -> None:
    cnn, branches = ABLATION["CNN"].network, ABLATION["+ maximum"].network
    assert isinstance(cnn, MSAICConfig)
    assert isinstance(branches, MSAICConfig)
    assert cnn.channels**2 * len(cnn.dilations) == branches.channels**2 * len(branches.dilations)


@pytest.mark.parametrize("name", list(PARTS))
def test_parts_test_all_models_on_the_same_folds_and_never_train_on_them(name: str) -> None:
    part = PARTS[name](FOLDS)
    assert part.reference in part.models
    for split in part.splits:
        assert not set(split.test) & {*split.train, *split.tune}
        assert set(split.tune).isdisjoint(split.train)
    tested = [fold for split in part.splits for fold in split.test]
    assert len(tested) == len(FOLDS) * (len(tested) // len(FOLDS))
    assert set(tested) == set(FOLDS)
    keys = [trial.key("c") for of in part.trials().values() for trial in of]
    assert len(set(keys)) == len(keys)


def test_figures_are_means_over_splits(part: tuple[Part, TrialStore]) -> None:
    small, store = part
    results = finished(small, store, "c")
    assert list(results) == list(SMALL)
    rows = make_rows(small, results, DATA, resamples=50)
    target = dict(zip(DATA.record_sha256, DATA.target, strict=True))
    for row in rows:
        aurocs, weights = [], []
        for result in results[row.model]:
            y = np.array([target[sha256] for sha256 in result.record_sha256])
            aurocs.append(roc_auc_score(y, result.logit))
            weights.append(y.sum())
        assert row.tasks["MI vs all other"]["auroc"]["value"] == pytest.approx(np.average(aurocs, weights=weights))
        assert row.tasks["MI vs all other"]["n"] == len(DATA)
    assert rows[0].differences is None
    assert rows[1].differences is not None
    difference = rows[1].differences["MI vs NORM"]["auroc"]
    values = [row.tasks["MI vs NORM"]["auroc"]["value"] for row in rows]
    assert difference["value"] == pytest.approx(values[1] - values[0])
    assert difference["low"] <= difference["value"] <= difference["high"]


def test_the_table_shows_every_model_with_its_intervals(part: tuple[Part, TrialStore]) -> None:
    small, store = part
    rows = make_rows(small, finished(small, store, "c"), DATA, resamples=20)
    speed = measure_speed({name: (of.network, 1000) for name, of in SMALL.items()}, records=4)
    table = render(small, rows, speed)
    for task in ("MI vs NORM", "MI vs all other"):
        assert f"**{task}** (" in table
    interval = r"\d\.\d{3} \(\d\.\d{3}-\d\.\d{3}\)"
    assert len(re.findall(rf"\| {REFERENCE} \| {interval} \|", table)) == 2
    assert len(re.findall(rf"\| no attention \| {interval} .* [+-]\d\.\d{{3}} \([+-]", table)) == 2
    assert all(value > 0 for value in speed.values())
    widths = {len(re.findall(r"\|", line)) for line in table.splitlines() if line.startswith("| no attention | 0")}
    assert widths == {8}


def test_a_study_without_its_reference_says_so(part: tuple[Part, TrialStore]) -> None:
    small, store = part
    results = finished(small, store, "c")
    with pytest.raises(
        UserError, match=r"the part 'Small' has no finished MSAIC-Net, which the others are compared with"
    ):
        make_rows(small, {"no attention": results["no attention"]}, DATA)
    with pytest.raises(UserError, match="are of records that the catalog does not hold any more"):
        make_rows(small, results, DATA.of_folds((1,)))
    assert finished(small, store, "another catalog") == {}


def test_too_few_folds_are_refused() -> None:
    with pytest.raises(UserError, match="a study needs five folds and more, and the catalog has 4"):
        thirds((1, 2, 3, 4))


def test_trials_on_ray_are_those_made_here(part: tuple[Part, TrialStore], tmp_path: Path, ray_here: None) -> None:
    small, here = part
    trial = small.trials()[REFERENCE][0]
    there = TrialStore(tmp_path)
    told: list[str] = []
    run_trials([trial], DATA, there, catalog_id="c", workers=1, on_trial=lambda key, _: told.append(key))
    key = trial.key("c")
    assert told == [key]
    one, other = here.read(key), there.read(key)
    assert one is not None
    assert other is not None
    assert np.allclose(one.logit, other.logit, atol=1e-4)
