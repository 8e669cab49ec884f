"""Checks of explanations on importances whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from screening.contract import INDEPENDENT_LEADS, LEADS, OPERATORS, TERRITORIES
from screening.train.explanation_checks import (
    INFARCT_WALLS,
    INJURY_WALLS,
    Resampled,
    confusion,
    curves,
    deletion,
    hits,
    localisation,
    of_walls,
    rank_correlations,
    stability,
    walls_of,
)
from screening.train.subgroups import INFARCT_STATEMENTS

N = 400


def test_statements_name_walls() -> None:
    assert walls_of(["ASMI", "SR"]).tolist() == [True, True, False, False]
    assert walls_of(["IMI", "LMI"]).tolist() == [False, False, True, True]
    assert not walls_of(["PMI", "NORM"]).any()
    assert not walls_of(["INJAS"]).any()
    assert walls_of(["INJAS"], INJURY_WALLS).tolist() == [True, True, False, False]


def test_walls_agree_with_the_places_of_the_card() -> None:
    """The card groups the same statements in its own way."""
    for wall in ("anterior", "lateral", "inferior"):
        codes = {code for code, walls in INFARCT_WALLS.items() if wall in walls}
        assert codes == set(INFARCT_STATEMENTS[wall])
    assert {*INJURY_WALLS} == set(INFARCT_STATEMENTS["injury"])


def test_parts_become_walls() -> None:
    lead = np.zeros(len(LEADS))
    lead[[LEADS.index(name) for name in ("II", "III", "aVF")]] = 1, 2, 6
    lead[LEADS.index("aVR")] = 99
    assert of_walls("lead", lead).tolist() == [0, 0, 0, 3]
    assert of_walls("lead", lead, largest=True).tolist() == [0, 0, 0, 6]
    # A network that reads the eight independent leads knows nothing of III and aVF.
    assert of_walls("lead", lead, read=INDEPENDENT_LEADS).tolist() == [0, 0, 0, 1]
    independent = np.arange(len(INDEPENDENT_LEADS), dtype=float)
    assert of_walls("independent", independent).tolist() == [2.5, 4.5, (0 + 6 + 7) / 3, 1]
    wave = np.array([float(part == "T_lateral") + 2.0 * (part == "QRS_lateral") for part in OPERATORS["wave"]])
    assert of_walls("wave", wave[None]).tolist() == [[0, 0, 3, 0]]
    assert of_walls("territory", np.arange(4)).tolist() == [0, 1, 2, 3]


def _walls(rng: np.random.Generator, n: int = N) -> np.ndarray:
    codes = rng.choice(["ASMI", "IMI", "ILMI", "LMI", "ALMI"], n)
    return np.array([walls_of([code]) for code in codes])


def test_right_importances_hit_and_random_ones_hit_by_chance() -> None:
    rng = np.random.default_rng(0)
    walls = _walls(rng)
    right = localisation(walls + rng.normal(0, 0.1, walls.shape), walls)
    assert right["hits"]["value"] == 1.0
    assert right["kappa"] == 1.0
    assert right["chance"]["high"] < 0.6
    assert right["p"] == pytest.approx(1 / 2001)
    assert right["auroc"]["mean"] > 0.99
    assert right["single"]["value"] == 1.0
    random = localisation(rng.normal(size=walls.shape), walls)
    assert random["chance"]["low"] <= random["hits"]["value"] <= random["chance"]["high"]
    assert random["p"] > 0.025
    assert abs(random["auroc"]["mean"] - 0.5) < 0.05
    assert sum(random["leading"].values()) == N


def test_naming_the_commonest_wall_beats_nothing_but_chance() -> None:
    """A method that always names one wall hits often, and exactly as often as by chance."""
    rng = np.random.default_rng(0)
    walls = _walls(rng)
    always = np.tile([0.0, 0.0, 1.0, 0.0], (N, 1))
    found = localisation(always, walls)
    assert found["hits"]["value"] == pytest.approx(found["chance"]["value"])
    assert found["kappa"] == pytest.approx(0)
    assert found["p"] == 1.0
    assert found["auroc"]["mean"] == 0.5


def test_chance_is_what_marginals_give() -> None:
    """The mean over shuffles is, by arithmetic, the sum over walls of leading share times named share."""
    rng = np.random.default_rng(2)
    walls = _walls(rng)
    importance = rng.normal(size=walls.shape) + [0.5, 0, 0, 0]
    leading = np.bincount(importance.argmax(axis=1), minlength=4) / N
    found = localisation(importance, walls)
    assert found["chance"]["value"] == pytest.approx(leading @ walls.mean(axis=0), abs=0.003)


def test_confusion_takes_records_with_one_place() -> None:
    importance = np.eye(4)[[0, 3, 3, 1, 2]]
    statements = [["ASMI"], ["IMI", "SR"], ["IMI", "PMI"], ["IMI"], ["PMI"]]
    assert confusion(importance, statements) == {
        "IMI": {"septal": 0, "anterior": 1, "lateral": 0, "inferior": 1},
        "ASMI": {"septal": 1, "anterior": 0, "lateral": 0, "inferior": 0},
        "PMI": {"septal": 0, "anterior": 0, "lateral": 1, "inferior": 0},
    }


def test_rank_correlations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (20, 6)).astype(float), rng.normal(size=(20, 6))
    a[3] = 1.0
    b[4, 0] = np.nan
    found = rank_correlations(a, b)
    assert np.isnan(found[[3, 4]]).all()
    for at in set(range(20)) - {3, 4}:
        assert found[at] == pytest.approx(spearmanr(a[at], b[at]).statistic)


@pytest.mark.parametrize("understated", [1.0, 3.0])
def test_stability_tells_whether_the_standard_error_is_right(understated: float) -> None:
    """Where donors of a set share an error, the stated one is too small."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(N, 1, 4))
    noise = rng.normal(0, 1, (N, 16, 4))
    shared = np.repeat(rng.normal(0, 1, (N, 2, 4)), 8, axis=1) * np.sqrt((understated**2 - 1) / 8)
    found = stability((truth + noise + shared).astype(np.float32))
    assert found["donors"] == 8
    assert found["standard_error"] == pytest.approx(1 / np.sqrt(8), rel=0.1)
    assert found["spread"] == pytest.approx(understated * found["spread_expected"], rel=0.06)
    assert (abs(found["covered"] - 0.95) < 0.015) == (understated == 1.0)
    assert 0 < found["rank_correlation"]["value"] < 1


def test_stability_of_what_does_not_vary_and_of_what_is_not_there() -> None:
    falls = np.tile(np.array([3.0, 1.0, 2.0, 0.0]), (5, 8, 1))
    falls[0, 2] = np.nan
    found = stability(falls)
    assert found["n"] == 4
    assert found["rank_correlation"]["value"] == 1.0
    assert found["same_leading"]["value"] == 1.0
    assert found["spread"] is None
    assert stability(np.full((3, 4, 4), np.nan))["rank_correlation"] == {"value": None, "low": None, "high": None}


def _additive(rng: np.random.Generator, n: int = 50, donors: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return effects (n, donors, 4) and coalitions of a logit that is 2 less the effects of what is gone."""
    effects = rng.normal(0, 1, (n, donors, 4))
    gone = np.array([[mask >> wall & 1 for wall in range(4)] for mask in range(16)])
    return effects, 2 - effects @ gone.T


def test_curves_take_territories_in_order() -> None:
    effects, coalitions = _additive(np.random.default_rng(0))
    order = np.tile([2, 0, 3, 1], (50, 1))
    deleted, inserted = curves(coalitions, order)
    steps = np.cumsum(effects[..., [2, 0, 3, 1]], axis=2)
    assert deleted[..., 0] == pytest.approx(2)
    assert deleted[..., 1:] == pytest.approx(2 - steps)
    whole = effects.sum(axis=2, keepdims=True)
    assert inserted[..., 0] == pytest.approx(2 - whole[..., 0])
    assert inserted[..., 1:] == pytest.approx(2 - whole + steps)


def test_the_true_order_deletes_best_and_a_random_one_gains_nothing() -> None:
    rng = np.random.default_rng(0)
    effects, coalitions = _additive(rng, 300)
    effect = effects.mean(axis=1)
    threshold = np.full(300, 1.0)
    right = deletion(coalitions, effect, threshold)
    for what in ("deletion", "insertion"):
        assert right[what]["area"]["low"] > 0
        ends = [[of[0], of[-1]] for of in right[what]["logit"].values()]
        assert ends[0] == pytest.approx(ends[1])
        assert ends[0] == pytest.approx(ends[2])
    most, anyhow, least = (np.array(right["deletion"]["logit"][name]) for name in ("most", "any", "least"))
    assert (most[1:4] < anyhow[1:4]).all()
    assert (anyhow[1:4] < least[1:4]).all()
    # In any order each step takes a quarter of all effects.
    assert anyhow == pytest.approx(2 - effect.sum(axis=1).mean() * np.arange(5) / 4)
    random = deletion(coalitions, rng.normal(size=effect.shape), threshold)
    assert random["deletion"]["area"]["low"] < 0 < random["deletion"]["area"]["high"]
    assert right["deletion"]["flagged"]["most"][0] == 1.0


def test_intervals_cover() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(100):
        of = Resampled.mean(rng.exponential(size=80), seed=seed)
        inside += of.low <= 1 <= of.high
    assert 86 <= inside <= 99


def test_hits_are_of_the_leading_wall() -> None:
    importance = np.array([[0.1, 0.9, 0, 0], [-3, -1, -2, -4]])
    assert hits(importance, np.array([walls_of(["ASMI"]), walls_of(["IMI"])])).tolist() == [True, False]
    assert TERRITORIES[3] == "inferior"
