"""Permutation over a cohort, against the engine of a run, scikit-learn and signals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from screening.attribution.operators import coalitions
from screening.attribution.swaps import SwapScorer
from screening.contract import LEADS, OPERATORS
from screening.train.cohort import donors_for_all, losses, permuted_logits
from screening.train.fit import predict
from tests.bundles import tiny_network

SAMPLES = 100


def _ecgs(n: int, seed: int = 0) -> np.ndarray:
    """Return noise that obeys Einthoven's law."""
    x = np.random.default_rng(seed).normal(0, 0.3, (n, 12, SAMPLES)).astype(np.float32)
    one, two = x[:, 0], x[:, 1]
    x[:, 2], x[:, 3], x[:, 4], x[:, 5] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    return x


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=2, max_size=30), st.integers(0, 99))
def test_nobody_lends_to_their_own_patient(keys: list[str | None], seed: int) -> None:
    if len(set(keys)) == 1 and keys[0] is not None:
        with pytest.raises(ValueError, match="two patients and more"):
            donors_for_all(keys, repeats=1)
        return
    drawn = donors_for_all(keys, repeats=2, seed=seed)
    assert drawn.shape == (2, len(keys))
    for row in drawn:
        for at, donor in enumerate(row):
            assert donor != at
            assert keys[at] is None or keys[donor] != keys[at]


def test_every_record_lends_once_where_patients_differ() -> None:
    drawn = donors_for_all([None] * 200, repeats=3)
    for row in drawn:
        assert sorted(row.tolist()) == list(range(200))
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn, donors_for_all([None] * 200, repeats=3))


@pytest.mark.parametrize("operator", ["lead", "independent", "territory", "plane"])
def test_one_pair_gives_the_logits_that_a_run_gives(operator: str) -> None:
    network, x = tiny_network(), _ecgs(6)
    donors = np.array([[3, 4, 5, 0, 1, 2]])
    found = permuted_logits(lambda signals: predict(network, signals), x, donors, operator)
    scorer = SwapScorer(network, x, device="cpu", batch_size=8)
    pairs = [(at, int(donor)) for at, donor in enumerate(donors[0])]
    of_run = scorer.logits(scorer.take(x), pairs, (operator,))[operator]
    alone = coalitions(operator).sum(axis=1) == 1
    assert found[0] == pytest.approx(of_run[:, alone], abs=1e-5)


def test_donors_that_can_be_laid_are() -> None:
    x = _ecgs(3)
    over = np.full_like(x[0], 2.0)

    def read_v1(signals: np.ndarray) -> np.ndarray:
        return np.asarray(signals[:, LEADS.index("V1")].mean(axis=1))

    found = permuted_logits(
        read_v1, x, np.array([[1, 2, 0]]), "territory", laid=lambda donor, _: over if donor == 1 else None
    )
    assert found[0, 0, 0] == pytest.approx(2.0)
    assert found[0, 1, 0] == pytest.approx(read_v1(x[2:])[0], abs=1e-6)
    assert found[0, 0, 1:] == pytest.approx(read_v1(x[:1])[0], abs=1e-6)


def test_what_is_lost_is_where_the_signal_is() -> None:
    n = 400
    rng = np.random.default_rng(1)
    target = np.arange(n) % 3 == 0
    x = _ecgs(n)
    x[:, LEADS.index("V2")] += 0.2 * target[:, None]

    def score(signals: np.ndarray) -> np.ndarray:
        return np.asarray(signals[:, LEADS.index("V2")].mean(axis=1))

    patients = np.array([None if at % 50 == 0 else f"p{at // 2}" for at in range(n)], dtype=object)
    donors = donors_for_all(patients, repeats=2)
    logit, permuted = score(x), permuted_logits(score, x, donors, "territory")
    label = np.where(target, "MI", np.where(rng.random(n) < 0.5, "NORM", "other"))
    lost = losses(logit, permuted, OPERATORS["territory"], target, label, patients, resamples=50)
    main = lost["MI vs all other"]
    expected = roc_auc_score(target, logit) - np.mean([roc_auc_score(target, of[:, 0]) for of in permuted])
    assert main["septal"]["auroc"]["value"] == pytest.approx(expected, abs=1e-9)
    assert main["septal"]["auroc"]["low"] < expected < main["septal"]["auroc"]["high"]
    assert expected > 0.3
    for wall in ("anterior", "lateral", "inferior"):
        assert main[wall]["auroc"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert main[wall]["auprc"]["value"] == 0.0
    assert set(lost) == {"MI vs NORM", "MI vs all other"}


def test_networks_are_ranked_apart() -> None:
    """Two networks, the second of which scores everything higher: a ranking over both would be wrong."""
    rng = np.random.default_rng(0)
    target = np.arange(200) % 2 == 0
    network = np.repeat([0, 1], 100)
    logit = rng.normal(target, 0.5) + 10 * network
    label, patient = np.where(target, "MI", "NORM"), np.array([f"p{at}" for at in range(200)], dtype=object)
    permuted = np.stack([logit, rng.normal(size=200) + 10 * network], axis=1)[None]
    options = {"network": network, "resamples": 20}
    lost = losses(logit, permuted, ("nothing", "all"), target, label, patient, **options)["MI vs all other"]
    assert lost["nothing"]["auroc"]["value"] == 0.0
    apart = np.mean([roc_auc_score(target[network == of], logit[network == of]) for of in (0, 1)])
    chance = np.mean([roc_auc_score(target[network == of], permuted[0, network == of, 1]) for of in (0, 1)])
    assert lost["all"]["auroc"]["value"] == pytest.approx(apart - chance)
    with pytest.raises(ValueError, match="a logit a record"):
        losses(logit, permuted, ("one",), target, label, patient)


def test_the_engine_of_a_run_is_left_as_it_was() -> None:
    network = tiny_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    permuted_logits(lambda signals: predict(network, signals), _ecgs(4), np.array([[1, 2, 3, 0]]), "plane")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
