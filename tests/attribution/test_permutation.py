from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from screening.attribution.permutation import DonorSet, lead_importances

RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(12, 50))
DONORS = DonorSet(
    RNG.normal(size=(6, 12, 50)).astype(np.float32),
    tuple("abcdef"),
    ("p", "q", None, "r", "s", "t"),
)


def linear(stream: Iterator[np.ndarray]) -> Iterator[float]:
    """A network of which the importance is known in closed form."""
    for x in stream:
        yield float((WEIGHTS * x).sum())


def test_importance_of_a_linear_network_is_its_closed_form() -> None:
    signals = RNG.normal(size=(3, 12, 50)).astype(np.float32)
    logits = list(linear(iter(signals)))
    chosen = [np.array([0, 2, 5]), np.array([], dtype=np.int64), np.array([1, 3])]
    found = lead_importances(linear, signals, logits, chosen, DONORS.signals_mV)
    assert found[1] is None  # nobody to borrow from
    for i in (0, 2):
        expected = ((signals[i] - DONORS.signals_mV[chosen[i]]) * WEIGHTS).sum(axis=2)  # (donors, 12)
        importance = found[i]
        assert importance is not None
        np.testing.assert_allclose(importance.mean, expected.mean(axis=0), rtol=1e-5, atol=1e-5)
        se = expected.std(axis=0, ddof=1) / np.sqrt(len(expected))
        assert importance.se == pytest.approx(se.mean(), rel=1e-5)
        assert importance.donors == len(chosen[i])


def test_a_lead_the_network_ignores_has_no_importance() -> None:
    signals = RNG.normal(size=(1, 12, 50)).astype(np.float32)
    deaf = WEIGHTS.copy()
    deaf[7] = 0

    def score(stream: Iterator[np.ndarray]) -> Iterator[float]:
        return (float((deaf * x).sum()) for x in stream)

    (importance,) = lead_importances(score, signals, list(score(iter(signals))), [np.arange(6)], DONORS.signals_mV)
    assert importance is not None
    assert importance.mean[7] == 0
    assert np.all(importance.mean[np.arange(12) != 7] != 0)


def test_donors_are_never_the_record_nor_its_patient_and_depend_on_the_record_alone() -> None:
    for record in ("a", "x", "c"):
        order = DONORS.order(record, "q", count=6)
        ids = [DONORS.record_ids[i] for i in order]
        assert record not in ids
        assert "b" not in ids  # patient q
        assert len(set(ids)) == len(ids) == (4 if record in ("a", "c") else 5)
        np.testing.assert_array_equal(order, DONORS.order(record, "q", count=6))
        np.testing.assert_array_equal(order[:2], DONORS.order(record, "q", count=2))
    orders = {tuple(DONORS.order(f"record {i}", None, count=6)) for i in range(40)}
    assert len(orders) > 30
    first = np.bincount([DONORS.order(f"record {i}", None, count=1)[0] for i in range(600)], minlength=6)
    assert first.min() > 60  # 100 expected of each


def test_the_set_is_named_by_what_it_holds() -> None:
    other = DonorSet(DONORS.signals_mV + np.float32(1e-3), DONORS.record_ids, DONORS.patient_keys)
    assert DONORS.sha256 != other.sha256 != DonorSet(DONORS.signals_mV, tuple("abcdeg"), DONORS.patient_keys).sha256
