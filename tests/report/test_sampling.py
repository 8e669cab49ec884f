"""Who is drawn for a local validation, and with what probability."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from screening.errors import UserError
from screening.report.sampling import LEAST_READINGS, allocate, draw
from screening.report.tallies import OTHER, UNKNOWN


def frame(patients: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return log-odds and flags of made-up patients, one in eight of them flagged."""
    log_odds = np.random.default_rng(seed).normal(-2, 1.8, patients)
    return log_odds, log_odds >= np.quantile(log_odds, 0.875)


def test_the_strata_part_the_archive_and_the_sample_is_drawn_from_them() -> None:
    log_odds, flagged = frame()
    sample = draw(log_odds, flagged, readings=300, seed=1)
    assert sum(s.patients for s in sample.strata) == 2000
    assert sum(s.patients for s in sample.strata if s.flagged) == flagged.sum()
    assert sum(s.sampled for s in sample.strata) == 300 == len(set(sample.row.tolist()))
    assert all(s.sampled >= LEAST_READINGS for s in sample.strata)
    assert [s.flagged for s in sample.strata] == [False] * 4 + [True] * 2
    for row, h, probability in zip(sample.row, sample.stratum, sample.inclusion_probability, strict=True):
        stratum = sample.strata[h]
        assert stratum.flagged == flagged[row]
        assert (-np.inf if stratum.low is None else stratum.low) <= log_odds[row]
        assert log_odds[row] < (np.inf if stratum.high is None else stratum.high)
        assert probability == stratum.sampled / stratum.patients


def test_readings_are_denser_where_infarcts_are_missed() -> None:
    log_odds, flagged = frame()
    strata = draw(log_odds, flagged, readings=300, seed=1).strata
    density = [s.sampled / s.patients for s in strata if not s.flagged]
    assert density == sorted(density)
    assert density[-1] > 1.5 * density[0]


def test_the_same_seed_gives_the_same_sample_and_more_readings_hold_it() -> None:
    log_odds, flagged = frame()
    first, again = (draw(log_odds, flagged, readings=200, seed=7) for _ in range(2))
    assert first.row.tolist() == again.row.tolist()
    assert first.row.tolist() != draw(log_odds, flagged, readings=200, seed=8).row.tolist()
    assert set(first.row.tolist()) < set(draw(log_odds, flagged, readings=500, seed=7).row.tolist())


def test_patients_are_drawn_as_often_as_their_inclusion_probability_says() -> None:
    log_odds, flagged = frame(patients=200)
    seen, expected = np.zeros(200), np.zeros(200)
    for seed in range(600):
        sample = draw(log_odds, flagged, readings=60, seed=seed)
        seen[sample.row] += 1
        expected[sample.row] = sample.inclusion_probability
    z = (seen / 600 - expected) / np.sqrt(expected * (1 - expected) / 600)
    assert np.abs(z).max() < 4.5
    assert abs(z.std() - 1) < 0.2


def test_sheets_come_in_an_order_that_says_nothing_of_the_flag() -> None:
    log_odds, flagged = frame()
    sample = draw(log_odds, flagged, readings=400, seed=3)
    at = np.arange(400)[flagged[sample.row]]
    assert abs(at.mean() - 199.5) < 4 * 115.5 / np.sqrt(len(at))


def test_allocation_is_the_best_there_is() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        patients = rng.integers(3, 40, 3)
        share = rng.uniform(0.02, 0.6, 3)
        start = np.minimum(patients, 2)
        total = int(rng.integers(start.sum(), min(patients.sum(), 30) + 1))

        def variance(n: np.ndarray, patients: np.ndarray = patients, share: np.ndarray = share) -> float:
            return float((patients**2.0 * share * (1 - share) / n).sum())

        choices = itertools.product(*(range(a, b + 1) for a, b in zip(start, patients, strict=True)))
        best = min(variance(np.array(n)) for n in choices if sum(n) == total)
        found = allocate(patients, share, start=start, total=total)
        assert found.sum() == total
        assert variance(found) == pytest.approx(best)


def test_more_readings_than_patients_are_all_patients() -> None:
    log_odds, flagged = frame(patients=50)
    sample = draw(log_odds, flagged, readings=300, seed=0)
    assert sorted(sample.row.tolist()) == list(range(50))
    assert (sample.inclusion_probability == 1).all()


def test_one_score_for_all_is_one_stratum_a_side() -> None:
    log_odds = np.where(np.arange(100) < 20, 1.0, -1.0)
    sample = draw(log_odds, log_odds > 0, readings=30, seed=0)
    assert [(s.flagged, s.patients) for s in sample.strata] == [(False, 80), (True, 20)]


def test_sites_are_strata_and_the_small_ones_are_drawn_from_together() -> None:
    log_odds, flagged = frame(patients=3000)
    site = np.array(["north", "south", None, "<script>", "=cmd"], dtype=object)[
        np.random.default_rng(0).choice(5, 3000, p=(0.5, 0.3, 0.1, 0.06, 0.04))
    ]
    sample = draw(log_odds, flagged, readings=300, seed=0, site=site)
    sizes = {name: sum(s.patients for s in sample.strata if s.site == name) for name in {s.site for s in sample.strata}}
    assert sum(sizes.values()) == 3000
    assert set(sizes) == {"north", "south", UNKNOWN, "<script>", "=cmd"}
    for row, h in zip(sample.row, sample.stratum, strict=True):
        assert sample.strata[h].site == (site[row] or UNKNOWN)
    few = draw(log_odds, flagged, readings=100, seed=0, site=site)
    assert {s.site for s in few.strata} == {"north", OTHER}


@pytest.mark.parametrize(("value", "word"), [(1.0, "unflagged"), (-1.0, "flagged")])
def test_both_sides_of_the_threshold_are_needed(value: float, word: str) -> None:
    log_odds = np.full(100, value)
    with pytest.raises(UserError, match=f"no index ECG is {word}, and a validation needs both"):
        draw(log_odds, log_odds > 0, readings=20, seed=0)


def test_too_few_readings_are_refused_with_the_number_that_does() -> None:
    log_odds, flagged = frame()
    with pytest.raises(UserError, match="10 readings are too few for 6 strata .* at least 24 with --readings"):
        draw(log_odds, flagged, readings=10, seed=0)
    assert len(draw(log_odds, flagged, readings=24, seed=0).row) == 24
